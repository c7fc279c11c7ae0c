"""Takes a run from its approved plan to a trained model: looks for the job, records the intent, creates the job once
and follows it. If there are many jobs at a provider, one list shows which of them have to be polled."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bot.cards.common.blocks import escape
from bot.context import AppContext
from bot.rules import units
from bot.rules.plans import Plan, plan_from_json, plan_hash
from bot.services.common import budgets, freeze_scope, provider_jobs
from bot.services.common.freeze_scope import HOLD_S
from bot.services.common.provider_jobs import (
    POLL_S,
    Attempt,
    JobFiles,
    UploadedFiles,
    job_spec,
    trainer_limits,
)
from bot.services.datasets import data_policy
from bot.services.decisions import approvals, plans
from bot.services.evidence import notifications
from bot.services.evidence.run_states import due_unless_wished, end, hand_to_people, wait, wait_for_key
from bot.values.runs import Progress
from storage.records import Model, Run
from trainers.client.client import Trainer
from trainers.errors import FileChanged, Refused, TrainerError
from trainers.money import usd_micros
from trainers.types import Job, JobSpec

NO_ROOM_S = 60.0
FEW_JOBS = 3  # up to this many jobs at one provider are polled one by one
MANY_JOBS = 300
LIST_PAGES = 10  # of a hundred jobs each
CLOCKS_DIFFER_S = 3600.0
RUNS_A_WRITE = 50  # so that the write lock is never held for long
SECONDS_A_CARD = 2.0  # so that the cards of all training runs get thirty edits a minute together

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunJob:
    """A run as the owner of its job (see JobOwner)."""

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
        """True if the approvals still cover the run. If not, the run waits for approval again or ends, after checking
        that an uncertain create left no job."""
        context = self.context
        run = self.run
        lost = approvals.revalidate(context, run)
        if lost is None:
            return True
        if run.state == "creating" and not provider_jobs.is_surely_absent(self):
            return False
        self.delete_uploads()  # the run may end here, and no file must be left behind
        match lost:
            case approvals.LapsedApprovals():
                approvals.void_approvals(context, run, lost)
            case data_policy.Forbidden(reason):
                end(context, run, "cancelled", reason)
            case data_policy.Unsure(reason):
                wait(context, run, HOLD_S, note=reason)
        return False

    def intend(self, ready: UploadedFiles) -> RunJob | None:
        """Records the intent, and moves the reservation to the month of the create. Uploading the file took time, so
        the run may have been cancelled or frozen since, and the month may have changed."""
        context = self.context
        run = self.run
        now = context.clock()
        latest = context.store.runs.get(run.id)
        if latest is None or latest.cancel_asked_by or freeze_scope.run_freeze(context, run):
            return None
        if budgets.refusal_in_a_new_month(context, run):
            return None
        context.waits.begin(now)  # the wait for a lagging list
        context.store.runs.move_reservation(run, units.month_of(now))
        changes = {"tries": run.tries + 1, "state_since": now, "next_at": now, "file_id": ready.file_id}
        intent = context.store.runs.move(run, "creating", now=now, **changes)
        if intent is None:
            return None
        return replace(self, run=intent)

    def spec(self, ready: UploadedFiles) -> JobSpec:
        return job_spec(self.run, self.plan, ready)

    def record_start(self, job: Job) -> None:
        context = self.context
        # Notes about the create are dropped. What the vendor quoted stays: it is part of what the run costs.
        before = Progress.from_json(self.run.progress)
        progress = Progress(vendor=before.vendor)
        changes = {"job_id": job.id, "progress": progress.to_json()}
        with context.store.transaction():
            moved = context.store.runs.move(self.run, "training", now=context.clock(), **changes)
            if moved:
                context.audit("finetune", "started", f"run {moved.id}", f"job {job.id}")
                notifications.show_progress(context, moved)

    def wait(self, seconds: float, note: str | None = None) -> None:
        wait(self.context, self.run, seconds, note=note)

    def record_refusal(self, refused: Refused | FileChanged) -> None:
        """Fails the run, and deletes files that were uploaded for it."""
        context = self.context
        run = self.run
        file = self.delete_uploads()
        if isinstance(refused, Refused) and refused.is_training_unavailable:
            title = escape(context.settings.title_of(run.provider))
            closed = f"{title} has closed fine-tuning to your organisation."
            way_out = "Choose a target that starts with `local/`, or open weights like `crusoe/llama-3.1-8b`."
            end(context, run, "failed", f"{closed}{file} {way_out}")
            return
        reason = escape(str(refused))
        end(context, run, "failed", f"{reason}{file} Nothing was started and nothing is owed.")

    def report_doubt(self, why: str) -> None:
        hand_to_people(self.context, self.run, escape(why))

    def report_warnings(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            notifications.post_warning(self.context, self.run, warning)

    def delete_uploads(self) -> str:
        """Deletes the run's files at the trainer. Returns a sentence about the outcome, with a space before it."""
        owner = f"run {self.run.id}"
        return provider_jobs.delete_uploads(self.context, self.trainer, self.files.hashes, owner)


def create(context: AppContext, run: Run) -> None:
    """Takes one step of an approved or creating run."""
    trainer = context.trainers.get(run.provider)
    plan = plan_from_json(run.plan)
    if trainer is None:
        if run.state == "creating":  # a job may exist
            wait_for_key(context, run)
        else:
            end(context, run, "failed", f"There is no key for {run.provider} any more; nothing was started.")
        return
    # Approvals are bound to the hash. A plan that doesn't have it was changed in the database by hand.
    if plan_hash(plan) != run.plan_hash:
        hand_to_people(context, run, "The plan was changed after it was approved, so it is not carried out.")
        return
    other = plans.destination_change(context, plan)
    if other:
        _stop_changed_plan(context, run, other)
        return
    job = RunJob(context, run, trainer)
    if freeze_scope.run_freeze(context, run):
        provider_jobs.look_without_creating(job, HOLD_S)
        return
    if not job.is_agreed():
        return
    # Once a create was sent, its price is what was agreed, and the job has to be found whatever it costs by now.
    if run.state == "approved" and _stop_if_price_rose(context, run, plan, job):
        return
    too_dear = budgets.refusal_in_a_new_month(context, run)
    if too_dear:
        note = f"{too_dear} It starts automatically once the budget allows it."
        provider_jobs.look_without_creating(job, NO_ROOM_S, note)
        return
    provider_jobs.create(job)


def _stop_if_price_rose(context: AppContext, run: Run, plan: Plan, job: RunJob) -> bool:
    """Returns True if nothing can be started now, because training costs more than was approved, or because the price
    of a rented machine is unknown."""
    try:
        dearer = plans.price_rise(context, plan)
    except TrainerError as trouble:
        provider_jobs.look_without_creating(job, HOLD_S, str(trouble))
        return True
    if dearer:
        _stop_changed_plan(context, run, dearer)
    return dearer is not None


def follow(context: AppContext, run: Run) -> None:
    """Polls the job of a training run once."""
    trainer = context.trainers.get(run.provider)
    if trainer is None:
        wait_for_key(context, run)
        return
    if run.wish == "resume" and context.store.freezes.current():
        run = replace(run, wish=None)  # the store keeps the wish until the freeze is lifted
    before = Progress.from_json(run.progress)
    is_shown = context.clock() - before.shown_at >= card_interval(context)
    wish: provider_jobs.Wish | None = run.wish
    if run.cancel_asked_by or overrun_text(run):
        wish = "cancel"
    owner = RunJob(context, run, trainer)
    looked = provider_jobs.follow(owner, str(run.job_id), before, wish, is_shown=is_shown)
    if looked:
        job, progress = looked
        _take_status(context, run, job, progress, is_shown)


def card_interval(context: AppContext) -> float:
    """Returns the seconds between two edits of a run's card if only its numbers change: Slack allows about 50 edits a
    minute in total."""
    n_training = context.store.runs.count_training()
    return max(POLL_S, SECONDS_A_CARD * n_training)


def overrun_text(run: Run) -> str | None:
    """Returns a sentence if training has cost more than was approved, None if not. A sweep that the trainer limits
    stops by itself."""
    plan = plan_from_json(run.plan)
    progress = Progress.from_json(run.progress)
    spent = notifications.training_cost(plan, progress)
    if spent <= plan.maximum_micros or "max_usd" in trainer_limits(plan):
        return None
    most = usd_micros(plan.maximum_micros)
    cost = usd_micros(spent)
    if cost == most:  # both are rounded to cents
        cost = "a little more"
    return f"Stopped because of its cost: the plan allows at most {most}, and the training had cost {cost}."


def cancel_before_training(context: AppContext, run: Run) -> None:
    """Cancels a run that has no job yet. After an uncertain create the job is looked for first; if there is one,
    `follow` cancels it."""
    trainer = context.trainers.get(run.provider)
    if run.state == "creating":
        if trainer is None:
            wait_for_key(context, run)
            return
        if not provider_jobs.is_surely_absent(RunJob(context, run, trainer)):
            return
    file = ""
    if trainer:
        file = RunJob(context, run, trainer).delete_uploads()
    why = f"Cancelled by <@{run.cancel_asked_by}>; nothing was started and nothing is owed.{file}"
    end(context, run, "cancelled", why)


def _stop_changed_plan(context: AppContext, run: Run, why: str) -> None:
    """Ends a run because its destination or price has changed since the approval. If a create is uncertain, people have
    to decide, because the job can't be looked for at another destination."""
    if run.state == "creating":
        doubt = f"{why} A job may have been created before that; please check at the trainer."
        hand_to_people(context, run, doubt)
        return
    end(context, run, "cancelled", f"{why} So its approval is void and nothing was started.")


def _take_status(context: AppContext, run: Run, job: Job, progress: Progress, is_shown: bool) -> None:
    """Moves the run on if its job has ended, and otherwise stores the progress."""
    if job.is_final:
        provider_jobs.delete_after_job(context, context.trainers[run.provider], run)
    match job.status:
        case "succeeded" if job.fine_tuned_model:
            _record_model(context, run, job, progress)
        case "failed":
            reason = escape(job.error_message or "the trainer gave no reason")
            plan = plan_from_json(run.plan)
            spent = notifications.training_cost(plan, progress)
            end(context, run, "failed", f"Training failed: {reason}", actual_micros=spent)
        case "succeeded" if why := _unnamed_model_text(context, run, progress):
            plan = plan_from_json(run.plan)
            spent = notifications.training_cost(plan, progress)
            end(context, run, "failed", why, actual_micros=spent)
        case "cancelled":
            _end_cancelled(context, run, job, progress)
        case _:
            _store_progress(context, run, progress, is_shown)


def _end_cancelled(context: AppContext, run: Run, job: Job, progress: Progress) -> None:
    """Ends a run whose job was cancelled, and books what the training cost until then."""
    plan = plan_from_json(run.plan)
    before = Progress.from_json(run.progress)
    # At least the cost reported before, because the trainer's clock may be behind ours.
    reported = max(
        notifications.training_cost(plan, before),
        notifications.training_cost(plan, progress),
    )
    # A job that nobody watched for long may have trained all that time.
    unseen_s = context.clock() - (before.ran_until or job.created_at)
    was_running = before.running_since is not None or unseen_s > provider_jobs.UNSEEN_S
    spent = reported
    if was_running:
        spent = max(reported, notifications.cancelled_cost(plan, progress))
    if run.cancel_asked_by:
        why = f"Cancelled by <@{run.cancel_asked_by}>."
    else:
        why = overrun_text(run) or "Cancelled on the trainer's side."
    if spent > reported:
        title = escape(context.settings.title_of(run.provider))
        why = f"{why} {title} doesn't report what it bills; we count {usd_micros(spent)}."
    end(context, run, "cancelled", why, actual_micros=spent)


def _unnamed_model_text(context: AppContext, run: Run, progress: Progress) -> str | None:
    """Returns why a trained model will get no name; None while the vendor may still register it."""
    row = context.settings.provider(run.provider)
    name = escape(context.settings.title_of(run.provider))
    if row and row.serving in ("download", "on_request"):
        on_request = ""
        if row.serving == "on_request":
            on_request = " or ask them to serve it"
        return (
            f"The model was trained, but {name} doesn't serve it, so it could not be measured. Its weights are there "
            f"as result files of the last checkpoint: download them and serve them yourselves{on_request}."
        )
    now = context.clock()
    waited_s = now - (progress.succeeded_at or now)
    if waited_s < provider_jobs.REGISTERED_S:
        return None
    minutes = f"{provider_jobs.REGISTERED_S / 60:.0f} minutes"
    job = escape(str(run.job_id))
    return (
        f"The model was trained, but {name} gave it no name within {minutes}, so it could not be measured. The cost of "
        f"the training is booked. Ask {name} about job {job}."
    )


def _store_progress(context: AppContext, run: Run, progress: Progress, is_shown: bool) -> None:
    """Stores and shows the progress if it is urgent or the card is due; otherwise only schedules the next poll."""
    now = context.clock()
    before = Progress.from_json(run.progress)
    progress = replace(progress, shown_at=now)
    too_dear = overrun_text(replace(run, progress=progress.to_json()))
    is_urgent = bool(too_dear or run.cancel_asked_by or run.wish)
    is_news = (progress.status, progress.note) != (before.status, before.note)
    next_look = provider_jobs.next_look(now, run.state_since)
    if not (is_shown or is_urgent or is_news):
        next_at = due_unless_wished(context, run, next_look)
        context.store.runs.move(run, "training", now=now, next_at=next_at)
        return
    # The next poll carries out a wish, and cancels a job that costs too much.
    soon = now + POLL_S if is_urgent else next_look
    with context.store.transaction():
        if run.wish:
            context.store.runs.complete_wish(run, now=now)
        # Read in the transaction: a click that comes later moves the due time again, one before it is seen here.
        next_at = due_unless_wished(context, run, soon)
        changes = {"progress": progress.to_json(), "next_at": next_at}
        moved = context.store.runs.move(run, "training", now=now, **changes)
        if moved is None:
            return
        if too_dear and not overrun_text(run):  # the next poll cancels the job
            context.audit("finetune", "over maximum", f"run {run.id}", too_dear)
        notifications.show_progress(context, moved)


def _record_model(context: AppContext, run: Run, job: Job, progress: Progress) -> None:
    """Names and stores the model, and moves the run on to measuring it."""
    now = context.clock()
    plan = plan_from_json(run.plan)
    model = Model(
        name=f"{plan.dataset}-{run.id}",
        run_id=run.id,
        provider=run.provider,
        provider_model=str(job.fine_tuned_model),
        state="candidate",
        created_at=now,
    )
    changes = {"model": model.name, "progress": progress.to_json()}
    with context.store.transaction():
        moved = context.store.runs.move(run, "evaluating", now=now, **changes)
        if moved:
            context.store.add_model(model)
            context.audit("finetune", "trained", f"run {run.id}")
            notifications.show_progress(context, moved)


def runs_to_poll(context: AppContext, runs: Sequence[Run]) -> Sequence[Run]:
    """Returns the training runs that have to be polled now, and puts the others off. All are at one provider.

    A page of the provider's list shows for a hundred jobs which of them have ended, changed their status, cost too
    much, or have a card that is due. So a thousand jobs are checked at least every 20 seconds with a dozen calls per
    tick."""
    if len(runs) <= FEW_JOBS:
        return runs
    trainer = context.trainers.get(runs[0].provider)
    if trainer is None:
        return runs
    oldest = min(run.state_since for run in runs) - CLOCKS_DIFFER_S
    try:
        listed = trainer.newest_jobs({str(run.job_id) for run in runs}, oldest, LIST_PAGES)
    except Refused:
        return runs[:FEW_JOBS]  # polling them one by one shows what is refused
    except TrainerError as trouble:  # single jobs may still answer, so each gets its turn
        _wait_all(context, runs[FEW_JOBS:], f"{trouble} The job itself goes on. Trying again.")
        return runs[:FEW_JOBS]
    now = context.clock()
    every = card_interval(context)
    to_poll = []
    seen = defaultdict[float, list[int]](list)  # the runs that the list was enough for, by when to look again
    for run in runs:
        if _needs_poll(run, listed.get(str(run.job_id)), every, now):
            to_poll.append(run)
        else:
            seen[provider_jobs.next_look(now, run.state_since)].append(run.id)
    for next_at, numbers in sorted(seen.items()):
        context.store.runs.postpone(numbers, next_at)
    # With many jobs, the list alone has taken a tick's share of calls.
    if len(runs) <= MANY_JOBS:
        at_once = 1
        a_second = FEW_JOBS
    else:
        at_once = 0
        a_second = 1
    for seconds, later in enumerate(_batches(to_poll[at_once:], a_second), start=2):
        context.store.runs.postpone([run.id for run in later], now + seconds)
    return to_poll[:at_once]


def _wait_all(context: AppContext, runs: Sequence[Run], note: str) -> None:
    for part in _batches(runs, RUNS_A_WRITE):
        with context.store.transaction():
            for run in part:
                wait(context, run, provider_jobs.MAX_PAUSE_S / 8, note=note)


def _needs_poll(run: Run, job: Job | None, card_interval: float, now: float) -> bool:
    before = Progress.from_json(run.progress)
    if job is None or job.is_final or job.status != before.status:
        return True
    if now - before.shown_at >= card_interval:
        return True
    after = before.with_job(job, (), None, now)
    as_listed = replace(run, progress=after.to_json())
    return overrun_text(as_listed) is not None


def _batches(runs: Sequence[Run], size: int) -> Iterator[Sequence[Run]]:
    for start in range(0, len(runs), size):
        yield runs[start : start + size]
