"""The clock: a tick that moves every open thing a step, one that empties the outbox. State lives in SQLite.

Waits are counted by a clock that nobody sets, so that ticks come whatever becomes of the machine's time: a scheduler
that plans by the time of day stood still for as long as the clock was put back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

LOOK_AFTER_S = 300
RECONCILE = "reconcile"
SEND = "send"
LOOK_AFTER = "look after"

log = logging.getLogger(__name__)


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
        self._woken = (_Loop(RECONCILE, reconcile, seconds), _Loop(SEND, send, seconds))
        self._loops = (*self._woken, _Loop(LOOK_AFTER, look_after, LOOK_AFTER_S))

    def start(self) -> None:
        for loop in self._loops:
            loop.start()

    def wake(self) -> None:
        for loop in self._woken:
            loop.wake()

    def stop(self) -> None:
        """Waits for the ticks under way."""
        for loop in self._loops:
            loop.end()
        for loop in self._loops:
            if loop.is_alive():
                loop.join()


class _Loop(threading.Thread):
    """Work every so many seconds, counted from its beginnings; what raises is logged, and the next one comes."""

    def __init__(self, name: str, work: Callable[[], None], every_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._every_s = every_s
        self._wakes = threading.Event()
        self._is_ending = False

    def wake(self) -> None:
        self._wakes.set()

    def end(self) -> None:
        self._is_ending = True
        self._wakes.set()

    def run(self) -> None:
        while not self._is_ending:
            self._wakes.clear()  # before the work: what wakes it meanwhile has it begin once more
            due = time.monotonic() + self._every_s
            try:
                self._work()
            except Exception:
                log.exception("the tick %s failed", self.name)
            if not self._is_ending:
                self._wakes.wait(max(due - time.monotonic(), 0.0))
