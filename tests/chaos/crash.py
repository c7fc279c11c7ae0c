"""Runs in a forked process: one step of the bot that dies at its N-th executed line, or the bot that recovers from it.

Only lines of the steps themselves are counted (services, outbox sender). A death deeper down, in a card or a statement
of SQL, falls between the same two effects as one of these lines, because a transaction is either complete or absent.
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
from bot.services.decisions import approvals
from bot.services.models import deployment_requests, promotion_requests, promotions
from bot.services.training import runs
from bot.settings import load_settings
from bot.values.requests import Promote
from demo.people import ANA, BEN
from tests.bot.world import CLEO, PRIVATE, WHY, InlineProviderThreads
from tests.chaos.bot_process import InlineWorkers

ROOT = Path(__file__).parents[2]
COUNTED = tuple(str(ROOT / path) for path in ("bot/services/", "bot/outbox_sender.py"))
assert all(Path(path).exists() for path in COUNTED), "no line is counted in a file that doesn't exist"
TICK_S = 30.0
ANSWERS_S = 0.3  # per tick; a fresh process imports its client before the first answer

Act = Callable[[Service], None]


class ImmediateWorkers(InlineWorkers):
    """Returns a task's result in the tick that starts it."""

    def poll(self, key: str, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return super().poll(key, work, *args, **kwargs) or super().poll(key, work, *args, **kwargs)


def die(
    config: str,
    environment: dict[str, str],
    now: float,
    act: str,
    line: int,
    count_file: str,
    is_traced: bool = False,
) -> None:
    """Kills itself before the `line`-th line of the act. An act that ends earlier writes its number of lines into
    `count_file`. With `is_traced` the act waits until another process traces this one."""
    service = _start_service(config, environment, lambda: now)
    while is_traced and "TracerPid:\t0\n" in Path("/proc/self/status").read_text(encoding="ascii"):
        time.sleep(0.005)
    trace = _DeadlyTrace(line)
    sys.settrace(trace)
    try:
        ACTS[act](service)
    finally:
        sys.settrace(None)
    Path(count_file).write_text(str(trace.lines), encoding="ascii")


def recover(config: str, environment: dict[str, str], now: float, act: str, ticks: int) -> None:
    """The bot's next life: people repeat what they saw no effect of, and it ticks each half minute."""
    clock = [now]
    service = _start_service(config, environment, lambda: clock[0])
    if act != "tick":
        ACTS[act](service)
    for _ in range(ticks):
        tick(service)
        clock[0] += TICK_S
        if any(run.state == "evaluating" for run in service.store.runs.open()):
            time.sleep(ANSWERS_S)  # models are asked in the background


def tick(service: Service) -> None:
    reconcile(service.context)
    while service.notices.send_due():
        service.notices._next_allowed.clear()  # Slack's pace doesn't matter here


def _approve(service: Service) -> None:
    approvals.approve(service.context, service.store.runs.newest(1)[0].plan_hash, BEN.id, WHY)


def _cancel(service: Service) -> None:
    runs.ask_cancel(service.context, service.store.runs.newest(1)[0].id, ANA.id)
    tick(service)


def _promote(service: Service) -> None:
    model = service.store.runs.newest(1)[0].model
    assert model
    # With a reason, since sixty rows are too few without one; so somebody else approves.
    promotions.promote(service.context, Promote(model, because=WHY), BEN.id, PRIVATE.id)
    for request in service.store.promotion_requests.open():
        promotion_requests.approve(service.context, request.id, CLEO.id)
    tick(service)


def _stop(service: Service) -> None:
    deployment_requests.stop(service.context, 1, ANA.id)
    tick(service)


ACTS: dict[str, Act] = {
    "tick": tick,
    "approve": _approve,
    "cancel": _cancel,
    "promote": _promote,
    "stop": _stop,
}


def _start_service(config: str, environment: dict[str, str], clock: Callable[[], float]) -> Service:
    os.environ.update(environment)
    settings = load_settings(environment, Path(config))
    return Service(settings, clock=clock, workers=ImmediateWorkers(), threads=InlineProviderThreads)


class _DeadlyTrace:
    """A trace function that counts lines, and kills the process at one of them."""

    def __init__(self, deadly: int) -> None:
        self.lines = 0
        self._deadly = deadly

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(COUNTED) else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self._deadly:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._line
