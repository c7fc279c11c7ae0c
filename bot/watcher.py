"""The clock: a tick that moves every open thing a step, one that empties the outbox. State lives in SQLite.

APScheduler's own persistent store lost a job that was killed, so the scheduler remembers nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from apscheduler.schedulers.background import BackgroundScheduler

LOOK_AFTER_S = 300
RECONCILE = "reconcile"
SEND = "send"
LOOK_AFTER = "look after"


class Watcher:
    """Calls `reconcile` and `send` again and again, each never twice at once. `wake` makes both run now.

    `look_after`, what may take long and can wait, is called every five minutes.
    """

    def __init__(
        self,
        reconcile: Callable[[], None],
        send: Callable[[], None],
        look_after: Callable[[], None] = lambda: None,
        *,
        seconds: float = 1.0,
    ) -> None:
        self._scheduler = BackgroundScheduler(timezone=UTC)
        for name, work, every in (
            (RECONCILE, reconcile, seconds),
            (SEND, send, seconds),
            (LOOK_AFTER, look_after, LOOK_AFTER_S),
        ):
            self._scheduler.add_job(
                work,
                "interval",
                id=name,
                seconds=every,
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
