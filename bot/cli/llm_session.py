"""Asks models for the terminal and waits for their answers. They are cached in a database of its own, so a
repeat is free; our own trainer is started for as long as it is needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from bot.app import build_trainers
from bot.embedded_trainer import EmbeddedTrainer, with_address
from bot.llm_client import Declined, LlmClient, Question
from bot.settings import Settings
from storage.store import Store
from trainers.client import Trainer

LOOK_S = 0.2
OWNER = "terminal"
PATIENCE_S = 3600.0


class AnswerTimeout(Exception):
    """Nothing was answered for as long as somebody is willing to wait."""


class ProgressListener(Protocol):
    """Hears how far it is, again and again. `keep` is said once and stays."""

    def __call__(self, said: str) -> None: ...

    def keep(self, said: str) -> None: ...


@dataclass(frozen=True)
class LlmSession:
    """Who can be asked, where answers are kept, and how long nothing may come."""

    settings: Settings
    trainers: Mapping[str, Trainer]
    store: Store
    askers: LlmClient
    patience_s: float = PATIENCE_S


@contextmanager
def open_session(settings: Settings, *, own: bool, patience_s: float = PATIENCE_S) -> Iterator[LlmSession]:
    """`own`: our own trainer runs as long."""
    embedded = _own_trainer(settings) if own else None
    if embedded:
        settings = with_address(settings, embedded)
    trainers = build_trainers(settings, embedded)
    settings.data.mkdir(parents=True, exist_ok=True)
    store = Store(settings.data / "terminal.db")
    askers = LlmClient(store, trainers, settings.providers, time.time)
    try:
        if embedded:
            embedded.start()
        yield LlmSession(settings, trainers, store, askers, patience_s)
    finally:
        askers.close()
        if embedded:
            embedded.stop()
        store.close()


def until_answered(
    reached: LlmSession,
    wanted: Mapping[str, str],
    read: Callable[[frozenset[str]], Sequence[Question]],
    say: ProgressListener,
    what: str = "questions answered",
) -> tuple[Declined, ...]:
    """Every question until it is answered or declined: `wanted` is each key's model, 'provider/model'. Returns what
    was declined. Raises Silence."""
    declined: list[Declined] = []
    settled, moved_at = 0, time.monotonic()
    while True:
        declined += reached.askers.collect(OWNER)
        failed = {one.model for one in declined if one.of_model}
        asked = {key for key, model in wanted.items() if model not in failed}
        there = reached.store.replies.found(sorted(asked)).keys() | {one.key for one in declined}
        missing = frozenset(asked - there)
        say(_how_far(reached, set(wanted.values()), len(asked) - len(missing), len(asked), what))
        if not missing:
            return tuple(declined)
        if len(there) > settled:
            settled, moved_at = len(there), time.monotonic()
        elif time.monotonic() - moved_at > reached.patience_s:
            raise AnswerTimeout(_silence(reached, set(wanted.values())))
        if len(missing) > reached.askers.waiting(OWNER):
            _hand_over(reached, read(missing))
        time.sleep(LOOK_S)


def _own_trainer(settings: Settings) -> EmbeddedTrainer | None:
    if not settings.trainer.models or not any(row.is_started_by_us for row in settings.providers):
        return None
    return EmbeddedTrainer(settings.data / "terminal-trainer", settings.trainer.models)


def _silence(reached: LlmSession, models: set[str]) -> str:
    minutes = f"{reached.patience_s / 60:.3g}"
    said = f"Nothing was answered for {minutes} {'minute' if minutes == '1' else 'minutes'}."
    return " ".join(
        [
            said,
            *_troubles(reached, models),
            "Answers that came are kept: the same command goes on from there.",
        ]
    )


def _troubles(reached: LlmSession, models: set[str]) -> list[str]:
    providers = sorted({model.split("/", 1)[0] for model in models})
    return [trouble for name in providers if (trouble := reached.askers.trouble(name))]


def _how_far(reached: LlmSession, models: set[str], done: int, of: int, what: str) -> str:
    return " ".join([f"{done:,} of {of:,} {what}.", *_troubles(reached, models)])


def _hand_over(reached: LlmSession, questions: Sequence[Question]) -> None:
    for provider in sorted({one.model.split("/", 1)[0] for one in questions}):
        theirs = [one for one in questions if one.model.startswith(f"{provider}/")]
        reached.askers.ask(OWNER, provider, theirs)
