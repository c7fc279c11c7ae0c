"""The arms of a sweep on disk: each a job's folder in the job's folder, so that what a job keeps, an arm keeps.

arms/01/job.json          TrainingJob with the arm's own settings, its id ending in -arm-01
arms/01/checkpoints/ …    as of a job, until the sweep is over
arms/01/OUT               {"message", "step", "trained_tokens", "seconds"}: it trains no more
arms/WINNER               {"arm", "step", "stopped"}: the choice is made; all that is left is to publish it
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from trainers.local.spool import TrainingJob, read_json, replace_json, write_job
from trainers.local.training import team
from trainers.local.training.checkpoints import checkpoint_folder, list_checkpoints, read_position
from trainers.local.training.contest import Standing
from trainers.local.training.course import START, Position, best
from trainers.sweeps import Value, combinations, described

ARMS, OUT, WINNER = "arms", "OUT", "WINNER"


@dataclass(frozen=True)
class Arm:
    """`chosen` is what is special to it. `job` has its settings and no ceilings: those are the sweep's."""

    number: int
    chosen: Mapping[str, Value]
    job: TrainingJob
    folder: Path

    def __str__(self) -> str:
        return f"Arm {self.number} ({described(self.chosen)})"


def arms_of(folder: Path, job: TrainingJob) -> tuple[Arm, ...]:
    """Makes the folders that aren't there yet; of a team the first does."""
    made = []
    for number, chosen in enumerate(combinations(job.settings.sweep), start=1):
        name = f"arm-{number:02d}"
        named = tuple(
            replace(one, name=f"{one.name}-{name}" if one.name else None) for one in job.integrations
        )
        settings = replace(
            job.arms[number - 1], max_seconds=None, max_usd_micros=None, usd_per_hour_micros=None
        )
        own = replace(job, id=f"{job.id}-{name}", settings=settings, arms=(), integrations=named)
        arm = Arm(number, chosen, own, folder / ARMS / f"{number:02d}")
        if team.is_first() and not (arm.folder / "job.json").exists():
            write_job(arm.folder, own)
        made.append(arm)
    return tuple(made)


def position_of(arm: Arm) -> Position:
    """Of its newest checkpoint; where it is out, how far it had come."""
    kept = list_checkpoints(arm.folder)
    position = read_position(kept[-1]) if kept else START
    out = read_json(arm.folder / OUT)
    if out is None:
        return position
    return replace(position, step=out["step"], trained_tokens=out["trained_tokens"], seconds=out["seconds"])


def standing_of(arm: Arm, course: int) -> Standing:
    """`course`: steps of its full course."""
    position, out = position_of(arm), read_json(arm.folder / OUT)
    losses = {each.step: each.loss for each in position.validations}
    return Standing(arm.number, course, position.step, losses, out["message"] if out else None)


def put_out(arm: Arm, message: str, reached: Position) -> None:
    told = {"message": message, "step": reached.step, "trained_tokens": reached.trained_tokens}
    replace_json(arm.folder / OUT, {**told, "seconds": reached.seconds})


def keep_little(arm: Arm) -> None:
    """An arm that rests needs its newest checkpoint, to go on, and its best one, should it win."""
    kept = list_checkpoints(arm.folder)
    lowest = best(position_of(arm).validations)
    for old in kept[:-1]:
        if lowest is None or old != checkpoint_folder(arm.folder, lowest.step):
            shutil.rmtree(old)
