"""The golden numbers of the article's example, done right, and the rules around them."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.decisions.amounts import HOURS_PER_MONTH
from bot.decisions.roi import (
    Gap,
    Inputs,
    Range,
    Rates,
    Training,
    Usage,
    estimate,
    evaluation_usd,
    rates_of,
    training_of,
)
from trainers.pricing import PriceRow
from trainers.types import Price

TODAY = date(2026, 11, 24)
GPT_4O = Rates("gpt-4o", Decimal("2.50"), Decimal("10.00"), "a list")
TUNED_NANO = Rates("openai/gpt-4.1-nano-2025-04-14", Decimal("0.20"), Decimal("0.80"), "a list")
NANO = Rates("gpt-4.1-nano", Decimal("0.10"), Decimal("0.40"), "a list")
INPUT_ONLY = Usage(requests=100, prompt_before=12_000, prompt_after=12_000, output=0)
# $25 of training: 1M tokens on gpt-4o, the article's sum.
TRAINING_25 = Training(tokens=1_000_000, epochs=1, usd_per_million=Decimal(25))
TEN_MILLION, TEN_BILLION = 10_000_000, 10_000_000_000

ARTICLE = Inputs(
    monthly_input_tokens=TEN_MILLION,
    usage=INPUT_ONLY,
    now=GPT_4O,
    tuned=TUNED_NANO,
    training=TRAINING_25,
    today=TODAY,
)
PEOPLE_5000 = replace(ARTICLE, people_hours=Decimal(50), people_usd_per_hour=Decimal(100))


@pytest.mark.parametrize(
    ("volume", "before", "after", "saving"),
    [(TEN_MILLION, 25, 2, 23), (TEN_BILLION, 25_000, 2_000, 23_000)],
)
def test_ten_million_tokens_at_two_and_a_half_dollars_are_25_dollars(
    volume: int, before: int, after: int, saving: int
) -> None:
    made = estimate(replace(ARTICLE, monthly_input_tokens=volume))
    assert made.monthly_before.input == made.monthly_before.total == before
    assert made.monthly_after.input == made.monthly_after.total == after
    assert made.saving_month == saving


@pytest.mark.parametrize(
    ("inputs", "volume", "one_off", "months"),
    [
        (ARTICLE, TEN_MILLION, 25, "1.09"),
        (ARTICLE, TEN_BILLION, 25, "0.00"),
        (PEOPLE_5000, TEN_MILLION, 5025, "218.48"),
        (PEOPLE_5000, TEN_BILLION, 5025, "0.22"),
    ],
)
def test_payback_counts_training_and_peoples_time(
    inputs: Inputs, volume: int, one_off: int, months: str
) -> None:
    made = estimate(replace(inputs, monthly_input_tokens=volume))
    assert made.one_off_usd == one_off
    assert made.payback_months is not None
    assert round(made.payback_months, 2) == Decimal(months)


def test_25_dollars_come_back_in_33_days_at_ten_million_and_in_0_79_hours_at_ten_billion() -> None:
    small = estimate(ARTICLE).payback_months
    large = estimate(replace(ARTICLE, monthly_input_tokens=TEN_BILLION)).payback_months
    assert small is not None
    assert large is not None
    assert round(small * HOURS_PER_MONTH / 24) == 33
    assert round(large * HOURS_PER_MONTH, 2) == Decimal("0.79")


@pytest.mark.parametrize(("inputs", "millions"), [(ARTICLE, Decimal("3.6")), (PEOPLE_5000, Decimal("728.3"))])
def test_break_even_within_three_months(inputs: Inputs, millions: Decimal) -> None:
    tokens = estimate(inputs).break_even_tokens_per_month
    assert tokens is not None
    assert round(Decimal(tokens) / 1_000_000, 1) == millions


def test_against_prompting_the_cheapest_model_it_is_a_loss() -> None:
    made = estimate(replace(ARTICLE, now=NANO))
    assert made.saving_month == -1
    assert made.payback_months is None
    assert made.break_even_tokens_per_month is None


def test_a_thousand_rows_of_120_tokens_thrice_on_nano_cost_54_cents() -> None:
    training = Training(tokens=1000 * 120, epochs=3, usd_per_million=Decimal("1.50"))
    assert training.usd == Range.exactly(Decimal("0.54"))
    assert estimate(replace(ARTICLE, training=training)).training_usd == Decimal("0.54")


def test_two_dollars_an_hour_around_the_clock_are_1460_a_month() -> None:
    hosted = replace(TUNED_NANO, input=Decimal(0), output=Decimal(0), usd_per_hour=Decimal(2))
    made = estimate(replace(ARTICLE, tuned=hosted))
    assert made.monthly_after.hosting == made.monthly_after.total == 1460
    assert made.saving_month == 25 - 1460
    assert made.payback_months is None


def test_with_hosting_the_break_even_pays_for_the_machine_too() -> None:
    hosted = replace(TUNED_NANO, input=Decimal(0), output=Decimal(0), usd_per_hour=Decimal(2))
    tokens = estimate(replace(ARTICLE, tuned=hosted)).break_even_tokens_per_month
    # (1460 + 25/3) / 2.50 per 1M
    assert tokens == 587_333_334


def test_output_comes_on_top_by_the_measured_ratio() -> None:
    usage = Usage(requests=10, prompt_before=1000, prompt_after=1000, output=50)
    made = estimate(replace(ARTICLE, usage=usage))
    assert made.monthly_before.input == 25
    assert made.monthly_before.output == 5  # 500k tokens at $10
    assert made.monthly_after.output == Decimal("0.4")
    assert made.monthly_before.total == 30


def test_a_shorter_prompt_shrinks_the_input_and_not_the_output() -> None:
    usage = Usage(requests=10, prompt_before=1000, prompt_after=250, output=50)
    made = estimate(replace(ARTICLE, usage=usage))
    assert made.monthly_after.input == Decimal("0.5")
    assert made.monthly_after.output == Decimal("0.4")
    assert made.monthly_before.input == 25


def test_the_saving_has_a_range_by_the_volumes() -> None:
    made = estimate(ARTICLE)
    assert made.saving_month_range == Range(Decimal("17.25"), Decimal(23), Decimal("28.75"))
    loss = estimate(replace(ARTICLE, now=NANO)).saving_month_range
    assert loss.low < loss.expected < loss.high


def test_hours_of_a_machine_cost_a_range() -> None:
    minutes = Range(Decimal(15), Decimal(30), Decimal(60))
    training = Training(tokens=1, epochs=1, usd_per_hour=Decimal(2), minutes=minutes)
    made = estimate(replace(ARTICLE, training=training))
    assert made.training_usd_range == Range(Decimal("0.5"), Decimal(1), Decimal(2))
    assert made.training_usd == 1
    assert made.training_minutes == minutes


def test_a_free_machine_pays_back_at_once() -> None:
    made = estimate(replace(ARTICLE, training=Training(tokens=1, epochs=1, usd_per_hour=Decimal(0))))
    assert made.one_off_usd == 0
    assert made.payback_months == 0
    assert made.break_even_tokens_per_month == 0


def test_expected_runs_multiply_tokens_and_money() -> None:
    made = estimate(replace(ARTICLE, training=replace(TRAINING_25, runs=3)))
    assert (made.training_tokens, made.training_usd) == (3_000_000, 75)


def test_evaluation_counts_both_arms_with_their_own_prompts() -> None:
    holdout = Usage(requests=200, prompt_before=100_000, prompt_after=20_000, output=1_000)
    assert evaluation_usd(holdout, NANO, TUNED_NANO) == Decimal("0.0152")
    assert estimate(replace(ARTICLE, evaluation_usd=Decimal("0.0152"))).one_off_usd == Decimal("25.0152")


def test_an_end_date_cuts_the_time_in_which_it_must_pay_back() -> None:
    made = estimate(replace(ARTICLE, ends=date(2026, 12, 24)))
    assert made.months_left is not None
    assert round(made.months_left, 3) == Decimal("0.986")
    assert made.payback_target_months == made.months_left
    unlimited = estimate(ARTICLE)
    assert (unlimited.months_left, unlimited.payback_target_months) == (None, 3)
    assert made.break_even_tokens_per_month is not None
    assert unlimited.break_even_tokens_per_month is not None
    assert made.break_even_tokens_per_month > unlimited.break_even_tokens_per_month


def test_a_model_that_has_ended_never_breaks_even() -> None:
    made = estimate(replace(ARTICLE, ends=date(2026, 10, 23)))
    assert (made.months_left, made.break_even_tokens_per_month) == (0, None)


@pytest.mark.parametrize("counts", [(0, 1, 1, 0), (1, 0, 1, 0), (1, 1, 0, 0), (1, 1, 1, -1)])
def test_requests_without_a_prompt_are_a_fault(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Usage(*counts)


def test_means_give_back_the_totals_they_came_from() -> None:
    assert Usage.from_means(3, 100 / 3, 50 / 3, 10 / 3) == Usage(3, 100, 50, 10)


@pytest.mark.parametrize(
    "prices",
    [
        {},
        {"usd_per_million": Decimal(1), "usd_per_hour": Decimal(1)},
        {"usd_per_hour": Decimal(1)},
    ],
)
def test_training_without_one_price_is_a_fault(prices: dict[str, Decimal]) -> None:
    with pytest.raises(ValueError, match="training"):
        Training(1, 1, **prices)


def test_an_unknown_price_is_a_gap_that_says_where_to_put_it() -> None:
    row = PriceRow("nebius/some/model", "tuned", Price(None, None, None, None), "docs")
    for gap in (rates_of(row), training_of(row, 1, 1, None)):
        assert isinstance(gap, Gap)
        assert '[providers.nebius.models."some/model"]' in gap.sentence
    prompted = rates_of(replace(row, kind="prompted", model="own/x"))
    assert isinstance(prompted, Gap)
    assert '[prices."own/x"]' in prompted.sentence


def test_a_machine_of_our_own_is_paid_by_the_hour() -> None:
    zero = Decimal(0)
    row = PriceRow("local/m", "tuned", Price(None, zero, zero, zero), "us", usd_per_hour=Decimal(2))
    minutes = Range.exactly(Decimal(30))
    training = training_of(row, 100, 2, minutes)
    assert isinstance(training, Training)
    assert (training.usd, training.billed_tokens) == (Range.exactly(Decimal(1)), 200)
    assert isinstance(training_of(row, 100, 2, None), Gap)
    rates = rates_of(row)
    assert isinstance(rates, Rates)
    assert rates.usd_per_hour == 2


@given(
    volume=st.integers(1, 10**12),
    before=st.integers(1, 10**6),
    after=st.integers(1, 10**6),
    output=st.integers(0, 10**6),
    hourly=st.sampled_from([Decimal(0), Decimal("0.5"), Decimal(2)]),
)
def test_at_the_break_even_volume_it_pays_back_in_time_and_below_it_does_not(
    volume: int, before: int, after: int, output: int, hourly: Decimal
) -> None:
    inputs = replace(
        ARTICLE,
        monthly_input_tokens=volume,
        usage=Usage(1, before, after, output),
        tuned=replace(TUNED_NANO, usd_per_hour=hourly),
    )
    made = estimate(inputs)
    point = made.break_even_tokens_per_month
    if point is None:
        assert estimate(replace(inputs, monthly_input_tokens=10**15)).saving_month <= 0
        return
    at = estimate(replace(inputs, monthly_input_tokens=point)).payback_months
    assert at is not None
    assert at <= made.payback_target_months + Decimal("1e-15")
    below = estimate(replace(inputs, monthly_input_tokens=point - 1)).payback_months
    assert below is None or below > made.payback_target_months - Decimal("1e-15")
