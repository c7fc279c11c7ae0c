"""Has a candidate in a live test answer a share of the conversations, and ends that once it errs more than what is in
use (`judge_canary` in trainers/monitoring/switch_tests.py). The door decides that itself, as nobody else is fast
enough.

A conversation stays on its side for as long as the live test lasts, as its draw between 0 and 1 follows from its hash
and the live test's number alone. If the share is raised, those that had the candidate keep it.

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
from trainers.recipes.values import Published, PublishedTest

FLUSH_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CanarySide:
    """The side of a `live_test` on which a `conversation` (a keyed hash) is: the candidate's, or that of what is in
    use."""

    live_test: int
    conversation: str
    is_candidate: bool


@dataclass(frozen=True)
class CanaryCall:
    """A call under a name with a canary. An answer that takes longer than `limit_s` seconds is slow."""

    side: CanarySide
    candidate: PublishedTest
    limit_s: float


@dataclass
class Tally:
    """The conversations that erred during a live test. Events are counted since the `share` was changed last."""

    share: float
    conversations: set[str] = field(default_factory=set)
    of_candidate: int = 0
    of_incumbent: int = 0

    @property
    def is_worse(self) -> bool:
        return canary_e(self.of_candidate, self.of_incumbent, self.share) >= DECISIVE

    def add(self, side: CanarySide) -> bool:
        """Counts a conversation's first event. Returns False for a later one, and if there is no more room."""
        if side.conversation in self.conversations:
            return False
        if len(self.conversations) >= MOST_EVENTS:
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
    """All canaries under way. `key` returns the key for hashes of conversations, `live_tests` the live tests that are
    published, and `clock` the time in unix seconds."""

    folder: Path
    key: Callable[[], str]
    live_tests: Callable[[], Sequence[PublishedTest]]
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
        live_test = published.live_test
        if live_test is None or not is_canary(live_test):
            return None
        if live_test.number in self._stopped:
            return None
        tally = self._tallies.get(live_test.number)
        if tally is None:
            return None  # it is followed within a second
        if tally.share != live_test.share:
            tally.change_share(live_test.share)
        conversation = hash_conversation(self.key(), body, headers)
        is_candidate = draw_of(live_test.number, conversation) < live_test.share
        limit_s = live_test.slow_s
        if published.fallback is not None and published.fallback_after_s is not None:
            # What is in use has no longer either.
            limit_s = min(limit_s, published.fallback_after_s)
        side = CanarySide(live_test.number, conversation, is_candidate)
        return CanaryCall(side, live_test, limit_s)

    def report(self, side: CanarySide, reason: EventReason) -> None:
        """Counts an error of a conversation, and ends the canary if the candidate errs more."""
        tally = self._tallies.get(side.live_test)
        if tally is None or side.live_test in self._stopped:
            return
        if not tally.add(side):
            return
        event = CanaryEvent(side.live_test, side.conversation, side.is_candidate, reason, self.clock())
        self._new_events.append(event)
        if tally.is_worse:
            errors = tally.of_candidate + tally.of_incumbent
            self._stop(side.live_test, f"{tally.of_candidate} of {errors}")

    def _stop(self, live_test: int, errors: str) -> None:
        log.warning("the canary of live test %s is stopped: %s errors are the candidate's", live_test, errors)
        self._stopped.add(live_test)
        self._new_stops[live_test] = self.clock()
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
                for live_test in stops:
                    del self._new_stops[live_test]

    async def follow(self) -> None:
        """Reads what is stored of canaries that have begun, and which were stopped; forgets those that are over."""
        running = {}
        for live_test in self.live_tests():
            if is_canary(live_test):
                running[live_test.number] = live_test
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

    def _begin(self, live_test: PublishedTest, events: Sequence[CanaryEvent]) -> None:
        tally = Tally(live_test.share)
        for event in events:
            side = CanarySide(live_test.number, event.conversation, event.is_candidate)
            tally.add(side)
        self._tallies[live_test.number] = tally
        is_candidate = [event.is_candidate for event in events]
        test = judge_canary(is_candidate, live_test.share)
        # A kill may have come between the event and the stop.
        if test.outcome == "worse" and live_test.number not in self._stopped:
            self._stop(live_test.number, f"{test.of_candidate} of {test.events}")


def is_canary(live_test: PublishedTest) -> bool:
    """True if the candidate answers some conversations. If it answered all, nothing could be compared."""
    return 0 < live_test.share < 1


def draw_of(live_test: int, conversation: str) -> float:
    """Returns a number from 0 to 1, uniform over conversations, and independent of that in another live test."""
    text = f"{live_test}:{conversation}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _write(folder: Path, events: Sequence[CanaryEvent], stops: Mapping[int, float]) -> None:
    """Raises sqlite3.Error and OSError."""
    for live_test, at in stops.items():
        canary_events.stop(folder, live_test, at)
    if events:
        canary_events.add(folder, events)


def _read(folder: Path, live_tests: Iterable[int]) -> tuple[set[int], dict[int, tuple[CanaryEvent, ...]]]:
    """Returns the live tests whose canary was stopped, and the events of `live_tests`. Raises sqlite3.Error and
    OSError."""
    events = {live_test: canary_events.read(folder, live_test) for live_test in live_tests}
    return set(canary_events.stopped(folder)), events
