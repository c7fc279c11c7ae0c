"""Creates exactly one job per key at a trainer, with its files, and follows and cancels it. The job belongs to a run or
to one size of a learning curve.

If the answer to a create was lost, a job may exist and cost money. So the job is first looked for by its key; if there
is none, a second create waits until the trainer's list has had time to show the first. The owner stores the outcome,
and the intent, which is committed between the look and the create.

A file is named by its sha256, so that it is not uploaded twice and can be found and deleted once its job is over. Each
upload is recorded before it starts, so that a kill at any moment leaves no file behind.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Protocol, Self

from bot.context import AppContext, CoreContext
from bot.rules import budgets
from bot.rules.plans import Plan, plan_from_json
from bot.values.runs import Progress
from storage.records import Run, RunState
from trainers.client.client import Trainer
from trainers.errors import FileChanged, InvalidResponse, Refused, TrainerError, Uncertain
from trainers.methods import HOSTED_BASE, HOSTED_STATE
from trainers.money import from_micros
from trainers.providers.pricing import PriceList
from trainers.types import QUEUED_STATUSES, Event, Hyperparameter, Job, JobSpec

LEAST_SWEEP_USD = Decimal("0.0001")  # the smallest limit or price that our trainer accepts
SETTLE_S = 12 * 60.0
LOOK_AGAIN_S = 10.0
POLL_S = 2.0
INTERVALS = ((60.0, POLL_S), (600.0, 4.0), (3600.0, 10.0))  # (age up to, seconds between polls)
SLOWEST_POLL_S = 20.0
MAX_CREATES = 5
MAX_PAUSE_S = 120.0
NEWEST_EVENTS = 100  # as many as one page has; a warning at the start is followed by an event for each second
WARNING_LEVELS = ("warn", "warning")
# After a longer gap between polls, the trainer's events are read.
UNSEEN_START_S = 30.0
UNSEEN_S = 600.0
EVENT_PAGES = 10
REGISTERED_S = 15 * 60.0  # some vendors name the model only minutes after the job has succeeded
BEFORE_THE_JOB_ENDS: tuple[RunState, ...] = ("approved", "creating", "training", "needs_human")

Wish = Literal["cancel", "pause", "resume"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """The state of creating a job: whether a create was sent, `waited_s` seconds ago, and how many `tries` there
    were."""

    key: str
    is_sent: bool
    waited_s: float
    tries: int


@dataclass(frozen=True)
class JobFiles:
    """The sha256 of the training file and of the validation file, if there is one."""

    training: str
    validation: str | None = None

    @property
    def hashes(self) -> set[str]:
        if self.validation is None:
            return {self.training}
        return {self.training, self.validation}


@dataclass(frozen=True)
class UploadedFiles:
    """The trainer's ids of the uploaded training file and validation file."""

    file_id: str
    validation_id: str | None = None


class JobOwner(Protocol):
    """The owner of a job: a run or one size of a curve. Each method stores what it reports."""

    @property
    def context(self) -> AppContext: ...

    @property
    def trainer(self) -> Trainer: ...

    @property
    def attempt(self) -> Attempt: ...

    @property
    def files(self) -> JobFiles: ...

    def is_agreed(self) -> bool:
        """True if people's agreement still counts. If not, the owner has been ended or put off."""
        ...

    def intend(self, ready: UploadedFiles) -> Self | None:
        """Records that a job may exist from now on. Returns None if a cancel or a freeze came first. Called in a
        transaction."""
        ...

    def spec(self, ready: UploadedFiles) -> JobSpec: ...

    def record_start(self, job: Job) -> None: ...

    def wait(self, seconds: float, note: str | None = None) -> None:
        """Takes the next step in this many seconds; `note` is a sentence about a problem."""
        ...

    def record_refusal(self, refused: Refused | FileChanged) -> None:
        """Handles that certainly nothing was created. FileChanged: the file is not the approved one."""
        ...

    def report_doubt(self, why: str) -> None:
        """Handles that a job may exist, but can't be seen now. `why` is a sentence, unescaped."""
        ...

    def report_warnings(self, warnings: Sequence[str]) -> None:
        """Tells people what the trainer warns about, each text once. Called with the same texts again and again."""
        ...


@dataclass(frozen=True)
class RetryLater:
    """Try again after this many seconds. `note` is a sentence about a problem."""

    seconds: float
    note: str | None = None


def create(owner: JobOwner) -> None:
    """Takes one step: looks for the job and, if there is certainly none, uploads its files and creates it."""
    trainer = owner.trainer
    attempt = owner.attempt
    # A create is safe if the trainer honours our key, or if an earlier create would be listed by now.
    is_settled = not attempt.is_sent or attempt.waited_s >= SETTLE_S
    may_create = is_settled or trainer.provider.can("idempotency")
    ready = None
    record_uploads(owner.context, trainer.provider.name, owner.files.hashes)
    try:
        job = _find_job(trainer, attempt.key)
        if job is None and may_create and attempt.tries < MAX_CREATES:
            ready = _upload(owner)
    except (Refused, FileChanged) as refused:
        if attempt.is_sent:  # the trainer refused the look, but may have accepted the create before it
            owner.report_doubt(f"{refused} A job may have been created; please check at the trainer.")
        else:
            owner.record_refusal(refused)
        return
    except TrainerError as trouble:
        owner.wait(_pause(attempt, trouble), str(trouble))
        return
    if job:
        owner.record_start(job)
    elif ready:
        _send(owner, ready)
    elif not may_create:
        owner.wait(LOOK_AGAIN_S)
    else:
        owner.report_doubt(
            f"The trainer was asked {attempt.tries} times to create the job and gave no clear answer."
        )


def _upload(owner: JobOwner) -> UploadedFiles:
    folder = owner.context.settings.files
    training = owner.files.training
    validation = owner.files.validation
    file_id = owner.trainer.upload(folder / f"{training}.jsonl", training, owner.attempt.key)
    if validation is None:
        return UploadedFiles(file_id)
    validation_id = owner.trainer.upload(folder / f"{validation}.jsonl", validation)
    return UploadedFiles(file_id, validation_id)


def look_without_creating(owner: JobOwner, seconds: float, note: str | None = None) -> None:
    """Creates nothing now, but still looks for a job whose create may have succeeded."""
    job = _look_for_lost_job(owner)
    if isinstance(job, Job):
        owner.record_start(job)
    else:
        owner.wait(seconds, note)


def is_surely_absent(owner: JobOwner) -> bool:
    """True if an uncertain create certainly left no job. If there is a job, the owner takes it over; if there might be
    one, the owner waits."""
    match _look_for_lost_job(owner):
        case Job() as job:
            owner.record_start(job)
        case RetryLater(seconds, note):
            owner.wait(seconds, note)
        case None:
            return True
    return False


def follow(
    owner: JobOwner, job_id: str, progress: Progress, wish: Wish | None, *, is_shown: bool = True
) -> tuple[Job, Progress] | None:
    """Carries out `wish` and returns the job with its progress, None if the trainer could not be asked (the owner has
    stored why).

    The newest events take another call, so they are read only if the card is going to be updated (`is_shown`), if the
    status changed, or if the job has ended.
    """
    trainer = owner.trainer
    now = owner.context.clock()
    try:
        job = trainer.job(job_id)
        if wish is not None and not job.is_final:
            job = _carry_out(trainer, job, wish)
        is_at_work = job.status in ("running", "paused")
        has_news = is_shown or job.status != progress.status
        if not job.is_final and not (is_at_work and has_news):
            return job, _updated_progress(progress, job, (), now)
        busy = _unseen_seconds(trainer, job, progress, now)
        events = _newest_events(trainer, job)
        # The newest event comes first; people should read them in the order in which they happened.
        oldest_first = reversed(events)
        warnings = [event.message for event in oldest_first if event.level in WARNING_LEVELS]
        owner.report_warnings(warnings)
        return job, _updated_progress(progress, job, events, now, busy)
    except Refused as refused:
        owner.report_doubt(f"{refused} The job may still cost money; please check at the trainer.")
    except TrainerError as trouble:
        owner.wait(MAX_PAUSE_S / 8, f"{trouble} The job itself goes on. Trying again.")
    return None


def _newest_events(trainer: Trainer, job: Job) -> tuple[Event, ...]:
    """Returns nothing if the events can't be read: the job's own state is known, which is enough to go on."""
    try:
        return trainer.events(job.id, NEWEST_EVENTS)
    except (Refused, InvalidResponse) as trouble:
        log.warning("%s", trouble)
        return ()


def next_look(now: float, since: float) -> float:
    """Returns when to poll again a job that began at `since`. All jobs of about that age are polled at the same
    moments, so that one list of jobs is enough for all."""
    every = next((every for age, every in INTERVALS if now - since < age), SLOWEST_POLL_S)
    return (now // every + 1) * every


def _send(owner: JobOwner, ready: UploadedFiles) -> None:
    """Sends the create once, after the intent is committed."""
    if not owner.is_agreed():  # uploading the files may have taken minutes
        return
    # A freeze or a cancel comes either before or after the intent.
    with owner.context.store.transaction():
        intent = owner.intend(ready)
    if intent is None:
        return
    try:
        job = owner.trainer.create(intent.spec(ready))
    except Refused as refused:
        intent.record_refusal(refused)
    except (Uncertain, InvalidResponse) as doubt:
        # A job may exist all the same, so the next step looks for it before it creates one.
        log.warning("%s: %s", owner.attempt.key, doubt)
        intent.wait(LOOK_AGAIN_S / 2, str(doubt))
    else:
        intent.record_start(job)


def _look_for_lost_job(owner: JobOwner) -> Job | RetryLater | None:
    """Returns the job of an uncertain create, None if there is certainly none."""
    attempt = owner.attempt
    try:
        job = _find_job(owner.trainer, attempt.key)
    except TrainerError as trouble:
        return RetryLater(_pause(attempt, trouble), str(trouble))
    if job is None and attempt.waited_s < SETTLE_S:  # it may not be listed yet
        return RetryLater(LOOK_AGAIN_S)
    return job


def _find_job(trainer: Trainer, key: str) -> Job | None:
    """Returns the oldest job with our key, and cancels all others, which would cost money twice."""
    jobs = trainer.find_jobs(key)
    for extra in jobs[1:]:
        if not extra.is_final:
            log.error("job %s is a second one with our key %s: cancelled", extra.id, key)
            try:
                trainer.cancel(extra.id)
            except Refused as refused:
                # It may have ended by itself since it was listed; the oldest one counts in any case.
                log.warning("job %s: %s", extra.id, refused)
    if not jobs:
        return None
    return jobs[0]


def _pause(attempt: Attempt, trouble: TrainerError) -> float:
    seconds = 2.0 ** min(attempt.tries + 1, 7)
    if isinstance(trouble, Uncertain) and trouble.retry_after:
        seconds = trouble.retry_after
    return min(seconds, MAX_PAUSE_S)


def _unseen_seconds(trainer: Trainer, job: Job, progress: Progress, now: float) -> float | None:
    """Returns how long a job has trained since the last poll, by the trainer's events. None if the last poll was recent
    enough to count the time ourselves.

    The events are needed if the bot was away for long, or if the job began and ended between two polls.
    """
    looked = progress.ran_until
    if looked is None or progress.running_since is None:
        if not job.is_final and now - (looked or job.created_at) < UNSEEN_START_S:
            return None
        events, are_all = trainer.events_since(job.id, job.created_at, EVENT_PAGES)
        return budgets.seconds_since_creation(job, events, are_all=are_all)
    if now - looked < UNSEEN_S or not (progress.is_paused or job.is_final):
        return None
    events, _ = trainer.events_since(job.id, looked, EVENT_PAGES)
    return budgets.seconds_since_poll(job, events, looked, now, was_paused=progress.is_paused)


def _carry_out(trainer: Trainer, job: Job, wish: Wish) -> Job:
    """Carries out the wish and returns the job. If the job has ended meanwhile, the trainer refuses and the wish is
    void."""
    try:
        match wish:
            case "cancel":
                return trainer.cancel(job.id)
            case "pause":
                return trainer.pause(job.id)
            case "resume":
                return trainer.resume(job.id)
    except Refused:
        now = trainer.job(job.id)
        if not now.is_final:
            raise
        return now


def _updated_progress(
    progress: Progress, job: Job, events: tuple[Event, ...], now: float, busy: float | None = None
) -> Progress:
    """Adds the trainer's report to the progress. `busy` is the result of `_unseen_seconds`."""
    note = None
    if not job.has_known_status:
        note = f"The trainer reports the unknown state “{job.status}”, which counts as running."
    elif job.status == "paused" and progress.is_paused and not events:
        note = progress.note
    elif job.status == "paused":
        reasons = (event.message for event in events if event.announces("paused"))
        why = next(reasons, "It was paused on the trainer.")
        note = f"{why} It continues from there once somebody resumes it."
    elif job.status == "succeeded" and job.fine_tuned_model is None:
        note = "Training is done. The trainer is registering the model, which may take a few minutes."
    elif job.status in QUEUED_STATUSES:
        note = "Waiting for a free place on the trainer."
    return progress.with_job(job, events, note, now, busy)


def job_spec(run: Run, plan: Plan, ready: UploadedFiles) -> JobSpec:
    metadata = {"run": str(run.id), "plan": run.plan_hash[:12]}
    rental = PriceList.from_json(plan.prices).rows[0].rental
    if rental:
        metadata |= rental.metadata
    if plan.destination and plan.destination.hosted_base:
        metadata[HOSTED_BASE] = plan.destination.hosted_base
        terms = plan.hosting.by_token if plan.hosting else None
        if terms is not None and not terms.is_uploaded:
            metadata[HOSTED_STATE] = "kept"
    return JobSpec(
        key=run.key,
        model=plan.model_id,
        training_file=ready.file_id,
        validation_file=ready.validation_id,
        hyperparameters=dict(plan.hyperparameters) | trainer_limits(plan),
        sweep=plan.swept.sweep if plan.swept else (),
        seed=plan.seed,
        suffix=plan.suffix,
        metadata=metadata,
        method=plan.method,
    )


def trainer_limits(plan: Plan) -> dict[str, Hyperparameter]:
    """Returns hyperparameters that make the trainer stop by itself: the patience of early stopping, or the approved
    maximum cost of a sweep."""
    if plan.stopping:
        return {"patience": plan.stopping.patience}
    most = from_micros(plan.maximum_micros)
    if plan.swept and plan.swept.usd_per_hour and most >= LEAST_SWEEP_USD:
        return {"max_usd": f"{most.normalize():f}", "usd_per_hour": plan.swept.usd_per_hour}
    return {}


def record_uploads(context: AppContext, provider: str, hashes: Collection[str]) -> None:
    """Records uploads. Call this before the files are sent."""
    context.store.uploads.intend(provider, hashes, now=context.clock())


def delete_uploads(context: CoreContext, trainer: Trainer, hashes: set[str], owner: str) -> str:
    """Deletes those of the files that were uploaded and that no other run or curve needs. Returns a sentence about the
    outcome, with a space before it, or ''. `owner` is 'run 3' or 'm3'."""
    sent = hashes & context.store.uploads.at(trainer.provider.name)
    deleted = _delete_unneeded(context, trainer, sent, owner)
    if deleted is None:
        return " The uploaded file could not be deleted there yet; the bot will try again."
    if not deleted:
        return ""
    return " The uploaded file was deleted."


def try_to_delete_uploads(context: CoreContext, trainer: Trainer, hashes: set[str], owner: str) -> bool:
    """Deletes those of the files that were sent to the trainer and that no unfinished job needs. Returns False if the
    trainer could not be asked, so that some may still be there."""
    sent = hashes & context.store.uploads.at(trainer.provider.name)
    deleted = _delete_unneeded(context, trainer, sent, owner)
    return deleted is not None


def delete_after_job(context: AppContext, trainer: Trainer, run: Run) -> None:
    """Deletes the job's training and validation files. If that fails, `delete_unneeded_uploads` tries again."""
    _delete_unneeded(context, trainer, uploads_of_run(run), f"run {run.id}")


def delete_unneeded_uploads(context: AppContext) -> None:
    """Deletes uploads that nothing needs any more, such as those left by a kill or while a trainer was away. Called
    every few minutes."""
    for name, trainer in context.trainers.items():
        _delete_unneeded(context, trainer, context.store.uploads.at(name), "tidying up")


def uploads_of_run(run: Run) -> set[str]:
    """Returns the sha256 of the files that the run's job reads."""
    plan = plan_from_json(run.plan)
    split = plan.validation_split
    if split is None:
        return {plan.train_sha256}
    return {split.fitted_sha256, split.validation_sha256}


def _delete_unneeded(context: CoreContext, trainer: Trainer, hashes: set[str], owner: str) -> int | None:
    """Returns how many files were deleted, None if the trainer could not be asked."""
    needed: set[str] = set()  # files that an unfinished job may still read
    unfinished = context.store.runs.in_states(BEFORE_THE_JOB_ENDS)
    for name in context.settings.beside(trainer.provider.name):
        for run in unfinished:
            if run.provider == name and f"run {run.id}" != owner:
                needed |= uploads_of_run(run)
    now = context.clock()
    unneeded = hashes - needed
    if not unneeded:
        return 0
    try:
        deleted = trainer.delete_uploads(unneeded)
    except TrainerError as trouble:
        log.warning("%s: uploaded files stay for now: %s", owner, trouble)
        return None
    context.store.uploads.confirm_deleted(trainer.provider.name, unneeded, now=now)
    if deleted:
        log.info("%s: %s uploaded files were deleted", owner, deleted)
    return deleted
