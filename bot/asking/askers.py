"""Asks models in threads, so that a provider that hangs never holds a tick; each answer is kept as it comes.

A step hands over questions with `ask` and finds their answers in the store at a later tick; `collect` gives what
came to an end without an answer. Nothing is remembered here that a restart would miss: questions without an
answer are simply asked again, and at most what was under way is paid twice.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from bot.asking.lanes import Declined, Lane, Question
from storage.store import Store
from trainers.client import Trainer
from trainers.providers import ProviderRow
from trainers.types import Message

__all__ = ["Askers", "Declined", "Question", "key_of"]

GRACE_S = 2.0


def key_of(model: str, messages: Sequence[Message], max_tokens: int) -> str:
    """The same for the same question to the same model: the sha256 of canonical JSON."""
    asked = [model, [[message.role, message.content] for message in messages], max_tokens]
    return hashlib.sha256(json.dumps(asked, ensure_ascii=True).encode()).hexdigest()


class Askers:
    """`clock` gives unix seconds, for answers to be dated by; `steady` seconds that pass, for pauses and rates."""

    def __init__(
        self,
        store: Store,
        trainers: Mapping[str, Trainer],
        providers: Sequence[ProviderRow],
        clock: Callable[[], float],
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._declined: dict[str, list[Declined]] = {}
        self._lanes = {
            row.name: Lane(store, trainers[row.name], row, clock, steady, self._note_declined)
            for row in providers
            if row.name in trainers
        }
        self._lock = threading.Lock()

    def ask(self, owner: str, provider: str, questions: Sequence[Question]) -> None:
        """Those that wait or are under way already, for whomever, are not asked twice. A provider whose key has
        gone is not asked at all; `trouble` says so."""
        if provider in self._lanes:
            self._lanes[provider].add(owner, questions)

    def collect(self, owner: str) -> Sequence[Declined]:
        """What was declined since the last look."""
        with self._lock:
            return self._declined.pop(owner, [])

    def trouble(self, provider: str) -> str | None:
        """Why questions wait at a provider now, as a sentence."""
        lane = self._lanes.get(provider)
        return lane.trouble() if lane else f"There is no key for {provider} where the bot runs."

    def waiting(self, owner: str) -> int:
        """How many of its questions wait or are under way."""
        return sum(lane.waiting(owner) for lane in self._lanes.values())

    def idle(self, provider: str, keys: frozenset[str]) -> frozenset[str]:
        """Those of these questions that neither wait nor are under way there, for whomever."""
        lane = self._lanes.get(provider)
        return keys - lane.at_work() if lane else keys

    def wake(self) -> None:
        """Threads that wait look at the clock again."""
        for lane in self._lanes.values():
            lane.wake()

    def drop(self, owner: str) -> frozenset[str]:
        """What waits is forgotten. The keys of what is under way: it is paid, and kept when it comes."""
        under_way = [key for lane in self._lanes.values() for key in lane.drop(owner)]
        self.collect(owner)
        return frozenset(under_way)

    def close(self) -> None:
        """No further question begins. Answers under way get a moment; then their connections are closed."""
        for lane in self._lanes.values():
            lane.close()
        until = time.monotonic() + GRACE_S
        for lane in self._lanes.values():
            lane.wait(until)

    def _note_declined(self, owner: str, declined: Declined) -> None:
        with self._lock:
            self._declined.setdefault(owner, []).append(declined)
