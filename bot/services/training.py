"""From an approved plan to a trained model: looks for a job, records the intent, creates once, follows the job. One
list a provider tells which of many jobs need a look."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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
)
from bot.services.freeze_scope import HOLD_S
from bot.services.provider_jobs import POLL_S, Attempt, JobFiles, UploadedFiles, job_spec, trainer_limits
from bot.services.run_states import due_unless_wished, end, hand_to_people, wait, wait_for_key
from bot.values.runs import Progress
from storage.records import Model, Run
from trainers.client import Trainer
from trainers.errors import Changed, Refused, TrainerError
from trainers.money import usd_micros
from trainers.types import Job, JobSpec

NO_ROOM_S = 60.0
FEW_JOBS = 3  # so few jobs at one provider are asked for by themselves
MANY_JOBS = 300
LIST_PAGES = 10  # of a hundred each
CLOCKS_DIFFER_S = 3600.0
RUNS_A_WRITE = 50  # so that the write lock is never held for long
SECONDS_A_CARD = 2.0  # thirty edits a minute for all cards of runs that train

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunJob:
    """The job of a run, as provider_jobs.py needs it."""

    context: AppContext
    run: Run
    trainer: Trainer

    @property
    def plan(self) -> Plan:
        return plan_from_json(self.run.plan)

    @property
    def attempt(self) -> Attempt:
        run = self.run
        waited_s = self.context.waits.since(run.state_since)
        return Attempt(run.key, run.state == "creating", waited_s, run.tries)

    @property
    def files(self) -> JobFiles:
        validation_split = self.plan.validation_split
        if validation_split is None:
            return JobFiles(self.plan.train_sha256)
        return JobFiles(validation_split.fitted_sha256, validation_split.validation_sha256)

    def is_agreed(self) -> bool:
        """Returns whether the approvals still cover it. If not, the run waits for approval again, after a check that an
        uncertain create left no job."""
        context, run = self.context, self.run
        lost = approvals.revalidate(context, run)
        if lost is None:
            return True
        if run.state == "creating" and not provider_jobs.is_surely_absent(self):
            return False
        self.delete_uploads()  # no file stays where it may end here
        match lost:
            case approvals.LapsedApprovals():
                approvals.void_approvals(context, run, lost)
            case data_policy.Forbidden(reason):
                end(context, run, "cancelled", reason)
            case data_policy.Unsure(reason):
                wait(context, run, HOLD_S, note=reason)
        return False

    def intend(self, ready: UploadedFiles) -> RunJob | None:
        """Records the intent. The money counts in the month of the create. Sending the file took time, so people may
        have cancelled or frozen since, and the month may have changed."""
        context, run, now = self.context, self.run, self.context.clock()
        latest = context.store.runs.get(run.id)
        if latest is None or latest.cancel_asked_by or freeze_scope.run_freeze(context, run):
            return None
        if budgets.refusal_in_a_new_month(context, run):
            return None
        context.waits.since(now)
        context.store.runs.reserve_in(run, units.month_of(now))
        changes = {"tries": run.tries + 1, "state_since": now, "next_at": now, "file_id": ready.file_id}
        intent = context.store.runs.move(run, "creating", now=now, **changes)
        return replace(self, run=intent) if intent else None

    def spec(self, ready: UploadedFiles) -> JobSpec:
        return job_spec(self.run, self.plan, ready)

    def record_start(self, job: Job) -> None:
        context, now = self.context, self.context.clock()
        with context.store.transaction():
            moved = context.store.runs.move(
                self.run,
                "training",
                now=now,
                job_id=job.id,
                progress=Progress(vendor=Progress.from_json(self.run.progress).vendor).to_json(),
            )
            if moved:
                subject, detail = f"run {moved.id}", f"job {job.id}"
                context.audit("finetune", "started", subject, detail)
                notifications.show_progress(context, moved)

    def wait(self, seconds: float, note: str | None = None) -> None:
        wait(self.context, self.run, seconds, note=note)

    def record_refusal(self, refused: Refused | Changed) -> None:
        """Fails the run, and deletes a file that was sent in vain."""
        context, run, file = self.context, self.run, self.delete_uploads()
        if isinstance(refused, Refused) and refused.is_closed_to_us:
            title = escape(context.settings.title_of(run.provider))
            closed = f"{title} has closed fine-tuning to your organisation."
            way_out = "Choose a target that starts with `local/`, or open weights like `crusoe/llama-3.1-8b`."
            end(context, run, "failed", f"{closed}{file} {way_out}")
            return
        end(context, run, "failed", f"{escape(str(refused))}{file} Nothing was started, nothing is owed.")

    def report_doubt(self, why: str) -> None:
        hand_to_people(self.context, self.run, escape(why))

    def delete_uploads(self) -> str:
        """Returns what became of its files there, as a sentence after a space."""
        owner = f"run {self.run.id}"
        return provider_jobs.delete_uploads(self.context, self.trainer, self.files.hashes, owner)


def create(context: AppContext, run: Run) -> None:
    """Takes one step of an approved or creating run."""
    trainer, plan = context.trainers.get(run.provider), plan_from_json(run.plan)
    if trainer is None:
        if run.state == "creating":  # a job may be there
            wait_for_key(context, run)
        else:
            end(context, run, "failed", f"There is no key for {run.provider} any more; nothing was started.")
        return
    if plan_hash(plan) != run.plan_hash:
        hand_to_people(context, run, "The plan was changed after it was approved, so it is not carried out.")
        return
    if other := plans.destination_change(context, plan):
        _stop_changed_plan(context, run, other)
        return
    job = RunJob(context, run, trainer)
    if freeze_scope.run_freeze(context, run):
        provider_jobs.look_without_creating(job, HOLD_S)
        return
    if not job.is_agreed():
        return
    if run.state == "approved" and _stop_if_price_rose(context, run, plan, job):
        return
    if too_dear := budgets.refusal_in_a_new_month(context, run):
        provider_jobs.look_without_creating(
            job, NO_ROOM_S, f"{too_dear} It starts by itself once there is room."
        )
        return
    provider_jobs.create(job)


def _stop_if_price_rose(context: AppContext, run: Run, plan: Plan, job: RunJob) -> bool:
    """Returns True if nothing is started now: a rented machine costs more than was approved, or nobody says what."""
    try:
        dearer = plans.price_rise(plan)
    except TrainerError as trouble:
        provider_jobs.look_without_creating(job, HOLD_S, str(trouble))
        return True
    if dearer:
        _stop_changed_plan(context, run, dearer)
    return dearer is not None


def follow(context: AppContext, run: Run) -> None:
    """Looks once at a job that trains."""
    trainer = context.trainers.get(run.provider)
    if trainer is None:
        wait_for_key(context, run)
        return
    if run.wish == "resume" and context.store.freezes.current():
        run = replace(run, wish=None)  # the wish stays in the store until it may come true
    before, now = Progress.from_json(run.progress), context.clock()
    is_shown = now - before.shown_at >= card_interval(context)
    looked = provider_jobs.follow(
        RunJob(context, run, trainer),
        str(run.job_id),
        before,
        "cancel" if run.cancel_asked_by or overrun_text(run) else run.wish,
        is_shown=is_shown,
    )
    if looked:
        _take_status(context, run, *looked, is_shown)


def card_interval(context: AppContext) -> float:
    """Returns the seconds between two edits of a run's card for its numbers alone: Slack takes about 50 edits a minute
    in all."""
    return max(POLL_S, SECONDS_A_CARD * context.store.runs.training())


def overrun_text(run: Run) -> str | None:
    """Returns a sentence if training has cost more than was approved. A sweep that the trainer limits stops itself."""
    plan = plan_from_json(run.plan)
    spent = notifications.training_cost(plan, Progress.from_json(run.progress))
    if spent <= plan.maximum_micros or "max_usd" in trainer_limits(plan):
        return None
    most, cost = usd_micros(plan.maximum_micros), usd_micros(spent)
    cost = "a little more" if cost == most else cost
    return f"Stopped because of its cost: the plan allows {most} at most, and the training had cost {cost}."


def cancel_before_training(context: AppContext, run: Run) -> None:
    """Cancels a run without a job. After an uncertain create the job is looked for first; `follow` then cancels it."""
    trainer = context.trainers.get(run.provider)
    if run.state == "creating":
        if trainer is None:
            wait_for_key(context, run)
            return
        if not provider_jobs.is_surely_absent(RunJob(context, run, trainer)):
            return
    file = RunJob(context, run, trainer).delete_uploads() if trainer else ""
    why = f"Cancelled by <@{run.cancel_asked_by}>; nothing was started, nothing is owed.{file}"
    end(context, run, "cancelled", why)


def _stop_changed_plan(context: AppContext, run: Run, why: str) -> None:
    """Ends a run that would train elsewhere than was approved, or another model. An uncertain create can't be looked
    for from here."""
    if run.state == "creating":
        hand_to_people(context, run, f"{why} A job may have been created before that; please check at the trainer.")
        return
    end(context, run, "cancelled", f"{why} So its approval is void, and nothing was started.")


def _take_status(context: AppContext, run: Run, job: Job, progress: Progress, is_shown: bool) -> None:
    if job.is_final:
        provider_jobs.delete_after_job(context, context.trainers[run.provider], run)
    match job.status:
        case "succeeded" if job.fine_tuned_model:
            _record_model(context, run, job, progress)
        case "failed":
            reason = escape(job.error_message or "the trainer gave no reason")
            spent = notifications.training_cost(plan_from_json(run.plan), progress)
            end(context, run, "failed", f"Training failed: {reason}", actual_micros=spent)
        case "succeeded" if why := _unnamed_model_text(context, run, progress):
            spent = notifications.training_cost(plan_from_json(run.plan), progress)
            end(context, run, "failed", why, actual_micros=spent)
        case "cancelled":
            plan, before = plan_from_json(run.plan), Progress.from_json(run.progress)
            # At least what was reported before: the trainer's clock may be behind ours.
            reported = max(notifications.training_cost(plan, each) for each in (progress, before))
            was_running = before.running_since is not None
            spent = max(reported, notifications.cancelled_cost(plan, progress)) if was_running else reported
            by = f"Cancelled by <@{run.cancel_asked_by}>." if run.cancel_asked_by else None
            why = by or overrun_text(run) or "Cancelled on the trainer's side."
            if spent > reported:
                title = escape(context.settings.title_of(run.provider))
                why = f"{why} {title} doesn't say what it bills for it: {usd_micros(spent)} is our count."
            end(context, run, "cancelled", why, actual_micros=spent)
        case _:
            _store_progress(context, run, progress, is_shown)


def _unnamed_model_text(context: AppContext, run: Run, progress: Progress) -> str | None:
    """Returns why no name is to come for a model that is trained; None while it may be registered still."""
    row, now = context.settings.provider(run.provider), context.clock()
    name = escape(context.settings.title_of(run.provider))
    if row and row.serving in ("download", "on_request"):
        on_request = " or ask them to serve it" if row.serving == "on_request" else ""
        return (
            f"It is trained, but {name} gives it no name to ask it by, so it could not be measured. Its weights lie "
            f"there, as result files of its last checkpoint: download them and serve them yourselves{on_request}."
        )
    if now - (progress.succeeded_at or now) < provider_jobs.REGISTERED_S:
        return None
    return (
        f"It is trained, but {name} gave it no name within {provider_jobs.REGISTERED_S / 60:.0f} minutes, so it could "
        f"not be measured. What the training cost is booked. Ask {name} about job {escape(str(run.job_id))}."
    )


def _store_progress(context: AppContext, run: Run, progress: Progress, is_shown: bool) -> None:
    """Stores and shows the progress if somebody has to see it or its card is due; otherwise only the next look is
    set."""
    now, before = context.clock(), Progress.from_json(run.progress)
    progress = replace(progress, shown_at=now)
    too_dear = overrun_text(replace(run, progress=progress.to_json()))
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
        if moved and too_dear and not overrun_text(run):  # the next look cancels its job
            context.audit("finetune", "over maximum", f"run {run.id}", too_dear)
        if moved:
            notifications.show_progress(context, moved)


def _record_model(context: AppContext, run: Run, job: Job, progress: Progress) -> None:
    """Gives the model its name; whether it is better is measured next."""
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
            context.audit("finetune", "trained", f"run {run.id}")
            notifications.show_progress(context, moved)


def runs_to_poll(context: AppContext, runs: Sequence[Run]) -> Sequence[Run]:
    """Returns those of these runs, which train at one provider, that need a look of their own now; the others are put
    off.

    A page of the provider's list shows for a hundred jobs which have ended or moved, cost too much, or are to be shown
    again: so a thousand open jobs are seen at least every 20 s and cost a dozen calls a tick.
    """
    trainer = context.trainers.get(runs[0].provider) if runs else None
    if trainer is None or len(runs) <= FEW_JOBS:
        return runs
    oldest = min(run.state_since for run in runs) - CLOCKS_DIFFER_S
    try:
        listed = trainer.newest_jobs({str(run.job_id) for run in runs}, oldest, LIST_PAGES)
    except Refused:
        return runs[:FEW_JOBS]  # a look of its own says what is refused
    except TrainerError as trouble:  # the jobs themselves may answer: so each has its turn
        note = f"{trouble} The job itself goes on. Trying again."
        for part in _batches(runs[FEW_JOBS:], RUNS_A_WRITE):
            with context.store.transaction():
                for run in part:
                    wait(context, run, provider_jobs.MAX_PAUSE_S / 8, note=note)
        return runs[:FEW_JOBS]
    every, now = card_interval(context), context.clock()
    looks = [run for run in runs if _needs_poll(run, listed.get(str(run.job_id)), every, now)]
    alone = {run.id for run in looks}
    when = {run.id: provider_jobs.next_look(now, run.state_since) for run in runs if run.id not in alone}
    for next_at in sorted(set(when.values())):
        context.store.runs.put_off([number for number, at in when.items() if at == next_at], next_at)
    at_once, a_second = (
        (1, FEW_JOBS) if len(runs) <= MANY_JOBS else (0, 1)
    )  # the list of many took a tick's calls
    for number, later in enumerate(_batches(looks[at_once:], a_second), start=2):
        context.store.runs.put_off([run.id for run in later], now + number)
    return looks[:at_once]


def _needs_poll(run: Run, job: Job | None, card_interval: float, now: float) -> bool:
    before = Progress.from_json(run.progress)
    if job is None or job.is_final or job.status != before.status or now - before.shown_at >= card_interval:
        return True
    seen = before.with_job(job, (), None, now)
    return overrun_text(replace(run, progress=seen.to_json())) is not None


def _batches(runs: Sequence[Run], size: int) -> Iterator[Sequence[Run]]:
    for start in range(0, len(runs), size):
        yield runs[start : start + size]
