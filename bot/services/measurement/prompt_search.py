"""The search for a better prompt, before a comparison is measured: a worker replays the search as far as the stored
answers reach, the engine asks the questions that are missing, and so on until the search ends or its budget is used up.

Only answers are kept between two steps, so a kill at any line loses nothing, and no answer is paid for twice. The best
prompt becomes one more candidate of the comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from bot.cards.common.blocks import code
from bot.context import AppContext
from bot.services.common import finished_measurements
from bot.services.datasets.data_policy import Forbidden
from bot.services.datasets.dataset_worker import SEED
from bot.services.measurement import evaluation_engine, receivers
from bot.services.measurement import prompt_search_worker as worker
from bot.services.measurement.evaluation_engine import Answers, Evaluation
from bot.services.measurement.evaluation_progress import ComparisonStep
from bot.services.measurement.prompt_search_worker import Replay
from bot.values.evaluations import CandidateProgress, ComparisonProgress, SearchPlan, SearchProgress
from bot.values.runs import Refusal
from trainers.evaluation.prompt_search import LEAST_ROWS
from trainers.money import usd_micros

BUDGET_USED = "Its budget was used up."


@dataclass(frozen=True)
class _Search:
    """The search of an open comparison, with its progress so far."""

    comparison: ComparisonStep
    budget: SearchPlan
    progress: SearchProgress

    @property
    def context(self) -> AppContext:
        return self.comparison.context

    @property
    def work(self) -> str:
        return f"search {self.comparison.owner}"


def too_few_rows_refusal(rows: int) -> Refusal | None:
    """Refuses a search if there are too few training rows."""
    if rows >= LEAST_ROWS:
        return None
    few = f"Optimising a prompt takes at least {LEAST_ROWS} training rows, and there are {rows}."
    return Refusal(f"{few} Leave it out, or label more rows.", "optimise")


def first_replay(step: ComparisonStep) -> Replay | None:
    """Returns the search before any answer, to price it; None while a worker computes it."""
    search = _load_search(step.with_progress(ComparisonProgress()))
    if search is None:
        return None
    if not step.context.workers.has(search.work):  # what a worker is still writing is not read
        replay = worker.read_replay(step.folder)
        if replay:
            return replay
    return _replay(search, ())


def budget_refusal(budget: SearchPlan, replay: Replay) -> str | None:
    """Returns why the search can't start: there are too few rows to compare prompts on, or the budget doesn't even
    cover comparing the current prompt with one other. None if it can."""
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
        f"with one other could cost {usd_micros(least)}. Raise the budget to at least that."
    )


def latest_prompt(context: AppContext, dataset: str) -> str | None:
    """Returns the optimised prompt of the newest measurement that has one, None if none has."""
    versions = tuple(version.id for version in context.store.datasets.versions(dataset))
    for evaluation in finished_measurements.evaluations(context.store, versions):
        if evaluation.plan.optimised:
            return evaluation.plan.optimised
    return None


def take_step(step: ComparisonStep) -> None:
    """Asks the questions that the search needs next; once it is over, the comparison is measured with the prompt it
    found."""
    search = _load_search(step)
    workers = step.context.workers
    if search is None or search.progress.is_over:
        _measure(step)
    elif workers.has(search.work):
        workers.take(search.work)  # the result is in the folder too, where the next step reads it
    elif (replay := worker.read_replay(step.folder)) is None:
        _replay(search, ())
    else:
        _ask_or_replay(search, replay)


def _load_search(step: ComparisonStep) -> _Search | None:
    if step.plan.search is None:
        return None
    return _Search(step, step.plan.search, step.progress.search or SearchProgress())


def _ask_or_replay(search: _Search, replay: Replay) -> None:
    """Asks the replay's open questions; once all are answered, starts the next replay."""
    comparison = search.comparison
    questions = partial(worker.read_questions, comparison.folder, comparison.plan, replay)
    evaluation = Evaluation(comparison.owner, {replay.candidate: replay.open}, questions)
    # A replay may ask again what the model has declined before.
    declined = tuple(key for key in replay.open if key in search.progress.declined)
    candidate = CandidateProgress(replay.candidate, len(replay.open), declined=declined)
    answers = evaluation_engine.collect(search.context, evaluation, [candidate])
    progress = _update_progress(search, replay, answers)
    if answers.failed or not replay.open:
        _save(search, replace(progress, ended=answers.failed, is_over=True))
    elif not answers.all_missing:
        _save(search, progress)
        _replay(replace(search, progress=progress), replay.all_keys)
    elif not answers.unasked or _provider(replay) not in search.context.trainers:
        # All are under way, or nobody can be asked now.
        _save(search, progress)
    else:
        _ask(replace(search, progress=progress), replay, evaluation, answers)


def _ask(search: _Search, replay: Replay, evaluation: Evaluation, answers: Answers) -> None:
    """Asks the unasked questions, if the rows may leave and the budget covers their maximum cost. Questions whose
    answers were lost count as spent, because they may have been billed."""
    egress_problem = receivers.egress_refusal(search.context, search.comparison.measurement)
    if isinstance(egress_problem, Forbidden):
        search.comparison.fail(egress_problem.reason)
        return
    comparison = search.comparison
    lost = evaluation_engine.lost_micros(search.context, comparison.plan.price_of, comparison.owner)
    progress = replace(search.progress, lost_micros=lost)
    spent = progress.spent_micros + progress.lost_micros
    if not replay.stays_within(search.budget.most_micros, spent, answers.all_missing):
        _save(search, replace(progress, ended=BUDGET_USED, is_over=True))
    elif egress_problem is None:
        _save(search, progress)
        evaluation_engine.ask(search.context, evaluation, answers.unasked)


def _measure(step: ComparisonStep) -> None:
    """Adds a candidate with the new prompt to the comparison, if the prompt is better, and starts measuring."""
    if step.context.llm.drop(step.owner):
        return  # questions under way will be billed, so wait for them
    search = step.progress.search
    candidates = step.progress.candidates
    if search and search.is_better:
        candidate = worker.candidate_of(step.plan)
        step = replace(step, plan=worker.with_prompt(step.plan, search.prompt))
        keys = step.rewrite_keys()
        if keys is None:
            return
        its = keys[candidate]
        fresh = CandidateProgress(candidate, len(its.keys), work=its.work)
        candidates = (*candidates, fresh)
    measuring = replace(step.progress, stage="measuring", candidates=candidates, note=None)
    step.with_progress(measuring).save()


def _replay(search: _Search, keys: tuple[str, ...]) -> Replay | None:
    """Has a worker replay the search with the answers to these questions, None while it is at work. A declined question
    has an empty answer."""
    context = search.context
    comparison = search.comparison
    texts = dict.fromkeys(search.progress.declined, "")
    for key, answer in context.store.answers.read(keys).items():
        texts[key] = answer.text
    files = context.settings.files
    return context.workers.poll(
        search.work, worker.replay, comparison.plan, texts, files, comparison.folder, SEED
    )


def _update_progress(search: _Search, replay: Replay, answers: Answers) -> SearchProgress:
    (candidate,) = answers.candidates
    comparison = search.comparison
    since = comparison.progress.started_at or 0.0
    keys = replay.keys_of(search.budget)
    spent = evaluation_engine.spent_micros(search.context, comparison.plan.price_of, keys, since)
    declined = dict.fromkeys((*search.progress.declined, *candidate.declined))
    return replace(
        replay.progress(search.progress),
        answered=len(replay.all_keys) - len(answers.all_missing),
        spent_micros=spent,
        declined=tuple(declined),
    )


def _provider(replay: Replay) -> str:
    provider, _, _ = replay.model.partition("/")
    return provider


def _save(search: _Search, counted: SearchProgress) -> None:
    models = []
    if not counted.is_over:
        models = [search.budget.model, search.budget.writer]
    note = evaluation_engine.waiting_note(search.context, models)
    progress = replace(search.comparison.progress, search=counted, note=note)
    progress = replace(progress, spent_micros=progress.before_measuring_micros)
    search.comparison.with_progress(progress).save()
