"""Runs the bot from its start to SIGKILL: the real Service on real SQLite over real HTTP.

It differs from `finetune run` in three ways: the clock runs faster, so that the twelve minutes of SETTLE and the five
between two maintenance passes (orphan jobs, uploaded files, the backup, models in use) take seconds; there are ten
ticks a second instead of one; and the work of worker processes is done in the tick itself.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from bot.app import Service
from bot.reconciler import maintain, reconcile
from bot.scheduler import MAINTAIN_EVERY_S
from bot.settings import load_settings
from bot.slack.inbox import replay
from bot.worker_pool import WorkerPool

TICK_S = 0.1
SHOWN_S = 1.0  # real seconds until a post of a killed bot is visible


def run_bot(config: str, environment: dict[str, str], born: float, speed: float, late_s: float) -> None:
    """Ends by SIGKILL only. At the Unix time `born` the bot's clock is `late_s` behind ours, and from then on it runs
    `speed` times as fast."""
    os.environ.update(environment)
    logging.basicConfig(filename=Path(config).with_name("bot.log"), level=logging.WARNING, force=True)
    service = Service(
        load_settings(environment, Path(config)),
        clock=lambda: born - late_s + (time.time() - born) * speed,
        workers=InlineWorkers(),
    )
    service.notices.settle_s = SHOWN_S * speed
    replay(service.app, service.context)
    for work, pause_s in (
        (service.notices.send_due, TICK_S),
        (lambda: maintain(service.context), MAINTAIN_EVERY_S / speed),
    ):
        threading.Thread(target=_repeat, args=(work, pause_s), daemon=True).start()
    service.connection.open()
    _repeat(lambda: reconcile(service.context), TICK_S)


def _repeat(work: Callable[[], Any], pause_s: float) -> None:
    while True:
        try:
            work()
        except Exception:  # logged, as the scheduler does
            logging.exception("a tick failed")
        time.sleep(pause_s)


class InlineWorkers(WorkerPool):
    """Starts no processes: they would outlive a bot that is killed, and take seconds to start in each of its lives."""

    def __init__(self) -> None:
        super().__init__(size=0)

    def _advance(self) -> None:
        for task in self._tasks.values():
            if task.future is None:
                task.future = _done(task.work)


def _done(work: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
    return future
