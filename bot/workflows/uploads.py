"""Files that were uploaded to a trainer and are not needed there any more: taken back once their job is through.

A file is named by its sha256, so that it is looked for before it is sent, and found again to be deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from bot.decisions.planning import Plan, plan_from_json
from bot.tuned_curves import TunedCurvePlan, TunedCurveProgress, plan_of
from bot.workflows.desk import Desk
from storage.records import Measurement, Run
from trainers.client import Trainer
from trainers.errors import TrainerError

NEWEST = 50
BEFORE_THE_JOB_ENDS = ("approved", "creating", "training", "needs_human")

log = logging.getLogger(__name__)


def take_back(desk: Desk, trainer: Trainer, file_id: str | None, owner: str) -> str:
    """Delete it, unless another run or curve still needs it; what became of it, as a sentence after a space.
    `owner` is 'run 3' or 'm3'."""
    others = [name for name, file in _ids(desk) if name != owner and file == file_id]
    if not file_id or others:
        return ""
    try:
        trainer.delete_file(file_id)
    except TrainerError as trouble:
        log.warning("%s: the uploaded file stays: %s", owner, trouble)
        return " The uploaded file could not be deleted there: delete it by hand."
    return " The uploaded file was deleted again."


def after_the_job(desk: Desk, trainer: Trainer, run: Run) -> None:
    """Its training rows, and those that it was validated on. What can't be deleted now, `tidy` deletes later."""
    _forget(desk, trainer, _of_plan(plan_from_json(run.plan)), f"run {run.id}")


def tidy(desk: Desk) -> None:
    """Every few minutes: files of what is over that are still there, as after a kill, or where the trainer was away."""
    over = [
        run for run in desk.store.runs.newest(NEWEST) if run.state not in BEFORE_THE_JOB_ENDS and run.file_id
    ]
    for name, trainer in desk.trainers.items():
        shas = {sha for run in over if run.provider == name for sha in _of_plan(plan_from_json(run.plan))}
        for measurement in desk.store.measurements.newest(NEWEST):
            shas |= _of_curve(measurement, name) if measurement.state not in ("asked", "running") else set()
        _forget(desk, trainer, shas, "tidying up")


def _forget(desk: Desk, trainer: Trainer, shas: set[str], owner: str) -> None:
    unneeded = shas - _needed(desk, trainer.provider.name, owner)
    if not unneeded:
        return
    try:
        deleted = trainer.forget(unneeded)
    except TrainerError as trouble:
        log.warning("%s: uploaded files stay for now: %s", owner, trouble)
    else:
        if deleted:
            log.info("%s: %s uploaded files were deleted", owner, deleted)


def _needed(desk: Desk, provider: str, but: str) -> set[str]:
    """What a job that isn't through may still read there."""
    needed: set[str] = set()
    for run in desk.store.runs.at(provider):
        if run.state in BEFORE_THE_JOB_ENDS and f"run {run.id}" != but:
            needed |= _of_plan(plan_from_json(run.plan))
    for measurement in desk.store.measurements.open():
        needed |= _of_curve(measurement, provider)
    return needed


def _of_plan(plan: Plan) -> set[str]:
    kept = plan.kept_back
    return {kept.fitted_sha256, kept.validation_sha256} if kept else {plan.train_sha256}


def _of_curve(measurement: Measurement, provider: str) -> set[str]:
    plan = plan_of(measurement.plan) if measurement.kind == "curve" else None
    if not isinstance(plan, TunedCurvePlan) or plan.provider != provider:
        return set()
    return {size.sha256 for size in TunedCurveProgress.from_json(measurement.progress).sizes}


def _ids(desk: Desk) -> Iterator[tuple[str, str | None]]:
    for run in desk.store.runs.open():
        yield f"run {run.id}", run.file_id
    for measurement in desk.store.measurements.open():
        if measurement.kind == "curve":
            for size in TunedCurveProgress.from_json(measurement.progress).sizes:
                if size.state in ("creating", "training"):
                    yield f"m{measurement.id}", size.file_id
