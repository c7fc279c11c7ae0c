"""Chooses how many examples a prompt gets, before a ladder is measured: the engine tries each number on training rows,
and the best one becomes the ladder's candidate. A kill loses nothing, because all answers are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from bot.rules.budgets import max_evaluation_micros
from bot.services import evaluation_engine, evaluation_worker, few_shot_worker
from bot.services.dataset_worker import SEED
from bot.services.evaluation_engine import EngineContext, Evaluation
from bot.services.evaluation_progress import LadderStep
from bot.services.evaluation_worker import ArmKeys
from bot.values.evaluations import ArmProgress, LadderPlan
from trainers.evaluation.results import Candidate


def load_keys(step: LadderStep) -> Mapping[Candidate, ArmKeys] | None:
    """Returns the keys of the questions with each number of examples, None while a worker writes them."""
    work, workers, files = f"shots {step.owner}", step.context.workers, step.context.settings.files
    keys = None if workers.has(work) else evaluation_worker.read_keys(step.folder / few_shot_worker.FOLDER)
    return keys or workers.poll(work, few_shot_worker.prepare, step.plan, files, step.folder, SEED)


def most_micros(context: EngineContext, plan: LadderPlan, keys: Mapping[Candidate, ArmKeys]) -> int:
    """Returns the maximum cost in micro-dollars of the questions without an answer."""
    answered = context.store.answers.answered([key for each in keys.values() for key in each.keys])
    most = evaluation_worker.max_tokens(plan.labels, plan.longest_answer)
    return max_evaluation_micros(plan.price_of, keys, answered, most, plan.thinking)


def take_step(step: LadderStep) -> None:
    """Asks the questions without an answer; once there are none, the best number of examples goes into the ladder."""
    context, plan, progress, keys = step.context, step.plan, step.progress, load_keys(step)
    if keys is None:
        return
    names = evaluation_worker.keys_by_candidate(keys)
    questions = partial(evaluation_worker.read_questions, step.folder / few_shot_worker.FOLDER, plan)
    evaluation = Evaluation(step.owner, names, questions)
    answers = evaluation_engine.collect(context, evaluation, progress.shot_arms)
    spent = evaluation_engine.spent_micros(context, plan.price_of, names, progress.started_at or 0.0)
    models = [str(arm.model) for arm, missing in answers.missing.items() if missing]
    note = evaluation_engine.waiting_note(context, models)
    step = step.with_progress(
        replace(progress, shot_arms=answers.arms, shots_micros=spent, spent_micros=spent, note=note)
    )
    if not answers.all_missing:
        _choose(step, names)
        return
    step.save()
    step.ask(evaluation, answers.unasked)


def _choose(step: LadderStep, names: Mapping[Candidate, tuple[str, ...]]) -> None:
    context, plan, progress = step.context, step.plan, step.progress
    replies = evaluation_engine.replies(context, names, progress.shot_arms)
    shots = context.workers.poll(
        f"choose {step.owner}", few_shot_worker.choose, plan, replies, context.settings.files, SEED
    )
    if shots is None:
        return
    chosen = replace(step, plan=few_shot_worker.with_shots(plan, shots))
    keys = chosen.rewrite_keys()
    if keys is None:
        return
    before = {arm.arm: arm for arm in progress.arms}
    arms = tuple(
        before.get(arm) or ArmProgress(arm, len(each.keys), work=each.work) for arm, each in keys.items()
    )
    chosen.with_progress(replace(progress, arms=arms, shots=shots, note=None).after_shots()).save()
