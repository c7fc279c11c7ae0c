"""In a process of its own: one step of the bot that dies at its N-th executed line, and the bot that comes after it.

Lines are counted in the steps themselves (services, outbox sender). A death deeper down, in a view or in a statement of
SQL, falls between the same two acts as one of theirs: a transaction is all there or not at all.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from bot.app import Service
from bot.reconciler import reconcile
from bot.services import approvals, deployments, promotions, runs
from bot.settings import load_settings
from demo.people import ANA, BEN
from tests.bot.world import WHY, InlineProviderThreads
from tests.chaos.bot_process import InlineWorkers

ROOT = Path(__file__).parents[2]
WATCHED = tuple(str(ROOT / place) for place in ("bot/services/", "bot/outbox_sender.py"))
assert all(Path(place).exists() for place in WATCHED), "a death falls in no line where nothing is watched"
TICKS = 30
A_TICK_S = 30.0

Act = Callable[[Service], None]


class AtOnce(InlineWorkers):
    """No tick has to be waited for."""

    def poll(self, key: str, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return super().poll(key, work, *args, **kwargs) or super().poll(key, work, *args, **kwargs)


def die(
    config: str,
    environment: dict[str, str],
    now: float,
    act: str,
    line: int,
    told: str,
    is_traced: bool = False,
) -> None:
    """SIGKILL before the `line`-th line of the act. One that ends before writes into `told` how many there were.
    `is_traced`: it begins once another process traces this one."""
    service = _service(config, environment, now)
    while is_traced and "TracerPid:\t0\n" in Path("/proc/self/status").read_text(encoding="ascii"):
        time.sleep(0.005)
    trace = _Deadly(line)
    sys.settrace(trace)
    try:
        ACTS[act](service)
    finally:
        sys.settrace(None)
    Path(told).write_text(str(trace.lines), encoding="ascii")


def recover(config: str, environment: dict[str, str], now: float, act: str, ticks: int = TICKS) -> None:
    """The next life: the people do again what they saw no effect of, and a quarter of an hour passes, or longer."""
    clock = [now]
    service = _service(config, environment, clock)
    if act != "tick":
        ACTS[act](service)
    for _ in range(ticks):
        tick(service)
        clock[0] += A_TICK_S
        _wait_for_answers(service)


def tick(service: Service) -> None:
    reconcile(service.context)
    while service.notices.send_due():
        service.notices._next_allowed.clear()  # the pace of Slack is no part of this


def _approve(service: Service) -> None:
    approvals.approve(service.context, service.store.runs.newest(1)[0].plan_hash, BEN.id, WHY)


def _cancel(service: Service) -> None:
    runs.ask_cancel(service.context, service.store.runs.newest(1)[0].id, ANA.id)
    tick(service)


def _promote(service: Service) -> None:
    promotions.promote_run(service.context, service.store.runs.newest(1)[0].id, BEN.id)
    tick(service)


def _stop(service: Service) -> None:
    deployments.stop(service.context, 1, ANA.id)
    tick(service)


ACTS: dict[str, Act] = {
    "tick": tick,
    "approve": _approve,
    "cancel": _cancel,
    "promote": _promote,
    "stop": _stop,
}


def _service(config: str, environment: dict[str, str], now: float | list[float]) -> Service:
    os.environ.update(environment)
    clock = (lambda: now[0]) if isinstance(now, list) else (lambda: now)
    return Service(
        load_settings(environment, Path(config)), clock=clock, workers=AtOnce(), threads=InlineProviderThreads
    )


def _wait_for_answers(service: Service) -> None:
    """Models are asked in the background."""
    if any(run.state == "evaluating" for run in service.store.runs.open()):
        time.sleep(0.05)


class _Deadly:
    """A trace function that counts lines in watched files, and ends the process at one of them."""

    def __init__(self, deadly: int) -> None:
        self.lines = 0
        self._deadly = deadly

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(WATCHED) else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self._deadly:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._line
