"""The fitted curve and its band, the subsets on which it is measured, and the labels that need more rows."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.trainers.evaluation.builders import make_example, make_rows
from trainers.dataset import Example
from trainers.evaluation.learning_curves import (
    build_curve,
    classical_curve,
    find_label_needs,
    fit_curve,
    stratified_order,
)
from trainers.evaluation.results import Candidate, Curve, CurvePoint, Prediction
from trainers.evaluation.tfidf import classify_holdout

SIZES = (250, 500, 1000)


def make_point(rows: int, *draws: float) -> CurvePoint:
    return CurvePoint(rows, sum(draws) / len(draws), draws)


def make_points(spread: float = 0.002) -> list[CurvePoint]:
    """Makes points of the power law 0.05 + 5·n^(-0.5), each with three draws."""
    scores = {size: 0.95 - 5 * size**-0.5 for size in SIZES}
    return [
        CurvePoint(size, score, (score - spread, score, score + spread)) for size, score in scores.items()
    ]


def test_three_points_of_the_law_give_its_parameters() -> None:
    fit = fit_curve([make_point(size, 1 / (1 + 20 * size**-0.5)) for size in SIZES], [4_000], held=1_000)
    assert (fit.b, fit.c) == pytest.approx((20, 0.5), rel=0.001)
    assert fit.predicted[0].score == pytest.approx(1 / (1 + 20 / 4_000**0.5), abs=0.001)


def test_the_agreed_scores_of_banking77_predict_the_agreed_one() -> None:
    scores = ((1250, 0.748), (2500, 0.833), (5001, 0.881))
    points = [CurvePoint(size, score, (score - 0.004, score + 0.004)) for size, score in scores]
    (prediction,) = fit_curve(points, [10_003], held=3_080).predicted
    assert prediction.score == pytest.approx(0.912, abs=0.012)
    assert prediction.low < 0.912 < prediction.high


def test_few_rows_per_label_are_extrapolated_well() -> None:
    """600 rows of banking77, 8 per label: a power law of the error predicts 67%; twice the rows get 70.6%."""
    points = [make_point(size, score) for size, score in ((100, 0.362), (200, 0.481), (400, 0.603))]
    (prediction,) = fit_curve(points, [800], held=600).predicted
    assert prediction.score == pytest.approx(0.706, abs=0.012)


def test_the_band_holds_in_at_least_90_percent_of_cases() -> None:
    chance, inside = random.Random(3), 0

    def draw_score(size: int) -> float:
        return chance.gauss(1 - 0.05 - 4 * size**-0.5, 0.006)

    for run in range(40):
        points = [make_point(size, *(draw_score(size) for _ in range(3))) for size in SIZES]
        (prediction,) = fit_curve(points, [2_000], held=2_000, seed=run).predicted
        inside += prediction.low <= draw_score(2_000) <= prediction.high

    assert inside >= 36


def test_wilder_draws_a_smaller_holdout_and_single_draws_widen_the_band() -> None:
    def predict(points: Sequence[CurvePoint], held: int) -> Prediction:
        (prediction,) = fit_curve(points, [4_000], held=held).predicted
        assert 0 <= prediction.low <= prediction.score <= prediction.high <= 1
        return prediction

    def width(spread: float, held: int) -> float:
        prediction = predict(make_points(spread), held)
        return prediction.high - prediction.low

    assert width(0.002, 5_000) < width(0.02, 5_000)
    assert width(0.002, 5_000) < width(0.002, 12)
    three_draws = predict(make_points(), 200)
    one_draw = predict([make_point(point.rows, point.score) for point in make_points()], 200)
    assert three_draws.score == one_draw.score
    assert one_draw.low < three_draws.low < three_draws.high < one_draw.high


def test_large_sizes_are_assumed_to_vary_less_than_small_ones() -> None:
    """945 support tickets, cross-validated: two draws of 186 rows differ by 3.6 points, of 745 rows by 1.4 points."""
    draws = ((186, 0.426, 0.462), (372, 0.514, 0.542), (745, 0.598, 0.612))
    (prediction,) = fit_curve([make_point(*draw) for draw in draws], [1_490], held=945).predicted
    assert prediction.least is not None and prediction.least > 0.01
    assert prediction.most is not None and prediction.most < 0.12


@pytest.mark.parametrize(
    "scores", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.9, 0.8, 0.7), (0, 1, 0)]
)
def test_points_without_a_trend_promise_no_gain(scores: tuple[float, ...]) -> None:
    points = [make_point(2**i, score, score) for i, score in enumerate(scores, 3)]
    fit = fit_curve(points, [100, 1_000_000], held=50)
    assert fit.b >= 0
    assert math.isfinite(fit.b) and math.isfinite(fit.c)
    assert fit.predicted[1].score >= fit.predicted[0].score
    assert fit.predicted[0].score <= max(scores) + 0.2


def test_a_perfect_score_is_promised_no_gain_although_the_fitted_line_still_rises() -> None:
    points = [make_point(5, 0.4, 0.6), make_point(10, 1.0, 1.0), make_point(20, 1.0)]
    curve = build_curve(
        Candidate("classical"),
        points,
        (40,),
        rows=20,
        held=10,
        seed=1,
        needs=(),
        dataset="few",
        version=1,
        holdout_sha256="ab",
    )
    assert curve.points_per_100 == 0


def test_a_curve_needs_three_sizes_twelve_rows_and_a_holdout() -> None:
    with pytest.raises(ValueError, match="three sizes"):
        fit_curve(make_points()[:2], [9], held=9)
    with pytest.raises(ValueError, match="0 rows"):
        fit_curve(make_points(), [0], held=9)
    with pytest.raises(ValueError, match="a curve of 11 rows on 3"):
        classical_curve(make_rows(11), make_rows(3), 7, [100])
    with pytest.raises(ValueError, match="on 0 held-out"):
        classical_curve(make_rows(50), (), 7, [100])


def test_the_first_rows_of_an_order_have_each_label_in_its_share() -> None:
    train = (*make_rows(300, "ab"), *make_rows(30, "c"))
    order = stratified_order(train, seed=1)
    assert Counter(row.answer for row in order[:110]) == {"a": 50, "b": 50, "c": 10}
    assert sorted(order, key=id) == sorted(train, key=id)
    assert order == stratified_order(train, seed=1) != stratified_order(train, seed=2)


def make_noisy_rows(count: int, seed: int) -> tuple[Example, ...]:
    """Makes rows that can't be learnt completely: every word of a label is rare, and one row in ten is wrong."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        label = chance.choice("abcde")
        text = f"{label}{chance.randrange(60)} {label}{chance.randrange(60)} {chance.choice('abcde')}{number}"
        answer = chance.choice("abcde") if chance.random() < 0.1 else label
        rows.append(make_example(text, answer, number + 1))
    return tuple(rows)


def test_the_classical_curve_rises_is_repeatable_and_survives_json() -> None:
    train, holdout = make_noisy_rows(200, 1), make_noisy_rows(250, 2)
    about = {"dataset": "tickets", "version": 3, "holdout_sha256": "ab"}

    curve, again = (classical_curve(train, holdout, 7, [400], **about) for _ in range(2))  # type: ignore[arg-type]

    assert curve.candidate == Candidate("classical") and not curve.is_crossed
    assert [(point.rows, len(point.draws)) for point in curve.points] == [(50, 3), (100, 3), (200, 1)]
    assert curve.points[0].score < curve.points[1].score < curve.points[2].score
    assert curve.predicted[0].rows == 400
    assert curve.points[2].score < curve.predicted[0].score < 1
    assert 0 < curve.points_per_100 < 20
    assert (curve.dataset, curve.version, curve.holdout_sha256) == ("tickets", 3, "ab")
    assert Curve.from_json(curve.to_json()) == curve == again


@pytest.mark.parametrize("train", [make_rows(12), make_rows(12, ["refund"]), make_rows(12, "abcdefghij")])
def test_a_curve_can_be_measured_on_very_few_rows(train: tuple[Example, ...]) -> None:
    curve = classical_curve(train, make_rows(3, seed=5), 7, [100, 1_000])
    assert all(0 <= p.low <= p.score <= p.high <= 1 for p in curve.predicted)
    assert curve.points_per_100 >= 0


def test_labels_with_errors_and_few_rows_come_first() -> None:
    train = (*make_rows(100, "a"), *make_rows(20, "b"), *make_rows(50, "c"), *make_rows(3, "d"))
    holdout = (*make_rows(20, "a"), *make_rows(20, "b"), *make_rows(20, "c"), *make_rows(1, "e"))
    answers = ["x"] * 4 + ["a"] * 16 + ["x"] * 4 + ["b"] * 16 + ["c"] * 20 + ["a"]

    needs = find_label_needs(train, holdout, answers)

    assert [(need.label, need.rows, need.held, need.right) for need in needs] == [
        ("e", 0, 1, 0),
        ("b", 20, 20, 16),
        ("d", 3, 0, 0),
        ("a", 100, 20, 16),
    ]


def test_at_most_ten_labels_are_named() -> None:
    labels = [f"l{i}" for i in range(30)]
    assert len(find_label_needs(make_rows(90, labels), make_rows(30, labels), ["x"] * 30)) == 10


def test_with_a_small_holdout_all_rows_are_cross_validated() -> None:
    train = make_noisy_rows(200, 1)
    curve = classical_curve(train, make_noisy_rows(100, 2), 7, [400])
    assert curve.is_crossed
    assert [point.rows for point in curve.points] == [50, 100, 200]
    assert sum(need.held for need in curve.needs) == 300
    with_large_holdout = classical_curve(train, make_noisy_rows(500, 3), 7, [400])
    assert curve.points[-1].score == pytest.approx(with_large_holdout.points[-1].score, abs=0.04)


@pytest.mark.deep
def test_with_few_rows_a_label_the_cross_validated_score_is_that_of_new_rows() -> None:
    """Two files of 200 rows with 60 labels, drawn at random: 1 point too high. With folds that are dealt label by label
    it is 10 points too high."""
    differences = []
    for seed in range(2):
        rows = make_random_rows(700, labels=60, seed=seed)
        train = rows[:140]
        holdout = rows[140:200]
        unseen = rows[200:]
        curve = classical_curve(train, holdout, seed, [400])
        answers = classify_holdout(train, unseen, seed)
        right = sum(answer.text == row.answer for answer, row in zip(answers, unseen, strict=True))
        differences.append(curve.points[-1].score - right / len(unseen))
    assert abs(sum(differences) / len(differences)) < 0.06


def test_near_copies_are_in_the_same_fold_of_a_cross_validation() -> None:
    """Only a row and its near copy share words, which would give the label away."""
    chance = random.Random(4)
    rows = []
    for number in range(50):
        text, label = " ".join(f"w{chance.randrange(10**5)}" for _ in range(8)), chance.choice("ab")
        for line, copy in enumerate((text, f"{text} thanks"), 2 * number):
            rows.append(make_example(copy, label, line))
    curve = classical_curve(rows[:84], rows[84:], 7, [200])
    assert curve.points[-1].score < 0.7


def make_curve(*scores: float, band: tuple[float, float, float], b: float = 8.0) -> Curve:
    low, score, high = band
    points = tuple(make_point(250 * 2**place, score) for place, score in enumerate(scores))
    predicted = (Prediction(2_000, score, low, high),)
    return Curve("d", 1, "ab", Candidate("classical"), points, 0.0, b, 0.5, predicted, 0.3, ())


def test_a_gain_is_certain_only_if_its_band_holds_no_loss() -> None:
    certain, uncertain, negligible = (
        make_curve(0.7, 0.75, 0.8, band=band)
        for band in ((0.82, 0.85, 0.88), (0.71, 0.85, 0.94), (0.8001, 0.804, 0.808))
    )
    assert certain.farthest and certain.farthest.is_certain and certain.farthest.digits == 0
    assert uncertain.farthest and not uncertain.farthest.is_certain
    assert uncertain.next_useful_size is not None and uncertain.next_useful_size > 2_000
    assert negligible.farthest and negligible.farthest.is_negligible and negligible.farthest.digits == 1


def test_no_useful_size_is_named_if_no_number_of_rows_would_show_a_gain() -> None:
    assert make_curve(0.7, 0.75, 0.94, band=(0.71, 0.94, 0.99)).next_useful_size is None
    assert make_curve(0.8, 0.8, 0.8, band=(0.7, 0.8, 0.9), b=0.0).next_useful_size is None
    # Three sizes of a tuned toy: the number of rows is larger than any float.
    flat = replace(make_curve(0.5, 0.5, 0.5, band=(0.3, 0.51, 0.7), b=1.1), c=1e-6)
    assert flat.farthest is not None and not flat.farthest.is_certain
    assert flat.next_useful_size is None


def make_random_rows(count: int, labels: int, seed: int) -> list[Example]:
    """Makes rows whose labels are drawn at random. Half of a row's words are those of its label."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        label = chance.randrange(labels)
        own = [f"word{label}x{chance.randrange(6)}" for _ in range(3)]
        others = [f"word{chance.randrange(labels)}x{chance.randrange(6)}" for _ in range(3)]
        rows.append(make_example(" ".join([*own, *others, f"no{number}"]), f"label {label}", number + 1))
    return rows
