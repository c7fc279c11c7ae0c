"""The clock: ticks, a wake, never two ticks at once, and a stop that waits."""

from __future__ import annotations

import datetime
import threading
import time

import pytest

from bot.scheduler import Scheduler
from demo.workspace import wait_until


class Ticks:
    """Counts, and notes how many ran at the same time."""

    def __init__(self, takes: float = 0.0) -> None:
        self.count = self.ended = self.most_at_once = 0
        self._takes = takes
        self._running = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.count += 1
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        time.sleep(self._takes)
        with self._lock:
            self._running -= 1
            self.ended += 1


def test_both_tick_at_once_and_again() -> None:
    reconcile, send = Ticks(), Ticks()
    watcher = Scheduler(reconcile, send, seconds=0.05)
    watcher.start()
    wait_until(lambda: reconcile.count >= 3 and send.count >= 3, "three ticks of both")
    watcher.stop()


def test_a_wake_does_not_wait_for_the_next_tick() -> None:
    reconcile, send = Ticks(), Ticks()
    watcher = Scheduler(reconcile, send, seconds=3600)
    watcher.start()
    wait_until(lambda: (reconcile.ended, send.ended) == (1, 1), "the first ticks")
    watcher.wake()
    wait_until(lambda: (reconcile.ended, send.ended) == (2, 2), "the woken ones")
    watcher.stop()


def test_a_tick_never_runs_twice_at_once(caplog: pytest.LogCaptureFixture) -> None:
    slow, send = Ticks(takes=0.2), Ticks()
    watcher = Scheduler(slow, send, seconds=0.02)
    watcher.start()
    wait_until(lambda: slow.count >= 1, "the slow tick's start")
    for _ in range(5):
        watcher.wake()
    wait_until(lambda: slow.ended >= 2, "two slow ticks")
    watcher.stop()
    assert slow.most_at_once == send.most_at_once == 1
    assert send.count > slow.count, "a slow tick holds up no other"
    assert not caplog.records  # ticks that were left out meanwhile are no news


def test_a_tick_that_raises_is_logged_and_the_next_one_comes(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    def breaks() -> None:
        seen.append(1)
        raise RuntimeError("a broken tick")

    watcher = Scheduler(breaks, Ticks(), seconds=0.05)
    watcher.start()
    wait_until(lambda: len(seen) >= 2, "the tick after the broken one")
    watcher.stop()
    assert "a broken tick" in caplog.text


def test_a_stop_waits_for_the_tick_under_way_and_starts_no_other() -> None:
    slow = Ticks(takes=0.3)
    watcher = Scheduler(slow, Ticks(), seconds=0.05)
    watcher.start()
    wait_until(lambda: slow.count == 1, "its start")
    watcher.stop()
    assert (slow.count, slow.ended) == (1, 1)
    time.sleep(0.15)
    assert slow.count == 1


@pytest.mark.parametrize("seconds", [3600.0, -50 * 365 * 24 * 3600.0])
def test_ticks_go_on_where_the_machines_clock_is_put_back_or_forward(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    ticks = Ticks()
    watcher = Scheduler(ticks, Ticks(), seconds=0.05)
    watcher.start()
    wait_until(lambda: ticks.count >= 1, "the first tick")
    put_back(monkeypatch, seconds)
    seen = ticks.count
    wait_until(lambda: ticks.count >= seen + 10, "ten more ticks")
    watcher.stop()


def put_back(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The clocks that the watcher and its scheduler read; the machine's is left alone."""
    real, wall = datetime.datetime, time.time

    class Earlier(real):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return real.now(tz) - datetime.timedelta(seconds=seconds)

    monkeypatch.setattr(time, "time", lambda: wall() - seconds)
    for module in ("bot.scheduler", "apscheduler.schedulers.base", "apscheduler.executors.base"):
        monkeypatch.setattr(f"{module}.datetime", Earlier)
