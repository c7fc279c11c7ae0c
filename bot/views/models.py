"""What a person reads about tuned models and their answers."""

from __future__ import annotations

from typing import Protocol

from bot.views.blocks import Message, code, context, cut, escape, section
from bot.views.words import counted
from storage.records import Ask
from trainers.types import Answer


class Tried(Protocol):
    @property
    def ask(self) -> Ask: ...

    @property
    def answer(self) -> Answer: ...


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
