"""Numbers of tokens and lengths of time, as people read them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from bot.rules.units import format_months, format_tokens


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999_999, "1M"),
        (12_345, "12.3k"),
        (3_623_189, "3.62M"),
        (10_000_000, "10M"),
        (2_500_000_000, "2.5B"),
        (10**15, "1,000T"),
    ],
)
def test_token_counts_are_shown_short(count: int, text: str) -> None:
    assert format_tokens(count) == text


@pytest.mark.parametrize(
    ("months", "text"),
    [
        ("0", "0 minutes"),
        ("0.000001", "under 1 minute"),
        ("0.00108695", "48 minutes"),
        ("0.01", "7 hours"),
        ("0.0014", "1 hour"),
        ("1.0869565", "33 days"),
        ("7.2", "7.2 months"),
        ("3", "3 months"),
        ("218.478", "18 years"),
    ],
)
def test_months_are_shown_in_the_unit_that_fits(months: str, text: str) -> None:
    assert format_months(Decimal(months)) == text
