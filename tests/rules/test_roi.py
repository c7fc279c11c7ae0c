"""The golden numbers of the article's case, and the rules around them."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.cards.common.prices import missing_price_text
from bot.rules.bills import (
    Capacity,
    Rates,
    Tokens,
    Traffic,
    bill,
    machine_time,
    month_weights,
    net_present_value,
)
from bot.rules.forecast import LIKELY, simulate
from bot.rules.prices import MissingPrice, evaluation_usd, rates_from_row, training_from_row
from bot.rules.roi import Inputs, Quality, Range, Training, Usage, estimate
from bot.rules.units import HOURS_PER_MONTH
from tests.rules.builders import ARTICLE, WITH_PEOPLE
from trainers.providers.pricing import PriceRow
from trainers.types import Price

GPT_4O = ARTICLE.now
TUNED_NANO = ARTICLE.tuned
TRAINING_25 = ARTICLE.training
NANO = Rates("gpt-4.1-nano", Decimal("0.10"), Decimal("0.40"), "a list")
FREE = Rates("free", Decimal(0), Decimal(0), "a list")
HOSTED = replace(FREE, usd_per_hour=Decimal(2))
TEN_MILLION, TEN_BILLION = 10_000_000, 10_000_000_000


@pytest.mark.parametrize(
    ("volume", "before", "after", "saving"), [(TEN_MILLION, 25, 2, 23), (TEN_BILLION, 25_000, 2_000, 23_000)]
)
def test_ten_million_tokens_at_2_50_dollars_a_million_cost_25_dollars(
    volume: int, before: int, after: int, saving: int
) -> None:
    costs = estimate(replace(ARTICLE, monthly_input_tokens=volume))
    assert costs.monthly_before.input == costs.monthly_before.total == before
    assert costs.monthly_after.input == costs.monthly_after.total == after
    assert costs.saving_month == saving


@pytest.mark.parametrize(
    ("inputs", "volume", "one_off", "months"),
    [
        (ARTICLE, TEN_MILLION, 25, "1.09"),
        (ARTICLE, TEN_BILLION, 25, "0.00"),
        (WITH_PEOPLE, TEN_MILLION, 5025, "218.48"),
        (WITH_PEOPLE, TEN_BILLION, 5025, "0.22"),
    ],
)
def test_payback_counts_training_and_staff_time(
    inputs: Inputs, volume: int, one_off: int, months: str
) -> None:
    costs = estimate(replace(inputs, monthly_input_tokens=volume))
    assert costs.one_off_usd == one_off
    assert costs.payback_months is not None
    assert round(costs.payback_months, 2) == Decimal(months)


def test_payback_takes_33_days_at_10m_tokens_and_0_79_hours_at_10b() -> None:
    small = estimate(ARTICLE).payback_months
    large = estimate(replace(ARTICLE, monthly_input_tokens=TEN_BILLION)).payback_months
    assert small is not None
    assert large is not None
    assert round(small * HOURS_PER_MONTH / 24) == 33
    assert round(large * HOURS_PER_MONTH, 2) == Decimal("0.79")


@pytest.mark.parametrize(("inputs", "millions"), [(ARTICLE, Decimal("3.6")), (WITH_PEOPLE, Decimal("728.3"))])
def test_break_even_within_three_months(inputs: Inputs, millions: Decimal) -> None:
    tokens = estimate(inputs).break_even_tokens_per_month
    assert tokens is not None
    assert round(Decimal(tokens) / 1_000_000, 1) == millions


def test_a_tuned_model_loses_against_prompting_the_cheapest_model() -> None:
    costs = estimate(replace(ARTICLE, now=NANO))
    assert costs.saving_month == -1
    assert costs.payback_months is None
    assert costs.break_even_tokens_per_month is None


def test_three_epochs_of_1000_rows_of_120_tokens_on_nano_cost_54_cents() -> None:
    training = Training(tokens=1000 * 120, epochs=3, usd_per_million=Decimal("1.50"))
    assert training.usd == Range.exactly(Decimal("0.54"))
    assert estimate(replace(ARTICLE, training=training)).training_usd == Decimal("0.54")


def test_two_dollars_an_hour_around_the_clock_are_1460_a_month() -> None:
    costs = estimate(replace(ARTICLE, tuned=HOSTED))
    assert costs.monthly_after.hosting == costs.monthly_after.total == 1460
    assert costs.saving_month == 25 - 1460
    assert costs.payback_months is None
    # (1460 + 25/3) / 2.50 per 1M
    assert costs.break_even_tokens_per_month == 587_333_334


def test_output_is_added_in_the_measured_ratio_and_a_shorter_prompt_shrinks_only_the_input() -> None:
    usage = Usage(requests=10, prompt_before=1000, prompt_after=250, output=50)
    costs = estimate(replace(ARTICLE, usage=usage))
    assert (costs.monthly_before.input, costs.monthly_before.output) == (25, 5)  # 500k tokens at $10
    assert costs.monthly_before.total == 30
    assert (costs.monthly_after.input, costs.monthly_after.output) == (Decimal("0.5"), Decimal("0.4"))


def test_the_saving_s_range_follows_the_volume_s() -> None:
    costs = estimate(ARTICLE)
    assert costs.saving_month_range == Range(Decimal("17.25"), Decimal(23), Decimal("28.75"))
    loss = estimate(replace(ARTICLE, now=NANO)).saving_month_range
    assert loss.low < loss.expected < loss.high


def test_a_machine_by_the_hour_costs_a_range() -> None:
    minutes = Range(Decimal(15), Decimal(30), Decimal(60))
    training = Training(tokens=1, epochs=1, usd_per_hour=Decimal(2), minutes=minutes)
    costs = estimate(replace(ARTICLE, training=training))
    assert training.usd == Range(Decimal("0.5"), Decimal(1), Decimal(2))
    assert costs.training_usd == 1


def test_a_free_machine_pays_back_at_once() -> None:
    costs = estimate(replace(ARTICLE, training=Training(tokens=1, epochs=1, usd_per_hour=Decimal(0))))
    assert costs.one_off_usd == 0
    assert costs.payback_months == 0
    assert costs.break_even_tokens_per_month == 0


def test_each_expected_run_is_trained_and_measured() -> None:
    inputs = replace(ARTICLE, training=replace(TRAINING_25, runs=3), evaluation_usd=Decimal(10))
    costs = estimate(inputs)
    assert (costs.training_tokens, costs.training_usd, costs.evaluation_usd) == (3_000_000, 75, 30)
    assert costs.one_off_usd == 105
    assert estimate(replace(inputs, retrain_months=5)).monthly_after.upkeep == 21


def test_an_evaluation_pays_for_both_models_prompts() -> None:
    holdout = Usage(requests=200, prompt_before=100_000, prompt_after=20_000, output=1_000)
    assert evaluation_usd(holdout, NANO, TUNED_NANO) == Decimal("0.0152")
    assert estimate(replace(ARTICLE, evaluation_usd=Decimal("0.0152"))).one_off_usd == Decimal("25.0152")


def test_an_end_date_shortens_the_time_for_payback() -> None:
    costs = estimate(replace(ARTICLE, ends=date(2026, 12, 24)))
    assert costs.months_left is not None
    assert round(costs.months_left, 3) == Decimal("0.986")
    assert costs.payback_target_months == costs.months_left
    unlimited = estimate(ARTICLE)
    assert (unlimited.months_left, unlimited.payback_target_months) == (None, 3)
    assert costs.break_even_tokens_per_month is not None
    assert unlimited.break_even_tokens_per_month is not None
    assert costs.break_even_tokens_per_month > unlimited.break_even_tokens_per_month


def test_a_model_that_has_ended_never_breaks_even() -> None:
    costs = estimate(replace(ARTICLE, ends=date(2026, 10, 23)))
    assert (costs.months_left, costs.break_even_tokens_per_month) == (0, None)


@pytest.mark.parametrize("counts", [(0, 1, 1, 0), (1, 0, 1, 0), (1, 1, 0, 0), (1, 1, 1, -1)])
def test_usage_without_requests_or_prompts_is_rejected(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Usage(*counts)


def test_usage_from_means_has_the_original_totals() -> None:
    assert Usage.from_means(3, 100 / 3, 50 / 3, 10 / 3) == Usage(3, 100, 50, 10)


@pytest.mark.parametrize(
    "prices", [{}, {"usd_per_million": Decimal(1), "usd_per_hour": Decimal(1)}, {"usd_per_hour": Decimal(1)}]
)
def test_training_needs_exactly_one_price(prices: dict[str, Decimal]) -> None:
    with pytest.raises(ValueError, match="training"):
        Training(1, 1, **prices)


def test_an_unknown_price_says_where_to_add_it() -> None:
    row = PriceRow("nebius/some/model", "tuned", Price(None, None, None, None), "docs")
    for gap in (rates_from_row(row), training_from_row(row, 1, 1, None)):
        assert isinstance(gap, MissingPrice)
        assert '[providers.nebius.models."some/model"]' in missing_price_text(gap)
    prompted = rates_from_row(replace(row, kind="prompted", model="own/x"))
    assert isinstance(prompted, MissingPrice)
    assert 'add input and output to finetune.toml under [prices."own/x"]' in missing_price_text(prompted)


def test_our_own_machine_is_paid_by_the_hour() -> None:
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


@settings(max_examples=25)
@given(
    volume=st.integers(1, 10**12),
    before=st.integers(1, 10**6),
    after=st.integers(1, 10**6),
    output=st.integers(0, 10**6),
    hourly=st.sampled_from([Decimal(0), Decimal("0.5"), Decimal(2)]),
)
def test_break_even_is_the_smallest_volume_that_pays_back_in_time(
    volume: int, before: int, after: int, output: int, hourly: Decimal
) -> None:
    inputs = replace(
        ARTICLE,
        monthly_input_tokens=volume,
        usage=Usage(1, before, after, output),
        tuned=replace(TUNED_NANO, usd_per_hour=hourly),
    )
    costs = estimate(inputs)
    point = costs.break_even_tokens_per_month
    if point is None:
        assert estimate(replace(inputs, monthly_input_tokens=10**15)).saving_month <= 0
        return
    # 0 says that any volume pays, so the smallest one is a single token.
    at = estimate(replace(inputs, monthly_input_tokens=max(point, 1))).payback_months
    assert at is not None
    assert at <= costs.payback_target_months + Decimal("1e-15")
    if point == 0:
        return
    below = estimate(replace(inputs, monthly_input_tokens=point - 1)).payback_months
    assert below is None or below > costs.payback_target_months - Decimal("1e-15")


# Net present value, with the alternative's falling price and the model's end

# $2,300 a month for 1B tokens, $5,025 once
SAVES_2300 = replace(
    WITH_PEOPLE, monthly_input_tokens=1_000_000_000, now=replace(GPT_4O, input=Decimal("2.30")), tuned=FREE
)


@pytest.mark.parametrize(("fall", "dollars"), [("0", 21_196), ("0.5", 13_448), ("0.9", 4_428)])
def test_a_years_net_value_at_ten_percent(fall: str, dollars: int) -> None:
    costs = estimate(replace(SAVES_2300, price_fall=Range.exactly(Decimal(fall))))
    assert (costs.saving_month, costs.one_off_usd) == (2_300, 5_025)
    assert round(costs.npv_usd) == dollars


def test_only_the_alternatives_price_falls() -> None:
    """Half of the saving's price is gone after a year; the tuned model's bill is not."""
    inputs = replace(
        SAVES_2300, now=replace(GPT_4O, input=Decimal("2.50")), tuned=replace(FREE, input=Decimal("0.20"))
    )
    steady, falling = (
        estimate(replace(inputs, price_fall=Range.exactly(Decimal(fall)))).npv_usd for fall in ("0", "0.5")
    )
    assert round(steady) == 21_196
    assert falling < Decimal(13_448)


def test_the_horizon_ends_with_the_model() -> None:
    left = estimate(replace(SAVES_2300, ends=date(2027, 1, 14), price_fall=Range.exactly(Decimal(0))))
    assert round(left.horizon_months, 2) == Decimal("1.68")
    assert round(left.npv_usd) == round(
        -5025
        + 2300 / Decimal("1.1") ** (1 / Decimal(12))
        + (left.horizon_months - 1) * 2300 / Decimal("1.1") ** (1 / Decimal(6))
    )
    gone = estimate(replace(SAVES_2300, ends=date(2026, 10, 23)))
    assert (gone.horizon_months, gone.npv_usd) == (0, -5025)


def test_the_last_month_of_a_horizon_counts_in_part() -> None:
    assert month_weights(Decimal("2.4")) == (1, 1, Decimal("0.4"))
    assert month_weights(Decimal(0)) == ()
    assert net_present_value(Decimal(10), (), Decimal("0.1")) == -10


@settings(max_examples=25)
@given(slow=st.decimals(0, 1, places=3), fast=st.decimals(0, 1, places=3), tuned=st.decimals(0, 5, places=2))
def test_a_faster_price_fall_lowers_the_net_value(slow: Decimal, fast: Decimal, tuned: Decimal) -> None:
    slow, fast = sorted((slow, fast))
    inputs = replace(SAVES_2300, tuned=replace(FREE, input=tuned))
    more, less = (estimate(replace(inputs, price_fall=Range.exactly(fall))).npv_usd for fall in (slow, fast))
    assert more > less if slow < fast else more == less


@pytest.mark.parametrize(
    ("rates", "fall"),
    [
        (GPT_4O, "0.3"),
        (NANO, "0.3"),
        (HOSTED, "0"),  # paid by the hour
        (FREE, "0"),
    ],
)
def test_only_a_price_by_the_token_falls(rates: Rates, fall: str) -> None:
    assert estimate(replace(SAVES_2300, now=rates)).yearly_price_fall == Decimal(fall)


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


def test_what_only_today_s_prompt_has_counts_as_its_repeated_beginning() -> None:
    usage = Usage(requests=10, prompt_before=20_000, prompt_after=9_760, output=0)
    costs = estimate(replace(ARTICLE, usage=usage, now=CACHED, monthly_input_tokens=2_000_000))
    assert costs.monthly_before.input == Decimal("3.72")


def test_a_batch_discount_applies_to_the_share_that_can_wait() -> None:
    tokens, traffic = Tokens(1, 1000, 100), Traffic(batch_share=Decimal("0.5"))
    assert bill(tokens, GPT_4O, REQUESTS, traffic).total == Decimal("3.50")
    halved = bill(tokens, replace(GPT_4O, batch_discount=Decimal("0.5")), REQUESTS, traffic)
    assert (halved.input, halved.output) == (Decimal("1.875"), Decimal("0.75"))


def test_a_retry_pays_tokens_and_the_price_per_request_again() -> None:
    rates = replace(GPT_4O, usd_per_request=Decimal("0.001"))
    cost = bill(Tokens(1, 1000, 100), rates, REQUESTS, Traffic(retries=Decimal("0.1")))
    assert (cost.input, cost.output, cost.requests) == (Decimal("2.75"), Decimal("1.1"), Decimal("1.1"))


FULL = 2_628_000_000  # tokens a month: 5,000 a second for a fifth of 730 hours
FAST = replace(HOSTED, capacity=Capacity(Decimal(5000), Decimal(5000), Decimal("0.2"), "given"))


def test_a_machine_with_5000_tokens_a_second_at_20_percent_use_costs_56_cents_a_million() -> None:
    costs = estimate(replace(ARTICLE, tuned=FAST, monthly_input_tokens=FULL))
    assert (costs.machines, costs.monthly_after.hosting) == (1, 1460)
    assert round(costs.monthly_after.hosting * 1_000_000 / FULL, 2) == Decimal("0.56")


@pytest.mark.parametrize(
    ("volume", "machines"), [(1_000_000, 1), (FULL, 1), (FULL + 1, 2), (2 * FULL, 2), (FULL * 1000, 1000)]
)
def test_a_machine_has_a_capacity_whoever_runs_it(volume: int, machines: int) -> None:
    costs = estimate(replace(ARTICLE, tuned=FAST, monthly_input_tokens=volume))
    assert (costs.machines, costs.monthly_after.hosting) == (machines, 1460 * machines)


def test_a_speed_does_not_turn_an_always_on_machine_into_one_that_is_paid_by_use() -> None:
    with_speed = estimate(replace(ARTICLE, tuned=FAST))
    assert with_speed.monthly_after.hosting == estimate(replace(ARTICLE, tuned=HOSTED)).monthly_after.hosting
    assert with_speed.monthly_after.hosting == 1460


def test_a_guessed_speed_gives_a_range_of_machines() -> None:
    guess = Capacity(Decimal(5000), Decimal(5000), Decimal("0.2"), "guessed", Decimal(3))
    costs = estimate(replace(ARTICLE, tuned=replace(HOSTED, capacity=guess), monthly_input_tokens=6 * FULL))
    assert (costs.machines, costs.machines_range) == (6, (2, 18))


SLEEPY = replace(HOSTED, usd_per_hour=Decimal(8), idle_window_s=1800)


@pytest.mark.parametrize(("a_day", "window_s"), [(2, 1800), (20, 1800), (48, 600), (300, 1800), (2000, 300)])
def test_a_machine_that_stops_by_itself_costs_what_random_arrivals_make_it_run(
    a_day: int, window_s: int
) -> None:
    """Simulates months of requests at random times, 120,000 in all: each keeps the machine up for the window."""
    rng = random.Random(7)
    month_s = 730 * 3600
    hours = []
    for _ in range(4_000 // a_day):
        up_s = 0.0
        now = until = 0.0
        while True:
            now += rng.expovariate(a_day / 86_400)
            if now >= month_s:
                break
            end = min(now + window_s, month_s)
            up_s += max(end - max(now, until), 0.0)
            until = max(until, end)
        hours.append(up_s / 3600)
    simulated = sum(hours) / len(hours)
    machines = machine_time(
        Tokens(1, 100, 10),
        replace(SLEEPY, idle_window_s=window_s),
        Fraction(a_day) * Fraction(month_s, 86_400),
        Traffic(),
    )
    assert machines is not None
    assert float(machines.hours_up()) == pytest.approx(simulated, rel=0.02)


@pytest.mark.parametrize("volume", [0, 1000, TEN_MILLION, TEN_BILLION])
def test_such_a_machine_costs_at_most_all_hours_of_a_month(volume: int) -> None:
    costs = estimate(replace(ARTICLE, tuned=SLEEPY, monthly_input_tokens=volume))
    assert 0 <= costs.monthly_after.hosting <= 8 * 730
    assert costs.saving_month_range.low >= -8 * 730
    net = simulate(replace(ARTICLE, tuned=SLEEPY, monthly_input_tokens=volume), draws=500).npv
    assert net.p5 is not None and net.p5 >= -8 * 730 * 12 - 400


@pytest.mark.parametrize("tuned", [SLEEPY, HOSTED, FAST, replace(FAST, usd_per_hour=Decimal("0.10"))])
@pytest.mark.parametrize("volume", [TEN_MILLION, 135_000_000, 1_000_000_000, TEN_BILLION])
def test_the_break_even_volume_is_the_same_whatever_volume_is_asked_about(tuned: Rates, volume: int) -> None:
    """Each further machine costs at once, so the saving is no line: the estimate at that volume has to agree."""
    here = replace(ARTICLE, tuned=tuned, monthly_input_tokens=volume)
    enough = estimate(here).break_even_tokens_per_month
    assert enough is not None
    assert enough == estimate(replace(here, monthly_input_tokens=TEN_MILLION)).break_even_tokens_per_month
    at = estimate(replace(here, monthly_input_tokens=enough)).payback_months
    below = estimate(replace(here, monthly_input_tokens=enough - 1)).payback_months
    assert at is not None and at <= 3
    assert below is None or below > 3


def test_no_volume_pays_for_machines_that_cost_more_than_the_tokens_they_handle() -> None:
    dear = replace(FAST, usd_per_hour=Decimal(20))  # $5.56 a million against $2.50
    costs = estimate(replace(ARTICLE, tuned=dear, monthly_input_tokens=TEN_BILLION))
    assert (costs.break_even_tokens_per_month, costs.saving_month < 0) == (None, True)


def test_the_likely_volume_is_likely_in_an_estimate_at_that_volume() -> None:
    guess = Capacity(Decimal(20_000), Decimal(4000), Decimal("0.2"), "guessed", Decimal(3))
    inputs = replace(ARTICLE, tuned=replace(SLEEPY, capacity=guess))
    enough = simulate(inputs).likely_from
    assert enough is not None
    assert simulate(replace(inputs, monthly_input_tokens=enough)).p_payback >= LIKELY
    assert simulate(replace(inputs, monthly_input_tokens=enough * 9 // 10)).p_payback < LIKELY


def test_a_machine_is_paid_for_its_hosting_hours() -> None:
    costs = estimate(replace(ARTICLE, tuned=HOSTED, traffic=Traffic(hosting_hours=Decimal(176))))
    assert costs.monthly_after.hosting == 352


def test_each_model_is_counted_with_its_own_measured_tokens() -> None:
    usage = Usage(requests=10, prompt_before=1000, prompt_after=1000, output=50)
    costs = estimate(replace(ARTICLE, usage=usage, tuned_tokens=Tokens(7, 350, 7)))
    assert costs.monthly_before.input == 25
    assert costs.monthly_after.input == 1  # 100k requests of 50 tokens
    assert costs.monthly_after.output == Decimal("0.08")  # of 1 token each


def test_retraining_and_monitoring_cost_money_each_month() -> None:
    inputs = replace(ARTICLE, retrain_months=5, monitoring_usd=Decimal(3), evaluation_usd=Decimal(5))
    costs = estimate(inputs)
    assert costs.monthly_after.upkeep == (25 + 5) / 5 + 3
    assert costs.saving_month == 23 - 9
    assert costs.break_even_tokens_per_month is not None
    without = estimate(ARTICLE).break_even_tokens_per_month
    assert without is not None
    assert costs.break_even_tokens_per_month > without


def test_labels_are_paid_once() -> None:
    costs = estimate(replace(ARTICLE, labels=500, usd_per_label=Decimal("0.10")))
    assert (costs.labels_usd, costs.one_off_usd) == (50, 75)


def test_avoided_errors_are_worth_the_difference_in_accuracy() -> None:
    """10M tokens are 83,333.3 requests of 120; 4 points fewer wrong at 10 cents each."""
    quality = Quality(rows=200, gained=Decimal(12), lost=Decimal(4), usd_per_wrong=Decimal("0.10"))
    costs = estimate(replace(ARTICLE, quality=quality))
    assert round(costs.errors_avoided_usd, 2) == Decimal("333.33")
    assert costs.saving_month == 23 + costs.errors_avoided_usd
    worse = estimate(replace(ARTICLE, quality=replace(quality, gained=Decimal(0))))
    assert round(worse.saving_month, 2) == Decimal("-143.67")


def test_no_volume_saves_nothing() -> None:
    costs = estimate(replace(ARTICLE, monthly_input_tokens=0))
    assert (costs.saving_month, costs.payback_months, costs.npv_usd) == (0, None, -25)
    assert costs.break_even_tokens_per_month == 3_623_189


@pytest.mark.parametrize(
    "wrong", [{"monthly_input_tokens": -1}, {"labels": -1}, {"people_hours": Decimal(-1)}]
)
def test_negative_inputs_are_rejected(wrong: dict[str, Decimal]) -> None:
    with pytest.raises(ValueError, match="be negative"):
        replace(ARTICLE, **wrong)  # type: ignore[arg-type]


def test_a_negative_price_is_rejected() -> None:
    with pytest.raises(ValueError, match="be negative"):
        Rates("m", Decimal("-0.1"), Decimal(0), "a list")


@settings(max_examples=25)
@given(
    less=st.integers(0, 10**12),
    more=st.integers(0, 10**12),
    tuned=st.decimals("0.01", "2.49", places=2),
    hours=st.integers(0, 100),
)
def test_more_volume_never_saves_less_nor_pays_back_later(
    less: int, more: int, tuned: Decimal, hours: int
) -> None:
    """At a steady price of the alternative. If it falls below the tuned model's, more volume loses more."""
    steady = replace(WITH_PEOPLE, price_fall=Range.exactly(Decimal(0)), people_hours=Decimal(hours))
    inputs = replace(steady, tuned=replace(FREE, input=tuned))
    small, large = (estimate(replace(inputs, monthly_input_tokens=volume)) for volume in sorted((less, more)))
    assert large.saving_month >= small.saving_month
    assert large.npv_usd >= small.npv_usd - Decimal("1e-12")
    if small.payback_months is not None:
        assert large.payback_months is not None
        assert large.payback_months <= small.payback_months


@settings(max_examples=25)
@given(right=st.integers(0, 200), other=st.integers(0, 200))
def test_a_worse_tuned_score_never_saves_more(right: int, other: int) -> None:
    worse, better = (
        estimate(replace(ARTICLE, quality=Quality(200, Decimal(n), Decimal(200 - n), Decimal("0.01"))))
        for n in sorted((right, other))
    )
    assert worse.saving_month <= better.saving_month
    assert worse.npv_usd <= better.npv_usd
