"""How far a job's checkpoints reach, the arms of a sweep added up, and what of them stays. Loads nothing."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

STATE = "state.pt"
CHECKPOINTS = ("checkpoints/step-*[0-9]", "arms/*/checkpoints/step-*[0-9]")


def steps_kept(folder: Path) -> int:
    """0 where there is no checkpoint."""
    newest: dict[Path, int] = defaultdict(int)
    for pattern in CHECKPOINTS:
        for path in folder.glob(pattern):
            newest[path.parent] = max(newest[path.parent], int(path.name.removeprefix("step-")))
    return sum(newest.values())


def shed(folder: Path) -> None:
    """Of a job that has ended: optimizer and random states, two thirds of a checkpoint, are for going on only."""
    for pattern in CHECKPOINTS:
        for checkpoint in folder.glob(pattern):
            (checkpoint / STATE).unlink(missing_ok=True)


def pause_sentence(folder: Path) -> str:
    steps = steps_kept(folder)
    where = "it had no step to keep yet"
    if steps:
        is_sweep = (folder / "arms").exists()
        where = (
            f"{steps} steps of its arms are kept" if is_sweep else f"its checkpoint of step {steps} is kept"
        )
    return f"The job was paused; {where}, and its place on the machine is free."
