"""The steps of `finetune baseline FILE --optimise 2` before it measures: the search for a better prompt, and the choice
of the number of examples. Answers are kept in the terminal's database, so that the same command can resume."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial

from bot.cards.prompt_search import progress_text
from bot.cli.llm_session import OWNER, LlmSession, wait_for_answers
from bot.services import (
    evaluation_engine,
    evaluation_worker,
    few_shot,
    few_shot_worker,
    prompt_search,
)
from bot.services import prompt_search_worker as worker
from bot.services.dataset_worker import SEED
from bot.services.evaluation_engine import Evaluation
from bot.services.prompt_search_worker import Replay
from bot.values.evaluations import LadderPlan, SearchProgress
from bot.values.runs import Refusal


@dataclass(frozen=True)
class SearchedPlan:
    """The plan, with the new prompt if it is better, and how the search went."""

    plan: LadderPlan
    progress: SearchProgress | None = None


def search(session: LlmSession, plan: LadderPlan) -> SearchedPlan:
    """Searches for a better prompt if the plan has a budget for it. Raises AnswerTimeout."""
    if plan.search is None:
        return SearchedPlan(plan)
    since, declined = time.time(), dict[str, str]()
    files, folder = session.files, session.folder
    replay = worker.replay(plan, {}, files, folder, SEED)
    while True:
        spent = evaluation_engine.spent_micros(session, plan.price_of, replay.keys_of(plan.search), since)
        missing = set(replay.open) - session.store.answers.answered(replay.open)
        if not replay.open:
            return _conclude(plan, replay, spent)
        if missing and not replay.stays_within(plan.search.most_micros, spent, missing):
            return _conclude(plan, replay, spent, prompt_search.BUDGET_USED)
        questions = partial(worker.read_questions, folder, plan, replay)
        evaluation = Evaluation(OWNER, {replay.candidate: replay.open}, questions)
        so_far = progress_text(replay.progress(SearchProgress()))
        (arm,) = wait_for_answers(
            session, evaluation, f"answered in the search for a better prompt, {so_far}"
        )
        if arm.failed:
            return _conclude(plan, replay, spent, arm.failed)
        declined |= dict.fromkeys(arm.declined, "")
        texts = {key: answer.text for key, answer in session.store.answers.read(replay.all_keys).items()}
        replay = worker.replay(plan, declined | texts, files, folder, SEED)


def choose_shots(session: LlmSession, plan: LadderPlan) -> LadderPlan:
    """Returns the plan with the number of examples that does best on training rows. Raises AnswerTimeout."""
    names = evaluation_worker.keys_by_candidate(
        few_shot_worker.prepare(plan, session.files, session.folder, SEED)
    )
    questions = partial(evaluation_worker.read_questions, session.folder / few_shot_worker.FOLDER, plan)
    arms = wait_for_answers(session, Evaluation(OWNER, names, questions), "answered to choose examples")
    replies = evaluation_engine.replies(session, names, arms)
    return few_shot_worker.with_shots(plan, few_shot_worker.choose(plan, replies, session.files, SEED))


def shots_max_micros(session: LlmSession, plan: LadderPlan) -> int:
    """Returns the most that choosing the number of examples can cost, in micro-dollars."""
    if not plan.chooses_shots:
        return 0
    keys = few_shot_worker.prepare(plan, session.files, session.folder, SEED)
    return few_shot.most_micros(session, plan, keys)


def max_micros(session: LlmSession, plan: LadderPlan) -> int | Refusal:
    """Returns the most that the search can cost in micro-dollars, or a refusal if its budget is too small."""
    if plan.search is None:
        return 0
    replay = worker.replay(plan, {}, session.files, session.folder, SEED)
    refusal = prompt_search.budget_refusal(plan.search, replay)
    if refusal:
        return Refusal(refusal)
    return worker.max_micros(plan)


def _conclude(plan: LadderPlan, replay: Replay, spent: int, ended: str | None = None) -> SearchedPlan:
    progress = replace(replay.progress(SearchProgress()), spent_micros=spent, ended=ended, is_over=True)
    better = worker.with_prompt(plan, replay.prompt) if replay.is_better else plan
    return SearchedPlan(better, progress)
