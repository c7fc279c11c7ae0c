"""From an approved plan to a trained model: look, record the intent, create once, follow the job. One list a
provider tells which of many jobs need a look."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bot.cards.blocks import escape
from bot.context import AppContext
from bot.rules import units
from bot.rules.plans import Plan, plan_from_json, plan_hash
from bot.services import (
    approvals,
    budgets,
    data_policy,
    freeze_scope,
    notifications,
    plans,
    provider_jobs,
    run_states,
)
from bot.services.freeze_scope import HOLD_S
from bot.services.provider_jobs import MAX_CREATES, POLL_S, SETTLE_S, limits_of, spec_of
from bot.services.run_states import due_unless_wished, end, fail, needs_human, wait, wait_for_key, wait_unseen
from bot.values.runs import Progress
from storage.records import Model, Run
from trainers.client import Trainer
from trainers.errors import Changed, Refused, TrainerError
from trainers.money import usd_micros
from trainers.types import Job

__all__ = ["MAX_CREATES", "SETTLE_S"]

NO_ROOM_S = 60.0

SECONDS_A_CARD = 2.0  # thirty edits a minute for all cards of runs that train

log = logging.getLogger(__name__)


def create(context: AppContext, run: Run) -> None:
    """One step of approved or creating."""
    trainer, plan = context.trainers.get(run.provider), plan_from_json(run.plan)
    if trainer is None:
        _no_key(context, run)
        return
    if plan_hash(plan) != run.plan_hash:
        needs_human(context, run, "The plan was changed after it was approved, so it is not carried out.")
        return
    if other := plans.destination_change(context, plan):
        _stop_elsewhere(context, run, other)
        return
    if freeze_scope.on_run(context, run):
        _hold(context, run, trainer)
        return
    if not _is_entitled(context, run, trainer):
        return
    if too_dear := budgets.refusal_in_a_new_month(context, run):
        _hold(context, run, trainer, f"{too_dear} It starts by itself once there is room.", NO_ROOM_S)
        return
    sha256 = plan.kept_back.fitted_sha256 if plan.kept_back else plan.train_sha256
    validation = _file(context, plan.kept_back.validation_sha256) if plan.kept_back else None
    provider_jobs.record_uploads(context, run.provider, provider_jobs.uploads_of_run(run))
    match provider_jobs.prepare(trainer, _attempt(context, run), *_file(context, sha256), validation):
        case provider_jobs.Ready() as ready:
            _create(context, run, trainer, plan, ready)
        case provider_jobs.Started(job):
            _started(context, run, job)
        case provider_jobs.Later(seconds, note):
            wait(context, run, seconds, note=note)
        case provider_jobs.CreateRefused(refused):
            _refused(context, run, trainer, refused)
        case provider_jobs.Stuck(why):
            needs_human(context, run, escape(why))


def follow(context: AppContext, run: Run) -> None:
    """One look at a job that trains."""
    trainer = context.trainers.get(run.provider)
    if trainer is None:
        wait_for_key(context, run)
        return
    if run.wish == "resume" and freeze_scope.on_resume(context):
        run = replace(run, wish=None)  # the wish stays in the store until it may come true
    known, now = Progress.from_json(run.progress), context.clock()
    is_shown = now - known.shown_at >= shown_every(context)
    try:
        job, progress = provider_jobs.poll(
            trainer,
            str(run.job_id),
            known,
            now,
            "cancel" if run.cancel_asked_by or overrun(run) else run.wish,
            is_shown=is_shown,
        )
    except Refused as refused:
        needs_human(context, run, f"{escape(str(refused))} The job may still cost money: look there.")
        return
    except TrainerError as trouble:
        wait_unseen(context, run, trouble)
        return
    _take(context, run, job, progress, is_shown)


def shown_every(context: AppContext) -> float:
    """Seconds between two edits of a run's card for its numbers alone: Slack takes about 50 edits a minute in all."""
    return max(POLL_S, SECONDS_A_CARD * context.store.runs.training())


def overrun(run: Run) -> str | None:
    """The sentence for a training that has cost more than was approved. A sweep that is told its most stops itself."""
    plan = plan_from_json(run.plan)
    spent = notifications.training_cost(plan, Progress.from_json(run.progress))
    if spent <= plan.maximum_micros or "max_usd" in limits_of(plan):
        return None
    most, cost = usd_micros(plan.maximum_micros), usd_micros(spent)
    cost = "a little more" if cost == most else cost
    return f"Stopped because of its cost: the plan allows {most} at most, and the training had cost {cost}."


def cancel_before_training(context: AppContext, run: Run) -> None:
    """A run that has no job yet. One whose create is in doubt is looked for first: `follow` then cancels it."""
    if run.state == "creating" and not _is_surely_absent(context, run):
        return
    trainer = context.trainers.get(run.provider)
    file = (
        provider_jobs.delete_uploads(context, trainer, provider_jobs.uploads_of_run(run), f"run {run.id}")
        if trainer
        else ""
    )
    why = f"Cancelled by <@{run.cancel_asked_by}>; nothing was started, nothing is owed.{file}"
    end(context, run, "cancelled", why)


def _no_key(context: AppContext, run: Run) -> None:
    if run.state == "creating":  # a job may be there
        wait_for_key(context, run)
    else:
        fail(context, run, f"There is no key for {run.provider} any more; nothing was started.")


def _hold(
    context: AppContext, run: Run, trainer: Trainer, note: str | None = None, seconds: float = HOLD_S
) -> None:
    """Frozen, or no room in the budget: nothing is created, and a job whose create got lost is still looked for."""
    match provider_jobs.look_for(trainer, _attempt(context, run)):
        case provider_jobs.Started(job):
            _started(context, run, job)
        case _:
            wait(context, run, seconds, note=note)


def _is_surely_absent(context: AppContext, run: Run) -> bool:
    """A look for the job of a create in doubt. One that is found is taken over; else it gets time to show."""
    trainer = context.trainers.get(run.provider)
    if trainer is None:
        wait_for_key(context, run)
        return False
    match provider_jobs.look_for(trainer, _attempt(context, run)):
        case provider_jobs.Started(job):
            _started(context, run, job)
        case provider_jobs.Later(seconds, note):
            wait(context, run, seconds, note=note)
        case None:
            return True
    return False


def _attempt(context: AppContext, run: Run) -> provider_jobs.Attempt:
    return provider_jobs.Attempt(
        run.key, run.state == "creating", context.waits.since(run.state_since), run.tries
    )


def _file(context: AppContext, sha256: str) -> tuple[Path, str]:
    return context.settings.files / f"{sha256}.jsonl", sha256


def _is_entitled(context: AppContext, run: Run, trainer: Trainer) -> bool:
    """Do its approvals carry it now? Where not, it waits for them anew; a create in doubt is looked for before."""
    lost = approvals.revalidate(context, run)
    if lost is None:
        return True
    if run.state == "creating" and not _is_surely_absent(context, run):
        return False
    match lost:
        case approvals.LapsedApprovals():
            approvals.void_approvals(context, run, lost)
        case data_policy.Forbidden(said):
            provider_jobs.delete_uploads(context, trainer, provider_jobs.uploads_of_run(run), f"run {run.id}")
            end(context, run, "cancelled", said)
        case data_policy.Unsure(said):
            wait(context, run, HOLD_S, note=said)
    return False


def _stop_elsewhere(context: AppContext, run: Run, why: str) -> None:
    """It would run elsewhere than was approved, or another model. A create in doubt can't be looked for from here."""
    if run.state == "creating":
        needs_human(context, run, f"{why} A job may have been created before that: look there.")
        return
    end(context, run, "cancelled", f"{why} So its approval is void, and nothing was started.")


def _create(context: AppContext, run: Run, trainer: Trainer, plan: Plan, ready: provider_jobs.Ready) -> None:
    if not _is_entitled(context, run, trainer):  # sending the file may have taken minutes
        if run.state == "approved":
            provider_jobs.delete_uploads(context, trainer, provider_jobs.uploads_of_run(run), f"run {run.id}")
        return
    with context.store.transaction():  # a freeze or a cancel comes before the intent or after it
        intent = _intend(context, run, ready.file_id) if _may_intend(context, run) else None
    if intent is None:
        return
    match provider_jobs.send(trainer, spec_of(run, plan, ready)):
        case provider_jobs.Started(job):
            _started(context, intent, job)
        case provider_jobs.Later(seconds, note):
            wait(context, intent, seconds, note=note)
        case provider_jobs.CreateRefused(refused):
            _refused(context, intent, trainer, refused)


def _may_intend(context: AppContext, run: Run) -> bool:
    """Sending the file took time: people may have cancelled or frozen since, and the month may be another."""
    latest = context.store.runs.get(run.id)
    if latest is None or latest.cancel_asked_by or freeze_scope.on_run(context, run):
        return False
    return budgets.refusal_in_a_new_month(context, run) is None


def _intend(context: AppContext, run: Run, file_id: str) -> Run | None:
    """From here on a job may exist. Its money counts in the month in which it is created."""
    now = context.clock()
    context.waits.since(now)
    context.store.runs.reserve_in(run, units.month_of(now))
    changes = {"tries": run.tries + 1, "state_since": now, "next_at": now, "file_id": file_id}
    return context.store.runs.move(run, "creating", now=now, **changes)


def _started(context: AppContext, run: Run, job: Job) -> None:
    now = context.clock()
    with context.store.transaction():
        moved = context.store.runs.move(
            run, "training", now=now, job_id=job.id, progress=Progress().to_json()
        )
        if moved:
            context.store.audit.add(
                at=now, who="finetune", action="started", subject=f"run {run.id}", detail=f"job {job.id}"
            )
            notifications.show_progress(context, moved)


def _refused(context: AppContext, run: Run, trainer: Trainer, refused: Refused | Changed) -> None:
    """A certain no: nothing was created. A file sent in vain is taken back."""
    file = provider_jobs.delete_uploads(context, trainer, provider_jobs.uploads_of_run(run), f"run {run.id}")
    if isinstance(refused, Refused) and refused.is_closed_to_us:
        row = context.settings.provider(run.provider)
        closed = f"{escape(row.title if row else run.provider)} has closed fine-tuning to your organisation."
        way_out = "Your own machine can train instead: choose a target that starts with `local/`."
        fail(context, run, f"{closed}{file} {way_out}")
        return
    fail(context, run, f"{escape(str(refused))}{file} Nothing was started, nothing is owed.")


def _take(context: AppContext, run: Run, job: Job, progress: Progress, is_shown: bool) -> None:
    if job.is_final:
        provider_jobs.delete_after_job(context, context.trainers[run.provider], run)
    match job.status:
        case "succeeded" if job.fine_tuned_model:
            _trained(context, run, job, progress)
        case "failed":
            reason = escape(job.error_message or "the trainer gave no reason")
            spent = notifications.training_cost(plan_from_json(run.plan), progress)
            fail(context, run, f"Training failed: {reason}", actual_micros=spent)
        case "succeeded" if not context.trainers[run.provider].provider.can("chat"):
            _trained_elsewhere(context, run, progress)
        case "cancelled":
            end(
                context,
                run,
                "cancelled",
                _why_cancelled(run),
                actual_micros=_spent_in_the_end(run, progress),
            )
        case _:
            _goes_on(context, run, progress, is_shown)


def _spent_in_the_end(run: Run, progress: Progress) -> int:
    """At least what was said before: the trainer's clock may be behind ours."""
    plan, said = plan_from_json(run.plan), Progress.from_json(run.progress)
    return max(notifications.training_cost(plan, progress), notifications.training_cost(plan, said))


def _why_cancelled(run: Run) -> str:
    if run.cancel_asked_by:
        return f"Cancelled by <@{run.cancel_asked_by}>."
    return overrun(run) or "Cancelled on the trainer's side."


def _trained_elsewhere(context: AppContext, run: Run, progress: Progress) -> None:
    """Some vendors hand out weights and give the model no name to ask it by."""
    why = (
        f"It is trained, but {escape(run.provider)} gives it no name to ask it by, so it could not be measured. "
        f"Its weights lie there, as result files of its last checkpoint: deploy them from there."
    )
    fail(context, run, why, actual_micros=notifications.training_cost(plan_from_json(run.plan), progress))


def _goes_on(context: AppContext, run: Run, progress: Progress, is_shown: bool) -> None:
    """Written and shown where somebody has to see it, or its card is due; else it is only put off."""
    now, before = context.clock(), Progress.from_json(run.progress)
    progress = replace(progress, shown_at=now)
    too_dear = overrun(replace(run, progress=progress.to_json()))
    is_urgent = bool(too_dear or run.cancel_asked_by or run.wish)
    if not (is_shown or is_urgent or (progress.status, progress.note) != (before.status, before.note)):
        next_at = due_unless_wished(context, run, provider_jobs.next_look(now, run.state_since))
        context.store.runs.move(run, "training", now=now, next_at=next_at)
        return
    with context.store.transaction():
        if run.wish:
            context.store.runs.grant(run, now=now)
        soon = now + POLL_S if is_urgent else provider_jobs.next_look(now, run.state_since)
        next_at = due_unless_wished(context, run, soon)
        moved = context.store.runs.move(
            run, "training", now=now, progress=progress.to_json(), next_at=next_at
        )
        if moved and too_dear and not overrun(run):  # the next look cancels its job
            context.store.audit.add(
                at=now, who="finetune", action="over maximum", subject=f"run {run.id}", detail=too_dear
            )
        if moved:
            notifications.show_progress(context, moved)


def _trained(context: AppContext, run: Run, job: Job, progress: Progress) -> None:
    """The model has a name from now on; whether it is better is measured next."""
    now = context.clock()
    model = Model(
        name=f"{plan_from_json(run.plan).dataset}-{run.id}",
        run_id=run.id,
        provider=run.provider,
        provider_model=str(job.fine_tuned_model),
        state="candidate",
        created_at=now,
    )
    with context.store.transaction():
        moved = context.store.runs.move(
            run, "evaluating", now=now, model=model.name, progress=progress.to_json()
        )
        if moved:
            context.store.add_model(model)
            context.store.audit.add(at=now, who="finetune", action="trained", subject=f"run {run.id}")
            notifications.show_progress(context, moved)


# Many jobs at one provider: a page of its list says of a hundred which of them need a look of their own.
#
# A thousand open jobs are seen at least every 20 s and cost a dozen calls a tick. `training.follow` is
# the look of its own: at a job that ended or moved, that costs too much, that the list doesn't show, or
# whose card is to be shown again.


ALONE = 3  # so few are asked for by themselves
MANY = 300
PAGES = 10  # of a hundred each
CLOCKS_DIFFER_S = 3600.0
RUNS_A_WRITE = 50  # so that the write lock is never held for long


def runs_to_poll(context: AppContext, runs: Sequence[Run]) -> Sequence[Run]:
    """Those that need a look of their own now, of these runs, which train at one provider; the others are put off."""
    trainer = context.trainers.get(runs[0].provider) if runs else None
    if trainer is None or len(runs) <= ALONE:
        return runs
    oldest = min(run.state_since for run in runs) - CLOCKS_DIFFER_S
    try:
        listed = trainer.newest_jobs({str(run.job_id) for run in runs}, oldest, PAGES)
    except Refused:
        return runs[:ALONE]  # a look of its own says what is refused
    except TrainerError as trouble:  # the jobs themselves may answer: so each has its turn
        _wait(context, runs[ALONE:], trouble)
        return runs[:ALONE]
    every, now = shown_every(context), context.clock()
    looks = [run for run in runs if _needs_poll(run, listed.get(str(run.job_id)), every, now)]
    alone = {run.id for run in looks}
    _put_off(context, [run for run in runs if run.id not in alone], now)
    at_once, a_second = (1, ALONE) if len(runs) <= MANY else (0, 1)  # the list of many took a tick's calls
    for number, later in enumerate(_parts(looks[at_once:], a_second), start=2):
        context.store.runs.put_off([run.id for run in later], now + number)
    return looks[:at_once]


def _needs_poll(run: Run, job: Job | None, shown_every: float, now: float) -> bool:
    known = Progress.from_json(run.progress)
    if job is None or job.is_final or job.status != known.status or now - known.shown_at >= shown_every:
        return True
    seen = known.with_job(job, (), None, now)
    return overrun(replace(run, progress=seen.to_json())) is not None


def _put_off(context: AppContext, runs: Sequence[Run], now: float) -> None:
    when = {run.id: provider_jobs.next_look(now, run.state_since) for run in runs}
    for next_at in sorted(set(when.values())):
        context.store.runs.put_off([number for number, at in when.items() if at == next_at], next_at)


def _wait(context: AppContext, runs: Sequence[Run], trouble: TrainerError) -> None:
    for some in _parts(runs, RUNS_A_WRITE):
        with context.store.transaction():
            for run in some:
                run_states.wait_unseen(context, run, trouble)


def _parts(runs: Sequence[Run], size: int) -> Iterator[Sequence[Run]]:
    for start in range(0, len(runs), size):
        yield runs[start : start + size]
