"""How far a job's checkpoints reach, the arms of a sweep added up, and what of them stays. Loads nothing."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from trainers.local.spool import KEPT_ROWS

STATE = "state.pt"
CHECKPOINTS = ("checkpoints/step-*", "arms/*/checkpoints/step-*")
NAME = re.compile(r"step-[0-9]+")


def steps_kept(folder: Path) -> int:
    """0 where there is no checkpoint."""
    newest: dict[Path, int] = defaultdict(int)
    for path in _checkpoints(folder):
        newest[path.parent] = max(newest[path.parent], int(path.name.removeprefix("step-")))
    return sum(newest.values())


def shed(folder: Path) -> None:
    """Of a job that has ended: optimizer and random states, two thirds of a checkpoint, and rows as tokens are for
    going on only."""
    shutil.rmtree(folder / KEPT_ROWS, ignore_errors=True)
    for checkpoint in _checkpoints(folder):
        (checkpoint / STATE).unlink(missing_ok=True)


def _checkpoints(folder: Path) -> Iterator[Path]:
    found = (path for pattern in CHECKPOINTS for path in folder.glob(pattern))
    return (path for path in found if NAME.fullmatch(path.name) and path.is_dir())


def pause_sentence(folder: Path) -> str:
    steps = steps_kept(folder)
    where = "it had no step to keep yet"
    if steps:
        is_sweep = (folder / "arms").exists()
        where = (
            f"{steps} steps of its arms are kept" if is_sweep else f"its checkpoint of step {steps} is kept"
        )
    return f"The job was paused; {where}, and its place on the machine is free."
