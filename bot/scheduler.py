"""Calls the tick that moves every open item one step, and the tick that empties the outbox.

Nothing is stored here: all state is in SQLite, and APScheduler's own persistent store lost a job that was killed.
APScheduler plans by the system clock, so after the clock is set back it would pause until that time comes again; this
module notices the change and wakes it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from bot.context import Stopped
from bot.health import metrics

MAINTAIN_EVERY_S = 300
RECONCILE = "reconcile"
SEND = "send"
MAINTAIN = "look after"
STOP_S = 60.0
STEP_S = 1.0  # between two looks at the clock; a clock that is only slewed changes by less in that time


class Scheduler:
    """Calls `reconcile` and `send` every `seconds`, and `maintain`, which may take long, every five minutes. None of
    them runs twice at once. `wake` makes `reconcile` and `send` run now."""

    def __init__(
        self,
        reconcile: Callable[[], None],
        send: Callable[[], None],
        maintain: Callable[[], None] = lambda: None,
        *,
        seconds: float = 1.0,
    ) -> None:
        logging.getLogger("apscheduler.scheduler").addFilter(_is_news)
        self._scheduler = BackgroundScheduler(timezone=UTC)
        for name, work, every in (
            (RECONCILE, reconcile, seconds),
            (SEND, send, seconds),
            (MAINTAIN, maintain, MAINTAIN_EVERY_S),
        ):
            self._scheduler.add_job(
                _timed(name, work),
                _IntervalFromNow(seconds=every, timezone=UTC),
                id=name,
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
                next_run_time=datetime.now(UTC),
            )
        self._stopping = threading.Event()
        self._clock_watcher = threading.Thread(target=self._watch_clock, name="clock steps", daemon=True)

    def start(self) -> None:
        self._scheduler.start()
        self._clock_watcher.start()

    def wake(self) -> None:
        self._run_now(RECONCILE, SEND)

    def stop(self, grace_s: float = STOP_S) -> None:
        """Begins no more ticks, and waits `grace_s` seconds for those under way."""
        self._stopping.set()
        if self._scheduler.running:
            self._clock_watcher.join()
            # In a thread: APScheduler itself would wait for as long as a tick takes.
            ending = threading.Thread(target=self._scheduler.shutdown, name="end of ticks", daemon=True)
            ending.start()
            ending.join(grace_s)

    def _run_now(self, *names: str) -> None:
        for name in names:
            self._scheduler.modify_job(name, next_run_time=datetime.now(UTC))

    def _watch_clock(self) -> None:
        before = _clock_offset()
        while not self._stopping.wait(STEP_S):
            now = _clock_offset()
            if now < before - STEP_S:
                self._run_now(RECONCILE, SEND, MAINTAIN)
            before = now


class _IntervalFromNow(IntervalTrigger):  # type: ignore[misc]
    """Counts the interval from now. APScheduler's own trigger enumerates every missed tick: millions, if a machine that
    booted without a clock learns the date."""

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        interval: timedelta = self.interval
        return now + interval


def _timed(name: str, tick: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        # A tick that a stop abandons ends at the closed store, which is no fault.
        with metrics.TICK_S.labels(name).time(), suppress(Stopped):
            tick()

    return run


def _is_news(record: logging.LogRecord) -> bool:
    """Drops APScheduler's warning that a tick is still running when the next is due: skipping the next one is intended,
    and the watchdog deals with a tick that hangs."""
    return "maximum number of running instances" not in str(record.msg)


def _clock_offset() -> float:
    """Returns a number that changes only when the system clock is set."""
    return time.time() - time.monotonic()
