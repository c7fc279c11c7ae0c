"""What is open and what came out lately: the status card, the App Home, and evaluations as list entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bot.cards import (
    evaluation_results,
    evaluations,
    freeze,
    learning_curves,
    models,
    plans,
    runs,
    tuned_learning_curves,
)
from bot.cards.blocks import Block, CardBlock, Headline, Lines, Message, Note, Text, escape, slack_blocks
from bot.cards.models import ModelEntry
from bot.cards.plans import budget_left
from bot.cards.runs import RunSummary, status_line
from bot.cards.words import pluralize, shorten
from bot.rules.budgets import Budget
from bot.values.evaluations import CurvePlan, LadderPlan, LadderProgress
from bot.values.learning_curves import TunedCurvePlan, TunedCurveProgress
from bot.values.runs import Refusal
from storage.money import Freeze
from storage.records import Measurement
from trainers.evaluation.results import Curve, Ladder


@dataclass(frozen=True)
class LadderSummary:
    """A ladder in a list; `found` once it has a result."""

    measurement: Measurement
    plan: LadderPlan
    known: LadderProgress
    found: Ladder | None
    now: float


@dataclass(frozen=True)
class CurveSummary:
    """The classical rung's curve."""

    measurement: Measurement
    plan: CurvePlan
    found: Curve | None


@dataclass(frozen=True)
class TunedCurveSummary:
    measurement: Measurement
    plan: TunedCurvePlan
    known: TunedCurveProgress
    found: Curve | None


EvaluationSummary = LadderSummary | CurveSummary | TunedCurveSummary


def evaluation_entry(look: EvaluationSummary) -> str:
    return f"• *Measurement m{look.measurement.id}*, {escape(_what(look))}: {escape(_line(look))}"


def _what(look: EvaluationSummary) -> str:
    title = shorten(look.plan.title)
    match look:
        case LadderSummary():
            return f"ladder of {title}"
        case CurveSummary():
            return f"curve of {title}"
        case TunedCurveSummary():
            return f"curve of {shorten(look.plan.target)} on {title}"


def _line(look: EvaluationSummary) -> str:
    if look.found:
        ladder = look.found
        text = (
            evaluation_results.headline(ladder)
            if isinstance(ladder, Ladder)
            else learning_curves.headline(ladder)
        )
        return text[:1].lower() + text[1:]
    match look:
        case LadderSummary():
            return evaluations.progress_line(look.known, look.now)
        case CurveSummary():
            return "is being worked out"
        case TunedCurveSummary():
            return tuned_learning_curves.progress_line(look.plan, look.known)


# What is open, runs and measurements together, and what came out lately.


@dataclass(frozen=True)
class Status:
    """`latest`: those that have a result, newest first. `freeze`: the one that stands, and who spoke against it.
    `in_use`: models, by dataset."""

    runs: Sequence[RunSummary]
    measurements: Sequence[EvaluationSummary]
    latest: Sequence[RunSummary | EvaluationSummary]
    freeze: Freeze | None = None
    against: Sequence[str] = ()
    in_use: Sequence[ModelEntry] = ()


def card(status: Status) -> Message:
    lines = [*map(runs.list_entry, status.runs), *map(evaluation_entry, status.measurements)]
    frozen = [Text(freeze.status_line(status.freeze, status.against))] if status.freeze else []
    if not lines and not status.latest and not frozen and not status.in_use:
        text = (
            "Nothing is running. `/finetune baseline DATASET` measures alternatives, "
            "`/finetune start DATASET` starts a run."
        )
        return Message(text, (Text(text),))
    title = _title(status)
    numbers = "`/finetune results 7` shows a run, `/finetune results m3` a measurement."
    below = (*_list(lines), *_in_use(status), *_latest(status), Note(numbers))
    return Message(title, (Headline(title), *frozen, *below))


def list_entry(summary: RunSummary | EvaluationSummary) -> str:
    return runs.list_entry(summary) if isinstance(summary, RunSummary) else evaluation_entry(summary)


def _title(status: Status) -> str:
    open_ones = [
        *([pluralize(len(status.runs), "run")] if status.runs else []),
        *([pluralize(len(status.measurements), "measurement")] if status.measurements else []),
    ]
    return f"{' and '.join(open_ones)} open" if open_ones else "Nothing is running"


def _list(lines: Sequence[str]) -> list[CardBlock]:
    return [Lines(lines)] if lines else []


def _in_use(status: Status) -> list[CardBlock]:
    lines = [models.in_use_line(entry) for entry in status.in_use]
    return [Text("*Models in use*"), Lines(lines)] if lines else []


def _latest(status: Status) -> list[CardBlock]:
    return [Text("*Latest results*"), Lines([*map(list_entry, status.latest)])] if status.latest else []


# The App Home: what waits for me, what is under way, models in use, what came out lately, the month's
# budget.


WITH_BUTTONS = 10
HOME_FORM = "home"  # in the private metadata of a form that was opened there


@dataclass(frozen=True)
class HomeOverview:
    """`mine` wait for this person's approval, their cards stand at `links` by run; models `in_use`, by dataset."""

    mine: Sequence[RunSummary]
    open: Sequence[RunSummary | EvaluationSummary]
    recent: Sequence[RunSummary | EvaluationSummary]
    budget: Budget
    in_use: Sequence[ModelEntry] = ()
    links: Mapping[int, str] = field(default_factory=dict)


def home_page(overview: HomeOverview | Refusal) -> Block:
    if isinstance(overview, Refusal):
        return {"type": "home", "blocks": slack_blocks([Text(overview.text)])}
    blocks = [
        *_waiting(overview.mine, overview.links),
        *_home_list("Running", overview.open, "Nothing is running."),
        *_home_in_use(overview.in_use),
        *_home_list(
            "Recent results", overview.recent, "No results yet. `/finetune help` shows how to begin."
        ),
        Note(f"Budget left: {budget_left(overview.budget)}"),
    ]
    return {"type": "home", "blocks": slack_blocks(blocks)}


def _waiting(mine: Sequence[RunSummary], links: Mapping[int, str]) -> list[CardBlock]:
    """Each with its card's buttons, and where the card stands; of very many, the rest is listed."""
    shown, rest = mine[:WITH_BUTTONS], mine[WITH_BUTTONS:]
    blocks: list[CardBlock] = [Headline("Waiting for you")]
    for look in shown:
        link = links.get(look.run.id)
        where = f" <{link}|The plan in full>" if link else ""
        text = f"{_home_line(look)}. {plans.plan_in_short(look.plan)}{where}"
        blocks += [Text(text), plans.buttons(look.run, look.plan)]
    if rest or not shown:
        blocks.append(
            Lines([_home_line(look) for look in rest]) if rest else Text("Nothing waits for your approval.")
        )
    return blocks


def _home_in_use(in_use: Sequence[ModelEntry]) -> list[CardBlock]:
    return (
        [Headline("Models in use"), Lines([models.in_use_line(entry) for entry in in_use])] if in_use else []
    )


def _home_list(title: str, looks: Sequence[RunSummary | EvaluationSummary], empty: str) -> list[CardBlock]:
    return [Headline(title), Lines([_home_line(look) for look in looks]) if looks else Text(empty)]


def _home_line(look: RunSummary | EvaluationSummary) -> str:
    if not isinstance(look, RunSummary):
        return evaluation_entry(look)
    what = f"{escape(shorten(look.plan.base_model))} on {escape(shorten(look.plan.dataset))}"
    return f"• *Run {look.run.id}*, {what}: {status_line(look)}"
