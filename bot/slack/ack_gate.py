"""Lets acks come first: listeners and ticks wait a moment while a delivery is not acked yet.

Python runs one thread at a time. When twenty people type at once, the lists and cards that the first of them asked for
would otherwise delay the acks of all others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from slack_bolt import App, BoltRequest, BoltResponse

# Under a steady stream of deliveries everybody still gets an answer.
MOST_WAIT_S = 0.5
# After several at once more may follow: the web server has connections that Bolt doesn't know of yet.
SETTLE_S = 0.01
# Few, because those that compute delay the acks of what comes in meanwhile; not one, because some only wait for Slack.
LISTENERS_AT_ONCE = 4

Result = TypeVar("Result")


class AckGate:
    """Is open while no delivery waits for its ack. Nobody waits for it longer than `most_wait_s`."""

    def __init__(self, most_wait_s: float = MOST_WAIT_S) -> None:
        self._most_wait_s = most_wait_s
        self._changed = threading.Condition()
        self._n_unacked = 0
        self._had_several = False
        self._opens_at = 0.0
        self._listeners = threading.BoundedSemaphore(LISTENERS_AT_ONCE)

    @contextmanager
    def unacked(self) -> Iterator[None]:
        """Keeps the gate closed while the block answers a delivery."""
        with self._changed:
            self._had_several = self._n_unacked > 0
            self._n_unacked += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_unacked -= 1
                settle_s = SETTLE_S if self._had_several else 0.0
                self._opens_at = time.monotonic() + settle_s
                if not self._n_unacked:
                    self._changed.notify_all()

    def after_acks(self, work: Callable[[], None]) -> Callable[[], None]:
        """Returns the work with a wait for the open gate before it."""

        def run() -> None:
            self._wait_until(time.monotonic() + self._most_wait_s)
            work()

        return run

    def as_listener(self, work: Callable[[], Result]) -> Callable[[], Result]:
        """Like `after_acks`, for work of which only a few at once should run."""

        def run() -> Result:
            latest = time.monotonic() + self._most_wait_s
            has_turn = self._listeners.acquire(timeout=self._most_wait_s)
            try:
                self._wait_until(latest)
                return work()
            finally:
                if has_turn:
                    self._listeners.release()

        return run

    def _wait_until(self, latest: float) -> None:
        with self._changed:
            while (now := time.monotonic()) < latest:
                if not self._n_unacked and now >= self._opens_at:
                    return
                until = latest if self._n_unacked else min(latest, self._opens_at)
                self._changed.wait(until - now)


class ListenerThreads(ThreadPoolExecutor):
    """The threads of Bolt's listeners, which begin after the acks."""

    def __init__(self, n_threads: int, gate: AckGate) -> None:
        super().__init__(n_threads, "listener")
        self._gate = gate

    def submit(self, work: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        listener = self._gate.as_listener(partial(work, *arguments, **options))
        return super().submit(listener)

    def close(self, grace_s: float) -> None:
        """Begins no more listeners, and waits `grace_s` seconds for those under way. The next process handles the
        deliveries of the others."""
        # In a thread: the executor itself would wait for as long as a listener takes.
        options = {"cancel_futures": True}
        ending = threading.Thread(target=self.shutdown, kwargs=options, name="end of listeners", daemon=True)
        ending.start()
        ending.join(grace_s)


class GatedApp(App):
    """A Bolt app whose deliveries keep an AckGate closed until they are acked."""

    def __init__(self, gate: AckGate, **options: Any) -> None:
        super().__init__(**options)
        self._gate = gate

    def dispatch(self, req: BoltRequest) -> BoltResponse:
        # A form's ack says what its listener decided, and nobody else should wait for that.
        if req.body.get("type") == "view_submission":
            return super().dispatch(req)
        with self._gate.unacked():
            return super().dispatch(req)
