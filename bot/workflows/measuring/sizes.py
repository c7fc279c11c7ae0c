"""One size of a tuned model's curve is trained: its job is created once (jobs.py), followed, cancelled.

waiting → creating → training → evaluating (size_answers.py) → done, each written down before the next begins. A
size that was trained before begins with evaluating.
"""

from __future__ import annotations

from dataclasses import replace

from bot.decisions.planning import ascii_name
from bot.views.blocks import escape
from bot.views.words import counted
from bot.workflows import destination, holding, jobs, rechecking, uploads
from bot.workflows.holding import HOLD_S
from bot.workflows.jobs import MAX_PAUSE_S
from bot.workflows.measuring import consent, size_answers
from bot.workflows.measuring.curve_step import CurveStep, fail, keep, over, wait_in_doubt
from trainers.client import Trainer
from trainers.errors import Changed, Refused, TrainerError
from trainers.types import Job, JobSpec

GIVE_UP_UNSEEN_S = 3600.0  # a stopped curve waits so long for a provider that can't be looked at


def move_on(step: CurveStep) -> None:
    """One step of the size at work."""
    trainer = step.desk.trainers.get(step.plan.provider)
    if trainer is None:
        _wait_for_key(step)
        return
    match step.size.state:
        case "waiting" if step.is_stopped:
            over(step)
        case "waiting" | "creating" if other := destination.changed(step.desk, step.plan):
            _stop_elsewhere(step, trainer, other)
        case "creating" if step.is_stopped:
            _look_for(step, trainer)
        case "evaluating" if step.is_stopped:
            size_answers.evaluate(step)
        case "waiting" | "creating" if holding.on_measurement(step.desk, step.measurement):
            _hold(step, trainer)
        case "waiting" | "creating":
            _create(step, trainer)
        case "training":
            _follow(step, trainer)
        case "evaluating" if holding.on_measurement(step.desk, step.measurement):
            step.desk.askers.drop(step.owner)  # answers under way are kept when they come
            keep(step, seconds=HOLD_S)
        case "evaluating":
            size_answers.evaluate(step)
        case "done":
            pass


def _stop_elsewhere(step: CurveStep, trainer: Trainer, why: str) -> None:
    """It would train elsewhere than was agreed, or another model. A create in doubt can't be looked for from here."""
    if step.size.state == "creating":
        wait_in_doubt(step, f"{why} A job may have been created before that: look there.")
        return
    file = uploads.take_back(step.desk, trainer, {step.size.sha256}, step.owner)
    fail(step, f"{why}{file} No job was started for {counted(step.size.rows, 'row')}. Ask for a new curve.")


def _hold(step: CurveStep, trainer: Trainer) -> None:
    """Frozen: nothing is created, and a job whose create got lost is still looked for."""
    match jobs.look_for(trainer, _attempt(step)):
        case jobs.Started(job):
            _started(step, job)
        case _:
            keep(step.noted(None), seconds=HOLD_S)


def _create(step: CurveStep, trainer: Trainer) -> None:
    is_in_doubt = step.size.state == "creating"  # a job that may be there is looked for first
    if not is_in_doubt and not _is_agreed(step, trainer):
        return
    sha256 = step.size.sha256
    path = step.desk.settings.files / f"{sha256}.jsonl"
    uploads.intend(step.desk, step.plan.provider, {sha256})
    match jobs.prepare(trainer, _attempt(step), path, sha256):
        case jobs.Ready(file_id):
            if _is_agreed(step, trainer):  # sending the file may have taken long
                _send(step, trainer, file_id)
        case jobs.Started(job):
            _started(step, job)
        case jobs.Later(seconds, note):
            keep(step.noted(note), seconds=seconds)
        case jobs.Turned(refused):
            _refused(step, trainer, refused)
        case jobs.Stuck(why):
            wait_in_doubt(step, why)


def _is_agreed(step: CurveStep, trainer: Trainer) -> bool:
    """Where it isn't any more, the curve ends, or waits for Slack."""
    match consent.look(step):
        case None:
            return True
        case rechecking.Unsure(said):
            uploads.take_back(
                step.desk, trainer, {step.size.sha256}, step.owner
            )  # no file stays where it may end here
            keep(step.noted(said), seconds=MAX_PAUSE_S / 8)
        case rechecking.Forbidden(said):
            file = uploads.take_back(step.desk, trainer, {step.size.sha256}, step.owner)
            fail(step, f"{said}{file} No job was started for {counted(step.size.rows, 'row')}.")
    return False


def _send(step: CurveStep, trainer: Trainer, file_id: str) -> None:
    now = step.desk.clock()
    size = step.size.to("creating", now, tries=step.size.tries + 1, file_id=file_id)
    step.desk.waits.since(now)
    with step.desk.store.transaction():  # a freeze or a cancel comes before the intent or after it
        latest = step.desk.store.measurements.get(step.measurement.id)
        is_cancelled = latest is None or latest.cancel_asked_by is not None
        is_held = is_cancelled or holding.on_measurement(step.desk, step.measurement)
        intent = None if is_held else keep(step.with_size(size).noted(None))
    if intent is None:
        return
    match jobs.send(trainer, _spec(intent, file_id)):
        case jobs.Started(job):
            _started(intent, job)
        case jobs.Later(seconds, note):
            keep(intent.noted(note), seconds=seconds)
        case jobs.Turned(refused):
            _refused(intent, trainer, refused)


def _spec(step: CurveStep, file_id: str) -> JobSpec:
    return JobSpec(
        key=step.size.key,
        model=step.plan.base_model,
        training_file=file_id,
        hyperparameters=dict(step.planned.hyperparameters),
        seed=step.plan.seed,
        suffix=f"{ascii_name(step.plan.dataset)}-{step.size.rows}",
        metadata={"measurement": step.owner},
    )


def _started(step: CurveStep, job: Job) -> None:
    now, store = step.desk.clock(), step.desk.store
    subject, detail = f"measurement {step.measurement.id}", f"job {job.id} on {step.size.rows} rows"
    with store.transaction():
        if keep(step.with_size(step.size.to("training", now, job_id=job.id)).noted(None)):
            store.audit.add(at=now, who="finetune", action="started", subject=subject, detail=detail)


def _look_for(step: CurveStep, trainer: Trainer) -> None:
    """Stopped while a create was in doubt: a job that is found is cancelled by the next step."""
    match jobs.look_for(trainer, _attempt(step)):
        case jobs.Started(job):
            _started(step, job)
        case jobs.Later(_, note) if note and step.desk.clock() - step.size.since > GIVE_UP_UNSEEN_S:
            wait_in_doubt(step, note)
        case jobs.Later(seconds, note):
            keep(step.noted(note), seconds=seconds)
        case None:
            over(step)


def _attempt(step: CurveStep) -> jobs.Attempt:
    size = step.size
    return jobs.Attempt(size.key, size.state == "creating", step.desk.waits.since(size.since), size.tries)


def _follow(step: CurveStep, trainer: Trainer) -> None:
    size, now = step.size, step.desk.clock()
    try:
        job, training = jobs.followed(
            trainer, str(size.job_id), size.training, now, "cancel" if step.is_stopped else None
        )
    except Refused as refused:
        wait_in_doubt(step, f"{refused} The job may still cost money: look there.")
        return
    except TrainerError as trouble:
        keep(step.noted(f"{trouble} The job itself goes on; asking again."), seconds=MAX_PAUSE_S / 8)
        return
    seen = replace(size, training=training, spent_micros=step.spent(training), doubted_since=None)
    known = step.with_size(seen)
    _take(known.noted(training.note), job, trainer)


def _take(step: CurveStep, job: Job, trainer: Trainer) -> None:
    """A model of a curve is only measured, so its file is deleted as soon as its job is through."""
    if not job.is_final:
        now = step.desk.clock()
        keep(step, seconds=jobs.next_look(now, step.size.since) - now)
        return
    uploads.take_back(step.desk, trainer, {step.size.sha256}, step.owner)
    trained = f"Training on {counted(step.size.rows, 'row')}"
    if job.status == "succeeded" and job.fine_tuned_model:
        keep(step.with_size(step.size.to("evaluating", step.desk.clock(), model=job.fine_tuned_model)))
    elif job.status == "succeeded":
        fail(step, f"{trained} gave a model without a name to ask it by.")
    elif job.status == "failed":
        fail(step, f"{trained} failed: {escape(job.error_message or 'the trainer gave no reason')}")
    elif step.is_stopped:
        over(step)
    else:
        fail(step, f"{trained} was cancelled on the trainer's side.")


def _refused(step: CurveStep, trainer: Trainer, refused: Refused | Changed) -> None:
    """A certain no: nothing was created."""
    file = uploads.take_back(step.desk, trainer, {step.size.sha256}, step.owner)
    where = f"Training on {counted(step.size.rows, 'row')} was refused: {escape(str(refused))}"
    fail(step, f"{where}{file} No job was started for it.")


def _wait_for_key(step: CurveStep) -> None:
    """A job may be there, so it is not given up because a key is missing where the bot runs."""
    provider = step.plan.provider
    row = step.desk.settings.provider(provider)
    where = f"Set {row.provider.key_env} where the bot runs" if row else "Put it back into finetune.toml"
    keep(step.noted(f"There is no key for {provider} any more. {where}."), seconds=MAX_PAUSE_S / 2)
