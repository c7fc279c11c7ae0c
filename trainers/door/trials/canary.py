"""Has a candidate on trial answer a share of the conversations, and ends that once it errs more than what is in use
(`judge_canary` in trainers/monitoring/switch_tests.py). The door decides that itself, as nobody else is fast enough.

A conversation stays on its side for as long as the trial lasts, as its place between 0 and 1 follows from its hash and
the trial's number alone. If the share is raised, those that had the candidate keep it.

Errors are counted in memory, by conversation, and stored each second for later workers and for the bot
(trainers/recipes/canary_events.py). A stop is stored at once. If the disk takes nothing, a canary goes on, and one that
was stopped stays so in this process; one whose events can't be read doesn't begin.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainers.door.conversations import hash_conversation
from trainers.monitoring.switch_tests import DECISIVE, canary_e, judge_canary
from trainers.recipes import canary_events
from trainers.recipes.canary_events import MOST_EVENTS, CanaryEvent, EventReason
from trainers.recipes.values import Published, Trial

FLUSH_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CanarySide:
    """The side of a `trial` on which a `conversation` (a keyed hash) is: the candidate's, or that of what is in use."""

    trial: int
    conversation: str
    is_candidate: bool


@dataclass(frozen=True)
class CanaryCall:
    """A call under a name with a canary. An answer that takes longer than `limit_s` seconds is slow."""

    side: CanarySide
    candidate: Trial
    limit_s: float


@dataclass
class Tally:
    """The conversations that erred during a trial. Events are counted since the `share` was changed last."""

    share: float
    conversations: set[str] = field(default_factory=set)
    of_candidate: int = 0
    of_incumbent: int = 0

    @property
    def is_worse(self) -> bool:
        return canary_e(self.of_candidate, self.of_incumbent, self.share) >= DECISIVE

    def add(self, side: CanarySide) -> bool:
        """Counts a conversation's first event. Returns False for a later one, and if there is no more room."""
        if side.conversation in self.conversations or len(self.conversations) >= MOST_EVENTS:
            return False
        self.conversations.add(side.conversation)
        self.of_candidate += side.is_candidate
        self.of_incumbent += not side.is_candidate
        return True

    def change_share(self, share: float) -> None:
        """Begins to count again, since a share decides what an event says. Conversations still count once."""
        self.share = share
        self.of_candidate = 0
        self.of_incumbent = 0


@dataclass
class Canaries:
    """All canaries under way. `key` returns the key for hashes of conversations, `trials` the trials that are
    published, and `clock` the time in unix seconds."""

    folder: Path
    key: Callable[[], str]
    trials: Callable[[], Sequence[Trial]]
    clock: Callable[[], float] = time.time
    _tallies: dict[int, Tally] = field(default_factory=dict)
    _stopped: set[int] = field(default_factory=set)
    _new_events: list[CanaryEvent] = field(default_factory=list)
    _new_stops: dict[int, float] = field(default_factory=dict)
    _storing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def watch(
        self, published: Published, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> CanaryCall | None:
        """Returns on which side a call is, None if no canary is under way."""
        trial = published.trial
        if trial is None or not is_canary(trial) or trial.number in self._stopped:
            return None
        tally = self._tallies.get(trial.number)
        if tally is None:
            return None  # it is followed within a second
        if tally.share != trial.share:
            tally.change_share(trial.share)
        conversation = hash_conversation(self.key(), body, headers)
        is_candidate = place_of(trial.number, conversation) < trial.share
        limit_s = trial.slow_s
        if published.fallback is not None and published.fallback_after_s is not None:
            # What is in use has no longer either.
            limit_s = min(limit_s, published.fallback_after_s)
        return CanaryCall(CanarySide(trial.number, conversation, is_candidate), trial, limit_s)

    def report(self, side: CanarySide, reason: EventReason) -> None:
        """Counts an error of a conversation, and ends the canary if the candidate errs more."""
        tally = self._tallies.get(side.trial)
        if tally is None or side.trial in self._stopped or not tally.add(side):
            return
        event = CanaryEvent(side.trial, side.conversation, side.is_candidate, reason, self.clock())
        self._new_events.append(event)
        if tally.is_worse:
            self._stop(side.trial, f"{tally.of_candidate} of {tally.of_candidate + tally.of_incumbent}")

    def _stop(self, trial: int, errors: str) -> None:
        log.warning("the canary of trial %s is stopped: %s errors are the candidate's", trial, errors)
        self._stopped.add(trial)
        self._new_stops[trial] = self.clock()
        task = asyncio.create_task(self.store())
        self._tasks.add(task)  # the loop itself holds no task that nobody waits for
        task.add_done_callback(self._tasks.discard)

    async def keep_storing(self) -> None:
        """Stores events each second, and looks which canaries have begun, ended or been stopped elsewhere, until it is
        cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await asyncio.shield(self.store())  # what was taken out of memory would be lost
            await self.follow()

    async def store(self) -> None:
        """Stores what happened since the last time. What can't be stored waits for the next."""
        async with self._storing:
            events = self._new_events
            stops = dict(self._new_stops)
            if not events and not stops:
                return
            self._new_events = []
            try:
                await asyncio.to_thread(_write, self.folder, events, stops)
            except (sqlite3.Error, OSError) as error:
                log.error("storing the errors of a canary: %s", error)
                self._new_events = events + self._new_events
            else:
                for trial in stops:
                    del self._new_stops[trial]

    async def follow(self) -> None:
        """Reads what is stored of canaries that have begun, and which were stopped; forgets those that are over."""
        running = {trial.number: trial for trial in self.trials() if is_canary(trial)}
        for number in self._tallies.keys() - running.keys():
            del self._tallies[number]
        if not running:
            return
        new = running.keys() - self._tallies.keys()
        try:
            stopped, events = await asyncio.to_thread(_read, self.folder, new)
        except (sqlite3.Error, OSError) as error:
            log.error("reading the errors of canaries: %s", error)
            return
        self._stopped |= stopped
        for number in new:
            self._begin(running[number], events[number])

    def _begin(self, trial: Trial, events: Sequence[CanaryEvent]) -> None:
        tally = Tally(trial.share)
        for event in events:
            tally.add(CanarySide(trial.number, event.conversation, event.is_candidate))
        self._tallies[trial.number] = tally
        is_candidate = [event.is_candidate for event in events]
        test = judge_canary(is_candidate, trial.share)
        # A kill may have come between the event and the stop.
        if test.outcome == "worse" and trial.number not in self._stopped:
            self._stop(trial.number, f"{test.of_candidate} of {test.events}")


def is_canary(trial: Trial) -> bool:
    """True if the candidate answers some conversations. If it answered all, nothing could be compared."""
    return 0 < trial.share < 1


def place_of(trial: int, conversation: str) -> float:
    """Returns a number from 0 to 1, uniform over conversations, and independent of that in another trial."""
    digest = hashlib.blake2b(f"{trial}:{conversation}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _write(folder: Path, events: Sequence[CanaryEvent], stops: Mapping[int, float]) -> None:
    """Raises sqlite3.Error and OSError."""
    for trial, at in stops.items():
        canary_events.stop(folder, trial, at)
    if events:
        canary_events.add(folder, events)


def _read(folder: Path, trials: Iterable[int]) -> tuple[set[int], dict[int, tuple[CanaryEvent, ...]]]:
    """Returns the trials whose canary was stopped, and the events of `trials`. Raises sqlite3.Error and OSError."""
    events = {trial: canary_events.read(folder, trial) for trial in trials}
    return set(canary_events.stopped(folder)), events
