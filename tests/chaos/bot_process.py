"""One life of the bot, from its start to SIGKILL: the real Service on real SQLite over real HTTP.

What differs from `finetune run`: the clock runs faster, so that the twelve minutes of SETTLE and the five between two
looks at everything (strays, uploaded files, the backup, models in use) pass in seconds; ticks come twenty times a
second instead of once; and what a worker process would do is done in the tick itself.
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

TICK_S = 0.05
SHOWN_S = 1.0  # real ones, for what a killed life's post takes to stand


def run_bot(config: str, environment: dict[str, str], born: float, speed: float, late_s: float) -> None:
    """Ends by SIGKILL only. `born` is a unix time from which on the bot's clock runs `speed` times as fast as ours,
    `late_s` behind it at first."""
    os.environ.update(environment)
    logging.basicConfig(filename=Path(config).with_name("bot.log"), level=logging.WARNING, force=True)
    service = Service(
        load_settings(environment, Path(config)),
        clock=lambda: born - late_s + (time.time() - born) * speed,
        workers=InlineWorkers(),
    )
    service.notices.settle_s = SHOWN_S * speed
    replay(service.app, service.context)
    _in_a_thread(service.notices.send_due, TICK_S)
    _in_a_thread(lambda: maintain(service.context), MAINTAIN_EVERY_S / speed)
    service.connection.open()
    again_and_again(lambda: reconcile(service.context), TICK_S)


def _in_a_thread(work: Callable[[], Any], pause_s: float) -> None:
    threading.Thread(target=again_and_again, args=(work, pause_s), daemon=True).start()


def again_and_again(work: Callable[[], Any], pause_s: float) -> None:
    while True:
        try:
            work()
        except Exception:  # as the scheduler does: logged, and the next tick comes
            logging.exception("a tick failed")
        time.sleep(pause_s)


class InlineWorkers(WorkerPool):
    """Starts no process: those of a life that is killed would go on without it."""

    def _go_on(self) -> None:
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
