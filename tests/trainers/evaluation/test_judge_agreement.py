"""Cohen's kappa with its interval, and a judge that is asked in both orders."""

from __future__ import annotations

import random

import pytest

from trainers.evaluation.judge_agreement import agreement, consolidate
from trainers.evaluation.scores import Choice


def test_kappa_has_the_textbook_figures() -> None:
    # 50 grant applications, two readers: 20 both yes, 15 both no (Wikipedia, Cohen's kappa): 0.4
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15

    found = agreement(first, second)

    assert (found.n, found.agreed) == (50, 35)
    assert found.kappa == pytest.approx(0.4)
    assert agreement(second, first).kappa == pytest.approx(0.4)


def test_the_interval_holds_the_true_kappa_19_times_in_20() -> None:
    chance = random.Random(1)
    true, held = 0.4, 0  # both say yes half the time and agree 7 times in 10
    for _ in range(400):
        first = [chance.choice("yn") for _ in range(100)]
        second = [one if chance.random() < 0.7 else "yn"[one == "y"] for one in first]
        found = agreement(first, second)
        assert found.low is not None and found.high is not None
        held += found.low <= true <= found.high

    assert held / 400 == pytest.approx(0.95, abs=0.035)


def test_full_agreement_is_one_and_none_at_all_below_zero() -> None:
    full = agreement(["a", "b", "c"], ["a", "b", "c"])
    none = agreement(["a", "b"], ["b", "a"])

    assert (full.kappa, full.high) == (1.0, 1.0)
    assert none.kappa == -1.0


@pytest.mark.parametrize("said", [[], ["a"], ["a", "a", "a"]])
def test_one_word_only_says_nothing_about_agreement(said: list[str]) -> None:
    found = agreement(said, said)

    assert (found.n, found.agreed, found.kappa, found.low, found.high) == (
        len(said),
        len(said),
        None,
        None,
        None,
    )


def test_verdicts_on_different_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same items"):
        agreement(["a"], [])


@pytest.mark.parametrize(
    ("asked", "swapped", "verdict"),
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
    asked: Choice | None, swapped: Choice | None, verdict: Choice | None
) -> None:
    assert consolidate(asked, swapped) == verdict
