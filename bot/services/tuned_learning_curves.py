"""One size of a tuned model's learning curve: its job is created once and followed, then its model answers the holdout.
The agreement to the cost is checked again before each of these.

waiting → creating → training → evaluating → done, each stored before the next begins. A size that was trained earlier
begins with evaluating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bot.cards.blocks import escape
from bot.cards.words import pluralize
from bot.context import AppContext
from bot.rules.budgets import actual_micros, is_paid_by_token
from bot.rules.permissions import BUILT_IN
from bot.rules.plans import ascii_name
from bot.services import (
    authorization,
    data_policy,
    evaluation_engine,
    freeze_scope,
    measurements,
    plans,
    provider_jobs,
    run_questions,
)
from bot.services.data_policy import Forbidden, Unsure
from bot.services.evaluation_engine import Evaluation
from bot.services.freeze_scope import HOLD_S
from bot.services.measurements import egress_refusal
from bot.services.provider_jobs import MAX_PAUSE_S, REGISTERED_S, Attempt, JobFiles, UploadedFiles
from bot.services.run_states import lost_key_text
from bot.values.evaluations import ArmProgress
from bot.values.learning_curves import PlannedSize, SizeProgress, TunedCurvePlan, TunedCurveProgress, plan_of
from bot.values.runs import Progress
from storage.evaluations import AnswerTotals
from storage.records import Measurement
from trainers.client import Trainer
from trainers.errors import FileChanged, Refused
from trainers.money import usd_micros
from trainers.pricing import PriceList
from trainers.types import Job, JobSpec

DOUBT_S = 24 * 3600.0
DOUBT_LOOK_S = 600.0
GIVE_UP_UNSEEN_S = 3600.0  # how long a stopped curve waits for a provider that can't be reached


@dataclass(frozen=True)
class CurveStep:
    """A curve and the `size` at work, at a tick. `measurement` is the stored row; `progress` is up to date."""

    context: AppContext
    measurement: Measurement
    plan: TunedCurvePlan
    progress: TunedCurveProgress
    size: SizeProgress

    @property
    def owner(self) -> str:
        return f"m{self.measurement.id}"

    @property
    def planned(self) -> PlannedSize:
        return next(size for size in self.plan.sizes if size.rows == self.size.rows)

    @property
    def is_stopped(self) -> bool:
        """True if a person cancelled the curve, or it has cost more than was agreed."""
        return self.measurement.cancel_asked_by is not None or self.progress.is_over_agreed_cost

    @property
    def trainer(self) -> Trainer:
        return self.context.trainers[self.plan.provider]

    @property
    def attempt(self) -> Attempt:
        size = self.size
        waited_s = self.context.waits.since(size.since)
        return Attempt(size.key, size.state == "creating", waited_s, size.tries)

    @property
    def files(self) -> JobFiles:
        return JobFiles(self.size.sha256)

    def is_agreed(self) -> bool:
        """True if the agreement to the cost still counts. If it doesn't, the curve fails; if that can't be checked now,
        it waits."""
        match consent_refusal(self):
            case None:
                return True
            case data_policy.Unsure(reason):
                self.delete_uploads()  # the curve may fail here, and must leave no file behind
                self.wait(MAX_PAUSE_S / 8, reason)
            case data_policy.Forbidden(reason):
                file = self.delete_uploads()
                fail(self, f"{reason}{file} No job was started for {pluralize(self.size.rows, 'row')}.")
        return False

    def intend(self, ready: UploadedFiles) -> CurveStep | None:
        """Stores that the job is about to be created. None if the curve was cancelled, frozen or moved meanwhile."""
        now = self.context.clock()
        size = self.size.with_state("creating", now, tries=self.size.tries + 1, file_id=ready.file_id)
        self.context.waits.since(now)
        latest = self.context.store.measurements.get(self.measurement.id)
        is_cancelled = latest is None or latest.cancel_asked_by is not None
        if is_cancelled or freeze_scope.measurement_freeze(self.context, self.measurement):
            return None
        return save_step(self.with_size(size).with_note(None))

    def spec(self, ready: UploadedFiles) -> JobSpec:
        return JobSpec(
            key=self.size.key,
            model=self.plan.base_model,
            training_file=ready.file_id,
            hyperparameters=dict(self.planned.hyperparameters),
            seed=self.plan.seed,
            suffix=f"{ascii_name(self.plan.dataset)}-{self.size.rows}",
            metadata={"measurement": self.owner},
        )

    def record_start(self, job: Job) -> None:
        now, store = self.context.clock(), self.context.store
        subject, detail = f"measurement {self.measurement.id}", f"job {job.id} on {self.size.rows} rows"
        with store.transaction():
            if save_step(
                self.with_size(self.size.with_state("training", now, job_id=job.id)).with_note(None)
            ):
                self.context.audit("finetune", "started", subject, detail)

    def wait(self, seconds: float, note: str | None = None) -> None:
        """Takes the next step in this many seconds. A stopped curve doesn't wait forever for a provider that can't be
        reached."""
        is_given_up = self.is_stopped and self.size.state == "creating"
        if note and is_given_up and self.context.clock() - self.size.since > GIVE_UP_UNSEEN_S:
            self.report_doubt(note)
        else:
            save_step(self.with_note(note), seconds=seconds)

    def record_refusal(self, refused: Refused | FileChanged) -> None:
        file = self.delete_uploads()
        where = f"Training on {pluralize(self.size.rows, 'row')} was refused: {escape(str(refused))}"
        fail(self, f"{where}{file} No job was started for it.")

    def report_warnings(self, warnings: Sequence[str]) -> None:
        """Does nothing: a curve's card has no thread, and one for each size would say the same again."""

    def report_doubt(self, why: str) -> None:
        """Handles a size whose job may or may not exist. Looks for the job again until its existence is clear, a person
        cancels, or a day has passed; then the size's maximum counts as spent."""
        now, most = self.context.clock(), max(self.size.spent_micros, self.planned.most_micros)
        since = self.size.doubted_since or now
        if self.is_stopped or now - since > DOUBT_S:
            step = self.with_size(replace(self.size, spent_micros=most))
            doubt = "A job may have run there, so the maximum that it could cost counts as spent."
            text, spent = f"{escape(why)} {doubt}", step.progress.booked_micros
            if self.measurement.cancel_asked_by is None:
                fail(step, text)
            else:
                measurements.cancel(self.context, self.measurement, spent_micros=spent, reason=text)
            return
        note = (
            f"{why} Checking again every ten minutes, for a day or until somebody cancels. If it is still unclear "
            f"then, {usd_micros(most)} will count as spent, the maximum that the job could cost."
        )
        save_step(
            self.with_size(replace(self.size, doubted_since=since)).with_note(note), seconds=DOUBT_LOOK_S
        )

    def delete_uploads(self) -> str:
        """Deletes the size's file at the provider. Returns the outcome as a sentence after a space."""
        return provider_jobs.delete_uploads(self.context, self.trainer, self.files.hashes, self.owner)

    def with_size(self, size: SizeProgress) -> CurveStep:
        return replace(self, size=size, progress=self.progress.with_size(size))

    def with_note(self, note: str | None) -> CurveStep:
        return replace(self, progress=replace(self.progress, note=note))

    def spent_micros(self, training: Progress, tokens: AnswerTotals | None = None) -> int:
        """Returns the cost of the size at work in micro-dollars: its training, unless it was trained earlier, and its
        answers."""
        prices = PriceList.from_json(self.plan.prices)
        (tuned,) = prices.rows
        both = replace(prices, rows=(tuned, tuned))
        trained = (both, training.train_seconds, training.trained_tokens)
        spent = actual_micros(*trained, tuned=tokens, billed_micros=training.billed_micros)
        # if the trainer reports neither tokens nor a bill, the planned cost is booked rather than nothing
        is_unknown = training.is_uncounted and is_paid_by_token(both)
        return spent + self.planned.training_micros if is_unknown else spent


def save_step(step: CurveStep, *, seconds: float = 0.0) -> CurveStep | None:
    """Stores the step, and updates the card if anything changed. The next step follows in this many seconds. Returns
    None if another thread moved the measurement first."""
    context, before = step.context, step.measurement
    now = context.clock()
    with context.store.transaction():
        moved = context.store.measurements.move(
            before,
            before.state,
            now=now,
            progress=step.progress.to_json(),
            # budgets never see less than was spent
            reserved_micros=max(before.reserved_micros, step.progress.booked_micros),
            next_at=now + seconds,
            tries=0,
        )
        if moved is None:
            return None
        if step.progress != TunedCurveProgress.from_json(before.progress):
            measurements.show(context, moved)
    return replace(step, measurement=moved)


def lost_micros(
    context: AppContext, measurement: Measurement, plan: TunedCurvePlan, progress: TunedCurveProgress
) -> int:
    """Returns the highest cost in micro-dollars of the questions whose answers were lost."""
    (tuned,) = PriceList.from_json(plan.prices).rows
    if tuned.usd_per_hour is not None:
        return 0
    prices = {f"{plan.provider}/{size.model}": tuned for size in progress.sizes}
    return evaluation_engine.lost_micros(context, prices, f"m{measurement.id}")


def stop(step: CurveStep) -> None:
    """Ends a stopped curve. Call it once nothing of it is running at the trainer."""
    measurement, progress = step.measurement, step.progress
    if measurement.cancel_asked_by:
        measurements.cancel(step.context, measurement, spent_micros=progress.booked_micros)
    else:
        fail(step, f"It has cost more than was agreed ({usd_micros(progress.most_micros)}).")


def fail(step: CurveStep, why: str) -> None:
    """Fails the curve. `why` is our own text and may hold mrkdwn."""
    measurements.end(step.context, step.measurement, "failed", why, actual_micros=step.progress.booked_micros)


def consent_refusal(step: CurveStep) -> Unsure | Forbidden | None:
    """Returns why the agreement no longer counts, by Slack and today's rules; None if it does. The agreement is that of
    the person who agreed to the cost or, if there was none, who asked for the curve."""
    context, measurement = step.context, step.measurement
    egress_problem = egress_refusal(context, measurement)
    if egress_problem:
        return egress_problem
    person = step.progress.agreed_by or measurement.requested_by
    caller = authorization.look_up(context, person, "measure", measurement.channel)
    if authorization.refusal_for(caller, "measure") is None:
        return None
    if not authorization.is_certain(caller):
        return Unsure(
            "No job is created yet, because Slack didn't say whether the person who agreed is still allowed to."
        )
    where = context.settings.policy.named("measure").where
    place = "" if where == BUILT_IN else f" ({where})"
    return Forbidden(f"<@{person}>, who agreed to this, may not measure here any more{place}.")


def evaluation_of(
    context: AppContext, measurement: Measurement, plan: TunedCurvePlan, model: str
) -> Evaluation:
    """Returns the evaluation in which one size's model answers every held-out row, as a run's tuned model does. `model`
    is its name at the provider."""
    candidate = run_questions.tuned_candidate(plan.provider, model)
    keys, questions = run_questions.questions_of(
        context,
        [candidate],
        labels=plan.labels,
        holdout_sha256=plan.holdout_sha256,
        longest=run_questions.longest_answer(context, measurement.dataset_id, plan.labels),
    )
    return Evaluation(f"m{measurement.id}", keys, questions)


def texts_of(context: AppContext, measurement: Measurement, plan: TunedCurvePlan, model: str) -> list[str]:
    """Returns the model's answer to each held-out row, '' if the question was declined."""
    evaluation = evaluation_of(context, measurement, plan, model)
    arms = [ArmProgress(candidate, len(keys)) for candidate, keys in evaluation.keys.items()]
    (replies,) = evaluation_engine.replies(context, evaluation.keys, arms).values()
    return [reply.text for reply in replies]


def evaluate(step: CurveStep) -> None:
    """Asks the questions without an answer. A curve that is stopped waits for questions under way, which will be
    billed."""
    context, measurement = step.context, step.measurement
    evaluation = evaluation_of(context, measurement, step.plan, str(step.size.model))
    evaluation = replace(evaluation, since=step.progress.started_at)
    ((candidate, keys),) = evaluation.keys.items()
    before = ArmProgress(candidate, len(keys), declined=step.size.declined)
    answers = evaluation_engine.collect(context, evaluation, [before])
    (arm,) = answers.arms
    spent = step.spent_micros(step.size.training, answers.paid[candidate])
    step = step.with_size(
        replace(step.size, answered=arm.answered, declined=arm.declined, spent_micros=spent)
    )
    missing = answers.all_missing
    if step.is_stopped:
        if not context.llm.drop(step.owner):
            stop(step)
    elif arm.failed:
        context.llm.drop(step.owner)
        fail(step, f"Measuring failed: {escape(arm.failed)}")
    elif missing and isinstance(problem := measurements.egress_refusal(context, measurement), Forbidden):
        if not context.llm.drop(step.owner):
            fail(step, problem.reason)
    elif missing:
        save_step(step.with_note(evaluation_engine.waiting_note(context, [str(candidate.model)])))
        evaluation_engine.ask(context, evaluation, answers.unasked if problem is None else frozenset())
    else:
        save_step(step.with_size(step.size.with_state("done", context.clock())).with_note(None))


def advance(step: CurveStep) -> None:
    """Takes one step of the size at work."""
    if step.plan.provider not in step.context.trainers:
        save_step(step.with_note(lost_key_text(step.context, step.plan.provider)), seconds=MAX_PAUSE_S / 2)
        return
    match step.size.state:
        case "waiting" if step.is_stopped:
            stop(step)
        case "waiting" | "creating" if other := plans.destination_change(step.context, step.plan):
            _stop_elsewhere(step, other)
        case "waiting" if dearer := plans.listed_price_rise(step.context, step.plan):
            _stop_elsewhere(step, dearer)
        case "creating" if step.is_stopped:
            # if a job is found, the next step cancels it
            if provider_jobs.is_surely_absent(step):
                stop(step)
        case "evaluating" if step.is_stopped:
            evaluate(step)
        case "waiting" | "creating" if freeze_scope.measurement_freeze(step.context, step.measurement):
            provider_jobs.look_without_creating(step, HOLD_S)
        case "waiting" if not step.is_agreed():
            pass
        case "waiting" | "creating":  # looks for an existing job, then checks the agreement again
            provider_jobs.create(step)
        case "training":
            size, wish = step.size, "cancel" if step.is_stopped else None
            looked = provider_jobs.follow(step, str(size.job_id), size.training, wish)  # type: ignore[arg-type]
            if looked:
                job, training = looked
                spent = step.spent_micros(training)
                if job.status == "cancelled" and size.training.running_since is not None:
                    # As for a run: if the vendor reports no cost, assume that it bills the share that was trained.
                    spent = spent or round(step.planned.training_micros * training.share_trained)
                seen = replace(size, training=training, spent_micros=spent, doubted_since=None)
                _take_status(step.with_size(seen).with_note(training.note), job)
        case "evaluating" if freeze_scope.measurement_freeze(step.context, step.measurement):
            step.context.llm.drop(step.owner)  # answers to questions under way are still stored
            save_step(step, seconds=HOLD_S)
        case "evaluating":
            evaluate(step)
        case "done":
            pass


def _stop_elsewhere(step: CurveStep, why: str) -> None:
    """Ends a curve whose training would now go elsewhere than agreed, or to another model. A job that may have been
    created at the old place can't be looked up from here."""
    if step.size.state == "creating":
        step.report_doubt(f"{why} A job may have been created there before that. Please check.")
        return
    file = step.delete_uploads()
    fail(step, f"{why}{file} No job was started for {pluralize(step.size.rows, 'row')}. Ask for a new curve.")


def _take_status(step: CurveStep, job: Job) -> None:
    """Takes over the job's status. Its training file is deleted as soon as the job is over."""
    now = step.context.clock()
    is_nameless = job.status == "succeeded" and job.fine_tuned_model is None
    if not job.is_final or (is_nameless and now - (job.finished_at or step.size.since) < REGISTERED_S):
        save_step(step, seconds=provider_jobs.next_look(now, step.size.since) - now)
        return
    step.delete_uploads()
    trained = f"Training on {pluralize(step.size.rows, 'row')}"
    if job.status == "succeeded" and job.fine_tuned_model:
        save_step(
            step.with_size(
                step.size.with_state("evaluating", step.context.clock(), model=job.fine_tuned_model)
            )
        )
    elif job.status == "succeeded":
        fail(step, f"{trained} succeeded, but the trainer gave its model no name to ask it by.")
    elif job.status == "failed":
        fail(step, f"{trained} failed: {escape(job.error_message or 'the trainer gave no reason')}")
    elif step.is_stopped:
        stop(step)
    else:
        fail(step, f"{trained} was cancelled on the trainer's side.")


def curve_in_doubt(measurement: Measurement, now: float) -> str | None:
    """Returns the progress, as JSON, of a curve in a restored backup; None if it is no running curve of a tuned model.
    Any size that had no job in the backup may have one by now, so all of them count as an uncertain create."""
    if measurement.state != "running" or measurement.kind != "curve" or not measurement.progress:
        return None
    if not isinstance(plan_of(measurement.plan), TunedCurvePlan):
        return None
    progress = TunedCurveProgress.from_json(measurement.progress)
    for size in progress.sizes:
        if size.state in ("waiting", "creating"):
            progress = progress.with_size(size.with_state("creating", now, tries=size.tries))
    return progress.to_json()
