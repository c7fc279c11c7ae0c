"""What a person reads about tuned models and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from bot.views.blocks import Message, code, context, cut, escape, header, listed, section
from bot.views.promoting import scored
from bot.views.words import counted, short
from storage.promotions import Promotion
from storage.records import Ask, Model
from trainers.measuring.values import Rung
from trainers.types import Answer


class Tried(Protocol):
    @property
    def ask(self) -> Ask: ...

    @property
    def answer(self) -> Answer: ...


@dataclass(frozen=True)
class Shelved:
    """A tuned model as it stands in a list. `promotion`: by which it is in use; `rung` None: not measured."""

    model: Model
    dataset: str
    version: int
    base: str
    rung: Rung | None
    promotion: Promotion | None


def listing(shelved: Sequence[Shelved]) -> Message:
    if not shelved:
        text = "There is no tuned model yet: `/finetune start DATASET` makes one."
        return Message(text, (section(text),))
    title = counted(len(shelved), "tuned model")
    how = (
        "`/finetune promote MODEL` puts one to work for its dataset, `/finetune rollback DATASET` puts the one before "
        "it back."
    )
    return Message(title, (header(title), listed([_entry(one) for one in shelved]), context(how)))


def in_use(one: Shelved) -> str:
    """One line of the overview."""
    return f"• {code(one.model.name)} for {code(one.dataset)}{_since(one.promotion)}: {_measured(one)}"


def _entry(one: Shelved) -> str:
    version = "" if one.version == 1 else f", version {one.version}"
    made = (
        f"{escape(short(one.base))} at {escape(one.model.provider)} on {escape(short(one.dataset))}{version}"
    )
    return f"• {code(one.model.name)}, {_state(one)}\n      {made}: {_measured(one)}"


def _state(one: Shelved) -> str:
    gone = ", *gone from its provider*" if one.model.gone_at is not None else ""
    if one.promotion:
        return f"*in use for {escape(one.dataset)}*{_since(one.promotion)}{gone}"
    return f"{'was in use' if one.model.state == 'retired' else 'not in use'}{gone}"


def _since(promotion: Promotion | None) -> str:
    if promotion is None:
        return ""
    return f" since {datetime.fromtimestamp(promotion.at, UTC):%Y-%m-%d} by <@{promotion.person}>"


def _measured(one: Shelved) -> str:
    return scored(one.rung) if one.rung else "not measured"


def thinking(ask: Ask) -> Message:
    text = f"Asking {code(ask.model)} …"
    return Message(text, (section(text),))


def answered(tried: Tried) -> Message:
    ask, answer = tried.ask, tried.answer
    said = answer.text.strip() or "(nothing)"
    used = counted(answer.prompt_tokens + answer.completion_tokens, "token")
    return Message(
        f"{code(ask.model)} answers: {escape(cut(said, 500))}",
        (
            section(f"{code(ask.model)} was asked:\n>{_quoted(ask.text)}"),
            section(f"It answers:\n>{_quoted(said)}"),
            context(f"{max(answer.seconds, 0.1):.1f} seconds, {used}. Only you see this."),
        ),
    )


def failed(ask: Ask, why: str) -> Message:
    """`why` is a sentence with its cure, from anywhere."""
    text = f"{code(ask.model)} could not be asked: {escape(why)}"
    return Message(text, (section(text), context(f"You asked: {escape(cut(ask.text, 200))}")))


def _quoted(text: str) -> str:
    return escape(cut(text, 1200)).replace("\n", "\n>")
