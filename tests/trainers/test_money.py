"""Money as text, and micro-dollars."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.money import from_micros, is_payable, rate, to_micros, usd, usd_micros


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("25", "$25.00"),
        ("0.54", "$0.54"),
        ("24948", "$24,948"),
        ("24948.49", "$24,948"),
        ("999.99", "$999.99"),
        ("999.996", "$1,000"),
        ("1000", "$1,000"),
        ("0.01", "$0.01"),
        ("0.025", "$0.03"),
        ("1000.5", "$1,001"),
        ("0.0099", "under 1 cent"),
        ("0.0000001", "under 1 cent"),
        ("0", "$0.00"),
        ("-5", "minus $5.00"),
        ("-0.001", "minus under 1 cent"),
        ("1E+2", "$100.00"),
    ],
)
def test_money_is_written_as_people_write_it(amount: str, text: str) -> None:
    assert usd(Decimal(amount)) == text


def test_micro_dollars_are_written_the_same() -> None:
    assert usd_micros(25_000_000) == "$25.00"
    assert usd_micros(9_999) == "under 1 cent"


@pytest.mark.parametrize(
    ("price", "text"),
    [("2.5", "$2.50"), ("0.025", "$0.025"), ("1.50", "$1.50"), ("25", "$25.00"), ("0", "$0.00")],
)
def test_a_price_of_tokens_keeps_every_digit(price: str, text: str) -> None:
    assert rate(Decimal(price)) == f"{text} per 1M tokens"


def test_less_than_a_micro_dollar_counts_as_one() -> None:
    assert to_micros(Decimal("0.0000001")) == 1
    assert to_micros(Decimal("0.54")) == 540_000


@given(st.integers(min_value=-(10**15), max_value=10**15))
def test_micro_dollars_survive_conversion_to_dollars_and_back(micros: int) -> None:
    assert to_micros(from_micros(micros)) == micros


@pytest.mark.parametrize(
    ("amount", "expected"),
    [("0", True), ("2.50", True), ("1E-12", True), ("1E+9", True)]
    + [(wrong, False) for wrong in ("-1", "1E+30", "1E-30", "NaN", "Infinity")],
)
def test_a_price_is_an_amount_that_can_be_paid(amount: str, expected: bool) -> None:
    assert is_payable(Decimal(amount)) is expected
