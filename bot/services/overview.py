"""Gathers the overviews: the status, the App Home, and the list of datasets with the best candidate of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from bot.cards.common.blocks import Listing
from bot.cards.datasets.datasets import Best, DatasetEntry
from bot.cards.home import LINKED, HomeOverview, card_name
from bot.cards.status import (
    ComparisonSummary,
    CurveSummary,
    EvaluationSummary,
    Status,
    UnreadableSummary,
)
from bot.cards.training.runs import RunSummary
from bot.context import AppContext
from bot.services.common import authorization, budgets, finished_measurements
from bot.services.datasets import datasets, sealed_rows
from bot.services.decisions import plan_requests
from bot.services.evidence import evidence as evidence_services
from bot.services.evidence.looks import load_looks
from bot.services.evidence.measured_candidates import known_comparison
from bot.services.models import deployments, models, sunsets
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
    against = context.store.freezes.lift_requests(freeze) if freeze else ()
    latest, used = _latest_results(context, names), models.all_in_use(context, names)
    today = context.today()
    uses = sunsets.list_uses(context.store, context.settings, today, names)
    return Status(
        runs.open_runs(context, names),
        _open_measurements(context, names),
        latest,
        freeze,
        against,
        used,
        ending_soon(uses, today),
        today,
        deployments.summaries(context, names),
        names.unchecked,
    )


def home(context: AppContext, person: str) -> HomeOverview | Refusal:
    """Returns the person's App Home."""
    refusal = authorization.refusal(context, person, "read")
    if refusal:
        return refusal
    names = authorization.visible_datasets(context, person, None)
    summaries, evaluations = runs.open_runs(context, names), _open_measurements(context, names)
    mine = _runs_to_approve(context, summaries, person)
    to_confirm = [
        summary
        for summary in evaluations
        if _awaits_confirmation(summary) and summary.measurement.requested_by == person
    ]
    shown = {summary.run.id for summary in mine}
    open_runs = [summary for summary in summaries if summary.run.id not in shown]
    rest = [*open_runs, *(summary for summary in evaluations if summary not in to_confirm)]
    return HomeOverview(
        mine=mine,
        to_confirm=to_confirm,
        open=rest,
        recent=_latest_results(context, names),
        budget=budgets.team_budget(context),
        in_use=models.all_in_use(context, names),
        links=_links(context, [*mine, *to_confirm, *rest][:LINKED]),
        is_new=not names and not names.unchecked,
        deployments=deployments.summaries(context, names),
        unchecked=names.unchecked,
    )


def _runs_to_approve(context: AppContext, summaries: Sequence[RunSummary], person: str) -> list[RunSummary]:
    """Returns the runs that this person may approve and has not approved yet."""
    waiting = [
        summary
        for summary in summaries
        if summary.run.state == "awaiting_approval"
        and person not in (summary.run.requester, summary.plan.uploaded_by)
        and person not in [decision.person for decision in context.store.runs.decisions(summary.run.id)]
    ]
    is_named = waiting and authorization.current_rules(context, "approve", context.recent).filter_entitled(
        "approve", [person]
    )
    if not is_named:
        return []
    return [
        replace(summary, pending=plan_requests.pending(context, summary.run, summary.plan))
        for summary in waiting
    ]


def _awaits_confirmation(summary: EvaluationSummary) -> bool:
    if isinstance(summary, CurveSummary | UnreadableSummary):
        return False
    return summary.progress.stage == "asking"


def _links(context: AppContext, summaries: Sequence[RunSummary | EvaluationSummary]) -> dict[str, str]:
    """Returns the links to the cards that Slack has a link for."""
    cards = {name: context.store.outbox.card(name) for name in map(card_name, summaries)}
    links = {name: context.directory.permalink(card.channel, card.ts) for name, card in cards.items() if card}
    return {name: link for name, link in links.items() if link}


def listing(context: AppContext, person: str, channel: str) -> Listing[DatasetEntry]:
    """Returns the dataset versions that a person may know about, newest first. The newest usable version of a name
    comes with its best candidate and its looks."""
    names = authorization.visible_datasets(context, person, channel)
    seen: set[str] = set()
    listed: list[DatasetEntry] = []
    for dataset in context.store.datasets.newest_of(names, SHOWN_DATASETS):
        report, best, looks = datasets.report_of(dataset), None, None
        is_newest = report is not None and dataset.name not in seen
        seen |= {dataset.name} if is_newest else set()
        if report and is_newest:
            evidence = evidence_services.load_evidence(context, dataset, report, None)
            best = Best(evidence_services.best_candidate(evidence), evidence.bar)
            looks = load_looks(context, dataset.name, report)
        listed.append(DatasetEntry(dataset, report, best, looks))
    return Listing(listed, context.store.datasets.count_of(names), names.unchecked)


def _open_measurements(context: AppContext, names: Collection[str]) -> list[EvaluationSummary]:
    visible = authorization.filter_known(context, context.store.measurements.open(), names)
    return [_summarize(context, measurement) for measurement in visible]


def _latest_results(context: AppContext, names: Collection[str]) -> list[RunSummary | EvaluationSummary]:
    """Returns the newest runs and measurements that have a result, newest first."""
    measured = context.store.measurements.newest_results_on(names, LATEST_MEASUREMENTS)
    done: list[Run | Measurement] = [*runs.with_results(context, names), *measured]
    newest = sorted(done, key=lambda row: row.updated_at, reverse=True)[:SHOWN_RESULTS]
    return [
        runs.overview_of(context, row) if isinstance(row, Run) else _summarize(context, row) for row in newest
    ]


def _summarize(context: AppContext, measurement: Measurement) -> EvaluationSummary:
    if not finished_measurements.is_readable(measurement):
        return UnreadableSummary(measurement, context.store.datasets.get(measurement.dataset_id).name)
    result = measurement.result
    if measurement.kind == COMPARISON:
        plan = ComparisonPlan.from_json(measurement.plan)
        progress = ComparisonProgress.from_json(measurement.progress)
        comparison = known_comparison(context.store, context.settings.files, measurement) if result else None
        sealed = sealed_rows.load_test(context.store, measurement)
        return ComparisonSummary(measurement, plan, progress, comparison, context.clock(), sealed)
    curve = Curve.from_json(result) if result else None
    return CurveSummary(measurement, plan_of(measurement.plan), curve)
