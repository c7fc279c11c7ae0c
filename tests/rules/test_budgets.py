from __future__ import annotations

import pytest

from bot.cards.budgets import budget_refusal
from bot.rules.budgets import Budget

DOLLAR = 1_000_000


@pytest.mark.parametrize(
    ("limit", "committed", "asked", "fits"),
    [
        (200, 0, 200, True),
        (200, 0, 201, False),
        (200, 150, 50, True),
        (200, 150, 51, False),
        (200, 200, 0, True),
        (0, 0, 0, True),
        (0, 0, 1, False),
        (100, 150, 0, True),
        (100, 150, 1, False),
    ],
)
def test_a_run_fits_or_does_not(limit: int, committed: int, asked: int, fits: bool) -> None:
    budget = Budget(limit * DOLLAR, committed * DOLLAR)
    assert budget.fits(asked * DOLLAR) == fits


@pytest.mark.parametrize(
    ("limit", "committed", "percents"),
    [
        (200, 99, ()),
        (200, 100, (50,)),
        (200, 160, (50, 80)),
        (200, 200, (50, 80, 100)),
        (200, 300, (50, 80, 100)),
        (0, 0, ()),
        (0, 5, ()),
    ],
)
def test_people_are_warned_at_half_at_four_fifths_and_at_the_end(
    limit: int, committed: int, percents: tuple[int, ...]
) -> None:
    assert Budget(limit, committed).warnings() == percents


def test_one_micro_dollar_too_much_is_too_much() -> None:
    assert Budget(DOLLAR, 0).fits(DOLLAR)
    assert not Budget(DOLLAR, 0).fits(DOLLAR + 1)


def test_a_refusal_has_the_numbers_and_the_cure() -> None:
    refusal = budget_refusal(Budget(200 * DOLLAR, 175 * DOLLAR), 30 * DOLLAR)
    for part in ("$30.00", "$25.00", "$200.00", "monthly_usd"):
        assert part in refusal


def test_an_overdrawn_month_has_nothing_left_and_not_less() -> None:
    refusal = budget_refusal(Budget(100 * DOLLAR, 150 * DOLLAR), DOLLAR)
    assert "minus" not in refusal
    assert "$0.00" in refusal


@pytest.mark.parametrize(
    ("limit", "committed", "asked"),
    [(100_000, 1, 100_000), (5 * DOLLAR, 0, 5_003_000), (DOLLAR, 996_000, 5_000)],
)
def test_a_refusal_does_not_ask_for_as_much_as_it_says_is_left(
    limit: int, committed: int, asked: int
) -> None:
    assert "but slightly less than that is left of this month's" in budget_refusal(
        Budget(limit, committed), asked
    )
