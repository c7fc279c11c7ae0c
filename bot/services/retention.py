"""Deletes what old runs and measurements leave: stored answers, and jobs at trainers that keep models on your disk. Off
unless `[retention] runs_days` is set.

Runs keep their plans, approvals, costs and results, so that cards, budgets and the audit log stay whole. A run whose
model is in use keeps everything.
"""

from __future__ import annotations

import logging

from bot.context import AppContext
from storage.records import Measurement, Run
from trainers.errors import Refused, TrainerError

DAY_S = 24 * 3600.0
AT_ONCE = 50  # of each kind, so that other work isn't held up; more are deleted five minutes later

log = logging.getLogger(__name__)


def expire(context: AppContext) -> None:
    """Deletes what is older than `runs_days` leave. A trainer that doesn't answer is asked again next time."""
    days = context.settings.retention.runs
    if not days:
        return
    before = context.clock() - days * DAY_S
    for run in context.store.expiries.runs(before, AT_ONCE):
        if context.threads.is_closing:
            return
        try:
            has_deleted = _delete_job(context, run)
        except TrainerError as trouble:
            log.info("deleting the job of run %s: %s", run.id, trouble)
            continue
        _forget_run(context, run, has_deleted_job=has_deleted)
    for measurement in context.store.expiries.measurements(before, AT_ONCE):
        _forget_measurement(context, measurement)


def _delete_job(context: AppContext, run: Run) -> bool:
    """Deletes the job with its model if they are on your disk. Returns True if they are gone. Raises TrainerError
    if the trainer doesn't answer."""
    row = context.settings.provider(run.provider)
    trainer = context.trainers.get(run.provider)
    if run.job_id is None or row is None or trainer is None:
        return False
    if not row.keeps_models_here or not trainer.provider.can("job_deletion"):
        return False
    try:
        trainer.delete_job(run.job_id)
    except Refused as refused:  # somebody else deleted it, or it is of another installation
        log.info("deleting the job of run %s: %s", run.id, refused)
        return False
    return True


def _forget_run(context: AppContext, run: Run, *, has_deleted_job: bool) -> None:
    now = context.clock()
    with context.store.transaction():
        n_answers = context.store.expiries.forget_run(run, now=now)
        model = context.store.model(run.model or "")
        if has_deleted_job and model:
            context.store.mark_model_gone(model, now)
        if n_answers or has_deleted_job:
            job = f" and job {run.job_id} with its model" if has_deleted_job else ""
            context.audit("finetune", "expired", f"run {run.id}", f"{n_answers} answers{job}")


def _forget_measurement(context: AppContext, measurement: Measurement) -> None:
    with context.store.transaction():
        n_answers = context.store.expiries.forget_measurement(measurement, now=context.clock())
        if n_answers:
            context.audit("finetune", "expired", f"measurement {measurement.id}", f"{n_answers} answers")
