"""Estimates beside the actual numbers, and the actual and avoided cost of a model in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.rules.bills import Capacity, Rates, Tokens, Traffic
from bot.rules.roi import Inputs, Training, Usage
from bot.rules.training.calibration import (
    FEW_RUNS,
    Actual,
    CallTotals,
    Quantity,
    RunningError,
    alternative_usd,
    run_actuals,
    running_error,
    share_of_month,
    tuned_calls_usd,
)
from bot.rules.units import month_period
from tests.rules.builders import ARTICLE


def error(quantity: Quantity, *pairs: tuple[str, str]) -> RunningError:
    actuals = [Actual(run, quantity, Decimal(a), Decimal(b)) for run, (a, b) in enumerate(pairs)]
    (error,) = running_error(actuals)
    return error


def test_one_run_is_its_own_error_and_early() -> None:
    assert running_error([]) == ()
    minutes = error("minutes", ("20", "25"))
    assert minutes == RunningError("minutes", 1, Decimal("1.25"), 0, 0)
    assert minutes.is_early


def test_the_typical_factor_is_the_geometric_mean() -> None:
    assert error("tokens", ("100", "100"), ("100", "200"), ("100", "400")).typical_factor == 2


def test_estimates_above_and_below_do_not_cancel_out() -> None:
    assert error("tokens", ("100", "50"), ("100", "200")).typical_factor == Decimal(2)


def test_a_nineteenth_is_as_far_off_as_nineteen_times() -> None:
    assert error("minutes", ("19", "1")).typical_factor == error("minutes", ("1", "19")).typical_factor == 19


def test_free_runs_are_left_out_and_counted() -> None:
    dollars = error("dollars", ("0", "0"), ("0", "0"), ("2", "1"))
    assert (dollars.runs, dollars.free, dollars.one_sided, dollars.typical_factor) == (1, 2, 0, 2)
    assert error("dollars", ("0", "0")) == RunningError("dollars", 0, None, 1, 0)


@pytest.mark.parametrize("pair", [("0", "5"), ("5", "0")])
def test_a_cost_against_an_estimate_of_zero_is_counted_separately(pair: tuple[str, str]) -> None:
    assert error("dollars", pair) == RunningError("dollars", 0, None, 0, 1)


def test_an_error_is_early_until_there_are_a_few_runs() -> None:
    assert error("tokens", *[("1", "1")] * (FEW_RUNS - 1)).is_early
    assert not error("tokens", *[("1", "1")] * FEW_RUNS).is_early


def test_a_run_gives_a_pair_for_each_quantity_that_is_known() -> None:
    pairs = run_actuals(
        7, tokens=(1000, 1100), micros=(540_000, 600_000), seconds=(600, 900), quality=(0.9, 0.87)
    )
    assert [(pair.quantity, pair.estimated, pair.actual) for pair in pairs] == [
        ("tokens", Decimal(1000), Decimal(1100)),
        ("dollars", Decimal("0.54"), Decimal("0.6")),
        ("minutes", Decimal(10), Decimal(15)),
        ("quality", Decimal("0.9"), Decimal("0.87")),
    ]
    assert {pair.run for pair in pairs} == {7}
    assert run_actuals(8, micros=(0, 0)) == (Actual(8, "dollars", Decimal(0), Decimal(0)),)


def test_quantities_come_in_one_order_whatever_the_runs() -> None:
    pairs = [*run_actuals(1, quality=(0.9, 0.8)), *run_actuals(2, tokens=(1, 1), micros=(1, 1))]
    assert [error.quantity for error in running_error(pairs)] == ["tokens", "dollars", "quality"]


@pytest.mark.parametrize("amount", ["-1", "NaN", "Infinity"])
def test_an_impossible_amount_is_rejected(amount: str) -> None:
    with pytest.raises(ValueError, match="run 3"):
        Actual(3, "dollars", Decimal(amount), Decimal(1))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=30))
def test_every_run_is_in_the_error_or_counted_as_left_out(pairs: list[tuple[int, int]]) -> None:
    tokens = error("tokens", *[(str(estimated), str(actual)) for estimated, actual in pairs])
    assert tokens.runs + tokens.free + tokens.one_sided == len(pairs)
    assert (tokens.typical_factor is None) == (tokens.runs == 0)
    assert tokens.typical_factor is None or tokens.typical_factor >= 1


VENDOR = Rates("openai/tuned", Decimal("0.20"), Decimal("0.80"), "a list")
OWN = Rates("local/tiny", Decimal(0), Decimal(0), "you", usd_per_hour=Decimal(2), on_own_machine=True)
USE = CallTotals(1000, 200_000, 5_000)
# Today's prompt has 300 tokens where the tuned model's has 100; both answer with 5.
INPUTS = Inputs(
    monthly_input_tokens=1_000_000,
    usage=Usage(requests=10, prompt_before=3000, prompt_after=1000, output=50),
    now=ARTICLE.now,
    tuned=VENDOR,
    training=Training(tokens=1, epochs=1, usd_per_million=Decimal(0)),
    today=date(2026, 11, 24),
)
ALL, HALF = Decimal(1), Decimal("0.5")
SLOW = Capacity(Decimal(100), Decimal(100), Decimal("0.2"), "given")


@pytest.mark.parametrize(
    ("rates", "traffic", "share", "usd"),
    [
        (VENDOR, Traffic(), ALL, "0.044"),  # 0.2 x $0.20 + 0.005 x $0.80
        (VENDOR, Traffic(batch_share=ALL), HALF, "0.044"),  # by the token, whatever the share
        (OWN, Traffic(), ALL, "1460"),  # 730 hours
        (OWN, Traffic(), HALF, "730"),
        (replace(OWN, capacity=SLOW), Traffic(), HALF, "730"),  # a speed doesn't make it paid by use
    ],
    ids=["vendor", "no batches", "a machine all month", "half a month", "with a speed"],
)
def test_calls_cost_what_the_estimate_s_rules_say(
    rates: Rates, traffic: Traffic, share: Decimal, usd: str
) -> None:
    assert tuned_calls_usd(USE, rates, traffic, share) == pytest.approx(Decimal(usd), rel=Decimal("0.00001"))


def test_prompt_tokens_that_the_vendor_had_cached_cost_less_if_a_price_says_so() -> None:
    use = replace(USE, cached_tokens=USE.prompt_tokens)
    full = tuned_calls_usd(USE, VENDOR, Traffic(), ALL)
    assert tuned_calls_usd(use, replace(VENDOR, cached_input=None), Traffic(), ALL) == full
    cached = tuned_calls_usd(use, replace(VENDOR, cached_input=Decimal(0)), Traffic(), ALL)
    assert full - cached == USE.prompt_tokens * VENDOR.input / 1_000_000


def test_the_alternative_s_cost_counts_its_own_longer_prompt() -> None:
    # 600,000 tokens at $2.50 and 5,000 at $10.00
    assert alternative_usd(USE, INPUTS, ALL) == Decimal("1.55")
    measured = replace(INPUTS, tuned_tokens=Tokens(20, 3000, 100))
    assert alternative_usd(USE, measured, ALL) == Decimal("1.05")  # 150 a prompt: twice as long


def test_no_calls_cost_nothing_but_the_machine() -> None:
    assert tuned_calls_usd(CallTotals(), VENDOR, Traffic(), ALL) == 0
    assert alternative_usd(CallTotals(), INPUTS, ALL) == 0
    assert tuned_calls_usd(CallTotals(), OWN, Traffic(), HALF) == 730


def moment(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("month", "spans", "share"),
    [
        ("2026-11", [("2026-10-01", "2026-12-24")], "1"),
        ("2026-11", [("2026-11-16", "2026-12-24")], "0.5"),
        ("2026-12", [("2026-11-16", "2026-12-01")], "0"),
        ("2026-06", [("2026-06-01", "2026-06-04"), ("2026-06-28", "2026-07-05")], "0.2"),
    ],
)
def test_the_share_of_a_month_in_use(month: str, spans: Sequence[tuple[str, str]], share: str) -> None:
    times = [(moment(since), moment(until)) for since, until in spans]
    assert share_of_month(month_period(month), times) == Decimal(share)
