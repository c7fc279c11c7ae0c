"""How many threads compute: as many as other work leaves cores of this machine.

Threads that spin while they wait for each other are the fastest, until another program wants one of their cores: then
all wait for the one that does not run. So they spin, and there are never more than free cores. A step on 16 rows of
SmolLM2-135M on two cores, quiet and beside one busy program: 0.82 s and 1.4 s, where two threads that sleep instead
take 1.25 s and 1.4 s, and two that spin whatever else runs 0.82 s and 3.3 s.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

LOOK_S = 0.5  # a shorter look sees the clock's ticks more than the work
QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Reading:
    """Seconds: `at` by the clock, `busy` of all `cores` that this process may use, `own` of this process."""

    at: float
    busy: float
    own: float
    cores: int


class Cores:
    """For a thread that computes; another thread of the process has its own."""

    def __init__(self) -> None:
        self._most = min(torch.get_num_threads(), cores_allowed(QUOTA))
        self._last = read()

    def fit(self) -> None:
        """Between two steps; changes something twice a second at most."""
        if time.monotonic() - self._last.at < LOOK_S:
            return
        now = read()
        threads = threads_for(self._last, now, self._most)
        self._last = now
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)


def threads_for(before: Reading, now: Reading, most: int) -> int:
    """Of 1 to `most`; what others took between the readings they will take again."""
    others = (now.busy - before.busy - (now.own - before.own)) / (now.at - before.at)
    return max(1, min(most, round(now.cores - others)))


def read() -> Reading:
    usable = _usable()
    times = psutil.cpu_times(percpu=True)
    ours = times if usable is None or max(usable) >= len(times) else [times[core] for core in usable]
    busy = sum(one.user + one.system + getattr(one, "nice", 0.0) for one in ours)
    return Reading(time.monotonic(), busy, time.process_time(), len(ours))


def cores_allowed(quota: Path) -> int:
    """As many as a container may keep busy, rounded up: torch starts a thread for each core of the host."""
    try:
        most, period = quota.read_text().split()
    except (OSError, ValueError):  # another system, or no control group
        return psutil.cpu_count() or 1
    return psutil.cpu_count() or 1 if most == "max" else max(1, math.ceil(int(most) / int(period)))


def _usable() -> list[int] | None:
    """None where the system does not tell, as macOS."""
    process = psutil.Process()
    return process.cpu_affinity() if hasattr(process, "cpu_affinity") else None
