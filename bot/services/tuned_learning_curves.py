"""One size of a tuned model's learning curve: its job is created once and followed, then its model answers
the holdout. Checks before each that the consent still holds.

waiting → creating → training → evaluating → done, each written down before the next begins. A size that was trained
before begins with evaluating."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bot.cards.blocks import escape
from bot.cards.words import pluralize
from bot.context import AppContext
from bot.rules.costs import AnswerTokens, actual_micros
from bot.rules.plans import ascii_name
from bot.rules.policy import BUILT_IN
from bot.services import (
    authorization,
    data_policy,
    evaluation_engine,
    freeze_scope,
    measurements,
    plans,
    provider_jobs,
    run_results,
)
from bot.services.data_policy import Forbidden, Unsure
from bot.services.evaluation_engine import Evaluation
from bot.services.freeze_scope import HOLD_S
from bot.services.measurements import egress_refusal
from bot.services.provider_jobs import MAX_PAUSE_S
from bot.values.evaluations import ArmProgress
from bot.values.learning_curves import PlannedSize, SizeProgress, TunedCurvePlan, TunedCurveProgress
from bot.values.runs import Progress
from storage.records import Measurement
from trainers.client import Trainer
from trainers.errors import Changed, Refused, TrainerError
from trainers.money import usd_micros
from trainers.pricing import PriceList
from trainers.types import Job, JobSpec

DOUBT_S = 24 * 3600.0
DOUBT_LOOK_S = 600.0
GIVE_UP_UNSEEN_S = 3600.0  # a stopped curve waits so long for a provider that can't be looked at


@dataclass(frozen=True)
class CurveStep:
    """`progress` is as far as this step knows; `measurement` is as it was last written. `size` is at work."""

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
        return next(one for one in self.plan.sizes if one.rows == self.size.rows)

    @property
    def is_stopped(self) -> bool:
        """By a person, or because it costs more than was agreed."""
        return self.measurement.cancel_asked_by is not None or self.progress.is_too_dear

    def with_size(self, size: SizeProgress) -> CurveStep:
        return replace(self, size=size, progress=self.progress.with_size(size))

    def noted(self, note: str | None) -> CurveStep:
        return replace(self, progress=replace(self.progress, note=note))

    def spent(self, training: Progress, asked: AnswerTokens | None = None) -> int:
        """Micro-dollars of the size at work. One that was trained before has no training to pay."""
        prices = PriceList.from_json(self.plan.prices)
        (tuned,) = prices.rows
        both = replace(prices, rows=(tuned, tuned))
        return actual_micros(both, training.train_seconds, training.trained_tokens, tuned=asked)


def save_step(step: CurveStep, *, seconds: float = 0.0) -> CurveStep | None:
    """Written, and shown where there is something new to see; the next step in so many seconds. None where another
    hand was quicker."""
    context, before = step.context, step.measurement
    now = context.clock()
    with context.store.transaction():
        moved = context.store.measurements.move(
            before, before.state, now=now, progress=step.progress.to_json(), next_at=now + seconds, tries=0
        )
        if moved is None:
            return None
        if step.progress != TunedCurveProgress.from_json(before.progress):
            measurements.show(context, moved)
    return replace(step, measurement=moved)


def stop(step: CurveStep) -> None:
    """Stopped, and nothing goes on at the trainer."""
    measurement, progress = step.measurement, step.progress
    if measurement.cancel_asked_by:
        measurements.cancel(step.context, measurement, spent_micros=progress.spent_micros)
    else:
        fail(step, f"It has cost more than the {usd_micros(progress.most_micros)} that were agreed.")


def fail(step: CurveStep, why: str) -> None:
    """`why` is ours and may hold mrkdwn."""
    measurements.end(step.context, step.measurement, "failed", why, actual_micros=step.progress.spent_micros)


def _give_up(step: CurveStep, said: str) -> None:
    if step.measurement.cancel_asked_by is None:
        fail(step, said)
        return
    spent = step.progress.spent_micros
    measurements.cancel(step.context, step.measurement, spent_micros=spent, said=said)


def wait_in_doubt(step: CurveStep, why: str) -> None:
    """Money may be owed for the size at work, and only a later look can tell: looked again until one does, until a
    person gives it up, or for a day. What nobody could tell by then counts as spent, as much as the size could cost.

    `why` is a sentence, unescaped."""
    now, most = step.context.clock(), max(step.size.spent_micros, step.planned.most_micros)
    since = step.size.doubted_since or now
    if step.is_stopped or now - since > DOUBT_S:
        said = f"{escape(why)} Whether a job ran there stayed in doubt: the most that it could cost counts as spent."
        _give_up(step.with_size(replace(step.size, spent_micros=most)), said)
        return
    note = (
        f"{why} Looking again every ten minutes, for a day. Cancel gives it up; where nobody can tell by then, "
        f"{usd_micros(most)} count as spent, the most that it could cost."
    )
    save_step(step.with_size(replace(step.size, doubted_since=since)).noted(note), seconds=DOUBT_LOOK_S)


def consent_refusal(step: CurveStep) -> Unsure | Forbidden | None:
    """Before a job is created: does the yes to it still count, by Slack and by the rules as they are now? None: it
    counts, of who agreed to the cost, or where it was free of who asked for it."""
    context, measurement = step.context, step.measurement
    speaks_against = egress_refusal(context, measurement)
    if speaks_against:
        return speaks_against
    person = step.progress.agreed_by or measurement.requested_by
    asked = authorization.look_up(context, person, "measure", measurement.channel)
    if authorization.refusal_for(asked, "measure") is None:
        return None
    if not authorization.is_certain(asked):
        return Unsure("Slack didn't tell whether who agreed still may, so no job is created yet.")
    where = context.settings.policy.named("measure").where
    place = "" if where == BUILT_IN else f" ({where})"
    return Forbidden(f"<@{person}>, whose yes it goes by, may not measure here any more{place}.")


def evaluation_of(
    context: AppContext, measurement: Measurement, plan: TunedCurvePlan, model: str
) -> Evaluation:
    """The model of one size answers every held-out row, asked as a run's tuned model is. `model` is its name at the
    provider."""
    candidate = run_results.tuned_candidate(plan.provider, model)
    keys, questions = run_results.questions_of(
        context, [candidate], labels=plan.labels, holdout_sha256=plan.holdout_sha256
    )
    return Evaluation(f"m{measurement.id}", keys, questions)


def texts_of(context: AppContext, measurement: Measurement, plan: TunedCurvePlan, model: str) -> list[str]:
    """What it said to each held-out row; nothing where a question was declined."""
    evaluation = evaluation_of(context, measurement, plan, model)
    arms = [ArmProgress(candidate, len(keys)) for candidate, keys in evaluation.keys.items()]
    (replies,) = evaluation_engine.replies(context, evaluation.keys, arms).values()
    return [reply.text for reply in replies]


def evaluate(step: CurveStep) -> None:
    """What is missing is asked for. Questions under way have to be paid: they are waited for, whatever happens."""
    context, measurement = step.context, step.measurement
    evaluation = evaluation_of(context, measurement, step.plan, str(step.size.model))
    ((candidate, keys),) = evaluation.keys.items()
    before = ArmProgress(candidate, len(keys), declined=step.size.declined)
    answers = evaluation_engine.collect(context, evaluation, [before])
    tokens = evaluation_engine.totals(context, evaluation, step.progress.started_at)[candidate]
    (arm,) = answers.arms
    spent = step.spent(step.size.training, tokens)
    step = step.with_size(
        replace(step.size, answered=arm.answered, declined=arm.declined, spent_micros=spent)
    )
    missing = answers.all_missing
    if step.is_stopped:
        if not context.askers.drop(step.owner):
            stop(step)
    elif arm.failed:
        context.askers.drop(step.owner)
        fail(step, f"Measuring failed: {escape(arm.failed)}")
    elif missing and isinstance(against := measurements.egress_refusal(context, measurement), Forbidden):
        if not context.askers.drop(step.owner):
            fail(step, against.said)
    elif missing:
        save_step(step.noted(evaluation_engine.note(context, [str(candidate.model)])))
        evaluation_engine.ask(context, evaluation, answers.unasked if against is None else frozenset())
    else:
        save_step(step.with_size(step.size.to("done", context.clock())).noted(None))


def advance(step: CurveStep) -> None:
    """One step of the size at work."""
    trainer = step.context.trainers.get(step.plan.provider)
    if trainer is None:
        _wait_for_key(step)
        return
    match step.size.state:
        case "waiting" if step.is_stopped:
            stop(step)
        case "waiting" | "creating" if other := plans.destination_change(step.context, step.plan):
            _stop_elsewhere(step, trainer, other)
        case "creating" if step.is_stopped:
            _look_for(step, trainer)
        case "evaluating" if step.is_stopped:
            evaluate(step)
        case "waiting" | "creating" if freeze_scope.on_measurement(step.context, step.measurement):
            _hold(step, trainer)
        case "waiting" | "creating":
            _create(step, trainer)
        case "training":
            _follow(step, trainer)
        case "evaluating" if freeze_scope.on_measurement(step.context, step.measurement):
            step.context.askers.drop(step.owner)  # answers under way are kept when they come
            save_step(step, seconds=HOLD_S)
        case "evaluating":
            evaluate(step)
        case "done":
            pass


def _stop_elsewhere(step: CurveStep, trainer: Trainer, why: str) -> None:
    """It would train elsewhere than was agreed, or another model. A create in doubt can't be looked for from here."""
    if step.size.state == "creating":
        wait_in_doubt(step, f"{why} A job may have been created before that: look there.")
        return
    file = provider_jobs.delete_uploads(step.context, trainer, {step.size.sha256}, step.owner)
    fail(step, f"{why}{file} No job was started for {pluralize(step.size.rows, 'row')}. Ask for a new curve.")


def _hold(step: CurveStep, trainer: Trainer) -> None:
    """Frozen: nothing is created, and a job whose create got lost is still looked for."""
    match provider_jobs.look_for(trainer, _attempt(step)):
        case provider_jobs.Started(job):
            _started(step, job)
        case _:
            save_step(step.noted(None), seconds=HOLD_S)


def _create(step: CurveStep, trainer: Trainer) -> None:
    is_in_doubt = step.size.state == "creating"  # a job that may be there is looked for first
    if not is_in_doubt and not _is_agreed(step, trainer):
        return
    sha256 = step.size.sha256
    path = step.context.settings.files / f"{sha256}.jsonl"
    provider_jobs.record_uploads(step.context, step.plan.provider, {sha256})
    match provider_jobs.prepare(trainer, _attempt(step), path, sha256):
        case provider_jobs.Ready(file_id):
            if _is_agreed(step, trainer):  # sending the file may have taken long
                _send(step, trainer, file_id)
        case provider_jobs.Started(job):
            _started(step, job)
        case provider_jobs.Later(seconds, note):
            save_step(step.noted(note), seconds=seconds)
        case provider_jobs.CreateRefused(refused):
            _refused(step, trainer, refused)
        case provider_jobs.Stuck(why):
            wait_in_doubt(step, why)


def _is_agreed(step: CurveStep, trainer: Trainer) -> bool:
    """Where it isn't any more, the curve ends, or waits for Slack."""
    match consent_refusal(step):
        case None:
            return True
        case data_policy.Unsure(said):
            provider_jobs.delete_uploads(
                step.context, trainer, {step.size.sha256}, step.owner
            )  # no file stays where it may end here
            save_step(step.noted(said), seconds=MAX_PAUSE_S / 8)
        case data_policy.Forbidden(said):
            file = provider_jobs.delete_uploads(step.context, trainer, {step.size.sha256}, step.owner)
            fail(step, f"{said}{file} No job was started for {pluralize(step.size.rows, 'row')}.")
    return False


def _send(step: CurveStep, trainer: Trainer, file_id: str) -> None:
    now = step.context.clock()
    size = step.size.to("creating", now, tries=step.size.tries + 1, file_id=file_id)
    step.context.waits.since(now)
    with step.context.store.transaction():  # a freeze or a cancel comes before the intent or after it
        latest = step.context.store.measurements.get(step.measurement.id)
        is_cancelled = latest is None or latest.cancel_asked_by is not None
        is_held = is_cancelled or freeze_scope.on_measurement(step.context, step.measurement)
        intent = None if is_held else save_step(step.with_size(size).noted(None))
    if intent is None:
        return
    match provider_jobs.send(trainer, _spec(intent, file_id)):
        case provider_jobs.Started(job):
            _started(intent, job)
        case provider_jobs.Later(seconds, note):
            save_step(intent.noted(note), seconds=seconds)
        case provider_jobs.CreateRefused(refused):
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
    now, store = step.context.clock(), step.context.store
    subject, detail = f"measurement {step.measurement.id}", f"job {job.id} on {step.size.rows} rows"
    with store.transaction():
        if save_step(step.with_size(step.size.to("training", now, job_id=job.id)).noted(None)):
            store.audit.add(at=now, who="finetune", action="started", subject=subject, detail=detail)


def _look_for(step: CurveStep, trainer: Trainer) -> None:
    """Stopped while a create was in doubt: a job that is found is cancelled by the next step."""
    match provider_jobs.look_for(trainer, _attempt(step)):
        case provider_jobs.Started(job):
            _started(step, job)
        case provider_jobs.Later(_, note) if (
            note and step.context.clock() - step.size.since > GIVE_UP_UNSEEN_S
        ):
            wait_in_doubt(step, note)
        case provider_jobs.Later(seconds, note):
            save_step(step.noted(note), seconds=seconds)
        case None:
            stop(step)


def _attempt(step: CurveStep) -> provider_jobs.Attempt:
    size = step.size
    return provider_jobs.Attempt(
        size.key, size.state == "creating", step.context.waits.since(size.since), size.tries
    )


def _follow(step: CurveStep, trainer: Trainer) -> None:
    size, now = step.size, step.context.clock()
    try:
        job, training = provider_jobs.poll(
            trainer, str(size.job_id), size.training, now, "cancel" if step.is_stopped else None
        )
    except Refused as refused:
        wait_in_doubt(step, f"{refused} The job may still cost money: look there.")
        return
    except TrainerError as trouble:
        save_step(step.noted(f"{trouble} The job itself goes on; asking again."), seconds=MAX_PAUSE_S / 8)
        return
    seen = replace(size, training=training, spent_micros=step.spent(training), doubted_since=None)
    known = step.with_size(seen)
    _take(known.noted(training.note), job, trainer)


def _take(step: CurveStep, job: Job, trainer: Trainer) -> None:
    """A model of a curve is only measured, so its file is deleted as soon as its job is through."""
    if not job.is_final:
        now = step.context.clock()
        save_step(step, seconds=provider_jobs.next_look(now, step.size.since) - now)
        return
    provider_jobs.delete_uploads(step.context, trainer, {step.size.sha256}, step.owner)
    trained = f"Training on {pluralize(step.size.rows, 'row')}"
    if job.status == "succeeded" and job.fine_tuned_model:
        save_step(
            step.with_size(step.size.to("evaluating", step.context.clock(), model=job.fine_tuned_model))
        )
    elif job.status == "succeeded":
        fail(step, f"{trained} gave a model without a name to ask it by.")
    elif job.status == "failed":
        fail(step, f"{trained} failed: {escape(job.error_message or 'the trainer gave no reason')}")
    elif step.is_stopped:
        stop(step)
    else:
        fail(step, f"{trained} was cancelled on the trainer's side.")


def _refused(step: CurveStep, trainer: Trainer, refused: Refused | Changed) -> None:
    """A certain no: nothing was created."""
    file = provider_jobs.delete_uploads(step.context, trainer, {step.size.sha256}, step.owner)
    where = f"Training on {pluralize(step.size.rows, 'row')} was refused: {escape(str(refused))}"
    fail(step, f"{where}{file} No job was started for it.")


def _wait_for_key(step: CurveStep) -> None:
    """A job may be there, so it is not given up because a key is missing where the bot runs."""
    provider = step.plan.provider
    row = step.context.settings.provider(provider)
    where = f"Set {row.provider.key_env} where the bot runs" if row else "Put it back into finetune.toml"
    save_step(step.noted(f"There is no key for {provider} any more. {where}."), seconds=MAX_PAUSE_S / 2)
