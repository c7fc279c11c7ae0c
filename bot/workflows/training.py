"""From an approved plan to a trained model: look, record the intent, create once, follow the job (jobs.py)."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from bot.decisions.planning import Plan, plan_from_json, plan_hash
from bot.results import Progress
from bot.views.blocks import escape
from bot.workflows import destination, holding, jobs, money, rechecking, telling, uploads
from bot.workflows.desk import Desk
from bot.workflows.holding import HOLD_S
from bot.workflows.jobs import MAX_CREATES, MAX_PAUSE_S, POLL_S, SETTLE_S
from bot.workflows.specs import limits_of, spec_of
from storage.records import Model, Run
from trainers.client import Trainer
from trainers.errors import Changed, Refused, TrainerError
from trainers.money import usd_micros
from trainers.types import Job

__all__ = ["MAX_CREATES", "SETTLE_S"]

NO_ROOM_S = 60.0

SECONDS_A_CARD = 2.0  # thirty edits a minute for all cards of runs that train

log = logging.getLogger(__name__)


def create(desk: Desk, run: Run) -> None:
    """One step of approved or creating."""
    trainer, plan = desk.trainers.get(run.provider), plan_from_json(run.plan)
    if trainer is None:
        _no_key(desk, run)
        return
    if plan_hash(plan) != run.plan_hash:
        needs_human(desk, run, "The plan was changed after it was approved, so it is not carried out.")
        return
    if other := destination.changed(desk, plan):
        _stop_elsewhere(desk, run, other)
        return
    if holding.on_run(desk, run):
        _hold(desk, run, trainer)
        return
    if not _is_entitled(desk, run, trainer):
        return
    if too_dear := money.refusal_in_a_new_month(desk, run):
        _hold(desk, run, trainer, f"{too_dear} It starts by itself once there is room.", NO_ROOM_S)
        return
    sha256 = plan.kept_back.fitted_sha256 if plan.kept_back else plan.train_sha256
    validation = _file(desk, plan.kept_back.validation_sha256) if plan.kept_back else None
    uploads.intend(desk, run.provider, uploads.of_run(run))
    match jobs.prepare(trainer, _attempt(desk, run), *_file(desk, sha256), validation):
        case jobs.Ready() as ready:
            _create(desk, run, trainer, plan, ready)
        case jobs.Started(job):
            _started(desk, run, job)
        case jobs.Later(seconds, note):
            wait(desk, run, seconds, note=note)
        case jobs.Turned(refused):
            _refused(desk, run, trainer, refused)
        case jobs.Stuck(why):
            needs_human(desk, run, escape(why))


def follow(desk: Desk, run: Run) -> None:
    """One look at a job that trains."""
    trainer = desk.trainers.get(run.provider)
    if trainer is None:
        wait_for_key(desk, run)
        return
    if run.wish == "resume" and holding.on_resume(desk):
        run = replace(run, wish=None)  # the wish stays in the store until it may come true
    known, now = Progress.from_json(run.progress), desk.clock()
    is_shown = now - known.shown_at >= shown_every(desk)
    try:
        job, progress = jobs.followed(
            trainer,
            str(run.job_id),
            known,
            now,
            "cancel" if run.cancel_asked_by or overrun(run) else run.wish,
            is_shown=is_shown,
        )
    except Refused as refused:
        needs_human(desk, run, f"{escape(str(refused))} The job may still cost money: look there.")
        return
    except TrainerError as trouble:
        unseen(desk, run, trouble)
        return
    _take(desk, run, job, progress, is_shown)


def unseen(desk: Desk, run: Run, trouble: TrainerError) -> None:
    """It could not be looked at."""
    wait(desk, run, MAX_PAUSE_S / 8, note=f"{trouble} The job itself goes on; asking again.")


def shown_every(desk: Desk) -> float:
    """Seconds between two edits of a run's card for its numbers alone: Slack takes about 50 edits a minute in all."""
    return max(POLL_S, SECONDS_A_CARD * desk.store.runs.training())


def overrun(run: Run) -> str | None:
    """The sentence for a training that has cost more than was approved. A sweep that is told its most stops itself."""
    plan = plan_from_json(run.plan)
    spent = telling.training_cost(plan, Progress.from_json(run.progress))
    if spent <= plan.maximum_micros or "max_usd" in limits_of(plan):
        return None
    most, cost = usd_micros(plan.maximum_micros), usd_micros(spent)
    cost = "a little more" if cost == most else cost
    return f"Stopped because of its cost: the plan allows {most} at most, and the training had cost {cost}."


def cancel_before_training(desk: Desk, run: Run) -> None:
    """A run that has no job yet. One whose create is in doubt is looked for first: `follow` then cancels it."""
    if run.state == "creating" and not _is_surely_absent(desk, run):
        return
    trainer = desk.trainers.get(run.provider)
    file = uploads.take_back(desk, trainer, uploads.of_run(run), f"run {run.id}") if trainer else ""
    why = f"Cancelled by <@{run.cancel_asked_by}>; nothing was started, nothing is owed.{file}"
    end(desk, run, "cancelled", why)


def wait_for_key(desk: Desk, run: Run) -> None:
    """Its job exists, so it is not given up because a key is missing where the bot runs."""
    row = desk.settings.provider(run.provider)
    where = f"Set {row.provider.key_env} where the bot runs" if row else "Put it back into finetune.toml"
    wait(desk, run, MAX_PAUSE_S / 2, note=f"There is no key for {run.provider} any more. {where}.")


def fail(desk: Desk, run: Run, why: str, *, actual_micros: int = 0) -> None:
    end(desk, run, "failed", why, actual_micros=actual_micros)


def end(desk: Desk, run: Run, state: telling.EndState, why: str, *, actual_micros: int = 0) -> None:
    """Final, without a result: the reservation goes back, less what was spent."""
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.runs.move(run, state, now=now, error=why, actual_micros=actual_micros)
        if moved is None:
            return
        desk.store.runs.book(moved, "settle", actual_micros, month=telling.month(now), now=now)
        # a trainer's own words about a failure may quote a row: the log can't be deleted, `runs.error` can
        detail = "" if state == "failed" else why
        desk.store.audit.add(at=now, who="finetune", action=state, subject=f"run {run.id}", detail=detail)
        telling.ended(desk, moved, why)


def needs_human(desk: Desk, run: Run, why: str) -> None:
    """Stopped with money in doubt: the reservation stays until people have decided (doubts.py)."""
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.runs.move(run, "needs_human", now=now, error=why)
        if moved:
            desk.store.audit.add(at=now, who="finetune", action="needs human", subject=f"run {run.id}")
            telling.in_doubt(desk, moved, why)


def wait(desk: Desk, run: Run, seconds: float, *, note: str | None = None) -> None:
    before = Progress.from_json(run.progress)
    now, progress = desk.clock(), before.unseen(note).to_json()
    with desk.store.transaction():
        next_at = _unless_wished(desk, run, now + seconds)
        moved = desk.store.runs.move(run, run.state, now=now, next_at=next_at, progress=progress)
        if moved and note and note != before.note:
            telling.progress(desk, moved)


def _unless_wished(desk: Desk, run: Run, next_at: float) -> float:
    """What somebody wished while the provider was asked is due at once, as they were told."""
    latest = desk.store.runs.get(run.id)
    return next_at if latest is None or latest.next_at == run.next_at else latest.next_at


def _no_key(desk: Desk, run: Run) -> None:
    if run.state == "creating":  # a job may be there
        wait_for_key(desk, run)
    else:
        fail(desk, run, f"There is no key for {run.provider} any more; nothing was started.")


def _hold(desk: Desk, run: Run, trainer: Trainer, note: str | None = None, seconds: float = HOLD_S) -> None:
    """Frozen, or no room in the budget: nothing is created, and a job whose create got lost is still looked for."""
    match jobs.look_for(trainer, _attempt(desk, run)):
        case jobs.Started(job):
            _started(desk, run, job)
        case _:
            wait(desk, run, seconds, note=note)


def _is_surely_absent(desk: Desk, run: Run) -> bool:
    """A look for the job of a create in doubt. One that is found is taken over; else it gets time to show."""
    trainer = desk.trainers.get(run.provider)
    if trainer is None:
        wait_for_key(desk, run)
        return False
    match jobs.look_for(trainer, _attempt(desk, run)):
        case jobs.Started(job):
            _started(desk, run, job)
        case jobs.Later(seconds, note):
            wait(desk, run, seconds, note=note)
        case None:
            return True
    return False


def _attempt(desk: Desk, run: Run) -> jobs.Attempt:
    return jobs.Attempt(run.key, run.state == "creating", desk.waits.since(run.state_since), run.tries)


def _file(desk: Desk, sha256: str) -> tuple[Path, str]:
    return desk.settings.files / f"{sha256}.jsonl", sha256


def _is_entitled(desk: Desk, run: Run, trainer: Trainer) -> bool:
    """Do its approvals carry it now? Where not, it waits for them anew; a create in doubt is looked for before."""
    lost = rechecking.look(desk, run)
    if lost is None:
        return True
    if run.state == "creating" and not _is_surely_absent(desk, run):
        return False
    match lost:
        case rechecking.Lapsed():
            rechecking.void(desk, run, lost)
        case rechecking.Forbidden(said):
            uploads.take_back(desk, trainer, uploads.of_run(run), f"run {run.id}")
            end(desk, run, "cancelled", said)
        case rechecking.Unsure(said):
            wait(desk, run, HOLD_S, note=said)
    return False


def _stop_elsewhere(desk: Desk, run: Run, why: str) -> None:
    """It would run elsewhere than was approved, or another model. A create in doubt can't be looked for from here."""
    if run.state == "creating":
        needs_human(desk, run, f"{why} A job may have been created before that: look there.")
        return
    end(desk, run, "cancelled", f"{why} So its approval is void, and nothing was started.")


def _create(desk: Desk, run: Run, trainer: Trainer, plan: Plan, ready: jobs.Ready) -> None:
    if not _is_entitled(desk, run, trainer):  # sending the file may have taken minutes
        if run.state == "approved":
            uploads.take_back(desk, trainer, uploads.of_run(run), f"run {run.id}")
        return
    with desk.store.transaction():  # a freeze or a cancel comes before the intent or after it
        intent = _intend(desk, run, ready.file_id) if _may_intend(desk, run) else None
    if intent is None:
        return
    match jobs.send(trainer, spec_of(run, plan, ready)):
        case jobs.Started(job):
            _started(desk, intent, job)
        case jobs.Later(seconds, note):
            wait(desk, intent, seconds, note=note)
        case jobs.Turned(refused):
            _refused(desk, intent, trainer, refused)


def _may_intend(desk: Desk, run: Run) -> bool:
    """Sending the file took time: people may have cancelled or frozen since, and the month may be another."""
    latest = desk.store.runs.get(run.id)
    if latest is None or latest.cancel_asked_by or holding.on_run(desk, run):
        return False
    return money.refusal_in_a_new_month(desk, run) is None


def _intend(desk: Desk, run: Run, file_id: str) -> Run | None:
    """From here on a job may exist. Its money counts in the month in which it is created."""
    now = desk.clock()
    desk.waits.since(now)
    desk.store.runs.reserve_in(run, telling.month(now))
    changes = {"tries": run.tries + 1, "state_since": now, "next_at": now, "file_id": file_id}
    return desk.store.runs.move(run, "creating", now=now, **changes)


def _started(desk: Desk, run: Run, job: Job) -> None:
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.runs.move(run, "training", now=now, job_id=job.id, progress=Progress().to_json())
        if moved:
            desk.store.audit.add(
                at=now, who="finetune", action="started", subject=f"run {run.id}", detail=f"job {job.id}"
            )
            telling.progress(desk, moved)


def _refused(desk: Desk, run: Run, trainer: Trainer, refused: Refused | Changed) -> None:
    """A certain no: nothing was created. A file sent in vain is taken back."""
    file = uploads.take_back(desk, trainer, uploads.of_run(run), f"run {run.id}")
    if isinstance(refused, Refused) and refused.is_closed_to_us:
        row = desk.settings.provider(run.provider)
        closed = f"{escape(row.title if row else run.provider)} has closed fine-tuning to your organisation."
        way_out = "Your own machine can train instead: choose a target that starts with `local/`."
        fail(desk, run, f"{closed}{file} {way_out}")
        return
    fail(desk, run, f"{escape(str(refused))}{file} Nothing was started, nothing is owed.")


def _take(desk: Desk, run: Run, job: Job, progress: Progress, is_shown: bool) -> None:
    if job.is_final:
        uploads.after_the_job(desk, desk.trainers[run.provider], run)
    match job.status:
        case "succeeded" if job.fine_tuned_model:
            _trained(desk, run, job, progress)
        case "failed":
            reason = escape(job.error_message or "the trainer gave no reason")
            spent = telling.training_cost(plan_from_json(run.plan), progress)
            fail(desk, run, f"Training failed: {reason}", actual_micros=spent)
        case "succeeded" if not desk.trainers[run.provider].provider.can("chat"):
            _trained_elsewhere(desk, run, progress)
        case "cancelled":
            end(
                desk,
                run,
                "cancelled",
                _why_cancelled(run),
                actual_micros=_spent_in_the_end(run, progress),
            )
        case _:
            _goes_on(desk, run, progress, is_shown)


def _spent_in_the_end(run: Run, progress: Progress) -> int:
    """At least what was said before: the trainer's clock may be behind ours."""
    plan, said = plan_from_json(run.plan), Progress.from_json(run.progress)
    return max(telling.training_cost(plan, progress), telling.training_cost(plan, said))


def _why_cancelled(run: Run) -> str:
    if run.cancel_asked_by:
        return f"Cancelled by <@{run.cancel_asked_by}>."
    return overrun(run) or "Cancelled on the trainer's side."


def _trained_elsewhere(desk: Desk, run: Run, progress: Progress) -> None:
    """Some vendors hand out weights and give the model no name to ask it by."""
    why = (
        f"It is trained, but {escape(run.provider)} gives it no name to ask it by, so it could not be measured. "
        f"Its weights lie there, as result files of its last checkpoint: deploy them from there."
    )
    fail(desk, run, why, actual_micros=telling.training_cost(plan_from_json(run.plan), progress))


def _goes_on(desk: Desk, run: Run, progress: Progress, is_shown: bool) -> None:
    """Written and shown where somebody has to see it, or its card is due; else it is only put off."""
    now, before = desk.clock(), Progress.from_json(run.progress)
    progress = replace(progress, shown_at=now)
    too_dear = overrun(replace(run, progress=progress.to_json()))
    is_urgent = bool(too_dear or run.cancel_asked_by or run.wish)
    if not (is_shown or is_urgent or (progress.status, progress.note) != (before.status, before.note)):
        next_at = _unless_wished(desk, run, jobs.next_look(now, run.state_since))
        desk.store.runs.move(run, "training", now=now, next_at=next_at)
        return
    with desk.store.transaction():
        if run.wish:
            desk.store.runs.grant(run, now=now)
        soon = now + POLL_S if is_urgent else jobs.next_look(now, run.state_since)
        next_at = _unless_wished(desk, run, soon)
        moved = desk.store.runs.move(run, "training", now=now, progress=progress.to_json(), next_at=next_at)
        if moved and too_dear and not overrun(run):  # the next look cancels its job
            desk.store.audit.add(
                at=now, who="finetune", action="over maximum", subject=f"run {run.id}", detail=too_dear
            )
        if moved:
            telling.progress(desk, moved)


def _trained(desk: Desk, run: Run, job: Job, progress: Progress) -> None:
    """The model has a name from now on; whether it is better is measured next."""
    now = desk.clock()
    model = Model(
        name=f"{plan_from_json(run.plan).dataset}-{run.id}",
        run_id=run.id,
        provider=run.provider,
        provider_model=str(job.fine_tuned_model),
        state="candidate",
        created_at=now,
    )
    with desk.store.transaction():
        moved = desk.store.runs.move(
            run, "evaluating", now=now, model=model.name, progress=progress.to_json()
        )
        if moved:
            desk.store.add_model(model)
            desk.store.audit.add(at=now, who="finetune", action="trained", subject=f"run {run.id}")
            telling.progress(desk, moved)
