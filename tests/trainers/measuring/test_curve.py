"""The power law, its band, the subsets that it is measured on, the labels that are worth more rows."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from tests.trainers.measuring.made import example, rows
from trainers.dataset import Example
from trainers.measuring.curve import classical_curve, curve_of, fit, needs_of, nested
from trainers.measuring.values import Arm, Curve, CurvePoint


def points(a: float, b: float, c: float, spread: float = 0.002, sizes: tuple[int, ...] = (250, 500, 1000)):  # type: ignore[no-untyped-def]
    made = []
    for size in (250, 500, 1000):
        score = 1 - a - b * size**-c
        made.append(CurvePoint(size, score, (score - spread, score, score + spread)))
    return made


def test_three_points_of_a_power_law_give_it_back() -> None:
    found = fit(points(0.05, 5.0, 0.5), [4_000], held=1_000)

    assert (found.a, found.b, found.c) == pytest.approx((0.05, 5.0, 0.5), rel=0.01)
    assert found.predicted[0].score == pytest.approx(1 - 0.05 - 5 / 4_000**0.5, abs=0.001)


def test_the_agreed_scores_of_banking77_predict_the_agreed_one() -> None:
    said = ((1250, 0.748), (2500, 0.833), (5001, 0.881))
    known = [CurvePoint(size, score, (score - 0.004, score + 0.004)) for size, score in said]

    (found,) = fit(known, [10_003], held=3_080).predicted

    assert found.score == pytest.approx(0.907, abs=0.002)
    assert found.low < 0.912 < found.high


def test_the_band_holds_what_it_promises() -> None:
    chance, held, inside = random.Random(3), 2_000, 0
    for run in range(100):
        made = []
        for size in (250, 500, 1000):
            true = 1 - 0.05 - 4 * size**-0.5
            draws = tuple(chance.gauss(true, 0.006) for _ in range(3))
            made.append(CurvePoint(size, sum(draws) / 3, draws))
        (found,) = fit(made, [2_000], held=held, seed=run).predicted
        inside += found.low <= chance.gauss(1 - 0.05 - 4 * 2_000**-0.5, 0.006) <= found.high

    assert inside >= 90


def test_a_wilder_draw_or_a_smaller_holdout_widens_the_band() -> None:
    def width(spread: float, held: int) -> float:
        (found,) = fit(points(0.05, 5.0, 0.5, spread), [4_000], held=held).predicted
        assert 0 <= found.low <= found.score <= found.high <= 1
        return found.high - found.low

    assert width(0.002, 5_000) < width(0.02, 5_000)
    assert width(0.002, 5_000) < width(0.002, 12)


@pytest.mark.parametrize(
    "scores", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.9, 0.8, 0.7), (0, 1, 0)]
)
def test_points_that_are_no_curve_promise_no_gain(scores: tuple[float, ...]) -> None:
    made = [CurvePoint(2**i, score, (score, score)) for i, score in enumerate(scores, 3)]

    found = fit(made, [100, 1_000_000], held=50)

    assert found.a >= 0 and found.b >= 0
    assert all(math.isfinite(value) for value in (found.a, found.b, found.c))
    assert found.predicted[1].score >= found.predicted[0].score
    assert found.predicted[0].score <= max(scores) + 0.2


def test_a_size_that_was_drawn_once_gets_a_wider_band() -> None:
    thrice = points(0.05, 5.0, 0.5)
    once = [CurvePoint(p.rows, p.score, (p.score,)) for p in thrice]
    (known,), (unknown,) = (fit(made, [100_000], held=200).predicted for made in (thrice, once))
    assert known.score == unknown.score
    assert unknown.low < known.low < known.high < unknown.high


def test_a_curve_needs_three_sizes() -> None:
    made = points(0.05, 5.0, 0.5)
    with pytest.raises(ValueError, match="three sizes"):
        fit(made[:2], [9], held=9)
    with pytest.raises(ValueError, match="0 rows"):
        fit(made, [0], held=9)


def test_every_beginning_has_each_label_in_its_share() -> None:
    train = (*rows(300, "ab"), *rows(30, "c"))

    order = nested(train, seed=1)

    assert Counter(e.answer for e in order[:110]) == {"a": 50, "b": 50, "c": 10}
    assert sorted(order, key=id) == sorted(train, key=id)
    assert order == nested(train, seed=1) != nested(train, seed=2)


def noisy(n: int, seed: int) -> tuple[Example, ...]:
    """Learnable, never wholly: every word of a label is rare, and one row in ten is wrong."""
    chance = random.Random(seed)
    made = []
    for number in range(n):
        label = chance.choice("abcde")
        said = f"{label}{chance.randrange(60)} {label}{chance.randrange(60)} {chance.choice('abcde')}{number}"
        made.append(example(said, chance.choice("abcde") if chance.random() < 0.1 else label, number + 1))
    return tuple(made)


def test_the_classical_curve_rises_predicts_and_travels() -> None:
    train, held = noisy(400, 1), noisy(200, 2)

    found = classical_curve(train, held, 7, [800], dataset="tickets", version=3, holdout_sha256="ab")

    assert found.arm == Arm("classical")
    assert [point.rows for point in found.points] == [100, 200, 400]
    assert [len(point.draws) for point in found.points] == [3, 3, 1]
    assert found.points[0].score < found.points[1].score < found.points[2].score
    assert found.predicted[0].rows == 800
    assert found.points[2].score < found.predicted[0].score < 1
    assert 0 < found.points_per_100 < 10
    assert (found.dataset, found.version, found.holdout_sha256) == ("tickets", 3, "ab")
    assert (
        Curve.from_json(found.to_json())
        == found
        == classical_curve(train, held, 7, [800], dataset="tickets", version=3, holdout_sha256="ab")
    )


@pytest.mark.parametrize("train", [rows(12), rows(30, ["refund"]), rows(30, "abcdefghij")])
def test_hardly_any_data_has_a_curve_too(train: tuple[Example, ...]) -> None:
    found = classical_curve(train, rows(12, seed=5), 7, [100, 1_000])

    assert all(0 <= p.low <= p.score <= p.high <= 1 for p in found.predicted)
    assert found.points_per_100 >= 0


def test_who_is_all_right_already_is_promised_nothing_more() -> None:
    """Fitted through 50%, 100% and 100% the line still rises."""
    seen = [CurvePoint(5, 0.5, (0.4, 0.6)), CurvePoint(10, 1.0, (1.0, 1.0)), CurvePoint(20, 1.0, (1.0,))]
    found = curve_of(
        Arm("classical"),
        seen,
        (40,),
        rows=20,
        held=10,
        seed=1,
        needs=(),
        dataset="few",
        version=1,
        holdout_sha256="ab",
    )
    assert found.points_per_100 == 0


def test_too_little_has_none() -> None:
    with pytest.raises(ValueError, match="a curve of 11 rows on 3"):
        classical_curve(rows(11), rows(3), 7, [100])
    with pytest.raises(ValueError, match="on 0 held-out"):
        classical_curve(rows(50), (), 7, [100])


def test_labels_with_errors_and_few_rows_come_first() -> None:
    train = (*rows(100, "a"), *rows(20, "b"), *rows(50, "c"), *rows(3, "d"))
    held = (*rows(20, "a"), *rows(20, "b"), *rows(20, "c"), *rows(1, "e"))
    said = ["x"] * 4 + ["a"] * 16 + ["x"] * 4 + ["b"] * 16 + ["c"] * 20 + ["a"]

    needs = needs_of(train, held, said)

    assert [(n.label, n.rows, n.held, n.right) for n in needs] == [
        ("e", 0, 1, 0),
        ("b", 20, 20, 16),
        ("d", 3, 0, 0),
        ("a", 100, 20, 16),
    ]


def test_at_most_ten_labels_are_named() -> None:
    labels = [f"l{i}" for i in range(30)]

    assert len(needs_of(rows(90, labels), rows(30, labels), ["x"] * 30)) == 10
