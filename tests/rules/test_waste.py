"""What copies cost."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from bot.rules.budgets import DuplicateCost, duplicate_cost
from trainers.providers import load_providers

TODAY = date(2026, 11, 25)
ROWS = load_providers(
    {
        "acme": {
            "base_url": "https://tuning.example/v1",
            "models": {
                "small": {"training": "2.00", "ends": date(2026, 12, 31)},
                "large": {"training": "25.00"},
                "unpriced": {},
            },
        }
    }
)
ACME = tuple(row for row in ROWS if row.name == "acme")
LOCAL = tuple(row for row in ROWS if row.name == "local")


def test_copies_cost_the_cheapest_trainer_s_price() -> None:
    assert duplicate_cost(500_000, (*LOCAL, *ACME), TODAY) == DuplicateCost(
        500_000, "acme/small", Decimal("1.00")
    )


def test_a_model_that_ended_is_not_counted_with() -> None:
    assert duplicate_cost(1_000_000, ACME, date(2027, 1, 1)) == DuplicateCost(
        1_000_000, "acme/large", Decimal("25.00")
    )


def test_our_own_machine_charges_nothing_by_the_token() -> None:
    assert duplicate_cost(500_000, LOCAL, TODAY) == DuplicateCost(500_000)


@pytest.mark.parametrize("tokens", [0, -1])
def test_without_copies_nothing_is_wasted(tokens: int) -> None:
    assert duplicate_cost(tokens, ACME, TODAY) is None
