"""Ticks: they repeat, can be woken, never overlap, survive errors and clock changes, and a stop waits for them."""

from __future__ import annotations

import datetime
import threading
import time

import pytest

from bot.scheduler import Scheduler
from tests.patience import wait_until


class Ticks:
    """Counts ticks, and how many ran at the same time."""

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


def test_both_jobs_tick_immediately_and_repeatedly() -> None:
    reconcile, send = Ticks(), Ticks()
    scheduler = Scheduler(reconcile, send, seconds=0.05)
    scheduler.start()
    wait_until(lambda: reconcile.count >= 3 and send.count >= 3, "three ticks of both")
    scheduler.stop()


def test_a_tick_that_hangs_does_not_delay_the_end() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        may_end.wait()

    scheduler = Scheduler(hang, Ticks())
    scheduler.start()
    try:
        assert begun.wait(60)
        scheduler.stop(grace_s=0.01)
        assert not may_end.is_set()
    finally:
        may_end.set()


def test_a_wake_does_not_wait_for_the_next_tick() -> None:
    reconcile, send = Ticks(), Ticks()
    scheduler = Scheduler(reconcile, send, seconds=3600)
    scheduler.start()
    wait_until(lambda: (reconcile.ended, send.ended) == (1, 1), "the first ticks")

    def woken() -> bool:
        # Again and again: a wake is lost in the moment in which APScheduler still holds the first tick for running.
        scheduler.wake()
        return reconcile.ended > 1 and send.ended > 1

    wait_until(woken, "the woken ones")
    scheduler.stop()


def test_a_tick_never_runs_twice_at_once(caplog: pytest.LogCaptureFixture) -> None:
    slow, send = Ticks(takes=0.2), Ticks()
    scheduler = Scheduler(slow, send, seconds=0.02)
    scheduler.start()
    wait_until(lambda: slow.count >= 1, "the slow tick's start")
    for _ in range(5):
        scheduler.wake()
    wait_until(lambda: slow.ended >= 2, "two slow ticks")
    scheduler.stop()
    assert slow.most_at_once == send.most_at_once == 1
    assert send.count > slow.count, "a slow tick delays no other"
    assert not caplog.records  # ticks that were skipped meanwhile are not reported


def test_a_tick_that_raises_is_logged_and_followed_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def breaks() -> None:
        calls.append(1)
        raise RuntimeError("a broken tick")

    scheduler = Scheduler(breaks, Ticks(), seconds=0.05)
    scheduler.start()
    wait_until(lambda: len(calls) >= 2, "the tick after the broken one")
    scheduler.stop()
    assert "a broken tick" in caplog.text


def test_a_stop_waits_for_the_running_tick_and_starts_no_other() -> None:
    slow = Ticks(takes=0.3)
    scheduler = Scheduler(slow, Ticks(), seconds=0.05)
    scheduler.start()
    wait_until(lambda: slow.count == 1, "its start")
    scheduler.stop()
    assert (slow.count, slow.ended) == (1, 1)
    time.sleep(0.15)
    assert slow.count == 1


@pytest.mark.deep
@pytest.mark.parametrize("seconds", [3600.0, -50 * 365 * 24 * 3600.0])
def test_ticks_continue_if_the_machines_clock_is_set_back_or_forward(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    ticks = Ticks()
    scheduler = Scheduler(ticks, Ticks(), seconds=0.05)
    scheduler.start()
    wait_until(lambda: ticks.count >= 1, "the first tick")
    shift_clock(monkeypatch, seconds)
    before = ticks.count
    wait_until(lambda: ticks.count >= before + 10, "ten more ticks")
    scheduler.stop()


def shift_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Shifts the clocks that our scheduler and APScheduler read, not the machine's."""
    real, wall = datetime.datetime, time.time

    class ShiftedDatetime(real):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return real.now(tz) - datetime.timedelta(seconds=seconds)

    monkeypatch.setattr(time, "time", lambda: wall() - seconds)
    for module in ("bot.scheduler", "apscheduler.schedulers.base", "apscheduler.executors.base"):
        monkeypatch.setattr(f"{module}.datetime", ShiftedDatetime)
