"""Shows if the process is healthy: a heartbeat for every step of a tick, and a watchdog. health/server.py serves
this over HTTP.

A tick that hangs would leave a process that runs but does nothing. The watchdog ends it, after writing every thread's
stack to the log, so that a supervisor can start it again. As with a kill at any line, nothing is lost.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path

EXIT_HUNG = 70  # sysexits.h: EX_SOFTWARE
HEARTBEAT_FILE = "heartbeat"
PATIENCE = 12  # times the limit for a provider's thread: an upload may be slow, and nothing else waits for it
TOUCHED_EVERY_S = 1.0

_mark: ContextVar[Callable[[], None] | None] = ContextVar("_mark", default=None)
log = logging.getLogger(__name__)


def mark_step() -> None:
    """Records that the current tick began another step. Does nothing outside of a watched tick."""
    mark = _mark.get()
    if mark:
        mark()


class Heartbeat:
    """Records when each tick in `names` last took a step. `limit_s` 0 means no watchdog. `clock` is monotonic."""

    def __init__(
        self,
        folder: Path,
        names: tuple[str, ...],
        limit_s: float,
        *,
        end: Callable[[int], None] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = folder / HEARTBEAT_FILE
        self._limit_s = limit_s
        self._end = end
        self._clock = clock
        self._ticks = names
        self._last = dict.fromkeys(names, clock())
        self._touched = float("-inf")
        self._stopping = threading.Event()

    def watched(self, name: str, tick: Callable[[], None]) -> Callable[[], None]:
        """Wraps a tick so that it beats when it begins, at each of its steps, and when it ends."""

        def run() -> None:
            token = _mark.set(lambda: self.beat(name))
            self.beat(name)
            try:
                tick()
            finally:
                self.beat(name)
                _mark.reset(token)

        return run

    def watch_while_running(self, name: str, work: Callable[[], None]) -> None:
        """Runs work under the watchdog, with PATIENCE times the limit."""
        try:
            self.watched(name, work)()
        finally:
            self._last.pop(name, None)

    def beat(self, name: str) -> None:
        now = self._clock()
        self._last[name] = now
        if now - self._touched >= TOUCHED_EVERY_S:
            self._touched = now
            # The watchdog reads memory, not the file: a full disk must not stop the ticks.
            with suppress(OSError):
                os.utime(self._file)

    def ages(self) -> dict[str, float]:
        """Returns the seconds since each tick's last step."""
        now = self._clock()
        return {name: now - last for name, last in list(self._last.items())}

    @property
    def is_healthy(self) -> bool:
        for name, age in self.ages().items():
            patience = 1 if name in self._ticks else PATIENCE
            if self._limit_s and age > self._limit_s * patience:
                return False
        return True

    def start(self) -> None:
        self._file.write_text(f"{os.getpid()}\n", encoding="utf-8")
        for name in self._last:
            self.beat(name)
        if self._limit_s:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()
        self._file.unlink(missing_ok=True)

    def _watch(self) -> None:
        while self.is_healthy:
            if self._stopping.wait(min(self._limit_s / 10, 5.0)):
                return
        steps = [f"{name} {age:.0f} s ago" for name, age in self.ages().items()]
        text = ", ".join(steps)
        log.critical(
            "a tick hangs (last steps: %s; the limit is %.0f s): ending this process, so that its supervisor restarts "
            "it. The stacks of all threads follow",
            text,
            self._limit_s,
        )
        faulthandler.dump_traceback()
        self._end(EXIT_HUNG)


def seconds_since_tick(folder: Path, now: float) -> float | None:
    """Returns the seconds since the last heartbeat of the bot that runs on this data folder, None if none runs. `now`
    is unix time."""
    file = folder / HEARTBEAT_FILE
    try:
        process = int(file.read_text(encoding="utf-8"))
        touched = file.stat().st_mtime
        with suppress(PermissionError):  # the process exists, but belongs to another user
            os.kill(process, 0)
    except (OSError, ValueError):
        return None
    return max(now - touched, 0.0)
