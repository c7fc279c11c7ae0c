"""What a run really cost: by the hour on our own machine, by tokens at a vendor."""

from datetime import date
from decimal import Decimal

from bot.rules.budgets import actual_micros
from storage.evaluations import AnswerTotals
from trainers.pricing import PriceList, PriceRow
from trainers.types import Price

TODAY = date(2026, 11, 24)


def price_list(tuned: PriceRow, base: PriceRow) -> PriceList:
    return PriceList((tuned, base), TODAY)


def row(*, training: str | None, input: str, output: str, per_hour: str | None = None) -> PriceRow:
    price = Price(Decimal(training) if training else None, Decimal(input), None, Decimal(output))
    hourly = Decimal(per_hour) if per_hour else None
    return PriceRow("some-model", "tuned", price, "a test", usd_per_hour=hourly)


def test_our_own_machine_is_paid_by_the_hour_it_trained_whatever_it_was_asked() -> None:
    ours = row(training=None, input="0", output="0", per_hour="2.00")

    assert (
        actual_micros(price_list(ours, ours), 1800, 10**6, AnswerTotals(1, 5, 5), AnswerTotals(1, 5, 5))
        == 1_000_000
    )


def test_a_vendor_is_paid_for_trained_tokens_and_for_both_models_answers() -> None:
    tuned = row(training="25", input="3", output="12")
    base = row(training=None, input="2", output="8")

    cost = actual_micros(
        price_list(tuned, base),
        0,
        1_000_000,
        AnswerTotals(1, 100_000, 10_000),
        AnswerTotals(1, 50_000, 10_000),
    )

    assert cost == 25_000_000 + (200_000 + 80_000) + (150_000 + 120_000)


def test_a_fraction_of_a_micro_dollar_is_rounded_up() -> None:
    tuned = row(training="0.10", input="0", output="0")

    assert actual_micros(price_list(tuned, tuned), 0, 1) == 1
