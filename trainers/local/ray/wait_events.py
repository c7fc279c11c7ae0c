"""Logs events of a job that waits: for machines of the cluster, or for a head or a storage that doesn't answer."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainers.local.job_directory import append_event
from trainers.local.ray.head import RayAway, RayHead, RayRefused

REPORT_WAIT_S = 20.0  # a shorter wait is not worth an event
RECOUNT_S = 30.0  # between two counts of the machines
REPORT_OUTAGE_S = 5.0  # a shorter outage is not worth an event
MAX_PAUSE_S = 30.0  # between two requests during an outage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Need:
    """The machines that one job needs: `nodes` of them, each with a CPU and `gpus` GPUs."""

    nodes: int
    gpus: int

    @property
    def each(self) -> str:
        if self.gpus == 0:
            return "a CPU"
        if self.gpus == 1:
            return "a GPU"
        return f"{self.gpus} GPUs"


@dataclass(frozen=True)
class Machines:
    """`count` is the number of machines that are large enough for the job, free or not. `may_grow`: an autoscaler may
    add more."""

    count: int
    may_grow: bool


class Waiting:
    """Logs events while the cluster has no room for a job."""

    def __init__(self, folder: Path, head: RayHead, need: Need) -> None:
        self._folder = folder
        self._head = head
        self._need = need
        self._since: float | None = None
        self._look_at = 0.0
        self._reported: Machines | None = None

    def record(self) -> None:
        """To be called repeatedly while the job waits. Logs one event, and another whenever the machines have
        changed."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            self._look_at = now + REPORT_WAIT_S
        if now < self._look_at:
            return
        self._look_at = now + RECOUNT_S
        try:
            machines = Machines(self._head.nodes_with(self._need.gpus), self._head.may_grow)
        except (RayAway, RayRefused) as error:
            return log.warning("counting the machines of the cluster: %s", error)
        if machines == self._reported:
            return
        self._reported = machines
        is_stuck = machines.count < self._need.nodes and not machines.may_grow
        level: Literal["info", "warn"] = "info"
        if is_stuck:
            level = "warn"
        text = why_waiting(self._need, machines)
        append_event(self._folder, text, level=level, state="queued")

    def end(self) -> None:
        if self._reported is not None and self._since is not None:
            waited_s = time.monotonic() - self._since
            append_event(self._folder, f"The Ray cluster has room for the job, after {waited_s:,.0f} s.")
        self._since = None
        self._reported = None


def why_waiting(need: Need, machines: Machines) -> str:
    if machines.count >= need.nodes:
        has = f"{machines.count} machines with {need.each}"
        if machines.count == 1:
            has = f"1 machine with {need.each}"
        free = f"{need.nodes} are"
        if need.nodes == 1:
            free = "one is"
        return f"The job is queued until {free} free: the Ray cluster has {has}."
    needs = f"a machine with {need.each}"
    if need.nodes > 1:
        needs = f"{need.nodes} machines with {need.each} each"
    lacking = f"The job needs {needs}, and the Ray cluster has {machines.count or 'none'}."
    if machines.may_grow:
        return f"{lacking} It is queued; the cluster's autoscaler may add what is missing."
    return f"{lacking} It is queued until machines are added: add them, or cancel it."


class Outage:
    """Logs events while `who` (`it` in a later sentence) doesn't answer. `pause_s` is the time to wait before the next
    request, and 0 without an outage."""

    def __init__(self, folder: Path, who: str, it: str) -> None:
        self._folder = folder
        self._who = who
        self._it = it
        self._since: float | None = None
        self._is_reported = False
        self.pause_s = 0.0

    def record(self, reason: str) -> None:
        now = time.time()
        if self._since is None:
            self._since = now
        longer_s = 2 * self.pause_s or 1.0
        self.pause_s = min(MAX_PAUSE_S, longer_s)
        if not self._is_reported and now - self._since >= REPORT_OUTAGE_S:
            self._is_reported = True
            since = time.strftime("%H:%M:%S", time.gmtime(self._since))
            text = (
                f"{self._who} has not answered since {since} UTC ({reason}). The job continues if it can; {self._it} "
                f"is tried again every {MAX_PAUSE_S:.0f} s."
            )
            append_event(self._folder, text, level="warn")

    def end(self) -> None:
        if self._is_reported and self._since is not None:
            away_s = time.time() - self._since
            append_event(self._folder, f"{self._who} answers again after {away_s:.0f} s.")
        self._since = None
        self._is_reported = False
        self.pause_s = 0.0
