"""What a judge is asked and what its answers come to, without Slack and HTTP; how far it is, out of old
records too."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from bot.llm_client import Declined
from bot.services import evaluation_engine, judge_worker
from bot.services.judge_worker import JudgeAnswers
from bot.values.evaluations import ArmProgress, JudgedPair, JudgeProgress, LadderPlan, LadderProgress
from tests.cards import measurements
from trainers.dataset import Example, store_chat
from trainers.evaluation.results import Candidate, Reply
from trainers.pricing import PriceList
from trainers.types import Message

JUDGE = "openai/gpt-4o-mini"
ZERO, SHOTS = Candidate("zero", "local/a"), Candidate("kshot", "local/a")
ROWS = 20


def example(number: int) -> Example:
    said = (Message("user", f"question {number}"), Message("assistant", f"answer {number}"))
    return Example(number + 1, said)


@pytest.fixture
def plan(tmp_path: Path) -> LadderPlan:
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
    return {ZERO: [f"{zero} {one}" for one in range(ROWS)], SHOTS: [f"{shots} {one}" for one in range(ROWS)]}


def test_silence_is_not_asked_about_and_the_same_answer_once(plan: LadderPlan, tmp_path: Path) -> None:
    said = texts()
    said[ZERO][0], said[ZERO][1] = " ", said[SHOTS][1]
    asked = judge_worker.write_acceptable_questions(plan, said, tmp_path, tmp_path)
    assert asked.keys[ZERO][0] is None and asked.keys[ZERO][1] == asked.keys[SHOTS][1]
    assert len(asked.key_set) == 2 * ROWS - 2
    assert judge_worker.read_questions(tmp_path, judge_worker.ACCEPTABLE) == asked


def test_what_is_asked_never_costs_more_than_was_said_before(plan: LadderPlan, tmp_path: Path) -> None:
    said = texts(zero="word " * 240, shots="other " * 240)
    worst = judge_worker.longest_questions(plan, tmp_path)
    assert len(worst.keys) == len(set(worst.keys)) == 4 * ROWS
    first = judge_worker.write_acceptable_questions(plan, said, tmp_path, tmp_path)
    heard = JudgeAnswers(JUDGE, dict.fromkeys(first.key_set, "YES"), first, None)
    second = judge_worker.write_better_questions(plan, said, heard, tmp_path, tmp_path)
    assert sum(worst.tokens) >= sum(first.priced.tokens) + sum(second.priced.tokens)


def test_the_two_with_most_acceptable_answers_are_compared_in_both_orders(
    plan: LadderPlan, tmp_path: Path
) -> None:
    said = texts() | {Candidate("retrieval", "local/a"): ["awful"] * ROWS}
    first = judge_worker.write_acceptable_questions(plan, said, tmp_path, tmp_path)
    yes = {key for arm in (SHOTS, ZERO) for key in first.keys[arm][: 9 if arm == ZERO else 15] if key}
    said_by_judge = {key: "YES" if key in yes else "NO" for key in first.key_set}
    second = judge_worker.write_better_questions(
        plan, said, JudgeAnswers(JUDGE, said_by_judge, first, None), tmp_path, tmp_path
    )
    assert second.pair == (SHOTS, ZERO) and len(second.key_set) == 2 * ROWS


def concluded(plan: LadderPlan, folder: Path, judge_says: str, **other: str) -> judge_worker.Conclusion:
    said = texts()
    first = judge_worker.write_acceptable_questions(plan, said, folder, folder)
    heard = JudgeAnswers(JUDGE, dict.fromkeys(first.key_set, judge_says), first, None, other.get("failed"))
    replies = {arm: [Reply(one, 10, 3, 0.1) for one in each] for arm, each in said.items()}
    return judge_worker.conclude(plan, replies, heard, folder, folder, 5.0)


def test_too_many_missing_verdicts_leave_the_score_to_shared_words(plan: LadderPlan, tmp_path: Path) -> None:
    found = concluded(plan, tmp_path, "Who knows?")
    assert found.ladder.rungs[0].scoring == "f1"
    assert found.judge and "no readable verdict on 20 of 20" in str(found.judge.failed)
    readable = concluded(plan, tmp_path, "NO")
    assert readable.ladder.rungs[0].scoring == "judge" and readable.judge and readable.judge.failed is None


def test_a_judge_that_could_not_be_asked_is_said_with_the_reason(plan: LadderPlan, tmp_path: Path) -> None:
    found = concluded(plan, tmp_path, "YES", failed="There is no key.")
    assert found.ladder.rungs[0].scoring == "f1" and found.judge and found.judge.failed == "There is no key."


def test_people_get_rows_on_which_answers_differ_the_same_at_every_look(
    plan: LadderPlan, tmp_path: Path
) -> None:
    concluded(plan, tmp_path, "YES")
    pairs = judge_worker.read_for_people(tmp_path)
    assert pairs and {pairs.first_arm, pairs.second_arm} == {ZERO, SHOTS}
    assert len(pairs.rows) == ROWS and [one.row for one in pairs.rows] != list(range(ROWS))
    assert pairs.rows[0].question == f"question {pairs.rows[0].row}"
    concluded(plan, tmp_path, "YES")
    assert judge_worker.read_for_people(tmp_path) == pairs


def test_progress_and_plans_from_before_there_were_judges_are_read() -> None:
    old_progress = json.loads(measurements.half_way_progress().to_json())
    del old_progress["judge"]
    assert LadderProgress.from_json(json.dumps(old_progress)) == measurements.half_way_progress()
    old_plan = json.loads(measurements.plan().to_json())
    del old_plan["judge"]
    assert LadderPlan.from_json(json.dumps(old_plan)).judge is None


def test_progress_with_a_judge_comes_back_as_it_was() -> None:
    judge = JudgeProgress(40, 12, ("k",), None, "why", 40, 2, JudgedPair(SHOTS, ZERO, ("first", None, "tie")))
    progress = LadderProgress("consulting", measurements.half_way_progress().arms, 5, 4, 1.0, None, judge)
    assert LadderProgress.from_json(progress.to_json()) == progress


def declined(key: str, *, of_model: bool = False) -> Declined:
    return Declined(key, JUDGE, "It said no.", of_model)


def test_a_judge_that_only_declines_or_is_closed_can_t_go_on(plan: LadderPlan) -> None:
    keys = tuple("abcdefgh")
    fresh = ArmProgress(judge_worker.candidate_of(plan), len(keys))
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


def test_who_answered_all_has_not_failed_whatever_became_of_it_since(plan: LadderPlan) -> None:
    fresh = ArmProgress(judge_worker.candidate_of(plan), 2)
    arm = evaluation_engine.update_progress(
        fresh, ("a", "b"), frozenset("ab"), [declined("c", of_model=True)]
    )
    assert arm.failed is None and arm.answered == 2


def test_a_declined_question_that_another_got_answered_counts_once(plan: LadderPlan) -> None:
    before = ArmProgress(judge_worker.candidate_of(plan), 3, declined=("a",))
    arm = evaluation_engine.update_progress(before, ("a", "b", "c"), frozenset("ab"), [])
    assert arm.answered == 2 and arm.declined == () and not arm.is_complete
