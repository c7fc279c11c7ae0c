"""Whether the ticks still come: a mark for each step that they take, a file for others to see, and the watchdog.

A tick that hangs for ever would leave a process that is up and does nothing. The watchdog ends it, with every thread's
place in the log; a supervisor starts it again, and since a kill at any line loses nothing, so does this.
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
FILE = "heartbeat"
PATIENCE = 12  # times the limit, with one provider: it may be sent much over a thin line, and others don't wait for it
TOUCHED_EVERY_S = 1.0

_mark: ContextVar[Callable[[], None] | None] = ContextVar("_mark", default=None)
log = logging.getLogger(__name__)


def step() -> None:
    """Said by whatever takes a tick's next step; does nothing outside of a watched tick."""
    mark = _mark.get()
    if mark:
        mark()


class Heartbeat:
    """Of the ticks called `names`. `limit_s` 0: no watchdog. Ages are by a clock that nobody sets."""

    def __init__(
        self,
        folder: Path,
        names: tuple[str, ...],
        limit_s: float,
        *,
        end: Callable[[int], None] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = folder / FILE
        self._limit_s = limit_s
        self._end = end
        self._clock = clock
        self._ticks = names
        self._last = dict.fromkeys(names, clock())
        self._touched = float("-inf")
        self._stopping = threading.Event()

    def watched(self, name: str, tick: Callable[[], None]) -> Callable[[], None]:
        """The same tick, with a mark at its beginning, at each of its steps and at its end."""

        def run() -> None:
            token = _mark.set(lambda: self.beat(name))
            self.beat(name)
            try:
                tick()
            finally:
                self.beat(name)
                _mark.reset(token)

        return run

    def while_it_runs(self, name: str, work: Callable[[], None]) -> None:
        """Watched too, with PATIENCE, but not missed once it is over."""
        try:
            self.watched(name, work)()
        finally:
            self._last.pop(name, None)

    def beat(self, name: str) -> None:
        self._last[name] = now = self._clock()
        if now - self._touched >= TOUCHED_EVERY_S:
            self._touched = now
            with suppress(
                OSError
            ):  # the mark itself is in memory: what ails the disk must not stop the ticks
                os.utime(self._file)

    def ages(self) -> dict[str, float]:
        """Seconds since each tick's last mark."""
        now = self._clock()
        return {name: now - last for name, last in list(self._last.items())}

    @property
    def is_well(self) -> bool:
        return not self._limit_s or all(age <= self._limit_of(name) for name, age in self.ages().items())

    def _limit_of(self, name: str) -> float:
        return self._limit_s * (1 if name in self._ticks else PATIENCE)

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
        while not self._stopping.wait(min(self._limit_s / 10, 5.0)):
            if not self.is_well:
                self._give_up()
                return

    def _give_up(self) -> None:
        said = ", ".join(f"{name} {age:.0f} s ago" for name, age in self.ages().items())
        log.critical(
            "a tick hangs (last steps: %s; the limit is %.0f s): this process ends, for its supervisor to start it "
            "again. Where each thread stands follows",
            said,
            self._limit_s,
        )
        faulthandler.dump_traceback()
        self._end(EXIT_HUNG)


def seen(folder: Path, now: float) -> float | None:
    """Seconds since the heartbeat of a bot that runs on this data; None where none runs. `now` is unix time."""
    file = folder / FILE
    try:
        process, touched = int(file.read_text(encoding="utf-8")), file.stat().st_mtime
        with suppress(PermissionError):  # it lives, as somebody else
            os.kill(process, 0)
    except (OSError, ValueError):
        return None
    return max(now - touched, 0.0)
