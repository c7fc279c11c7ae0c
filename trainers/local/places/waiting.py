"""A job that waits for machines of the cluster: whether there are any that could take it, told in its events."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainers.local.places.ray_head import RayAway, RayHead, RayRefused
from trainers.local.spool import append_event

PATIENCE_S = 20.0  # a wait for less is not worth an event
LOOK_S = 30.0  # between two counts of the machines

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Need:
    """Of one job: `nodes` machines with so much each."""

    nodes: int
    cpus: int
    gpus: int

    @property
    def each(self) -> str:
        if self.gpus == 0:
            return "a CPU"
        return "a GPU" if self.gpus == 1 else f"{self.gpus} GPUs"


@dataclass(frozen=True)
class Found:
    """Machines of the cluster that have what one of the job's needs, free or not; whether an autoscaler adds more."""

    machines: int
    may_grow: bool


class Waiting:
    """Of one attempt, from its submission on."""

    def __init__(self, folder: Path, head: RayHead, need: Need) -> None:
        self._folder = folder
        self._head = head
        self._need = need
        self._since: float | None = None
        self._look_at = 0.0
        self._told: Found | None = None

    def goes_on(self) -> None:
        """Tells it once, and again whenever the machines have changed."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._look_at = now, now + PATIENCE_S
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        found = self._count()
        if found is None or found == self._told:
            return
        self._told = found
        is_stuck = found.machines < self._need.nodes and not found.may_grow
        level: Literal["info", "warn"] = "warn" if is_stuck else "info"
        append_event(self._folder, why_waiting(self._need, found), level=level, state="queued")

    def is_over(self) -> None:
        if self._told is not None and self._since is not None:
            waited = time.monotonic() - self._since
            append_event(self._folder, f"The Ray cluster has room for the job, after {waited:,.0f} s.")
        self._since, self._told = None, None

    def _count(self) -> Found | None:
        """None where the head does not tell, which costs the job nothing."""
        try:
            return Found(self._head.nodes_with(self._need.cpus, self._need.gpus), self._head.may_grow)
        except (RayAway, RayRefused) as error:
            log.warning("counting the machines of the cluster: %s", error)
            return None


def why_waiting(need: Need, found: Found) -> str:
    if found.machines >= need.nodes:
        has = f"{found.machines} machine{_s(found.machines)} with {need.each}"
        free = "one is" if need.nodes == 1 else f"{need.nodes} are"
        return f"The job is queued until {free} free: the Ray cluster has {has}."
    needs = (
        f"{need.nodes} machines with {need.each} each" if need.nodes > 1 else f"a machine with {need.each}"
    )
    lacking = f"The job needs {needs}, and the Ray cluster has {found.machines or 'none'}."
    if found.may_grow:
        return f"{lacking} It is queued; the cluster's autoscaler may add what is missing."
    return f"{lacking} It is queued until machines are added: add them, or cancel it."


def _s(count: int) -> str:
    return "" if count == 1 else "s"
