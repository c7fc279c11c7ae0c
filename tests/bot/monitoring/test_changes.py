"""Whether the answers of what is in use have changed, by the scores of the same rows; and the month of a card."""

from __future__ import annotations

import random
from datetime import date

import pytest

from bot.rules.monitoring.repetitions import LEVEL, judge_change, month_of_card
from trainers.evaluation.statistics import mcnemar_exact


def test_right_and_wrong_rows_are_compared_exactly() -> None:
    before = [1.0] * 30 + [0.0] * 10
    now = [0.0] * 12 + [1.0] * 18 + [1.0] * 1 + [0.0] * 9
    change = judge_change(before, now, is_same_question=True)
    assert (change.rows, change.p) == (40, mcnemar_exact(1, 12))
    assert change.difference == pytest.approx(-11 / 40)
    assert change.is_shown == (change.p <= LEVEL)


def test_partly_right_rows_are_compared_by_their_means() -> None:
    before = [0.5 + number / 200 for number in range(100)]
    worse = [score - 0.2 for score in before]
    assert judge_change(before, worse, is_same_question=True).is_shown
    assert not judge_change(before, before, is_same_question=True).is_shown


def test_a_year_without_a_change_has_an_alarm_in_at_most_one_of_twenty_cases() -> None:
    """A model that is right in 85% of the cases, each time by chance, is measured twelve times."""
    chance = random.Random(3)
    alarms = 0
    years = 300
    for _ in range(years):
        before = _answers(chance)
        alarms += any(
            judge_change(before, _answers(chance), is_same_question=True).is_shown for _ in range(12)
        )
    assert alarms / years <= 0.05


def _answers(chance: random.Random) -> list[float]:
    return [float(chance.random() < 0.85) for _ in range(200)]


@pytest.mark.parametrize(
    ("week", "month"),
    [
        (date(2026, 11, 23), "2026-11"),
        (date(2026, 11, 30), "2026-12"),
        (date(2026, 12, 28), "2027-01"),
    ],
)
def test_a_card_is_of_the_month_in_which_it_is_posted(week: date, month: str) -> None:
    assert month_of_card(week) == month
