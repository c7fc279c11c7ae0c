"""Estimates beside what came of them."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.rules.calibration import FEW_RUNS, Actual, Quantity, RunningError, run_actuals, running_error


def error(quantity: Quantity, *pairs: tuple[str, str]) -> RunningError:
    actuals = [Actual(run, quantity, Decimal(a), Decimal(b)) for run, (a, b) in enumerate(pairs)]
    (found,) = running_error(actuals)
    return found


def test_no_run_no_error() -> None:
    assert running_error([]) == ()


def test_one_run_is_its_own_error_and_early() -> None:
    found = error("minutes", ("20", "25"))
    assert found == RunningError("minutes", 1, Decimal("1.25"), 0, 0)
    assert found.is_early


def test_the_typical_factor_is_the_geometric_mean() -> None:
    found = error("tokens", ("100", "100"), ("100", "200"), ("100", "400"))
    assert found.typical_factor == Decimal(2)


def test_too_much_and_too_little_do_not_cancel_out() -> None:
    assert error("tokens", ("100", "50"), ("100", "200")).typical_factor == Decimal(2)


def test_a_nineteenth_of_the_estimate_is_as_far_off_as_nineteen_times_it() -> None:
    assert error("minutes", ("19", "1")).typical_factor == error("minutes", ("1", "19")).typical_factor == 19


def test_free_runs_are_left_out_and_counted() -> None:
    found = error("dollars", ("0", "0"), ("0", "0"), ("2", "1"))
    assert (found.runs, found.free, found.one_sided) == (1, 2, 0)
    assert found.typical_factor == Decimal(2)


def test_only_free_runs_have_no_ratio() -> None:
    assert error("dollars", ("0", "0")) == RunningError("dollars", 0, None, 1, 0)


@pytest.mark.parametrize("pair", [("0", "5"), ("5", "0")])
def test_a_cost_that_nobody_foresaw_is_counted_and_not_hidden_as_free(pair: tuple[str, str]) -> None:
    assert error("dollars", pair) == RunningError("dollars", 0, None, 0, 1)


def test_it_is_early_until_there_are_a_few_runs() -> None:
    assert error("tokens", *[("1", "1")] * (FEW_RUNS - 1)).is_early
    assert not error("tokens", *[("1", "1")] * FEW_RUNS).is_early


def test_a_run_gives_a_pair_for_what_is_known_of_both() -> None:
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
    assert [found.quantity for found in running_error(pairs)] == ["tokens", "dollars", "quality"]


@pytest.mark.parametrize("amount", ["-1", "NaN", "Infinity"])
def test_an_impossible_amount_is_a_fault(amount: str) -> None:
    with pytest.raises(ValueError, match="run 3"):
        Actual(3, "dollars", Decimal(amount), Decimal(1))


amounts = st.integers(0, 10**9)


@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=30))
def test_every_run_is_in_the_error_or_counted_as_left_out(pairs: list[tuple[int, int]]) -> None:
    found = error("tokens", *[(str(a), str(b)) for a, b in pairs])
    assert found.runs + found.free + found.one_sided == len(pairs)
    assert (found.typical_factor is None) == (found.runs == 0)
    assert found.typical_factor is None or found.typical_factor >= 1
