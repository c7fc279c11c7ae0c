"""The HTML reports of a run and of a measurement, section by section, and the messages that announce them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bot.cards.common import calibration, prices
from bot.cards.common.blocks import (
    Actions,
    CardBlock,
    Facts,
    Headline,
    Lines,
    Note,
    Table,
    Text,
    code,
    escape,
)
from bot.cards.common.candidates import limits_of
from bot.cards.common.page import Picture, Section, page
from bot.cards.common.words import charge, pluralize, shorten, utc_time
from bot.cards.decisions import estimates
from bot.cards.decisions.plans import plan_title, verdict_text
from bot.cards.evidence import evaluation_details, evaluation_results, sealed_rows
from bot.cards.evidence.sealed_rows import SealedTest
from bot.cards.training import audits, result_details, results
from bot.rules.calibration import Actual
from bot.rules.judge_agreement import CheckedJudge
from bot.rules.plans import Plan
from bot.values.evaluations import LadderProgress
from bot.values.runs import AfterResult, LabelChange, RunResult
from storage.records import Approval, AuditEntry, Measurement, Run
from trainers.evaluation.results import Ladder
from trainers.pricing import PriceList

SHOWN_LABELS = 20


def run_report(
    run: Run,
    plan: Plan,
    result: RunResult,
    *,
    after: AfterResult,
    is_stopped: bool,
    ladder: Ladder | None,
    actuals: Sequence[Actual],
    approvals: Sequence[Approval],
    history: Sequence[AuditEntry],
    plots: Sequence[Path],
    name_of: Callable[[str], str],
) -> str:
    """A run's report as one HTML page. `after` is what happened to the model since its result, and `is_stopped` is True
    if its machine is stopped. `ladder` has everything measured on the same held-out rows, including the tuned model.
    `plots` are PNG files with the names that the charts give them. `name_of` maps a Slack user id to a name."""
    may_be_used = bool(result.is_offered) and after.is_nothing
    card = results.card(run, plan, result, may_be_used=may_be_used, after=after, is_stopped=is_stopped)
    headline, _, *summary = card.parts
    assert isinstance(headline, Headline)  # noqa: S101 - a result card begins with a headline
    subject = f"Run {run.id}: {shorten(plan.base_model)} on {shorten(plan.dataset)}, {plan.provider}"
    price_list = PriceList.from_json(plan.prices)
    decisions = _decisions(approvals)

    def charts(*stems: str) -> list[Picture]:
        return _pictures(plots, plan, stems)

    sections = [Section("", (*summary, *decisions))]
    if ladder:
        sections.append(_measured(ladder, charts("ladder")))
    sections += [
        Section(
            "What training changed",
            (*result_details.details(plan, result), *_labels(result)),
            charts(*results.TRAINING_CHARTS, "confusion"),
        ),
        Section(
            "Cost and expected saving",
            calibration.estimate_comparison(plan, result, actuals),
            charts("cumulative-cost"),
        ),
        Section("What was approved", (Facts(_plan_facts(run, plan)), *decisions)),
        Section(
            f"Prices, read on {price_list.read_on}",
            prices.listing(price_list.rows, price_list.read_on).parts[1:],
        ),
        Section("Who did what", audits.card(audits.History(run.id, history)).parts[1:]),
    ]
    return page(headline.text, f"{subject}, ended {utc_time(run.updated_at)}", sections, name_of)


def measurement_report(
    measurement: Measurement,
    ladder: Ladder,
    plot: Path | None,
    name_of: Callable[[str], str],
    *,
    test: SealedTest | None = None,
    judge: CheckedJudge | None = None,
    notes: Sequence[str] = (),
) -> str:
    """A measurement's report as one HTML page. `plot` is the PNG of quality against price, None without one. `test` is
    what it decided if its rows were sealed. `judge` is the model whose verdicts are the scores, and `notes` are the
    sentences of the result's card, unescaped."""
    progress = LadderProgress.from_json(measurement.progress)
    own = Ladder.from_json(measurement.result) if measurement.result else ladder
    card = evaluation_results.card(
        ladder,
        own=[rung.arm for rung in own.rungs],
        notes=notes,
        judge=judge,
        is_searched=progress.search is not None,
    )
    kind = "Held-out"
    if test:
        outcome = progress.outcome
        card = sealed_rows.result_card(ladder, measurement.id, test, outcome)
        ladder = sealed_rows.name_models(ladder, test)
        kind = "Sealed"
    headline, *parts = card.parts
    assert isinstance(headline, Headline)  # noqa: S101 - a measurement's card begins with a headline
    pictures = [Picture(plot, evaluation_results.alt_text(ladder.dataset))] if plot else []
    subtitle = (
        f"Measurement m{measurement.id} of {shorten(ladder.dataset)}, ended {utc_time(ladder.measured_at)}"
    )
    request = Text(f"Requested by <@{measurement.requested_by}>. {kind} rows: {code(ladder.holdout_sha256)}")
    details = evaluation_details.details(
        ladder,
        spent_micros=measurement.actual_micros,
        lost_micros=progress.lost_micros,
    )
    summary = [part for part in parts if not isinstance(part, Table | Note | Actions)]
    sections = [Section("", summary)]
    if ladder.rungs:
        sections.append(_measured(ladder, pictures, f"{kind.lower()} row"))
    sections.append(Section("Details", (*details, request)))
    return page(headline.text, subtitle, sections, name_of)


def _measured(ladder: Ladder, pictures: Sequence[Picture], kind: str = "held-out row") -> Section:
    table = evaluation_results.table(ladder, ladder.rungs, kind)
    limits = limits_of(ladder)
    below = [Note(" ".join(limits))] if limits else []
    return Section(f"What was measured, on the same {kind}s", [table, *below], pictures)


def _decisions(approvals: Sequence[Approval]) -> list[CardBlock]:
    lines = []
    for approval in approvals:
        reason = f": “{escape(approval.reason)}”" if approval.reason else ""
        verb = "approved" if approval.decision == "approve" else "rejected"
        lines.append(f"• <@{approval.person}> {verb} it, {utc_time(approval.at)}{reason}")
    return [Lines(lines)] if lines else []


def _labels(result: RunResult) -> list[CardBlock]:
    """Right answers by label, the largest loss first; empty for free text."""
    if not result.labels:
        return []
    ordered = sorted(result.labels, key=lambda each: ((each.tuned - each.base) / each.rows, -each.rows))
    rows = [
        (shorten(each.label, 60), f"{each.rows:,}", f"{each.base:,}", f"{each.tuned:,}", _gain(each))
        for each in ordered[:SHOWN_LABELS]
    ]
    heading = ("Label", "Held-out rows", f"{result.before.capitalize()} right", "Tuned right", "Change")
    hidden = len(ordered) - len(rows)
    more = [Note(f"And {pluralize(hidden, 'more label')}, none with a larger loss.")] if hidden else []
    return [
        Table([heading, *rows], "By label, on the same held-out rows; the largest loss first"),
        *more,
    ]


def _gain(label: LabelChange) -> str:
    gain = label.tuned - label.base
    return f"{gain:+,}".replace("-", "−") if gain else "–"


def run_title(run: Run, plan: Plan) -> str:
    return f"Report of run {run.id}: {plan_title(plan)}"


def measurement_title(measurement: Measurement, ladder: Ladder) -> str:
    return f"Report of measurement m{measurement.id} on {shorten(ladder.dataset)}"


def run_notice(run: Run, *, has_page: bool) -> str:
    """The message to the requester, beside the files in the result's thread. `has_page`: the report is one of them."""
    page = f"The report of run {run.id}; open it in a browser." if has_page else _page_missing(str(run.id))
    return f"<@{run.requester}> {page}"


def measurement_notice(
    measurement: Measurement, ladder: Ladder, test: SealedTest | None = None, *, has_page: bool
) -> str:
    """The message to the person who asked, since the result is an edit of the card, which notifies nobody."""
    number = f"m{measurement.id}"
    more = "Open the report in a browser." if has_page else _page_missing(number)
    headline = evaluation_results.headline(ladder)
    if test:
        headline = sealed_rows.headline(ladder, test, LadderProgress.from_json(measurement.progress).outcome)
    return f"<@{measurement.requested_by}> {number} is done. {escape(headline)}. {more}"


def _page_missing(subject: str) -> str:
    return f"The report could not be written. Try `finetune report {subject}` in a terminal."


def _plan_facts(run: Run, plan: Plan) -> list[tuple[str, str]]:
    chosen = ", ".join(f"{name} {value}" for name, value in plan.hyperparameters)
    expected, most = charge(plan.expected_micros), charge(plan.maximum_micros)
    return [
        ("Verdict at approval", verdict_text(plan)),
        ("Cost", f"{expected} expected, at most {most}; actual {charge(run.actual_micros)}"),
        ("Requested by", f"<@{run.requester}>, {utc_time(plan.asked_at)}"),
        ("Dataset", f"{escape(plan.dataset)} version {plan.dataset_version}, from <@{plan.uploaded_by}>"),
        ("Rows", f"{plan.n_train:,} to train on, {plan.n_holdout:,} held out"),
        ("Model", f"{escape(plan.base_model)} on {escape(plan.provider)}, method {escape(plan.method)}"),
        ("Hyperparameters", escape(chosen)),
        ("Plan", code(run.plan_hash)),
        ("Training rows", code(plan.train_sha256)),
        ("Held-out rows", code(plan.holdout_sha256)),
    ]


def _pictures(plots: Sequence[Path], plan: Plan, stems: Sequence[str]) -> list[Picture]:
    by_stem = {path.stem: path for path in plots}
    pictures = []
    for stem in stems:
        if stem == "ladder":
            alt = evaluation_results.alt_text(plan.dataset)
        elif stem in (*results.TRAINING_CHARTS, "confusion"):
            alt = results.alt_text(stem, plan)
        else:
            alt = estimates.alt_text(plan.dataset)
        if stem in by_stem:
            pictures.append(Picture(by_stem[stem], alt))
    return pictures
