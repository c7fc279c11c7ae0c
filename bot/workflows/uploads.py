"""Files that were uploaded to a trainer and are not needed there any more: taken back once their job is through.

A file is named by its sha256, so that it is looked for before it is sent, and found again to be deleted. That it may
lie there is written down before it is sent, so that a kill at any moment leaves none behind.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from bot.decisions.planning import Plan, plan_from_json
from bot.tuned_curves import TunedCurvePlan, TunedCurveProgress, plan_of
from bot.workflows.desk import Backroom, Desk
from storage.records import Measurement, Run
from trainers.client import Trainer
from trainers.errors import TrainerError

BEFORE_THE_JOB_ENDS = ("approved", "creating", "training", "needs_human")

log = logging.getLogger(__name__)


def intend(desk: Desk, provider: str, hashes: Collection[str]) -> None:
    """Call it before these files are sent."""
    desk.store.uploads.intend(provider, hashes, now=desk.clock())


def take_back(desk: Backroom, trainer: Trainer, hashes: set[str], owner: str) -> str:
    """Delete what was sent of these files, unless another run or curve still needs it; what became of it, as a sentence
    after a space. `owner` is 'run 3' or 'm3'."""
    sent = hashes & desk.store.uploads.at(trainer.provider.name)
    deleted = _forget(desk, trainer, sent, owner)
    if deleted is None:
        return " The uploaded file could not be deleted there: it is tried again by itself."
    return " The uploaded file was deleted again." if deleted else ""


def after_the_job(desk: Desk, trainer: Trainer, run: Run) -> None:
    """Its training rows, and those that it was validated on. What can't be deleted now, `tidy` deletes later."""
    _forget(desk, trainer, of_run(run), f"run {run.id}")


def tidy(desk: Desk) -> None:
    """Every few minutes: files that nothing needs any more, as after a kill, or where the trainer was away."""
    for name, trainer in desk.trainers.items():
        _forget(desk, trainer, desk.store.uploads.at(name), "tidying up")


def of_run(run: Run) -> set[str]:
    """The files that its job reads."""
    return _of_plan(plan_from_json(run.plan))


def _forget(desk: Backroom, trainer: Trainer, hashes: set[str], owner: str) -> int | None:
    """How many there were; None where the trainer could not be asked."""
    unneeded, now = hashes - _needed(desk, trainer.provider.name, owner), desk.clock()
    if not unneeded:
        return 0
    try:
        deleted = trainer.forget(unneeded)
    except TrainerError as trouble:
        log.warning("%s: uploaded files stay for now: %s", owner, trouble)
        return None
    desk.store.uploads.deleted(trainer.provider.name, unneeded, now=now)
    if deleted:
        log.info("%s: %s uploaded files were deleted", owner, deleted)
    return deleted


def _needed(desk: Backroom, provider: str, but: str) -> set[str]:
    """What a job that isn't through may still read there."""
    needed: set[str] = set()
    for name in desk.settings.beside(provider):
        for run in desk.store.runs.at(name):
            if run.state in BEFORE_THE_JOB_ENDS and f"run {run.id}" != but:
                needed |= of_run(run)
        for measurement in desk.store.measurements.open():
            if f"m{measurement.id}" != but:
                needed |= _of_curve(measurement, name)
    return needed


def _of_plan(plan: Plan) -> set[str]:
    kept = plan.kept_back
    return {kept.fitted_sha256, kept.validation_sha256} if kept else {plan.train_sha256}


def _of_curve(measurement: Measurement, provider: str) -> set[str]:
    plan = plan_of(measurement.plan) if measurement.kind == "curve" else None
    if not isinstance(plan, TunedCurvePlan) or plan.provider != provider:
        return set()
    sizes = TunedCurveProgress.from_json(measurement.progress).sizes
    return {size.sha256 for size in sizes if size.state in ("waiting", "creating", "training")}
