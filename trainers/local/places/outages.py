"""A cluster's head that does not answer: how long to wait for the next look, and what the job's events say of it."""

from __future__ import annotations

import time
from pathlib import Path

from trainers.local.spool import append_event

MAX_PAUSE_S = 30.0  # between two looks
PATIENCE_S = 5.0  # a head away for less is not worth an event


class Outage:
    """Of one job. `pause_s` is 0 while the head answers."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder = folder
        self._address = address
        self._since: float | None = None
        self._is_told = False
        self.pause_s = 0.0

    def goes_on(self, said: str) -> None:
        now = time.time()
        self._since = self._since or now
        self.pause_s = min(MAX_PAUSE_S, 2 * self.pause_s or 1.0)
        if not self._is_told and now - self._since >= PATIENCE_S:
            self._is_told = True
            since = time.strftime("%H:%M:%S", time.gmtime(self._since))
            text = (
                f"The Ray cluster has not answered since {since} UTC ({said}). The job goes on there if it can; the "
                f"cluster is asked again every {MAX_PAUSE_S:.0f} s."
            )
            append_event(self._folder, text, level="warn")

    def is_over(self) -> None:
        if self._is_told and self._since is not None:
            append_event(
                self._folder, f"The Ray cluster answers again after {time.time() - self._since:.0f} s."
            )
        self._since, self._is_told, self.pause_s = None, False, 0.0
