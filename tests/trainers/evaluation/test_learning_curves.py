"""The power law, its band, the subsets that it is measured on, the labels that are worth more rows."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import pytest

from tests.trainers.evaluation.builders import example, rows
from trainers.dataset import Example
from trainers.evaluation.learning_curves import (
    build_curve,
    classical_curve,
    find_label_needs,
    fit_curve,
    stratified_order,
)
from trainers.evaluation.results import Candidate, Curve, CurvePoint, Prediction


def points(a: float, b: float, c: float, spread: float = 0.002, sizes: tuple[int, ...] = (250, 500, 1000)):  # type: ignore[no-untyped-def]
    made = []
    for size in (250, 500, 1000):
        score = 1 - a - b * size**-c
        made.append(CurvePoint(size, score, (score - spread, score, score + spread)))
    return made


def test_three_points_of_its_law_give_it_back() -> None:
    made = [CurvePoint(n, 1 / (1 + 20 * n**-0.5), (1 / (1 + 20 * n**-0.5),)) for n in (250, 500, 1000)]

    found = fit_curve(made, [4_000], held=1_000)

    assert (found.b, found.c) == pytest.approx((20, 0.5), rel=0.001)
    assert found.predicted[0].score == pytest.approx(1 / (1 + 20 / 4_000**0.5), abs=0.001)


def test_the_agreed_scores_of_banking77_predict_the_agreed_one() -> None:
    said = ((1250, 0.748), (2500, 0.833), (5001, 0.881))
    known = [CurvePoint(size, score, (score - 0.004, score + 0.004)) for size, score in said]

    (found,) = fit_curve(known, [10_003], held=3_080).predicted

    assert found.score == pytest.approx(0.912, abs=0.012)
    assert found.low < 0.912 < found.high


def test_few_rows_a_label_are_carried_on_as_far_as_they_go() -> None:
    """600 rows of banking77, 8 a label: a power law of the error says 67%, twice the rows get 70.6%."""
    known = [CurvePoint(n, score, (score,)) for n, score in ((100, 0.362), (200, 0.481), (400, 0.603))]

    (found,) = fit_curve(known, [800], held=600).predicted

    assert found.score == pytest.approx(0.706, abs=0.012)


def test_the_band_holds_what_it_promises() -> None:
    chance, held, inside = random.Random(3), 2_000, 0
    for run in range(100):
        made = []
        for size in (250, 500, 1000):
            true = 1 - 0.05 - 4 * size**-0.5
            draws = tuple(chance.gauss(true, 0.006) for _ in range(3))
            made.append(CurvePoint(size, sum(draws) / 3, draws))
        (found,) = fit_curve(made, [2_000], held=held, seed=run).predicted
        inside += found.low <= chance.gauss(1 - 0.05 - 4 * 2_000**-0.5, 0.006) <= found.high

    assert inside >= 90


def test_a_wilder_draw_or_a_smaller_holdout_widens_the_band() -> None:
    def width(spread: float, held: int) -> float:
        (found,) = fit_curve(points(0.05, 5.0, 0.5, spread), [4_000], held=held).predicted
        assert 0 <= found.low <= found.score <= found.high <= 1
        return found.high - found.low

    assert width(0.002, 5_000) < width(0.02, 5_000)
    assert width(0.002, 5_000) < width(0.002, 12)


@pytest.mark.parametrize(
    "scores", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.9, 0.8, 0.7), (0, 1, 0)]
)
def test_points_that_are_no_curve_promise_no_gain(scores: tuple[float, ...]) -> None:
    made = [CurvePoint(2**i, score, (score, score)) for i, score in enumerate(scores, 3)]

    found = fit_curve(made, [100, 1_000_000], held=50)

    assert found.b >= 0
    assert all(math.isfinite(value) for value in (found.b, found.c))
    assert found.predicted[1].score >= found.predicted[0].score
    assert found.predicted[0].score <= max(scores) + 0.2


def test_a_size_that_was_drawn_once_gets_a_wider_band() -> None:
    thrice = points(0.05, 5.0, 0.5)
    once = [CurvePoint(p.rows, p.score, (p.score,)) for p in thrice]
    (known,), (unknown,) = (fit_curve(made, [100_000], held=200).predicted for made in (thrice, once))
    assert known.score == unknown.score
    assert unknown.low < known.low < known.high < unknown.high


def test_a_curve_needs_three_sizes() -> None:
    made = points(0.05, 5.0, 0.5)
    with pytest.raises(ValueError, match="three sizes"):
        fit_curve(made[:2], [9], held=9)
    with pytest.raises(ValueError, match="0 rows"):
        fit_curve(made, [0], held=9)


def test_every_beginning_has_each_label_in_its_share() -> None:
    train = (*rows(300, "ab"), *rows(30, "c"))

    order = stratified_order(train, seed=1)

    assert Counter(e.answer for e in order[:110]) == {"a": 50, "b": 50, "c": 10}
    assert sorted(order, key=id) == sorted(train, key=id)
    assert order == stratified_order(train, seed=1) != stratified_order(train, seed=2)


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
    train, held = noisy(400, 1), noisy(250, 2)

    found = classical_curve(train, held, 7, [800], dataset="tickets", version=3, holdout_sha256="ab")

    assert found.arm == Candidate("classical")
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
    found = build_curve(
        Candidate("classical"),
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

    needs = find_label_needs(train, held, said)

    assert [(n.label, n.rows, n.held, n.right) for n in needs] == [
        ("e", 0, 1, 0),
        ("b", 20, 20, 16),
        ("d", 3, 0, 0),
        ("a", 100, 20, 16),
    ]


def test_at_most_ten_labels_are_named() -> None:
    labels = [f"l{i}" for i in range(30)]

    assert len(find_label_needs(rows(90, labels), rows(30, labels), ["x"] * 30)) == 10


def test_a_small_holdout_is_joined_by_all_rows_each_asked_by_the_others() -> None:
    train, held = noisy(400, 1), noisy(100, 2)

    found = classical_curve(train, held, 7, [800])

    assert found.is_crossed
    assert [point.rows for point in found.points] == [100, 200, 400]
    assert sum(need.held for need in found.needs) == 500
    far = classical_curve(train, noisy(2_000, 3), 7, [800])
    assert not far.is_crossed
    assert found.points[-1].score == pytest.approx(far.points[-1].score, abs=0.04)


def test_near_copies_do_not_answer_for_each_other_across_the_folds() -> None:
    """Words that only a row and its near copy have: learnt by heart they give the label away."""
    chance = random.Random(4)
    made = []
    for number in range(120):
        said = " ".join(f"w{number}x{part}y{chance.randrange(10**6)}" for part in range(12))
        label = chance.choice("ab")
        made += [example(said, label, 2 * number + 1), example(f"{said} thanks", label, 2 * number + 2)]

    found = classical_curve(made[:200], made[200:], 7, [400])

    assert found.points[-1].score < 0.7


def curve(*scores: float, band: tuple[float, float, float], b: float = 8.0) -> Curve:
    low, score, high = band
    made = tuple(CurvePoint(250 * 2**at, one, (one,)) for at, one in enumerate(scores))
    return Curve(
        "d",
        1,
        "ab",
        Candidate("classical"),
        made,
        0.0,
        b,
        0.5,
        (Prediction(2_000, score, low, high),),
        0.3,
        (),
    )


def test_a_gain_is_told_only_where_the_band_has_no_loss_in_it() -> None:
    told, not_told = (
        curve(0.7, 0.75, 0.8, band=(0.82, 0.85, 0.88)),
        curve(0.7, 0.75, 0.8, band=(0.71, 0.85, 0.94)),
    )
    assert told.farthest and told.farthest.is_certain and told.farthest.digits == 0
    assert not_told.farthest and not not_told.farthest.is_certain
    assert not_told.next_useful_size is not None and not_told.next_useful_size > 2_000
    fine = curve(0.7, 0.75, 0.8, band=(0.8001, 0.804, 0.808)).farthest
    assert fine and fine.is_negligible and fine.digits == 1


def test_where_no_number_of_rows_would_show_a_gain_none_is_named() -> None:
    assert curve(0.7, 0.75, 0.94, band=(0.71, 0.94, 0.99)).next_useful_size is None
    assert curve(0.8, 0.8, 0.8, band=(0.7, 0.8, 0.9), b=0.0).next_useful_size is None


def test_a_line_that_is_all_but_flat_has_no_next_useful_size() -> None:
    """Three sizes of a tuned toy: the number of rows is beyond any float."""
    flat = replace(curve(0.5, 0.5, 0.5, band=(0.3, 0.51, 0.7), b=1.1), c=1e-6)
    assert flat.farthest is not None and not flat.farthest.is_certain
    assert flat.next_useful_size is None


def test_what_small_sizes_differ_says_less_of_large_ones() -> None:
    """945 support tickets, crossed: two draws of 186 rows lie 3.6 points apart, of 745 rows 1.4 points."""
    pairs = ((186, 0.426, 0.462), (372, 0.514, 0.542), (745, 0.598, 0.612))
    known = [CurvePoint(rows, (one + other) / 2, (one, other)) for rows, one, other in pairs]

    (found,) = fit_curve(known, [1_490], held=945).predicted

    assert found.least is not None and found.least > 0.01
    assert found.most is not None and found.most < 0.12
