"""The golden numbers of the article's example, done right, and the rules around them."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.cards.prices import missing_price_text
from bot.rules.bills import Rates, Speed, Tokens, Traffic, bill, month_weights, net_present_value
from bot.rules.prices import MissingPrice, evaluation_usd, rates_from_row, training_from_row
from bot.rules.roi import Inputs, Quality, Range, Training, Usage, estimate
from bot.rules.units import HOURS_PER_MONTH
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


def test_each_expected_run_is_measured() -> None:
    three = replace(ARTICLE, training=replace(TRAINING_25, runs=3), evaluation_usd=Decimal(10))
    assert estimate(three).evaluation_usd == 30
    assert estimate(three).one_off_usd == 105
    assert estimate(replace(three, retrain_months=5)).monthly_after.upkeep == 21


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
    for gap in (rates_from_row(row), training_from_row(row, 1, 1, None)):
        assert isinstance(gap, MissingPrice)
        assert '[providers.nebius.models."some/model"]' in missing_price_text(gap)
    prompted = rates_from_row(replace(row, kind="prompted", model="own/x"))
    assert isinstance(prompted, MissingPrice)
    assert 'add input and output to finetune.toml under [prices."own/x"]' in missing_price_text(prompted)


def test_a_machine_of_our_own_is_paid_by_the_hour() -> None:
    zero = Decimal(0)
    row = PriceRow("local/m", "tuned", Price(None, zero, zero, zero), "us", usd_per_hour=Decimal(2))
    minutes = Range.exactly(Decimal(30))
    training = training_from_row(row, 100, 2, minutes)
    assert isinstance(training, Training)
    assert (training.usd, training.billed_tokens) == (Range.exactly(Decimal(1)), 200)
    assert isinstance(training_from_row(row, 100, 2, None), MissingPrice)
    rates = rates_from_row(row)
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


# Net present value, with the alternative's falling price and the model's end

FREE = Rates("free", Decimal(0), Decimal(0), "a list")
# $2,300 a month for 1B tokens, $5,025 once
WORTH = replace(
    PEOPLE_5000,
    monthly_input_tokens=1_000_000_000,
    now=replace(GPT_4O, input=Decimal("2.30")),
    tuned=FREE,
)


@pytest.mark.parametrize(("fall", "dollars"), [("0", 21_196), ("0.5", 13_448), ("0.9", 4_428)])
def test_a_years_net_value_at_ten_percent(fall: str, dollars: int) -> None:
    made = estimate(replace(WORTH, price_fall=Range.exactly(Decimal(fall))))
    assert (made.saving_month, made.one_off_usd) == (2_300, 5_025)
    assert round(made.npv_usd) == dollars


def test_only_the_alternatives_price_falls() -> None:
    """Half of the saving's price is gone after a year; the tuned model's bill is not."""
    inputs = replace(
        WORTH, now=replace(GPT_4O, input=Decimal("2.50")), tuned=replace(FREE, input=Decimal("0.20"))
    )
    steady, falling = (
        estimate(replace(inputs, price_fall=Range.exactly(Decimal(fall)))).npv_usd for fall in ("0", "0.5")
    )
    assert round(steady) == 21_196
    assert falling < Decimal(13_448)


def test_the_horizon_is_cut_where_the_model_ends() -> None:
    left = estimate(replace(WORTH, ends=date(2027, 1, 14), price_fall=Range.exactly(Decimal(0))))
    assert round(left.horizon_months, 2) == Decimal("1.68")
    assert round(left.npv_usd) == round(
        -5025
        + 2300 / Decimal("1.1") ** (1 / Decimal(12))
        + (left.horizon_months - 1) * 2300 / Decimal("1.1") ** (1 / Decimal(6))
    )
    gone = estimate(replace(WORTH, ends=date(2026, 10, 23)))
    assert (gone.horizon_months, gone.npv_usd) == (0, -5025)


def test_a_horizon_in_months() -> None:
    assert month_weights(Decimal("2.4")) == (1, 1, Decimal("0.4"))
    assert month_weights(Decimal(0)) == ()
    assert net_present_value(Decimal(10), (), Decimal("0.1")) == -10


@given(slow=st.decimals(0, 1, places=3), fast=st.decimals(0, 1, places=3), tuned=st.decimals(0, 5, places=2))
def test_the_net_value_falls_with_a_faster_fall_of_the_alternatives_price(
    slow: Decimal, fast: Decimal, tuned: Decimal
) -> None:
    slow, fast = sorted((slow, fast))
    inputs = replace(WORTH, tuned=replace(FREE, input=tuned))
    values = [estimate(replace(inputs, price_fall=Range.exactly(fall))).npv_usd for fall in (slow, fast)]
    assert values[0] > values[1] if slow < fast else values[0] == values[1]


# What a month costs

REQUESTS = Fraction(1000)
CACHED = replace(GPT_4O, cached_input=Decimal("1.25"))


@pytest.mark.parametrize(
    ("shared", "rates", "dollars"),
    [
        (1023, CACHED, "5.00"),  # a beginning that is too short
        (1024, CACHED, "3.72"),  # 976 at $2.50 and 1,024 at $1.25 per 1M
        (1024, GPT_4O, "5.00"),  # no such price in the list
    ],
)
def test_a_repeated_beginning_is_cheaper_from_1024_tokens_on(shared: int, rates: Rates, dollars: str) -> None:
    cost = bill(Tokens(1, 2000, 0, shared), rates, REQUESTS, Traffic())
    assert cost.input == Decimal(dollars)


def test_what_today_s_prompt_has_more_than_the_tuned_one_is_its_repeated_beginning() -> None:
    usage = Usage(requests=10, prompt_before=20_000, prompt_after=9_760, output=0)
    made = estimate(replace(ARTICLE, usage=usage, now=CACHED, monthly_input_tokens=2_000_000))
    assert made.monthly_before.input == Decimal("3.72")


def test_a_batch_halves_the_share_that_can_wait_where_the_list_says_so() -> None:
    tokens, traffic = Tokens(1, 1000, 100), Traffic(batch_share=Decimal("0.5"))
    assert bill(tokens, GPT_4O, REQUESTS, traffic).total == Decimal("3.50")
    halved = bill(tokens, replace(GPT_4O, batch_discount=Decimal("0.5")), REQUESTS, traffic)
    assert (halved.input, halved.output) == (Decimal("1.875"), Decimal("0.75"))


def test_a_repeated_request_is_paid_twice_and_a_look_up_each_time() -> None:
    rates = replace(GPT_4O, usd_per_request=Decimal("0.001"))
    cost = bill(Tokens(1, 1000, 100), rates, REQUESTS, Traffic(retries=Decimal("0.1")))
    assert (cost.input, cost.output, cost.requests) == (Decimal("2.75"), Decimal("1.1"), Decimal("1.1"))


def test_a_machine_of_5000_tokens_a_second_that_is_busy_a_fifth_of_its_time_costs_56_cents_a_million() -> (
    None
):
    speed = Speed(Decimal(5000), Decimal("0.2"))
    assert round(speed.usd_per_million(Decimal(2)), 2) == Decimal("0.56")
    hosted = replace(FREE, usd_per_hour=Decimal(2))
    made = estimate(replace(ARTICLE, tuned=hosted, traffic=Traffic(speed=speed)))
    assert round(made.monthly_after.hosting, 2) == Decimal("5.56")  # 10M tokens
    assert made.monthly_after.hosting == made.monthly_after.total


def test_fewer_hours_of_a_machine_cost_less() -> None:
    hosted = replace(FREE, usd_per_hour=Decimal(2))
    made = estimate(replace(ARTICLE, tuned=hosted, traffic=Traffic(hosting_hours=Decimal(176))))
    assert made.monthly_after.hosting == 352


def test_each_model_is_counted_with_its_own_measured_tokens() -> None:
    usage = Usage(requests=10, prompt_before=1000, prompt_after=1000, output=50)
    made = estimate(replace(ARTICLE, usage=usage, tuned_tokens=Tokens(7, 350, 7)))
    assert made.monthly_before.input == 25
    assert made.monthly_after.input == 1  # 100k requests of 50 tokens
    assert made.monthly_after.output == Decimal("0.08")  # of 1 token each


def test_retraining_and_monitoring_come_back_each_month() -> None:
    inputs = replace(ARTICLE, retrain_months=5, monitoring_usd=Decimal(3), evaluation_usd=Decimal(5))
    made = estimate(inputs)
    assert made.monthly_after.upkeep == (25 + 5) / 5 + 3
    assert made.saving_month == 23 - 9
    assert made.break_even_tokens_per_month is not None
    without = estimate(ARTICLE).break_even_tokens_per_month
    assert without is not None
    assert made.break_even_tokens_per_month > without


def test_labels_are_paid_once() -> None:
    made = estimate(replace(ARTICLE, labels=500, usd_per_label=Decimal("0.10")))
    assert (made.labels_usd, made.one_off_usd) == (50, 75)


def test_errors_avoided_are_worth_their_gap() -> None:
    """10M tokens are 83,333.3 requests of 120; 4 points fewer wrong at 10 cents each."""
    quality = Quality(rows=200, gained=Decimal(12), lost=Decimal(4), usd_per_wrong=Decimal("0.10"))
    made = estimate(replace(ARTICLE, quality=quality))
    assert round(made.errors_avoided_usd, 2) == Decimal("333.33")
    assert made.saving_month == 23 + made.errors_avoided_usd
    worse = estimate(replace(ARTICLE, quality=replace(quality, gained=Decimal(0))))
    assert round(worse.saving_month, 2) == Decimal("-143.67")


def test_no_volume_saves_nothing_and_divides_by_nothing() -> None:
    made = estimate(replace(ARTICLE, monthly_input_tokens=0))
    assert (made.saving_month, made.payback_months, made.npv_usd) == (0, None, -25)
    assert made.break_even_tokens_per_month == 3_623_189


@pytest.mark.parametrize(
    "wrong", [{"monthly_input_tokens": -1}, {"labels": -1}, {"people_hours": Decimal(-1)}]
)
def test_nothing_is_less_than_none(wrong: dict[str, Decimal]) -> None:
    with pytest.raises(ValueError, match="be negative"):
        replace(ARTICLE, **wrong)  # type: ignore[arg-type]


def test_a_negative_price_is_a_fault() -> None:
    with pytest.raises(ValueError, match="be negative"):
        Rates("m", Decimal("-0.1"), Decimal(0), "a list")


@given(
    less=st.integers(0, 10**12),
    more=st.integers(0, 10**12),
    tuned=st.decimals("0.01", "2.49", places=2),
    hours=st.integers(0, 100),
)
def test_more_volume_never_saves_less_nor_pays_back_later_while_the_tuned_model_is_cheaper(
    less: int, more: int, tuned: Decimal, hours: int
) -> None:
    less, more = sorted((less, more))
    """At a steady price of the alternative: where it falls below the tuned model's, more volume loses more."""
    steady = replace(PEOPLE_5000, price_fall=Range.exactly(Decimal(0)), people_hours=Decimal(hours))
    inputs = replace(steady, tuned=replace(FREE, input=tuned))
    small, large = (estimate(replace(inputs, monthly_input_tokens=volume)) for volume in (less, more))
    assert large.saving_month >= small.saving_month
    assert large.npv_usd >= small.npv_usd - Decimal("1e-12")
    if small.payback_months is not None:
        assert large.payback_months is not None
        assert large.payback_months <= small.payback_months


@given(right=st.integers(0, 200), other=st.integers(0, 200))
def test_a_worse_tuned_score_never_helps(right: int, other: int) -> None:
    worse, better = sorted((right, other))
    made = [
        estimate(replace(ARTICLE, quality=Quality(200, Decimal(n), Decimal(200 - n), Decimal("0.01"))))
        for n in (worse, better)
    ]
    assert made[0].saving_month <= made[1].saving_month
    assert made[0].npv_usd <= made[1].npv_usd
