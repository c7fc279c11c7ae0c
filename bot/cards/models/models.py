"""Lists of tuned models and of what is in use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Lines,
    Listing,
    Message,
    Note,
    Text,
    button,
    code,
    escape,
)
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import promotable_text
from bot.cards.common.general import command_button, text_message, unchecked_notes, unchecked_text
from bot.cards.common.words import (
    by_whom,
    capitalize,
    day,
    pluralize,
    shorten,
)
from bot.cards.models.actuals import ModelActuals, latest_month
from bot.cards.models.call_instructions import calling_line
from bot.cards.models.promotions import TRY, score_text
from bot.rules.models.promotion import alias_for
from storage.promotions import Promotion
from storage.records import Model, Promotable
from trainers.evaluation.results import MeasuredCandidate

WITH_BUTTON = (
    15  # models of a list that have a button beside them; each is a block, of which a message takes 50
)


@dataclass(frozen=True)
class FallbackInUse:
    """What answers if what is in use can't. `why_answering` is why it answers each call now, None if it doesn't."""

    what: Promotable
    why_answering: str | None = None


@dataclass(frozen=True)
class ModelEntry:
    """A tuned model in a list. `promotion` is None if it is not in use, `candidate` if it was not measured. `ends` is
    the first day on which its provider no longer offers it. `is_stopped` is True if it needs a machine by the hour and
    none runs. `ancestors` are the tuned models from which its training went on, the nearest first. `unanswered` is why
    programs get no answer although it is in use. `fallback` answers if it can't."""

    model: Model
    dataset: str
    version: int
    base: str
    candidate: MeasuredCandidate | None
    promotion: Promotion | None
    ends: date | None = None
    actuals: ModelActuals | None = None
    is_stopped: bool = False
    ancestors: tuple[str, ...] = ()
    unanswered: str | None = None
    fallback: FallbackInUse | None = None


@dataclass(frozen=True)
class InUse:
    """What is in use for a dataset, whatever its kind. `candidate` has its scores, None if there are none. `ends` is
    the first day on which the model that it asks is no longer offered. `is_stopped` is True if it needs a machine by
    the hour and none runs. `unanswered` is why programs get no answer, None if they get one. `fallback` answers if it
    can't."""

    promotion: Promotion
    candidate: MeasuredCandidate | None
    ends: date | None = None
    actuals: ModelActuals | None = None
    is_stopped: bool = False
    unanswered: str | None = None
    fallback: FallbackInUse | None = None


NONE_IN_USE: Listing[InUse] = Listing()


def listing(
    models: Listing[ModelEntry],
    used: Listing[InUse] = NONE_IN_USE,
    base_url: str | None = None,
    *,
    answers_programs: bool = True,
    is_full: bool = False,
) -> Message:
    """The tuned models, after what is in use that needed no training (`used`), which programs call at `base_url`.
    `answers_programs` is False if nothing answers there. `is_full` says more of each, and lists those that have
    ended."""
    if not models.total and not used.total and models.unchecked:
        return text_message(unchecked_text(models.unchecked))
    if not models.total and not used.total:
        return text_message("There are no tuned models yet. `/finetune start DATASET` trains one.")
    title = pluralize(models.total, "tuned model")
    if used.total:
        title = f"{title}, and what is in use without training"
    parts = Parts()
    if used.total:
        parts.add(in_use_lines(used))
    if is_full and models.total:
        lines = [_entry(entry) for entry in models.entries]
        parts.add(Lines(lines, models.left_out))
    elif models.total:
        parts.add(*_short_entries(models))
    if used.total or any(entry.promotion for entry in models.entries):
        parts.note(calling_line(base_url, is_answering=answers_programs))
    parts.add(*unchecked_notes(models.unchecked))
    parts.note(
        "`/finetune promote MODEL` deploys one for its dataset, `/finetune promote DATASET CANDIDATE` what was "
        "measured without training; `/finetune rollback DATASET` undoes that."
    )
    return parts.titled(title)


def _short_entries(models: Listing[ModelEntry]) -> list[CardBlock]:
    """A line for each model that is in use or could be, the first ones with a button for the next step."""
    shown = [entry for entry in models.entries if not _has_ended(entry)]
    blocks: list[CardBlock] = []
    for entry in shown[:WITH_BUTTON]:
        blocks.append(Text(_short_entry(entry), button=_next_button(entry)))
    lines = [_short_entry(entry) for entry in shown[WITH_BUTTON:]]
    if lines or models.left_out:
        blocks.append(Lines(lines, models.left_out))
    n_ended = len(models.entries) - len(shown)
    more = "`/finetune models all` says more of each."
    if n_ended:
        more = f"{pluralize(n_ended, 'model')} no longer in use or offered: `/finetune models all`"
    return [*blocks, Note(more)]


def _has_ended(entry: ModelEntry) -> bool:
    if entry.promotion:
        return False
    return entry.model.state == "retired" or entry.model.gone_at is not None


def _next_button(entry: ModelEntry) -> Block | None:
    """Asks a model in use; shows the result of another one, from which it can be deployed."""
    if entry.promotion is None:
        return command_button("Result", f"results {entry.model.run_id}")
    if entry.is_stopped:
        return None
    return button("Try", TRY, str(entry.model.run_id))


def _short_entry(entry: ModelEntry) -> str:
    """What a person chooses by: its state, its score and what is wrong. *_entry* has the rest."""
    name = f"{code(entry.model.name)} ({escape(shorten(entry.base))})"
    line = f"• {name}, {_state(entry)}: {_measured(entry.candidate)}"
    if entry.promotion and (entry.unanswered is not None or entry.fallback is not None):
        line += f"; {_programs(entry.promotion, entry.unanswered, entry.fallback)}"
    if entry.actuals:
        line += f"; {latest_month(entry.actuals, with_plan=False)}"
    return line


def in_use_lines(used: Listing[InUse]) -> Lines:
    return Lines([*map(in_use_line, used.entries)], used.left_out)


def in_use_line(entry: InUse) -> str:
    """A line in status and Home."""
    promotion = entry.promotion
    name = capitalize(promotable_text(promotion.what))
    line = f"• {name} for {code(promotion.dataset)}{_since(promotion)}"
    if entry.is_stopped:
        line += ", *not running*"
    line += f": {_measured(entry.candidate)}; {_programs(promotion, entry.unanswered, entry.fallback)}"
    if entry.actuals:
        line += f"; {latest_month(entry.actuals, with_plan=False)}"
    if entry.ends:
        line += f". *Ends {day(entry.ends)}*"
    return line


def _entry(entry: ModelEntry) -> str:
    dataset = escape(shorten(entry.dataset))
    if entry.version != 1:
        dataset += f", version {entry.version}"
    trained = f"{escape(shorten(entry.base))} at {escape(entry.model.provider)} on {dataset}"
    if entry.ancestors:
        trained += f", going on from {', '.join(map(code, entry.ancestors))}"
    lines = [
        f"• {code(entry.model.name)}, {_state(entry)}",
        f"      {trained}: {_measured(entry.candidate)}",
    ]
    if entry.promotion:
        lines.append(f"      {_programs(entry.promotion, entry.unanswered, entry.fallback)}")
    if entry.actuals:
        lines.append(f"      {latest_month(entry.actuals)}")
    return "\n".join(lines)


def _programs(promotion: Promotion, unanswered: str | None, fallback: FallbackInUse | None) -> str:
    """The name that programs call, and whether they get an answer."""
    name = code(alias_for(promotion.dataset))
    if unanswered is not None:
        return f"*programs that call {name} get no answer*: {escape(unanswered).rstrip('.')}"
    if fallback is None:
        return f"programs call {name}"
    other = promotable_text(fallback.what)
    if fallback.why_answering is None:
        return f"programs call {name}, and get {other} if it can't answer"
    why = escape(fallback.why_answering).rstrip(".")
    return f"*programs that call {name} get the fallback*, {other}: {why}"


def _state(entry: ModelEntry) -> str:
    state = "not in use"
    if entry.promotion:
        state = f"*in use for {escape(entry.promotion.dataset)}*{_since(entry.promotion)}"
        if entry.is_stopped:
            state += ", *not running*: `/finetune try` links the card to start it"
    elif entry.model.state == "retired":
        state = "no longer in use"
    if entry.model.gone_at is not None:
        state += ", *no longer at its provider*"
    return state


def _since(promotion: Promotion | None) -> str:
    if promotion is None:
        return ""
    return f" since {day(promotion.at)} by {by_whom(promotion.person)}"


def _measured(candidate: MeasuredCandidate | None) -> str:
    if candidate is None:
        return "not measured"
    return score_text(candidate)
