"""How many examples a prompt gets, before a ladder is measured: each number is tried on training rows by the engine,
and the best one becomes the ladder's candidate. A kill loses nothing, for all answers are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from bot.context import AppContext
from bot.rules.budgets import max_evaluation_micros
from bot.services import (
    evaluation_engine,
    evaluation_progress,
    evaluation_worker,
    few_shot_worker,
    measurements,
)
from bot.services.data_policy import Forbidden
from bot.services.dataset_worker import SEED
from bot.services.evaluation_engine import Asking, Evaluation
from bot.services.evaluation_worker import ArmKeys
from bot.values.evaluations import ArmProgress, LadderPlan, LadderProgress
from storage.records import Measurement
from trainers.evaluation.results import Candidate


def keys_of(
    context: AppContext, measurement: Measurement, plan: LadderPlan
) -> Mapping[Candidate, ArmKeys] | None:
    """Returns the questions with each number of examples, None while a worker writes them."""
    work, folder = f"shots m{measurement.id}", measurements.folder_of(context, measurement)
    is_at_work, files = context.workers.has(work), context.settings.files
    keys = None if is_at_work else evaluation_worker.read_keys(folder / few_shot_worker.FOLDER)
    return keys or context.workers.poll(work, few_shot_worker.prepare, plan, files, folder, SEED)


def most_micros(context: Asking, plan: LadderPlan, keys: Mapping[Candidate, ArmKeys]) -> int:
    """Returns the most that the questions without an answer cost."""
    answered = context.store.answers.answered([key for each in keys.values() for key in each.keys])
    most = evaluation_worker.max_tokens(plan.labels)
    return max_evaluation_micros(plan.price_of, keys, answered, most, plan.thinking)


def take_step(
    context: AppContext, measurement: Measurement, plan: LadderPlan, progress: LadderProgress
) -> None:
    """Asks what is missing; once nothing is, the best number of examples is measured."""
    keys = keys_of(context, measurement, plan)
    if keys is None:
        return
    folder = measurements.folder_of(context, measurement) / few_shot_worker.FOLDER
    names = evaluation_worker.only_keys(keys)
    questions = partial(evaluation_worker.read_questions, folder, plan)
    evaluation = Evaluation(evaluation_progress.owner(measurement), names, questions)
    answers = evaluation_engine.collect(context, evaluation, progress.shot_arms)
    spent = evaluation_engine.spent(context, plan.price_of, names, progress.started_at or 0.0)
    models = [str(arm.model) for arm, missing in answers.missing.items() if missing]
    note = evaluation_engine.note(context, models)
    now_known = replace(progress, shot_arms=answers.arms, shots_micros=spent, spent_micros=spent, note=note)
    if not answers.all_missing:
        _choose(context, measurement, plan, now_known, names)
        return
    evaluation_progress.save_progress(context, measurement, now_known, progress)
    against = measurements.egress_refusal(context, measurement)
    if against is None:
        evaluation_engine.ask(context, evaluation, answers.unasked)
    elif isinstance(against, Forbidden):
        spent = evaluation_progress.stop(context, measurement, plan, now_known)
        measurements.end(context, measurement, "failed", against.reason, actual_micros=spent)


def _choose(
    context: AppContext,
    measurement: Measurement,
    plan: LadderPlan,
    progress: LadderProgress,
    names: Mapping[Candidate, tuple[str, ...]],
) -> None:
    replies = evaluation_engine.replies(context, names, progress.shot_arms)
    shots = context.workers.poll(
        f"choose m{measurement.id}", few_shot_worker.choose, plan, replies, context.settings.files, SEED
    )
    if shots is None:
        return
    chosen = few_shot_worker.with_shots(plan, shots)
    keys = evaluation_progress.prepare_again(context, measurement, chosen)
    if keys is None:
        return
    before = {arm.arm: arm for arm in progress.arms}
    arms = tuple(
        before.get(arm) or ArmProgress(arm, len(each.keys), work=each.work) for arm, each in keys.items()
    )
    measured = replace(progress, arms=arms, shots=shots, note=None).after_shots()
    evaluation_progress.save_progress(context, measurement, measured, None, chosen)
