"""The search for a better prompt, before a ladder is measured: a worker goes as far as the answers in the store reach,
the engine asks what is missing, and so on until the search is over or its budget is.

Nothing is remembered between two steps but answers: a kill at any line loses nothing, and what was answered is not paid
again. What the search brings becomes one more candidate of the ladder's plan.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bot.cards.blocks import code
from bot.context import AppContext
from bot.services import evaluation_engine, evaluation_progress, measurements
from bot.services import prompt_search_worker as worker
from bot.services.data_policy import Forbidden
from bot.services.dataset_worker import SEED
from bot.services.evaluation_engine import Answers, Evaluation
from bot.services.prompt_search_worker import Replay
from bot.values.evaluations import ArmProgress, LadderPlan, LadderProgress, SearchPlan, SearchProgress
from bot.values.runs import Refusal
from storage.records import Measurement
from trainers.evaluation.prompt_search import LEAST_ROWS
from trainers.money import usd_micros

BUDGET_USED = "Its budget was used up."


@dataclass(frozen=True)
class _Step:
    """A measurement whose search goes on, with its progress so far."""

    context: AppContext
    measurement: Measurement
    plan: LadderPlan
    budget: SearchPlan
    progress: LadderProgress
    search: SearchProgress

    @property
    def owner(self) -> str:
        return evaluation_progress.owner(self.measurement)

    @property
    def folder(self) -> Path:
        return measurements.folder_of(self.context, self.measurement)

    @property
    def work(self) -> str:
        return f"search {self.owner}"


def too_few(rows: int) -> Refusal | None:
    """Refuses a search on so few training rows."""
    if rows >= LEAST_ROWS:
        return None
    few = f"Optimising a prompt takes at least {LEAST_ROWS} training rows, and there are {rows}."
    return Refusal(f"{few} Leave it out, or label more rows.", "optimise")


def first_replay(context: AppContext, measurement: Measurement, plan: LadderPlan) -> Replay | None:
    """Returns the search before any answer, for its price; None while a worker is at it."""
    step = _step(context, measurement, plan, LadderProgress())
    if step is None:
        return None
    replay = None if context.workers.has(step.work) else worker.read_replay(step.folder)
    return replay or _begin(step, ())


def too_little(budget: SearchPlan, replay: Replay) -> str | None:
    """Returns why this budget can't even compare the prompt that is there with one other, or why there is nothing to
    compare them on; None if it can."""
    if not replay.open:
        return (
            f"Optimising a prompt takes at least {LEAST_ROWS} training rows that ask different questions and call no "
            "functions. There are fewer."
        )
    least = 2 * sum(replay.micros) + replay.holdout_micros
    if least <= budget.most_micros:
        return None
    return (
        f"{usd_micros(budget.most_micros)} is too little to optimise the prompt for {code(budget.model)}: comparing it "
        f"with one other could cost {usd_micros(least)}. Allow more."
    )


def latest_prompt(context: AppContext, dataset: str) -> str | None:
    """Returns the optimised prompt of the newest measurement that has one."""
    versions = tuple(version.id for version in context.store.datasets.versions(dataset))
    done = context.store.measurements.done(versions, "ladder")
    plans = (LadderPlan.from_json(measurement.plan) for measurement in done)
    return next((plan.optimised for plan in plans if plan.optimised), None)


def take_step(
    context: AppContext, measurement: Measurement, plan: LadderPlan, progress: LadderProgress
) -> None:
    """Asks what the search needs next; once it is over, the ladder is measured with what it brought."""
    step = _step(context, measurement, plan, progress)
    if step is None or step.search.is_over:
        _measure(context, measurement, plan, progress)
    elif context.workers.has(step.work):
        context.workers.take(step.work)  # it is in the folder, where the next step reads it
    elif (replay := worker.read_replay(step.folder)) is None:
        _begin(step, ())
    else:
        _go_on(step, replay)


def _step(
    context: AppContext, measurement: Measurement, plan: LadderPlan, progress: LadderProgress
) -> _Step | None:
    if plan.search is None:
        return None
    search = progress.search or SearchProgress()
    return _Step(context, measurement, plan, plan.search, progress, search)


def _go_on(step: _Step, replay: Replay) -> None:
    questions = partial(worker.read_questions, step.folder, step.plan, replay)
    evaluation = Evaluation(step.owner, {replay.candidate: replay.open}, questions)
    declined = tuple(key for key in replay.open if key in step.search.declined)
    arm = ArmProgress(replay.candidate, len(replay.open), declined=declined)
    answers = evaluation_engine.collect(step.context, evaluation, [arm])
    search = _count(step, replay, answers)
    if answers.failed or not replay.open:
        _save(step, replace(search, ended=answers.failed, is_over=True))
    elif not answers.all_missing:
        _save(step, search)
        _begin(replace(step, search=search), replay.all_keys)
    elif not answers.unasked or _provider(replay) not in step.context.trainers:
        _save(step, search)
    else:
        _ask(replace(step, search=search), replay, evaluation, answers)


def _ask(step: _Step, replay: Replay, evaluation: Evaluation, answers: Answers) -> None:
    """Asks the unasked questions, if they may leave and can't cost more than the budget. What a kill may have had paid
    twice counts as spent."""
    against = measurements.egress_refusal(step.context, step.measurement)
    if isinstance(against, Forbidden):
        spent = evaluation_progress.stop(step.context, step.measurement, step.plan, step.progress)
        measurements.end(step.context, step.measurement, "failed", against.reason, actual_micros=spent)
        return
    search = step.search
    if len(replay.all_keys) <= search.asked:
        lost = _under_way_at_most(step, replay, answers.unasked)
        search = replace(search, lost_micros=search.lost_micros + lost)
    spent = search.spent_micros + search.lost_micros
    if not replay.stays_within(step.budget.most_micros, spent, answers.all_missing):
        _save(step, replace(search, ended=BUDGET_USED, is_over=True))
    elif against is None:
        # first written, then asked: after a kill those under way count as paid
        _save(step, replace(search, asked=len(replay.all_keys)))
        evaluation_engine.ask(step.context, evaluation, answers.unasked)


def _under_way_at_most(step: _Step, replay: Replay, unasked: Collection[str]) -> int:
    """Returns what the questions that a kill may have cut off cost at most: no more are under way at a time than the
    provider's `callers`."""
    row = step.context.settings.provider(_provider(replay))
    dearest = sorted((replay.most_micros({key}) for key in unasked), reverse=True)
    return sum(dearest[: row.callers if row else None])


def _measure(
    context: AppContext, measurement: Measurement, plan: LadderPlan, progress: LadderProgress
) -> None:
    """Adds the prompt to the ladder, if it is better, and measures it like the others."""
    if context.llm.drop(evaluation_progress.owner(measurement)):
        return  # what is under way is paid: it is waited for
    search, arms, candidate = progress.search, progress.arms, worker.candidate_of(plan)
    if search and search.is_better:
        plan = worker.with_prompt(plan, search.prompt)
        keys = evaluation_progress.prepare_again(context, measurement, plan)
        if keys is None:
            return
        arms = (*arms, ArmProgress(candidate, len(keys[candidate].keys), work=keys[candidate].work))
    measured = replace(progress, stage="measuring", arms=arms, note=None)
    evaluation_progress.save_progress(context, measurement, measured, None, plan)


def _begin(step: _Step, keys: tuple[str, ...]) -> Replay | None:
    """Lets a worker go as far as the answers to these questions reach; to one that was declined the answer is empty."""
    answers, workers = step.context.store.answers.read(keys), step.context.workers
    texts = dict.fromkeys(step.search.declined, "") | {key: answer.text for key, answer in answers.items()}
    files = step.context.settings.files
    return workers.poll(step.work, worker.replay, step.plan, texts, files, step.folder, SEED)


def _count(step: _Step, replay: Replay, answers: Answers) -> SearchProgress:
    (arm,) = answers.arms
    since, keys = step.progress.started_at or 0.0, replay.keys_of(step.budget)
    return replace(
        replay.progress(step.search),
        answered=len(replay.all_keys) - len(answers.all_missing),
        spent_micros=evaluation_engine.spent(step.context, step.plan.price_of, keys, since),
        declined=tuple(dict.fromkeys((*step.search.declined, *arm.declined))),
    )


def _provider(replay: Replay) -> str:
    return replay.model.split("/", 1)[0]


def _save(step: _Step, search: SearchProgress) -> None:
    models = [] if search.is_over else [step.budget.model, step.budget.writer]
    note = evaluation_engine.note(step.context, models)
    progress = replace(step.progress, search=search, note=note)
    progress = replace(progress, spent_micros=progress.before_measuring_micros)
    evaluation_progress.save_progress(step.context, step.measurement, progress, step.progress)
