"""What a person reads about tuned models and their answers."""

from __future__ import annotations

from typing import Protocol

from bot.views.blocks import Message, context, escape, section
from storage.records import Ask
from trainers.types import Answer


class Tried(Protocol):
    @property
    def ask(self) -> Ask: ...

    @property
    def answer(self) -> Answer: ...


def thinking(ask: Ask) -> Message:
    text = f"Asking `{ask.model}` …"
    return Message(text, (section(text),))


def answered(tried: Tried) -> Message:
    ask, answer = tried.ask, tried.answer
    return Message(
        f"{ask.model} answers: {answer.text}",
        (
            section(f"`{ask.model}` was asked:\n>{_quoted(ask.text)}"),
            section(f"It answers:\n>{_quoted(answer.text) or 'nothing'}"),
            context(
                f"{answer.seconds:.1f} seconds, {answer.prompt_tokens + answer.completion_tokens} tokens. "
                "Only you see this."
            ),
        ),
    )


def failed(ask: Ask, why: str) -> Message:
    return Message(
        f"{ask.model} could not be asked", (section(f"`{ask.model}` could not be asked: {escape(why)}"),)
    )


def _quoted(text: str) -> str:
    return escape(text[:2500]).replace("\n", "\n>")
