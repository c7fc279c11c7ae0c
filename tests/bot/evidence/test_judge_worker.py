"""A judge's questions, what its answers conclude, and its stored progress, without Slack and HTTP."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from bot.llm_client import Declined
from bot.services.datasets import dataset_worker
from bot.services.evidence import judge_worker
from bot.services.evidence.judge_worker import JudgeAnswers
from bot.services.measurement import evaluation_engine
from bot.values.evaluations import (
    CandidateProgress,
    ComparisonPlan,
    ComparisonProgress,
    JudgedPair,
    JudgeProgress,
)
from tests.cards import measurements
from trainers.dataset import Example, store_chat
from trainers.evaluation.results import Candidate, Reply
from trainers.providers.pricing import PriceList
from trainers.types import Message

JUDGE = "openai/gpt-4o-mini"
ZERO, SHOTS = Candidate("zero", "local/a"), Candidate("kshot", "local/a")
ROWS = 20


def example(number: int) -> Example:
    messages = (Message("user", f"question {number}"), Message("assistant", f"answer {number}"))
    return Example(number + 1, messages)


@pytest.fixture
def plan(tmp_path: Path) -> ComparisonPlan:
    sha256 = store_chat(tmp_path, [example(number) for number in range(ROWS)])
    return measurements.plan(
        [ZERO, SHOTS],
        task="free_text",
        labels=(),
        holdout_sha256=sha256,
        judge=JUDGE,
        n_holdout=ROWS,
        prices=PriceList((), date(2026, 11, 25)).to_json(),
    )


def texts(zero: str = "bad", shots: str = "good") -> dict[Candidate, list[str]]:
    return {ZERO: [f"{zero} {row}" for row in range(ROWS)], SHOTS: [f"{shots} {row}" for row in range(ROWS)]}


def test_empty_answers_are_not_judged_and_equal_ones_once(plan: ComparisonPlan, tmp_path: Path) -> None:
    answers = texts()
    answers[ZERO][0], answers[ZERO][1] = " ", answers[SHOTS][1]
    questions = judge_worker.write_acceptable_questions(plan, answers, tmp_path, tmp_path)
    assert questions.keys[ZERO][0] is None and questions.keys[ZERO][1] == questions.keys[SHOTS][1]
    assert len(questions.key_set) == 2 * ROWS - 2
    assert judge_worker.read_questions(tmp_path, judge_worker.ACCEPTABLE) == questions


def test_judging_never_costs_more_than_announced(plan: ComparisonPlan, tmp_path: Path) -> None:
    answers = texts(zero="word " * 240, shots="other " * 240)
    worst = judge_worker.longest_questions(plan, tmp_path)
    assert len(worst.keys) == len(set(worst.keys)) == 4 * ROWS
    first = judge_worker.write_acceptable_questions(plan, answers, tmp_path, tmp_path)
    verdicts = JudgeAnswers(JUDGE, dict.fromkeys(first.key_set, "YES"), first, None)
    second = judge_worker.write_better_questions(plan, answers, verdicts, tmp_path, tmp_path)
    assert sum(worst.tokens) >= sum(first.priced.tokens) + sum(second.priced.tokens)


def test_the_two_best_candidates_are_compared_in_both_orders(plan: ComparisonPlan, tmp_path: Path) -> None:
    answers = texts() | {Candidate("retrieval", "local/a"): ["awful"] * ROWS}
    first = judge_worker.write_acceptable_questions(plan, answers, tmp_path, tmp_path)
    yes = {
        key
        for candidate in (SHOTS, ZERO)
        for key in first.keys[candidate][: 9 if candidate == ZERO else 15]
        if key
    }
    replies = {key: "YES" if key in yes else "NO" for key in first.key_set}
    verdicts = JudgeAnswers(JUDGE, replies, first, None)
    second = judge_worker.write_better_questions(plan, answers, verdicts, tmp_path, tmp_path)
    assert second.pair == (SHOTS, ZERO) and len(second.key_set) == 2 * ROWS


def conclude(plan: ComparisonPlan, folder: Path, reply: str, **other: str) -> judge_worker.Conclusion:
    """Returns the conclusion if the judge replies the same to every question."""
    answers = texts()
    first = judge_worker.write_acceptable_questions(plan, answers, folder, folder)
    verdicts = JudgeAnswers(JUDGE, dict.fromkeys(first.key_set, reply), first, None, other.get("failed"))
    replies = {candidate: [Reply(text, 10, 3, 0.1) for text in row] for candidate, row in answers.items()}
    return judge_worker.conclude(plan, replies, verdicts, folder, folder, 5.0)


def test_with_too_many_missing_verdicts_shared_words_are_scored(plan: ComparisonPlan, tmp_path: Path) -> None:
    unreadable = conclude(plan, tmp_path, "Who knows?")
    assert unreadable.comparison.candidates[0].scoring == "f1"
    assert unreadable.judge and "no readable verdict on 20 of 20" in str(unreadable.judge.failed)
    readable = conclude(plan, tmp_path, "NO")
    assert (
        readable.comparison.candidates[0].scoring == "judge"
        and readable.judge
        and readable.judge.failed is None
    )


def test_concluding_in_a_terminal_draws_no_picture(plan: ComparisonPlan, tmp_path: Path) -> None:
    conclude(plan, tmp_path, "YES")
    assert not list(tmp_path.rglob("*.png"))


def test_a_judge_that_could_not_be_asked_is_reported_with_the_reason(
    plan: ComparisonPlan, tmp_path: Path
) -> None:
    conclusion = conclude(plan, tmp_path, "YES", failed="There is no key.")
    assert conclusion.comparison.candidates[0].scoring == "f1"
    assert conclusion.judge and conclusion.judge.failed == "There is no key."


def test_people_get_answers_from_both_sides_of_the_judge_every_time(
    plan: ComparisonPlan, tmp_path: Path
) -> None:
    answers = texts()
    rows = dataset_worker.examples(tmp_path, plan.holdout_sha256)
    first = judge_worker.write_acceptable_questions(plan, answers, tmp_path, tmp_path)
    accepted = {key for key in first.keys[SHOTS] if key}
    replies = {key: "YES" if key in accepted else "NO" for key in first.key_set}
    verdicts = JudgeAnswers(JUDGE, replies, first, None)
    judge_worker.write_answers(tmp_path, answers, verdicts, rows)
    shown = judge_worker.read_answers(tmp_path)
    assert len(shown) == len({answer.key for answer in shown}) == 2 * ROWS
    for start in range(0, 2 * ROWS, 10):
        block = shown[start : start + 10]
        assert [answer.judged for answer in block].count("yes") == 5
        assert [answer.key for answer in block] == sorted(answer.key for answer in block), (
            "the order tells nothing about the verdicts"
        )
    assert all((answer.judged == "yes") == answer.answer.startswith("good") for answer in shown)
    judge_worker.write_answers(tmp_path, answers, verdicts, rows)
    assert judge_worker.read_answers(tmp_path) == shown


def test_a_judge_that_accepts_everything_is_checked_on_that(plan: ComparisonPlan, tmp_path: Path) -> None:
    conclude(plan, tmp_path, "YES")
    shown = judge_worker.read_answers(tmp_path)
    assert len(shown) == 2 * ROWS and {answer.judged for answer in shown} == {"yes"}


def test_people_get_the_same_rows_with_differing_answers_every_time(
    plan: ComparisonPlan, tmp_path: Path
) -> None:
    conclude(plan, tmp_path, "YES", failed="There is no key.")
    assert judge_worker.read_answers(tmp_path) == ()
    pairs = judge_worker.read_for_people(tmp_path)
    assert pairs and {pairs.first_candidate, pairs.second_candidate} == {ZERO, SHOTS}
    assert len(pairs.rows) == ROWS and [pair.row for pair in pairs.rows] != list(range(ROWS))
    assert pairs.rows[0].question == f"question {pairs.rows[0].row}"
    conclude(plan, tmp_path, "YES", failed="There is no key.")
    assert judge_worker.read_for_people(tmp_path) == pairs


def test_progress_and_plans_from_before_there_were_judges_are_read() -> None:
    old_progress = json.loads(measurements.half_way_progress().to_json())
    del old_progress["judge"]
    assert ComparisonProgress.from_json(json.dumps(old_progress)) == measurements.half_way_progress()
    old_plan = json.loads(measurements.plan().to_json())
    del old_plan["judge"]
    assert ComparisonPlan.from_json(json.dumps(old_plan)).judge is None


def test_progress_with_a_judge_survives_storing() -> None:
    judge = JudgeProgress(40, 12, ("k",), None, "why", 40, 2, JudgedPair(SHOTS, ZERO, ("first", None, "tie")))
    progress = ComparisonProgress(
        "consulting", measurements.half_way_progress().candidates, 5, 4, 1.0, None, judge
    )
    assert ComparisonProgress.from_json(progress.to_json()) == progress


def declined(key: str, *, of_model: bool = False) -> Declined:
    return Declined(key, JUDGE, "It said no.", of_model)


def test_a_judge_that_only_declines_or_is_shut_down_has_failed(plan: ComparisonPlan) -> None:
    keys = tuple("abcdefgh")
    fresh = CandidateProgress(judge_worker.candidate_of(plan), len(keys))
    four = evaluation_engine.update_progress(fresh, keys, frozenset(), [declined(key) for key in "abcd"])
    assert four.failed is None and four.answered == 0
    assert set(four.declined) == set("abcd")
    five = evaluation_engine.update_progress(four, keys, frozenset(), [declined("e")])
    assert five.failed == "It said no." and len(five.declined) == 5
    most = evaluation_engine.update_progress(
        fresh, keys, frozenset("a"), [declined(key) for key in "bcdefgh"]
    )
    assert most.failed is None, "it answers some"
    closed = evaluation_engine.update_progress(fresh, keys, frozenset("a"), [declined("b", of_model=True)])
    assert closed.failed == "It said no."


def test_a_model_that_answered_everything_has_not_failed_even_if_it_is_gone(plan: ComparisonPlan) -> None:
    fresh = CandidateProgress(judge_worker.candidate_of(plan), 2)
    candidate = evaluation_engine.update_progress(
        fresh, ("a", "b"), frozenset("ab"), [declined("c", of_model=True)]
    )
    assert candidate.failed is None and candidate.answered == 2


def test_a_declined_question_that_was_answered_elsewhere_counts_once(plan: ComparisonPlan) -> None:
    before = CandidateProgress(judge_worker.candidate_of(plan), 3, declined=("a",))
    candidate = evaluation_engine.update_progress(before, ("a", "b", "c"), frozenset("ab"), [])
    assert candidate.answered == 2 and candidate.declined == () and not candidate.is_complete
