"""Gathers the overviews: the status, the App Home, and the list of datasets with the best candidate of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from bot.cards.common.blocks import Listing
from bot.cards.datasets.datasets import Best, DatasetEntry
from bot.cards.home import LINKED, HomeOverview
from bot.cards.monitoring.weeks import card_name as week_card_name
from bot.cards.status import (
    ComparisonSummary,
    CurveSummary,
    EvaluationSummary,
    Status,
    UnreadableSummary,
    card_name,
)
from bot.cards.training.runs import RunSummary
from bot.context import AppContext
from bot.services.common import authorization, budgets, finished_measurements
from bot.services.datasets import datasets, sealed_rows
from bot.services.decisions import plan_requests
from bot.services.evidence import evidence as evidence_services
from bot.services.evidence import notifications
from bot.services.evidence.looks import load_looks
from bot.services.evidence.measured_candidates import known_comparison
from bot.services.models import deployment_summaries, models, sunsets
from bot.services.monitoring import weeks
from bot.services.training import runs
from bot.values.evaluations import ComparisonPlan, ComparisonProgress
from bot.values.learning_curves import plan_of
from bot.values.runs import Refusal
from bot.values.sunsets import ending_soon
from storage.records import COMPARISON, Measurement, Run
from trainers.evaluation.results import Curve

LATEST_MEASUREMENTS = 15
SHOWN_RESULTS = 6
SHOWN_DATASETS = 40  # lines that fit on a card


def status(context: AppContext, person: str, channel: str) -> Status:
    names = authorization.visible_datasets(context, person, channel)
    freeze = context.store.freezes.current()
    today = context.today()
    uses = sunsets.list_uses(context.store, context.settings, today, names)
    open_runs = runs.open_runs(context, names)
    measurements = _open_measurements(context, names)
    linked: list[RunSummary | EvaluationSummary] = [*open_runs, *measurements]
    against: Sequence[str] = ()
    if freeze is not None:
        against = context.store.freezes.lift_requests(freeze)
    return Status(
        runs=open_runs,
        measurements=measurements,
        latest=_latest_results(context, names),
        freeze=freeze,
        against=against,
        in_use=models.all_in_use(context, names),
        base_url=context.settings.serving.base_url,
        answers_programs=context.answers_programs(),
        ending=ending_soon(uses, today),
        today=today,
        deployments=deployment_summaries.summaries(context, names),
        unchecked=names.unchecked,
        links=_links(context, linked[:LINKED]),
    )


def latest_results(
    context: AppContext, person: str, channel: str
) -> tuple[Sequence[RunSummary | EvaluationSummary], int]:
    """Returns the newest runs and measurements that have a result, and of how many channels Slack didn't answer."""
    names = authorization.visible_datasets(context, person, channel)
    return _latest_results(context, names), names.unchecked


def home(context: AppContext, person: str) -> HomeOverview | Refusal:
    """Returns the person's App Home."""
    refusal = authorization.refusal(context, person, "read")
    if refusal:
        return refusal
    names = authorization.visible_datasets(context, person, None)
    open_runs = runs.open_runs(context, names)
    mine = _runs_to_approve(context, open_runs, person)
    to_approve = {summary.run.id for summary in mine}
    rest: list[RunSummary | EvaluationSummary] = []
    rest += [summary for summary in open_runs if summary.run.id not in to_approve]
    to_confirm: list[EvaluationSummary] = []
    for evaluation in _open_measurements(context, names):
        is_theirs = evaluation.measurement.requested_by == person
        if is_theirs and _awaits_confirmation(evaluation):
            to_confirm.append(evaluation)
        else:
            rest.append(evaluation)
    links = _links(context, [*mine, *to_confirm, *rest][:LINKED])
    watched = weeks.last_weeks(context, names)
    for week in watched[:LINKED]:
        name = week_card_name(week.dataset, week.facts.week)
        links |= _link(context, name, name)
    return HomeOverview(
        mine=mine,
        to_confirm=to_confirm,
        open=rest,
        recent=_latest_results(context, names),
        budget=budgets.team_budget(context),
        in_use=models.all_in_use(context, names),
        links=links,
        is_new=not names and not names.unchecked,
        deployments=deployment_summaries.summaries(context, names),
        unchecked=names.unchecked,
        watched=watched,
    )


def _runs_to_approve(context: AppContext, summaries: Sequence[RunSummary], person: str) -> list[RunSummary]:
    """Returns the runs that this person may approve and has not approved yet."""
    waiting = [summary for summary in summaries if _may_still_decide(context, summary, person)]
    # Asking for the rules may ask Slack who is in a group, so it is done only if something waits.
    if not waiting:
        return []
    rules = authorization.current_rules(context, "approve", context.recent)
    if not rules.filter_entitled("approve", [person]):
        return []
    mine = []
    for summary in waiting:
        pending = plan_requests.pending(context, summary.run, summary.plan)
        mine.append(replace(summary, pending=pending))
    return mine


def _may_still_decide(context: AppContext, summary: RunSummary, person: str) -> bool:
    """True if the run waits for approvals, is not the person's own, and they have not decided yet."""
    if summary.run.state != "awaiting_approval":
        return False
    if person in (summary.run.requester, summary.plan.uploaded_by):
        return False
    decisions = context.store.runs.decisions(summary.run.id)
    return all(decision.person != person for decision in decisions)


def _awaits_confirmation(summary: EvaluationSummary) -> bool:
    if isinstance(summary, CurveSummary | UnreadableSummary):
        return False
    return summary.progress.stage == "asking"


def _links(context: AppContext, summaries: Sequence[RunSummary | EvaluationSummary]) -> dict[str, str]:
    """Returns the links to the cards that Slack has a link for, by the names that the lists know them by."""
    links: dict[str, str] = {}
    for summary in summaries:
        name = card_name(summary)
        posted_as = name
        if isinstance(summary, RunSummary):
            posted_as = notifications.card_of(context, summary.run)
        links |= _link(context, name, posted_as)
    return links


def _link(context: AppContext, name: str, posted_as: str) -> dict[str, str]:
    card = context.store.outbox.card(posted_as)
    link = None
    if card is not None:
        link = context.directory.permalink(card.channel, card.ts)
    if link is None:
        return {}
    return {name: link}


def listing(context: AppContext, person: str, channel: str) -> Listing[DatasetEntry]:
    """Returns the dataset versions that a person may know about, newest first. The newest usable version of a name
    comes with its best candidate and its looks."""
    names = authorization.visible_datasets(context, person, channel)
    seen: set[str] = set()
    listed: list[DatasetEntry] = []
    for dataset in context.store.datasets.newest_of(names, SHOWN_DATASETS):
        report = datasets.report_of(dataset)
        entry = DatasetEntry(dataset, report, None, None)
        if report and dataset.name not in seen:
            seen.add(dataset.name)
            evidence = evidence_services.load_evidence(context, dataset, report, None)
            best = Best(evidence_services.best_candidate(evidence), evidence.bar)
            looks = load_looks(context, dataset.name, report)
            entry = replace(entry, best=best, looks=looks)
        listed.append(entry)
    total = context.store.datasets.count_of(names)
    return Listing(listed, total, names.unchecked)


def _open_measurements(context: AppContext, names: Collection[str]) -> list[EvaluationSummary]:
    measurements = context.store.measurements.open()
    visible = authorization.filter_known(context, measurements, names)
    return [_summarize(context, measurement) for measurement in visible]


def _latest_results(context: AppContext, names: Collection[str]) -> list[RunSummary | EvaluationSummary]:
    """Returns the newest runs and measurements that have a result, newest first."""
    measured = context.store.measurements.newest_results_on(names, LATEST_MEASUREMENTS)
    done: list[Run | Measurement] = [*runs.with_results(context, names), *measured]
    newest = sorted(done, key=lambda row: row.updated_at, reverse=True)
    summaries: list[RunSummary | EvaluationSummary] = []
    for row in newest[:SHOWN_RESULTS]:
        if isinstance(row, Run):
            summaries.append(runs.overview_of(context, row))
        else:
            summaries.append(_summarize(context, row))
    return summaries


def _summarize(context: AppContext, measurement: Measurement) -> EvaluationSummary:
    if not finished_measurements.is_readable(measurement):
        dataset = context.store.datasets.get(measurement.dataset_id)
        return UnreadableSummary(measurement, dataset.name)
    result = measurement.result
    if measurement.kind == COMPARISON:
        plan = ComparisonPlan.from_json(measurement.plan)
        progress = ComparisonProgress.from_json(measurement.progress)
        comparison = None
        if result:
            comparison = known_comparison(context.store, context.settings.files, measurement)
        sealed = sealed_rows.load_test(context.store, measurement)
        return ComparisonSummary(measurement, plan, progress, comparison, context.clock(), sealed)
    curve = None
    if result:
        curve = Curve.from_json(result)
    return CurveSummary(measurement, plan_of(measurement.plan), curve)
