"""How many threads compute: as many as other work leaves cores of this machine.

Threads that spin while they wait for each other are the fastest, until another program wants one of their cores: then
all wait for the one that does not run. So they spin, and there are never more than free cores. A step on 8 rows of
SmolLM2-135M on two cores, quiet and beside one busy program: 0.82 s and 1.3 s, where two threads that sleep instead
take 1.25 s and 1.4 s, and two that spin whatever else runs 0.82 s and 3.3 s.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

LOOK_S = 0.5  # what is seen of less time is the clock's ticks more than the work
QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Use:
    """Seconds: `wall`, and of the processor; `busy` of all cores that this process may use, `own` of this process."""

    wall: float = 0.0
    busy: float = 0.0
    own: float = 0.0

    def __add__(self, other: Use) -> Use:
        return Use(self.wall + other.wall, self.busy + other.busy, self.own + other.own)

    def __sub__(self, other: Use) -> Use:
        return Use(self.wall - other.wall, self.busy - other.busy, self.own - other.own)


class Cores:
    """For a thread that computes; another thread of the process has its own."""

    def __init__(self) -> None:
        self._most = min(torch.get_num_threads(), cores_allowed(QUOTA))
        torch.set_num_threads(self._most)
        self._seen = Use()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Around a step, a batch: what others take meanwhile is left to them in the next."""
        begun = used()
        yield
        self._seen += used() - begun
        if self._seen.wall < LOOK_S:
            return
        threads = threads_for(self._seen, count(), self._most)
        self._seen = Use()
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)


def threads_for(seen: Use, cores: int, most: int) -> int:
    """Of 1 to `most`: what others took they will take again."""
    others = (seen.busy - seen.own) / seen.wall
    return max(1, min(most, round(cores - others)))


def used() -> Use:
    """Since the machine, and this process, started."""
    times = psutil.cpu_times(percpu=True)
    usable = _usable(len(times))
    busy = sum(times[core].user + times[core].system + getattr(times[core], "nice", 0.0) for core in usable)
    return Use(time.monotonic(), busy, time.process_time())


def count() -> int:
    """Cores that this process may use."""
    return len(_usable(psutil.cpu_count() or 1))


def cores_allowed(quota: Path) -> int:
    """As many as a container may keep busy, rounded up: torch starts a thread for each core of the host."""
    try:
        most, period = quota.read_text().split()
    except (OSError, ValueError):  # another system, or no control group
        return psutil.cpu_count() or 1
    return psutil.cpu_count() or 1 if most == "max" else max(1, math.ceil(int(most) / int(period)))


def _usable(online: int) -> Sequence[int]:
    """All where the system does not tell, as macOS."""
    process = psutil.Process()
    own: Sequence[int] = process.cpu_affinity() if hasattr(process, "cpu_affinity") else ()
    return own if own and max(own) < online else range(online)
