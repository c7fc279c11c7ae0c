"""Asks models for the terminal and waits for their answers.

They are kept in a database of its own, so that a repeat is free and a stopped measurement goes on. Our own trainer
is started for as long as one of its models is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from bot.app import build_trainers
from bot.asking.askers import Askers, Declined, Question
from bot.embedded import EmbeddedTrainer, with_address
from bot.settings import Settings
from storage.store import Store
from trainers.client import Trainer

LOOK_S = 0.2
OWNER = "terminal"


class Say(Protocol):
    """Hears how far it is, again and again. `keep` is said once and stays."""

    def __call__(self, said: str) -> None: ...

    def keep(self, said: str) -> None: ...


@dataclass(frozen=True)
class Reach:
    """Who can be asked, and where answers are kept."""

    settings: Settings
    trainers: Mapping[str, Trainer]
    store: Store
    askers: Askers


@contextmanager
def reach(settings: Settings, *, own: bool) -> Iterator[Reach]:
    """`own`: our own trainer runs as long."""
    embedded = _own_trainer(settings) if own else None
    if embedded:
        settings = with_address(settings, embedded)
    trainers = build_trainers(settings, embedded)
    settings.data.mkdir(parents=True, exist_ok=True)
    store = Store(settings.data / "terminal.db")
    askers = Askers(store, trainers, settings.providers, time.time)
    try:
        if embedded:
            embedded.start()
        yield Reach(settings, trainers, store, askers)
    finally:
        askers.close()
        if embedded:
            embedded.stop()
        store.close()


def until_answered(
    reached: Reach,
    wanted: Mapping[str, str],
    read: Callable[[frozenset[str]], Sequence[Question]],
    say: Say,
    what: str = "questions answered",
) -> tuple[Declined, ...]:
    """Every question until it is answered or declined: `wanted` is each key's model, 'provider/model'. Returns what
    was declined."""
    declined: list[Declined] = []
    while True:
        declined += reached.askers.collect(OWNER)
        failed = {one.model for one in declined if one.of_model}
        asked = {key for key, model in wanted.items() if model not in failed}
        there = reached.store.replies.found(sorted(asked)).keys() | {one.key for one in declined}
        missing = frozenset(asked - there)
        say(_how_far(reached, set(wanted.values()), len(asked) - len(missing), len(asked), what))
        if not missing:
            return tuple(declined)
        if len(missing) > reached.askers.waiting(OWNER):
            _hand_over(reached, read(missing))
        time.sleep(LOOK_S)


def _own_trainer(settings: Settings) -> EmbeddedTrainer | None:
    if not settings.trainer.models or not any(row.is_started_by_us for row in settings.providers):
        return None
    return EmbeddedTrainer(settings.data / "terminal-trainer", settings.trainer.models)


def _how_far(reached: Reach, models: set[str], done: int, of: int, what: str) -> str:
    providers = sorted({model.split("/", 1)[0] for model in models})
    troubles = [trouble for name in providers if (trouble := reached.askers.trouble(name))]
    return " ".join([f"{done:,} of {of:,} {what}.", *troubles])


def _hand_over(reached: Reach, questions: Sequence[Question]) -> None:
    for provider in sorted({one.model.split("/", 1)[0] for one in questions}):
        theirs = [one for one in questions if one.model.startswith(f"{provider}/")]
        reached.askers.ask(OWNER, provider, theirs)
