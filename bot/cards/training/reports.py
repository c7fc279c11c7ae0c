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
    Message,
    Note,
    Table,
    Text,
    code,
    escape,
)
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import limits_of
from bot.cards.common.general import Attachment
from bot.cards.common.page import Section, page
from bot.cards.common.payback import forecast_chart
from bot.cards.common.words import charge, pluralize, shorten, signed, utc_time
from bot.cards.decisions.plans import plan_title, verdict_text
from bot.cards.decisions.starting_models import start_facts
from bot.cards.evidence import evaluation_details, evaluation_results, sealed_rows
from bot.cards.evidence.sealed_rows import SealedTest
from bot.cards.training import audits, result_details, results
from bot.rules.judge_agreement import CheckedJudge
from bot.rules.plans import Plan
from bot.rules.training.calibration import Actual
from bot.values.evaluations import ComparisonProgress
from bot.values.runs import AfterResult, LabelChange, RunResult
from storage.records import Approval, AuditEntry, Measurement, Run
from trainers.evaluation.results import Comparison
from trainers.methods import METHODS
from trainers.providers.pricing import PriceList

SHOWN_LABELS = 20


def run_report(
    run: Run,
    plan: Plan,
    result: RunResult,
    *,
    after: AfterResult,
    is_stopped: bool,
    comparison: Comparison | None,
    actuals: Sequence[Actual],
    approvals: Sequence[Approval],
    history: Sequence[AuditEntry],
    plots: Sequence[Path],
    name_of: Callable[[str], str],
) -> str:
    """A run's report as one HTML page. `after` is what happened to the model since its result, and `is_stopped` is True
    if its machine is stopped. `comparison` has everything measured on the same held-out rows, including the tuned
    model. `plots` are PNG files with the names that the charts give them. `name_of` maps a Slack user id to a name."""
    may_be_used = bool(result.is_offered) and after.is_nothing
    card = results.card(run, plan, result, may_be_used=may_be_used, after=after, is_stopped=is_stopped)
    headline, _, *summary = card.parts
    assert isinstance(headline, Headline)  # noqa: S101 - a result card begins with a headline
    subject = f"Run {run.id}: {shorten(plan.base_model)} on {shorten(plan.dataset)}, {plan.provider}"
    price_list = PriceList.from_json(plan.prices)
    decisions = _decisions(approvals)

    def charts(*stems: str) -> list[Attachment]:
        return _pictures(plots, plan, result, comparison, stems)

    changes = (*result_details.details(plan, result), *_labels(result))
    money = calibration.estimate_comparison(plan, result, actuals)
    # The first part of a card is its headline, which the section's title replaces.
    price_rows = prices.listing(price_list.rows, price_list.read_on).parts[1:]
    entries = audits.card(audits.History(run.id, history)).parts[1:]

    sections = [Section("", (*summary, *decisions))]
    if comparison:
        sections.append(_measured(comparison, charts("comparison")))
    sections += [
        Section("What training changed", changes, charts(*results.TRAINING_CHARTS, "confusion")),
        Section("Cost and expected saving", money, charts("cumulative-cost")),
        Section("What was approved", (Facts(_plan_facts(run, plan)), *decisions)),
        Section(f"Prices, read on {price_list.read_on}", price_rows),
        Section("Who did what", entries),
    ]
    return page(headline.text, f"{subject}, ended {utc_time(run.updated_at)}", sections, name_of)


def measurement_report(
    measurement: Measurement,
    comparison: Comparison,
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
    progress = ComparisonProgress.from_json(measurement.progress)
    if test:
        card = sealed_rows.result_card(comparison, measurement.id, test, progress.outcome)
        comparison = sealed_rows.name_models(comparison, test)
        kind = "Sealed"
    else:
        card = _held_out_card(measurement, comparison, progress, judge, notes)
        kind = "Held-out"
    headline, *parts = card.parts
    assert isinstance(headline, Headline)  # noqa: S101 - a measurement's card begins with a headline
    # The page has a wider table with its own note, and no buttons.
    summary = [part for part in parts if not isinstance(part, Table | Note | Actions)]
    pictures = []
    if plot:
        pictures.append(evaluation_results.chart(plot, comparison))
    details = evaluation_details.details(
        comparison,
        spent_micros=measurement.actual_micros,
        lost_micros=progress.lost_micros,
    )
    request = Text(
        f"Requested by <@{measurement.requested_by}>. {kind} rows: {code(comparison.holdout_sha256)}"
    )

    sections = [Section("", summary)]
    if comparison.candidates:
        sections.append(_measured(comparison, pictures, f"{kind.lower()} row"))
    sections.append(Section("Details", (*details, request)))
    subject = f"Measurement m{measurement.id} of {shorten(comparison.dataset)}"
    return page(headline.text, f"{subject}, ended {utc_time(comparison.measured_at)}", sections, name_of)


def _held_out_card(
    measurement: Measurement,
    comparison: Comparison,
    progress: ComparisonProgress,
    judge: CheckedJudge | None,
    notes: Sequence[str],
) -> Message:
    # The comparison also has what earlier measurements of the rows measured; the card tells the two apart.
    own = comparison
    if measurement.result:
        own = Comparison.from_json(measurement.result)
    return evaluation_results.card(
        comparison,
        own=[candidate.identity for candidate in own.candidates],
        notes=notes,
        judge=judge,
        is_searched=progress.search is not None,
    )


def _measured(comparison: Comparison, pictures: Sequence[Attachment], kind: str = "held-out row") -> Section:
    parts = Parts()
    parts.add(evaluation_results.table(comparison, comparison.candidates, kind))
    parts.note(" ".join(limits_of(comparison)))
    return Section(f"What was measured, on the same {kind}s", parts, pictures)


def _decisions(approvals: Sequence[Approval]) -> list[CardBlock]:
    lines = []
    for approval in approvals:
        verb = "rejected"
        if approval.decision == "approve":
            verb = "approved"
        line = f"• <@{approval.person}> {verb} it, {utc_time(approval.at)}"
        if approval.reason:
            line += f": “{escape(approval.reason)}”"
        lines.append(line)
    parts = Parts()
    parts.lines(lines)
    return parts


def _labels(result: RunResult) -> list[CardBlock]:
    """Right answers by label, the largest loss first; empty for free text."""
    if not result.labels:
        return []
    before = result.start or result.before.capitalize()
    heading = ("Label", "Held-out rows", f"{before} right", "Tuned right", "Change")

    def gain_then_rows(label: LabelChange) -> tuple[float, int]:
        gain = (label.tuned - label.base) / label.rows
        return gain, -label.rows

    ordered = sorted(result.labels, key=gain_then_rows)
    rows = [_label_row(label) for label in ordered[:SHOWN_LABELS]]
    parts = Parts()
    parts.add(Table([heading, *rows], "By label, on the same held-out rows; the largest loss first"))
    hidden = len(ordered) - len(rows)
    if hidden:
        parts.note(f"And {pluralize(hidden, 'more label')}, none with a larger loss.")
    return parts


def _label_row(label: LabelChange) -> tuple[str, ...]:
    name = shorten(label.label, 60)
    gain = label.tuned - label.base
    change = "–"
    if gain:
        change = signed(gain, "+,")
    return name, f"{label.rows:,}", f"{label.base:,}", f"{label.tuned:,}", change


def run_title(run: Run, plan: Plan) -> str:
    return f"Report of run {run.id}: {plan_title(plan)}"


def measurement_title(measurement: Measurement, comparison: Comparison) -> str:
    return f"Report of measurement m{measurement.id} on {shorten(comparison.dataset)}"


def run_notice(run: Run, *, has_page: bool) -> str:
    """The message to the requester, beside the files in the result's thread. `has_page`: the report is one of them."""
    page = _page_missing(str(run.id))
    if has_page:
        page = f"The report of run {run.id}; open it in a browser."
    return f"<@{run.requester}> {page}"


def measurement_notice(
    measurement: Measurement, comparison: Comparison, test: SealedTest | None = None, *, has_page: bool
) -> str:
    """The message to the person who asked, since the result is an edit of the card, which notifies nobody."""
    number = f"m{measurement.id}"
    more = _page_missing(number)
    if has_page:
        more = "Open the report in a browser."
    headline = escape(measurement_headline(measurement, comparison, test))
    return f"<@{measurement.requested_by}> {number} is done. {headline}. {more}"


def measurement_headline(measurement: Measurement, comparison: Comparison, test: SealedTest | None) -> str:
    """The answer in one sentence; unescaped."""
    if test is None:
        return evaluation_results.headline(comparison)
    outcome = ComparisonProgress.from_json(measurement.progress).outcome
    return sealed_rows.headline(comparison, test, outcome)


def _page_missing(subject: str) -> str:
    return f"The report could not be written. Try `finetune report {subject}` in a terminal."


def _plan_facts(run: Run, plan: Plan) -> list[tuple[str, str]]:
    chosen = ", ".join(f"{name} {value}" for name, value in plan.hyperparameters)
    expected = charge(plan.expected_micros)
    most = charge(plan.maximum_micros)
    return [
        ("Verdict at approval", verdict_text(plan)),
        ("Cost", f"{expected} expected, at most {most}; actual {charge(run.actual_micros)}"),
        ("Requested by", f"<@{run.requester}>, {utc_time(plan.asked_at)}"),
        ("Dataset", f"{escape(plan.dataset)} version {plan.dataset_version}, from <@{plan.uploaded_by}>"),
        ("Rows", f"{plan.n_train:,} to train on, {plan.n_holdout:,} held out"),
        (
            "Model",
            f"{escape(plan.base_model)} on {escape(plan.provider)}, method {METHODS[plan.method].option}",
        ),
        *start_facts(plan.starts_from),
        ("Hyperparameters", escape(chosen)),
        ("Plan", code(run.plan_hash)),
        ("Training rows", code(plan.train_sha256)),
        ("Held-out rows", code(plan.holdout_sha256)),
    ]


def _pictures(
    plots: Sequence[Path],
    plan: Plan,
    result: RunResult,
    comparison: Comparison | None,
    stems: Sequence[str],
) -> list[Attachment]:
    by_stem = {path.stem: path for path in plots}
    pictures = []
    for stem in stems:
        # Whether there is a chart depends on the method and on what was measured.
        if stem in by_stem:
            pictures.append(_picture(by_stem[stem], plan, result, comparison))
    return pictures


def _picture(path: Path, plan: Plan, result: RunResult, comparison: Comparison | None) -> Attachment:
    if path.stem == "comparison" and comparison is not None:
        return evaluation_results.chart(path, comparison)
    if path.stem == "cumulative-cost":
        return forecast_chart(path, plan.dataset)
    return results.chart(path, plan, result)
