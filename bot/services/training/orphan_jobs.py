"""Compares all jobs at a provider that have one of our keys with the store, every few minutes, so that no job runs
twice or unnoticed.

A run that is being created looks for its own job at each step (provider_jobs.py). This looks from the other side: for a
second job that appeared late, and for one that a restored backup doesn't know.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from bot.cards.common.blocks import Message, escape
from bot.cards.training import interventions as views
from bot.context import AppContext
from bot.rules import units
from bot.rules.plans import plan_from_json
from bot.services.common import messages
from bot.services.decisions import approvals
from bot.services.evidence import notifications
from bot.services.training import interventions
from bot.values.learning_curves import trained_curve
from storage.records import OPEN_RUN_STATES, Measurement, Run
from trainers.client.client import Trainer
from trainers.errors import Refused, TrainerError
from trainers.types import Job

LOOK_BACK_S = 30 * 24 * 3600.0
MEASUREMENTS = 200

log = logging.getLogger(__name__)


def sweep(context: AppContext) -> None:
    """Reads one list of jobs per provider. A provider that can't be reached is tried again next time."""
    for name, trainer in context.trainers.items():
        if trainer.provider.only_chats:
            continue
        try:
            _sweep(context, name, trainer)
        except TrainerError as trouble:
            log.info("looking for stray jobs: %s", trouble)


def _sweep(context: AppContext, provider: str, trainer: Trainer) -> None:
    # Providers at one address may share an account, whose list then has the jobs of all of them.
    run_keys = set[str]()
    for name in context.settings.beside(provider):
        run_keys.update(context.store.runs.keys_at(name))
    curve_keys = _curve_keys(context)
    listed = trainer.jobs_by_key([*run_keys, *curve_keys], context.clock() - LOOK_BACK_S)
    for key, jobs in listed.items():
        run = None
        if key in run_keys:
            run = context.store.runs.by_key(key)
        if run:
            _check_run(context, trainer, run, jobs)
        elif key in curve_keys:
            _check_curve(context, trainer, curve_keys[key], jobs)
        else:
            for job in _unfinished(jobs):
                message = views.unknown_job(provider, job)
                _alert(context, provider, job, key, message, None)


def _curve_keys(context: AppContext) -> dict[str, Measurement]:
    """Returns the keys of jobs that an earlier version created for tuned models' learning curves."""
    keys: dict[str, Measurement] = {}
    for measurement in context.store.measurements.newest(MEASUREMENTS):
        if measurement.kind != "curve":
            continue
        curve = trained_curve(measurement.plan, measurement.progress)
        if curve is None:
            continue
        for size in curve.sizes:
            keys[size.key] = measurement
    return keys


def _check_run(context: AppContext, trainer: Trainer, run: Run, jobs: Sequence[Job]) -> None:
    live = _unfinished(jobs)
    # A job that succeeded is paid, and its model exists; one that failed or was cancelled leaves nothing to take over.
    succeeded = [job for job in jobs if job.status == "succeeded"]
    paid = live + succeeded
    has_ended_without_job = run.state in ("rejected", "expired") and run.job_id is None
    was_never_started = has_ended_without_job and not live
    owner = f"Run {run.id}"
    if run.state == "needs_human":
        job = jobs[0]
        for own in jobs:
            if own.id == run.job_id:
                job = own
        interventions.resolve_with_job(context, run, job)
    elif paid and (run.state == "awaiting_approval" or was_never_started):
        _take_over(context, run, paid[0])
    elif run.state in ("training", "evaluating"):
        _cancel_others(context, trainer, owner, run.channel, run.job_id, live)
    elif run.state not in OPEN_RUN_STATES:
        is_unwanted = run.state == "cancelled"
        _handle_after_end(context, trainer, owner, run.channel, live, is_unwanted=is_unwanted)


def _check_curve(
    context: AppContext, trainer: Trainer, measurement: Measurement, jobs: Sequence[Job]
) -> None:
    if measurement.state not in ("done", "failed", "cancelled"):
        return
    owner = f"Measurement m{measurement.id}"
    is_unwanted = measurement.state == "cancelled"
    live = _unfinished(jobs)
    _handle_after_end(context, trainer, owner, measurement.channel, live, is_unwanted=is_unwanted)


def _take_over(context: AppContext, run: Run, job: Job) -> None:
    """Adopts a job with the key of an unapproved run. Only approved runs get a job, so the database must have been
    restored from a backup made before the approval. Whoever has rejected the plan since didn't know about the job."""
    now = context.clock()
    plan = plan_from_json(run.plan)
    text = f"It was started before a backup was restored: job {escape(job.id)} was found and is taken over."
    most = plan.maximum_micros
    changes = {"job_id": job.id, "reserved_micros": most}
    runs = context.store.runs
    with context.store.transaction():
        moved = runs.move(run, "training", now=now, **changes)
        if moved is None:
            return
        runs.book(moved, "reserve", most, month=units.month_of(now), now=now)
        context.audit("finetune", "adopted", f"run {run.id}", text)
        notifications.show_progress(context, moved)
        approvals.tell_decision(context, moved, text)


def _cancel_others(
    context: AppContext, trainer: Trainer, owner: str, channel: str, ours: str | None, live: Sequence[Job]
) -> None:
    provider = trainer.provider.name
    for extra in live:
        if extra.id != ours and _cancel(trainer, extra):
            message = views.duplicate_job(owner, provider, extra)
            _alert(context, provider, extra, owner, message, channel)


def _handle_after_end(
    context: AppContext, trainer: Trainer, owner: str, channel: str, live: Sequence[Job], *, is_unwanted: bool
) -> None:
    provider = trainer.provider.name
    for job in live:
        # Somebody cancelled the run, so its job goes too. After a failure people may want to see what it does.
        if not is_unwanted:
            message = views.job_still_running(owner, provider, job)
        elif _cancel(trainer, job):
            message = views.cancelled_job(owner, provider, job)
        else:
            continue
        _alert(context, provider, job, owner, message, channel)


def _cancel(trainer: Trainer, job: Job) -> bool:
    """Cancels the job. Returns False if it has ended meanwhile."""
    try:
        trainer.cancel(job.id)
    except Refused as refused:
        log.warning("job %s: %s", job.id, refused)
        return False
    return True


def _alert(
    context: AppContext, provider: str, job: Job, about: str, message: Message, channel: str | None
) -> None:
    """Reports a job once: in the channel of its run or measurement, which may be private, and one that belongs to
    neither in the team's."""
    now = context.clock()
    account, *_ = context.settings.beside(provider)  # two rows of one trainer list the same jobs
    where = channel or messages.team_channel(context)
    with context.store.transaction():
        if not context.store.interventions.record_orphan(account, job.id, about, now=now):
            return
        log.error("job %s at %s: %s", job.id, provider, message.text)
        context.audit("finetune", "stray job", f"job {job.id}", message.text)
        if where:
            once = f"stray {account} {job.id}"
            context.post(where, message.letter(), topic="questions", dedupe=once)


def _unfinished(jobs: Sequence[Job]) -> list[Job]:
    return [job for job in jobs if not job.is_final]
