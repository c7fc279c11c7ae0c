"""The command that trains a job's folder, and how its process ends with its parent."""

from __future__ import annotations

import ctypes
import signal
import sys

TRAIN = (sys.executable, "-m", "trainers.local.train")
PR_SET_PDEATHSIG = 1  # prctl(2)


def train_command(processes: int) -> tuple[str, ...]:
    """Takes the folder as its last argument."""
    return TRAIN


def die_with_parent() -> None:
    """Run in a child before it becomes its program: SIGTERM reaches it when its parent is killed. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
