"""Cohen's kappa with its interval, and the verdict of a judge who is asked in both orders."""

from __future__ import annotations

import random

import pytest

from trainers.evaluation.scores import Choice, consolidate
from trainers.evaluation.statistics import agreement


def test_kappa_has_the_textbooks_value() -> None:
    # 50 grant applications, two readers: 20 both yes, 15 both no (Wikipedia, Cohen's kappa): 0.4
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    result = agreement(first, second)
    assert (result.n, result.agreed) == (50, 35)
    assert result.kappa == pytest.approx(0.4)
    assert agreement(second, first).kappa == pytest.approx(0.4)


def test_the_interval_holds_the_true_kappa_19_times_in_20() -> None:
    chance = random.Random(1)
    true, inside = 0.4, 0  # both say yes half the time and agree 7 times in 10
    for _ in range(400):
        first = [chance.choice("yn") for _ in range(100)]
        second = [word if chance.random() < 0.7 else "yn"[word == "y"] for word in first]
        result = agreement(first, second)
        assert result.low is not None and result.high is not None
        inside += result.low <= true <= result.high
    assert inside / 400 == pytest.approx(0.95, abs=0.035)


def test_full_agreement_is_one_and_none_at_all_is_below_zero() -> None:
    full = agreement(["a", "b", "c"], ["a", "b", "c"])
    none = agreement(["a", "b"], ["b", "a"])
    assert (full.kappa, full.high) == (1.0, 1.0)
    assert none.kappa == -1.0


@pytest.mark.parametrize("verdicts", [[], ["a"], ["a", "a", "a"]])
def test_without_two_different_verdicts_there_is_no_kappa(verdicts: list[str]) -> None:
    result = agreement(verdicts, verdicts)
    assert (result.n, result.agreed) == (len(verdicts), len(verdicts))
    assert (result.kappa, result.low, result.high) == (None, None, None)


def test_verdicts_on_different_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same items"):
        agreement(["a"], [])


@pytest.mark.parametrize(
    ("in_order", "swapped", "verdict"),
    [
        ("first", "second", "first"),
        ("second", "first", "second"),
        ("tie", "tie", "tie"),
        ("first", "first", None),
        ("second", "second", None),
        ("first", "tie", None),
        (None, "second", None),
        ("first", None, None),
        (None, None, None),
    ],
)
def test_a_verdict_counts_only_if_it_survives_the_swap(
    in_order: Choice | None, swapped: Choice | None, verdict: Choice | None
) -> None:
    assert consolidate(in_order, swapped) == verdict
