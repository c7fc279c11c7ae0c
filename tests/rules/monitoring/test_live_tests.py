"""What a live test asks, when two answers are the same, and whom a person's choice proves right."""

from __future__ import annotations

from decimal import Decimal

import pytest

from bot.rules.monitoring.live_tests import (
    is_candidate_first,
    is_same,
    judge_by_label,
    judge_by_position,
    question_for,
)
from trainers.evaluation.results import Scoring

LABELS = ("refund", "lost parcel")


@pytest.mark.parametrize(
    ("scoring", "answer", "other", "expected"),
    [
        ("label", "refund", "Refund.", True),
        ("label", "refund", "lost parcel", False),
        ("label", "no idea", "no idea", True),
        ("json", '{"a": 1, "b": "x"}', '{"b": "X", "a": 1.0}', True),
        ("json", '{"a": 1}', '{"a": 1, "b": 2}', False),
        ("f1", "It is on its way. ", "It is on its way.", True),
        ("f1", "<think>hm</think>Yes", "Yes", True),
        ("judge", "Yes", "Yes!", False),
    ],
)
def test_answers_are_the_same_for_whoever_calls(
    scoring: Scoring, answer: str, other: str, expected: bool
) -> None:
    assert is_same(scoring, LABELS, answer, other) is expected


@pytest.mark.parametrize(
    ("candidate", "incumbent", "expected"),
    [
        ("refund", "lost parcel", "candidate"),
        ("lost parcel", "refund", "incumbent"),
        ("refund", "refund", "tie"),
        ("lost parcel", "no idea", "tie"),
        (None, "refund", "incumbent"),
        (None, "lost parcel", "tie"),
    ],
)
def test_a_label_says_who_was_right(candidate: str | None, incumbent: str, expected: str) -> None:
    assert judge_by_label("refund", LABELS, candidate, incumbent) == expected


def test_the_place_of_an_answer_says_nothing_about_whose_it_is() -> None:
    first = [is_candidate_first(f"call-{number}") for number in range(400)]
    assert 150 < sum(first) < 250
    for number, is_first in enumerate(first[:20]):
        right, wrong = ("candidate", "incumbent") if is_first else ("incumbent", "candidate")
        call = f"call-{number}"
        assert judge_by_position("first", call) == right
        assert judge_by_position("second", call) == wrong
        assert judge_by_position("neither", call) == "tie"


def test_only_what_is_known_to_cost_less_need_not_be_better() -> None:
    cheap, dear = Decimal("0.1"), Decimal("0.2")
    assert question_for(cheap, dear) == "not_worse"
    for usd, used_usd in ((dear, cheap), (dear, dear), (None, dear), (cheap, None)):
        assert question_for(usd, used_usd) == "better"
