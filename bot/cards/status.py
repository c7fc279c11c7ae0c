"""The status card: open runs and measurements, models in use, and the latest results. List entries of evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from bot.cards.common import freeze
from bot.cards.common.blocks import Block, Headline, Listing, Message, Text, button, escape
from bot.cards.common.builder import Parts
from bot.cards.common.general import command_button, text_message, unchecked_notes, unchecked_text
from bot.cards.common.help import UPLOAD
from bot.cards.common.words import pluralize, shorten
from bot.cards.evidence import evaluation_results, evaluations, learning_curves, sealed_rows
from bot.cards.evidence.sealed_rows import SealedTest
from bot.cards.models import deployments, models, sunsets
from bot.cards.models.call_instructions import calling_line
from bot.cards.models.deployments import DeploymentSummary
from bot.cards.models.models import InUse
from bot.cards.training import runs
from bot.cards.training.runs import RunSummary
from bot.values.evaluations import ComparisonPlan, ComparisonProgress, CurvePlan
from bot.values.sunsets import ModelUse
from storage.money import Freeze
from storage.records import Measurement
from trainers.evaluation.results import Comparison, Curve

SHOWN_ENDS = 6


@dataclass(frozen=True)
class ComparisonSummary:
    """A comparison in a list. `result` is None until it has one. `sealed` is what it decides if its rows are sealed."""

    measurement: Measurement
    plan: ComparisonPlan
    progress: ComparisonProgress
    result: Comparison | None
    now: float
    sealed: SealedTest | None = None


@dataclass(frozen=True)
class CurveSummary:
    """The classical model's learning curve in a list."""

    measurement: Measurement
    plan: CurvePlan
    result: Curve | None


@dataclass(frozen=True)
class UnreadableSummary:
    """A measurement that a newer version of the bot has stored."""

    measurement: Measurement
    dataset: str


EvaluationSummary = ComparisonSummary | CurveSummary | UnreadableSummary


@dataclass(frozen=True)
class Status:
    """What the status card shows. `latest` have a result and are newest first. `freeze` is the current freeze,
    `against` the approvers who want to lift it. Programs call what is `in_use` at `base_url`, None if they can't.
    `ending` are models that end soon, as seen from `today`. `deployments` are models that run and are billed by the
    hour. What belongs to datasets of `unchecked` channels is left out, as Slack did not answer about them. `links` lead
    to cards by their names."""

    runs: Sequence[RunSummary]
    measurements: Sequence[EvaluationSummary]
    latest: Sequence[RunSummary | EvaluationSummary]
    freeze: Freeze | None = None
    against: Sequence[str] = ()
    in_use: Listing[InUse] = models.NONE_IN_USE
    base_url: str | None = None
    answers_programs: bool = True
    ending: Sequence[ModelUse] = ()
    today: date = date.min
    deployments: Sequence[DeploymentSummary] = ()
    unchecked: int = 0
    links: Mapping[str, str] = field(default_factory=dict)


def card(status: Status) -> Message:
    lines = [_linked(status, summary) for summary in (*status.runs, *status.measurements)]
    others = status.freeze or status.in_use.total or status.ending or status.deployments
    is_empty = not lines and not status.latest and not others
    if is_empty and status.unchecked:
        return text_message(unchecked_text(status.unchecked))
    if is_empty:
        parts = Parts()
        parts.text(
            "Nothing is running. `/finetune baseline DATASET` measures alternatives, "
            "`/finetune start DATASET` starts a run."
        )
        parts.buttons(button("Upload", UPLOAD, "status"), command_button("Datasets", "datasets"))
        return Message("Nothing is running.", tuple(parts))
    title = _title(status)
    parts = Parts([Headline(title)])
    if status.freeze:
        parts.text(freeze.status_line(status.freeze, status.against))
    parts.lines(lines)
    if status.deployments:
        parts.text("*Billed by the hour*")
        parts.lines([deployments.line(summary) for summary in status.deployments])
    if status.in_use.total:
        parts.text("*In use*")
        parts.add(models.in_use_lines(status.in_use))
        parts.note(calling_line(status.base_url, is_answering=status.answers_programs))
    if status.ending:
        ends = [sunsets.line(use, status.today) for use in status.ending[:SHOWN_ENDS]]
        hidden = len(status.ending) - len(ends)
        if hidden:
            ends.append(f"• and {hidden:,} more: `finetune sunsets` lists all")
        parts.text("*Models that end soon*")
        parts.lines(ends)
    if status.latest:
        parts.text("*Latest results*")
        parts.lines([list_entry(summary) for summary in status.latest])
    parts.add(*unchecked_notes(status.unchecked))
    parts.buttons(*_next_buttons(status))
    parts.note("`/finetune results 7` shows a run, `/finetune results m3` a measurement.")
    return Message(title, tuple(parts))


def _next_buttons(status: Status) -> list[Block]:
    """What people look at next: the newest result, and what it is about."""
    lines = []
    if status.latest:
        lines.append(("Newest result", f"results {_number(status.latest[0])}"))
    lines.append(("Datasets", "datasets"))
    if status.in_use.total:
        lines.append(("Models", "models"))
    return [command_button(text, line, position=position) for position, (text, line) in enumerate(lines)]


def card_name(summary: RunSummary | EvaluationSummary) -> str:
    """The name of the card that a link leads to."""
    if not isinstance(summary, RunSummary):
        return f"measurement {summary.measurement.id}"
    if summary.run.state == "awaiting_approval":
        return f"plan {summary.run.id}"
    return f"run {summary.run.id}"


def _linked(status: Status, summary: RunSummary | EvaluationSummary) -> str:
    return with_link(list_entry(summary), status.links.get(card_name(summary)))


def with_link(text: str, link: str | None) -> str:
    """The line of a list, with a link to its card if there is one."""
    if not link:
        return text
    return f"{text} · <{link}|Open>"


def results_card(latest: Sequence[RunSummary | EvaluationSummary], unchecked: int) -> Message:
    """The latest results, newest first."""
    if not latest and unchecked:
        return text_message(unchecked_text(unchecked))
    if not latest:
        return text_message(
            "There are no results yet. `/finetune baseline DATASET` measures what can be had without training."
        )
    parts = Parts()
    for summary in latest:
        show = command_button("Show", f"results {_number(summary)}")
        parts.add(Text(list_entry(summary), button=show))
    parts.add(*unchecked_notes(unchecked))
    return parts.titled("The latest results")


def _number(summary: RunSummary | EvaluationSummary) -> str:
    """As people type it: '7' for a run, 'm3' for a measurement."""
    if isinstance(summary, RunSummary):
        return str(summary.run.id)
    return f"m{summary.measurement.id}"


def _title(status: Status) -> str:
    counts = []
    if status.runs:
        counts.append(pluralize(len(status.runs), "run"))
    if status.measurements:
        counts.append(pluralize(len(status.measurements), "measurement"))
    if counts:
        return f"Open: {' and '.join(counts)}"
    if status.deployments:
        return "No open runs"
    return "Nothing is running"


def list_entry(summary: RunSummary | EvaluationSummary) -> str:
    if isinstance(summary, RunSummary):
        return runs.list_entry(summary)
    return evaluation_entry(summary)


def _unreadable_entry(summary: UnreadableSummary) -> str:
    remedy = "go on with it or to cancel it"
    if summary.measurement.result is not None:
        remedy = "see it and to have it counted"
    return (
        f"• *Measurement m{summary.measurement.id}* on {escape(shorten(summary.dataset))}: stored by a newer version "
        f"of the bot, which this version can't read. Start the newer version to {remedy}."
    )


def evaluation_entry(summary: EvaluationSummary) -> str:
    if isinstance(summary, UnreadableSummary):
        return _unreadable_entry(summary)
    title = shorten(summary.plan.title)
    match summary:
        case ComparisonSummary():
            subject = f"alternatives on {title}"
            if summary.sealed:
                subject = evaluations.sealed_subject(summary.plan, summary.sealed.model)
            state = evaluations.progress_line(summary.progress, summary.now)
        case CurveSummary():
            subject = f"learning curve on {title}"
            state = "being calculated"
    if summary.result:
        state = _result_headline(summary)
    return f"• *Measurement m{summary.measurement.id}*, {escape(subject)}: {escape(state)}"


def _result_headline(summary: EvaluationSummary) -> str:
    """The headline of the result, as the end of a sentence."""
    match summary:
        case ComparisonSummary(result=Comparison() as comparison, sealed=SealedTest() as test):
            # It begins with the model's name, whose letters stay as they are.
            return sealed_rows.headline(comparison, test, summary.progress.outcome)
        case ComparisonSummary(result=Comparison() as comparison):
            headline = evaluation_results.headline(comparison)
        case CurveSummary(result=Curve() as curve):
            headline = learning_curves.headline(curve)
        case _:
            return ""
    return headline[:1].lower() + headline[1:]
