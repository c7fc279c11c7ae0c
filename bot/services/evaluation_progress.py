"""The questions of a ladder, and of its judge: a worker writes them, the engine asks them, and their cost is counted
here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from bot.context import AppContext
from bot.rules.budgets import max_evaluation_micros
from bot.services import (
    evaluation_engine,
    evaluation_worker,
    few_shot_worker,
    judge_worker,
    measurements,
    prompt_search_worker,
)
from bot.services.dataset_worker import SEED
from bot.services.evaluation_engine import Evaluation
from bot.services.evaluation_worker import ArmKeys
from bot.services.judge_worker import Questions
from bot.values.evaluations import LadderPlan, LadderProgress
from storage.records import Measurement
from trainers.evaluation.results import Candidate


def owner(measurement: Measurement) -> str:
    return f"m{measurement.id}"


def keys_of(
    context: AppContext, measurement: Measurement, plan: LadderPlan
) -> Mapping[Candidate, ArmKeys] | None:
    """Returns None while the questions are being written, also again if the folder was lost: the same plan gives the
    same questions."""
    folder, work = measurements.folder_of(context, measurement), f"prepare m{measurement.id}"
    keys = None if context.workers.has(work) else evaluation_worker.read_keys(folder)
    return keys or context.workers.poll(
        work, evaluation_worker.prepare, plan, context.settings.files, folder, SEED
    )


def evaluation_of(
    context: AppContext, measurement: Measurement, plan: LadderPlan, keys: Mapping[Candidate, ArmKeys]
) -> Evaluation:
    folder = measurements.folder_of(context, measurement)
    questions = partial(evaluation_worker.read_questions, folder, plan)
    return Evaluation(owner(measurement), evaluation_worker.only_keys(keys), questions)


def spent(
    context: AppContext,
    measurement: Measurement,
    plan: LadderPlan,
    progress: LadderProgress,
    under_way: frozenset[str] = frozenset(),
) -> int:
    """Returns micro-dollars, the answers of the judge and of a search included. Questions that are `under_way` will be
    answered and paid: they count with their maximum."""
    folder = measurements.folder_of(context, measurement)
    keys, since = evaluation_worker.read_keys(folder), progress.started_at
    if keys is None or since is None:
        return 0
    micros = evaluation_engine.spent(context, plan.price_of, evaluation_worker.only_keys(keys), since)
    answered = context.store.answers.answered(sorted(under_way))
    settled = frozenset(key for arm in keys.values() for key in arm.keys) - (under_way - answered)
    micros += max_evaluation_micros(
        plan.price_of, keys, settled, evaluation_worker.max_tokens(plan.labels), plan.thinking
    )
    replay = prompt_search_worker.read_replay(folder)
    if plan.search and replay:
        searched = replay.keys_of(plan.search)
        micros += evaluation_engine.spent(context, plan.price_of, searched, since)
        micros += replay.most_micros(under_way - answered)
    elif progress.search:
        micros += progress.search.spent_micros
    tried = evaluation_worker.read_keys(folder / few_shot_worker.FOLDER) if progress.shot_arms else None
    if tried:
        names = evaluation_worker.only_keys(tried)
        micros += evaluation_engine.spent(context, plan.price_of, names, since)
        settled = frozenset(key for each in names.values() for key in each) - (under_way - answered)
        most = evaluation_worker.max_tokens(plan.labels)
        micros += max_evaluation_micros(plan.price_of, tried, settled, most, plan.thinking)
    for questions in _judge_questions(context, measurement, plan):
        judge = judge_worker.candidate_of(plan)
        micros += evaluation_engine.spent(context, plan.price_of, {judge: questions.priced.keys}, since)
        micros += judge_worker.max_micros(plan, questions.priced, questions.wanted - (under_way - answered))
    return micros


def stop(context: AppContext, measurement: Measurement, plan: LadderPlan, progress: LadderProgress) -> int:
    """Asks nothing more. Returns the cost, including the questions under way, which will be answered and paid."""
    return spent(context, measurement, plan, progress, context.llm.drop(owner(measurement)))


def prepare_again(
    context: AppContext, measurement: Measurement, plan: LadderPlan
) -> Mapping[Candidate, ArmKeys] | None:
    """Writes the questions of a plan that was added to, None while a worker is at it."""
    files, folder = context.settings.files, measurements.folder_of(context, measurement)
    return context.workers.poll(
        f"prepare m{measurement.id} again", evaluation_worker.prepare, plan, files, folder, SEED
    )


def save_progress(
    context: AppContext,
    measurement: Measurement,
    progress: LadderProgress,
    before: LadderProgress | None,
    plan: LadderPlan | None = None,
) -> None:
    """Stores the progress, and shows it, if there is anything new. `plan`: with what a search has added to it."""
    if progress == before:
        return
    changes = {"progress": progress.to_json(), "plan": plan.to_json() if plan else measurement.plan}
    with context.store.transaction():
        moved = context.store.measurements.move(
            measurement, measurement.state, now=context.clock(), tries=0, **changes
        )
        if moved:
            measurements.show(context, moved)


def _judge_questions(context: AppContext, measurement: Measurement, plan: LadderPlan) -> list[Questions]:
    """Returns the judge's questions that are written; none without a judge."""
    if plan.judge is None:
        return []
    folder = measurements.folder_of(context, measurement)
    names = (judge_worker.ACCEPTABLE, judge_worker.BETTER)
    return [
        questions for name in names if (questions := judge_worker.read_questions(folder, name)) is not None
    ]
