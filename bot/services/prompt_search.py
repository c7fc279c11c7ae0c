"""The search for a better prompt, before a ladder is measured: a worker goes as far as the answers in the store reach,
the engine asks what is missing, and so on until the search is over or its budget is.

Nothing is remembered between two steps but answers: a kill at any line loses nothing, and what was answered is not paid
again. What the search brings becomes one more candidate of the ladder's plan.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial

from bot.cards.blocks import code
from bot.context import AppContext
from bot.services import evaluation_engine, measurements
from bot.services import prompt_search_worker as worker
from bot.services.data_policy import Forbidden
from bot.services.dataset_worker import SEED
from bot.services.evaluation_engine import Answers, Evaluation
from bot.services.evaluation_progress import LadderStep
from bot.services.prompt_search_worker import Replay
from bot.values.evaluations import ArmProgress, LadderPlan, LadderProgress, SearchPlan, SearchProgress
from bot.values.runs import Refusal
from trainers.evaluation.prompt_search import LEAST_ROWS
from trainers.money import usd_micros

BUDGET_USED = "Its budget was used up."


@dataclass(frozen=True)
class _Search:
    """A ladder whose search goes on, with its progress so far."""

    ladder: LadderStep
    budget: SearchPlan
    progress: SearchProgress

    @property
    def context(self) -> AppContext:
        return self.ladder.context

    @property
    def work(self) -> str:
        return f"search {self.ladder.owner}"


def too_few_rows_refusal(rows: int) -> Refusal | None:
    """Refuses a search on so few training rows."""
    if rows >= LEAST_ROWS:
        return None
    few = f"Optimising a prompt takes at least {LEAST_ROWS} training rows, and there are {rows}."
    return Refusal(f"{few} Leave it out, or label more rows.", "optimise")


def first_replay(step: LadderStep) -> Replay | None:
    """Returns the search before any answer, for its price; None while a worker is at it."""
    search = _search(step.with_progress(LadderProgress()))
    if search is None:
        return None
    replay = None if step.context.workers.has(search.work) else worker.read_replay(step.folder)
    return replay or _begin(search, ())


def budget_refusal(budget: SearchPlan, replay: Replay) -> str | None:
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


def take_step(step: LadderStep) -> None:
    """Asks what the search needs next; once it is over, the ladder is measured with what it brought."""
    search, workers = _search(step), step.context.workers
    if search is None or search.progress.is_over:
        _measure(step)
    elif workers.has(search.work):
        workers.take(search.work)  # it is in the folder, where the next step reads it
    elif (replay := worker.read_replay(step.folder)) is None:
        _begin(search, ())
    else:
        _go_on(search, replay)


def _search(step: LadderStep) -> _Search | None:
    if step.plan.search is None:
        return None
    return _Search(step, step.plan.search, step.progress.search or SearchProgress())


def _go_on(search: _Search, replay: Replay) -> None:
    ladder = search.ladder
    questions = partial(worker.read_questions, ladder.folder, ladder.plan, replay)
    evaluation = Evaluation(ladder.owner, {replay.candidate: replay.open}, questions)
    declined = tuple(key for key in replay.open if key in search.progress.declined)
    arm = ArmProgress(replay.candidate, len(replay.open), declined=declined)
    answers = evaluation_engine.collect(search.context, evaluation, [arm])
    progress = _count(search, replay, answers)
    if answers.failed or not replay.open:
        _save(search, replace(progress, ended=answers.failed, is_over=True))
    elif not answers.all_missing:
        _save(search, progress)
        _begin(replace(search, progress=progress), replay.all_keys)
    elif not answers.unasked or _provider(replay) not in search.context.trainers:
        _save(search, progress)
    else:
        _ask(replace(search, progress=progress), replay, evaluation, answers)


def _ask(search: _Search, replay: Replay, evaluation: Evaluation, answers: Answers) -> None:
    """Asks the unasked questions, if they may leave and can't cost more than the budget. What a kill may have had paid
    twice counts as spent."""
    against = measurements.egress_refusal(search.context, search.ladder.measurement)
    if isinstance(against, Forbidden):
        search.ladder.fail(against.reason)
        return
    progress = search.progress
    if len(replay.all_keys) <= progress.asked:
        lost = _under_way_at_most(search, replay, answers.unasked)
        progress = replace(progress, lost_micros=progress.lost_micros + lost)
    spent = progress.spent_micros + progress.lost_micros
    if not replay.stays_within(search.budget.most_micros, spent, answers.all_missing):
        _save(search, replace(progress, ended=BUDGET_USED, is_over=True))
    elif against is None:
        # first written, then asked: after a kill those under way count as paid
        _save(search, replace(progress, asked=len(replay.all_keys)))
        evaluation_engine.ask(search.context, evaluation, answers.unasked)


def _under_way_at_most(search: _Search, replay: Replay, unasked: Collection[str]) -> int:
    """Returns what the questions that a kill may have cut off cost at most: no more are under way at a time than the
    provider's `callers`."""
    row = search.context.settings.provider(_provider(replay))
    dearest = sorted((replay.most_micros({key}) for key in unasked), reverse=True)
    return sum(dearest[: row.callers if row else None])


def _measure(step: LadderStep) -> None:
    """Adds the prompt to the ladder, if it is better, and measures it like the others."""
    if step.context.llm.drop(step.owner):
        return  # what is under way is paid: it is waited for
    search, arms, candidate = step.progress.search, step.progress.arms, worker.candidate_of(step.plan)
    if search and search.is_better:
        step = replace(step, plan=worker.with_prompt(step.plan, search.prompt))
        keys = step.rewritten_keys()
        if keys is None:
            return
        arms = (*arms, ArmProgress(candidate, len(keys[candidate].keys), work=keys[candidate].work))
    step.with_progress(replace(step.progress, stage="measuring", arms=arms, note=None)).save()


def _begin(search: _Search, keys: tuple[str, ...]) -> Replay | None:
    """Lets a worker go as far as the answers to these questions reach; to one that was declined the answer is empty."""
    answers, ladder = search.context.store.answers.read(keys), search.ladder
    texts = dict.fromkeys(search.progress.declined, "") | {
        key: answer.text for key, answer in answers.items()
    }
    files, workers = search.context.settings.files, search.context.workers
    return workers.poll(search.work, worker.replay, ladder.plan, texts, files, ladder.folder, SEED)


def _count(search: _Search, replay: Replay, answers: Answers) -> SearchProgress:
    (arm,) = answers.arms
    since, keys = search.ladder.progress.started_at or 0.0, replay.keys_of(search.budget)
    return replace(
        replay.progress(search.progress),
        answered=len(replay.all_keys) - len(answers.all_missing),
        spent_micros=evaluation_engine.spent(search.context, search.ladder.plan.price_of, keys, since),
        declined=tuple(dict.fromkeys((*search.progress.declined, *arm.declined))),
    )


def _provider(replay: Replay) -> str:
    return replay.model.split("/", 1)[0]


def _save(search: _Search, counted: SearchProgress) -> None:
    models = [] if counted.is_over else [search.budget.model, search.budget.writer]
    note = evaluation_engine.waiting_note(search.context, models)
    progress = replace(search.ladder.progress, search=counted, note=note)
    progress = replace(progress, spent_micros=progress.before_measuring_micros)
    search.ladder.with_progress(progress).save()
