"""A bar is claimed, denied or left open, and what is open says how many rows would close it."""

from __future__ import annotations

import pytest

from trainers.evaluation import wilson_of_share
from trainers.measuring.bar import rows_to_decide, standing_of


def scores(correct: int, n: int) -> tuple[float, ...]:
    return (1.0,) * correct + (0.0,) * (n - correct)


@pytest.mark.parametrize(("correct", "n"), [(47, 50), (91, 100), (179, 200), (439, 500), (869, 1000)])
def test_85_percent_is_met_from_the_agreed_count_on(correct: int, n: int) -> None:
    assert standing_of(scores(correct, n), 0.85) == ("meets", None)
    assert standing_of(scores(correct - 1, n), 0.85)[0] == "undecided"


@pytest.mark.parametrize(("correct", "n"), [(70, 100), (0, 10), (1, 12)])
def test_far_below_the_bar_misses_it(correct: int, n: int) -> None:
    assert standing_of(scores(correct, n), 0.85) == ("misses", None)


@pytest.mark.parametrize(("correct", "n"), [(9, 10), (12, 12), (90, 100), (178, 200), (82, 100), (840, 1000)])
def test_with_the_rows_it_asks_for_and_the_same_share_it_is_settled(correct: int, n: int) -> None:
    standing, more = standing_of(scores(correct, n), 0.85)
    assert standing == "undecided"
    assert more is not None and more > 0

    share = correct / n
    for rows, settled in ((n + more, True), (n + more - 1, False)):
        bounds = wilson_of_share(share, rows, 0.90)
        assert (bounds.low >= 0.85 or bounds.high < 0.85) is settled
    again = standing_of(scores(round(share * (n + more) * 4), (n + more) * 4), 0.85)[0]
    assert again == ("meets" if share > 0.85 else "misses")


def test_a_share_at_the_bar_is_never_settled() -> None:
    assert standing_of(scores(85, 100), 0.85) == ("undecided", None)
    assert rows_to_decide(0.85001, 100, 0.85) is None


def test_all_of_12_right_is_not_85_percent_yet_and_16_would_be() -> None:
    assert standing_of(scores(12, 12), 0.85) == ("undecided", 4)
    assert standing_of(scores(16, 16), 0.85)[0] == "meets"


def test_shares_are_judged_by_their_own_spread() -> None:
    steady, wild = (0.9, 0.86) * 100, (1.0, 0.76) * 100

    assert standing_of(steady, 0.85)[0] == "meets"
    assert standing_of(steady, 0.9)[0] == "misses"
    standing, more = standing_of(wild, 0.87)
    assert standing == "undecided"
    # (1.645 · 0.1203 / 0.01)² rows in all
    assert more == pytest.approx(392 - 200, abs=3)


def test_few_equal_shares_claim_nothing() -> None:
    assert standing_of((0.9,) * 5, 0.85)[0] == "undecided"
    assert standing_of((0.9,) * 40, 0.85)[0] == "undecided"


@pytest.mark.parametrize(("bar", "standing"), [(0.0, "meets"), (1.0, "misses")])
def test_any_bar_can_be_asked(bar: float, standing: str) -> None:
    assert standing_of(scores(50, 100), bar)[0] == standing
