"""The clock: a tick that moves every open thing a step, one that empties the outbox. State lives in SQLite.

APScheduler's own persistent store lost a job that was killed, so the scheduler remembers nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from apscheduler.schedulers.background import BackgroundScheduler

RECONCILE = "reconcile"
SEND = "send"


class Watcher:
    """Calls `reconcile` and `send` again and again, each never twice at once. `wake` makes both run now."""

    def __init__(
        self, reconcile: Callable[[], None], send: Callable[[], None], *, seconds: float = 1.0
    ) -> None:
        self._scheduler = BackgroundScheduler(timezone=UTC)
        for name, work in ((RECONCILE, reconcile), (SEND, send)):
            self._scheduler.add_job(
                work,
                "interval",
                id=name,
                seconds=seconds,
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
                next_run_time=datetime.now(UTC),
            )

    def start(self) -> None:
        self._scheduler.start()

    def wake(self) -> None:
        for name in (RECONCILE, SEND):
            self._scheduler.modify_job(name, next_run_time=datetime.now(UTC))

    def stop(self) -> None:
        """Waits for the ticks under way."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)
