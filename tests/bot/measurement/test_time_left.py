"""The time left of a comparison is estimated from the work that is left, not from the number of answers."""

import pytest

from bot.services.evidence import evaluation_worker
from bot.values.evaluations import CandidateProgress, ComparisonProgress
from trainers.evaluation.results import Candidate
from trainers.types import Message

CLASSICAL = Candidate("classical")
ZERO = Candidate("zero", "local/m")
NEAR = Candidate("retrieval", "local/m")


def progress(zero: int, near: int) -> ComparisonProgress:
    candidates = (
        CandidateProgress(CLASSICAL, 200, 200, work=0.0),
        CandidateProgress(ZERO, 200, zero, work=100.0),
        CandidateProgress(NEAR, 200, near, work=600.0),
    )
    return ComparisonProgress("measuring", candidates, started_at=0.0)


def test_the_time_left_counts_the_long_prompts_that_are_still_to_come() -> None:
    started = progress(20, 0).start_pace(now=50.0)
    later = ComparisonProgress(
        "measuring", progress(200, 0).candidates, 0, 0, 0.0, paced_at=started.paced_at, paced_work=2000.0
    )
    assert later.seconds_left(now=68.0) == pytest.approx(
        120.0
    )  # 180 short ones in 18 s, so 200 long ones in 120 s
    assert later.share == pytest.approx(2 / 3), "the bar counts the answers that are named beside it"


def test_loading_a_model_and_stored_answers_dont_count_as_pace() -> None:
    assert progress(0, 0).start_pace(now=90.0).paced_at is None
    started = progress(100, 0).start_pace(now=100.0)
    assert (started.paced_at, started.paced_work) == (100.0, 10_000.0)
    assert started.seconds_left(now=200.0) is None
    assert started.start_pace(now=300.0) == started


def test_a_shared_start_of_prompts_is_counted_once() -> None:
    shared = [(Message("system", "x" * 900), Message("user", letter * 100)) for letter in "ab"]
    apart = [(Message("user", letter * 1000),) for letter in "ab"]
    work = [evaluation_worker._work("local/m", prompts, [250, 250], 24) for prompts in (shared, apart)]
    assert work == [pytest.approx(25 + 48, abs=1), pytest.approx(250 + 48)]
    assert evaluation_worker._work("openai/m", apart, [250, 250], 24) == evaluation_worker.VENDORS_WORK
