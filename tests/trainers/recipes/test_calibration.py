"""Probabilities are calibrated on rows that the classifier has not seen, or there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.trainers.evaluation.builders import make_example, make_rows
from trainers.recipes import calibration
from trainers.recipes.calibration import (
    Curve,
    Judged,
    calibrate,
    calibration_error,
    judge,
    measure,
    probabilities,
)

ROWS = make_rows(240)
LABELS = sorted({row.answer for row in ROWS})


def draw(rows: int, labels: int, factor: float) -> Judged:
    """Draws labels from known probabilities. The scores are their logarithms times `factor`, or noise with 0."""
    chance = np.random.default_rng(3)
    logs = chance.normal(0, 2, (rows, labels))
    shares = np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)
    own = np.array([chance.choice(labels, p=row) for row in shares], dtype=np.intp)
    return Judged(factor * np.log(shares), own)


@pytest.mark.deep
@pytest.mark.parametrize("labels", [2, 6])
@pytest.mark.parametrize("factor", [0.1, 1.0, 5.0])
def test_the_curve_finds_the_probabilities_that_labels_were_drawn_from(labels: int, factor: float) -> None:
    judged = draw(2_000, labels, factor)
    calibrated = measure(judged)
    assert calibrated.curve is not None and calibrated.error is not None
    assert calibrated.error_before is not None
    assert calibrated.rows == 2_000
    assert calibrated.error < 0.03
    if factor != 1.0:
        assert calibrated.error_before > 3 * calibrated.error
    shares = probabilities(judged.scores, calibrated.curve)
    assert np.allclose(shares.sum(axis=1), 1)
    assert (shares.argmax(axis=1) == judged.scores.argmax(axis=1)).all()


def test_scores_beyond_all_bounds_are_probabilities_too() -> None:
    scores = np.array([[1e6, -1e6, 0.0], [-1e6, -1e6, -1e6]])
    shares = probabilities(scores, Curve(8.0, 3.0))
    assert shares[0].tolist() == pytest.approx([1, 0, 0], abs=0.5)
    assert np.isfinite(shares).all()


def test_the_error_is_the_difference_of_confidence_and_right_answers() -> None:
    shares = np.tile([0.9, 0.1], (100, 1))
    own = np.array([0, 0, 0, 1, 1] * 20)
    assert calibration_error(shares, own) == pytest.approx(0.3)


def test_rows_that_were_all_right_are_nearly_certain() -> None:
    own = np.arange(300) % 3
    calibrated = measure(Judged(np.eye(3)[own], own))
    assert calibrated.curve is not None
    best = probabilities(np.eye(3), calibrated.curve).max()
    assert 0.98 < best < 1


def test_probabilities_that_would_mislead_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = draw(400, 4, 1.0)
    monkeypatch.setattr(calibration, "MOST_ERROR", 0.001)
    calibrated = measure(judged)
    assert calibrated.curve is None
    assert "points from the share of right answers" in calibrated.reason
    assert calibrated.error is not None


def never(learned: object, judged: object) -> tuple[Sequence[str], np.ndarray]:
    raise AssertionError("nothing is fitted")


def test_few_rows_give_no_probabilities() -> None:
    assert calibrate(ROWS[:199], 0, never).reason == (
        "Probabilities of 3 labels need 200 training rows; there are 199."
    )
    many_labels = [
        replace(row, messages=make_example("q", str(n % 30)).messages) for n, row in enumerate(ROWS)
    ]
    assert "30 labels need 300" in calibrate(many_labels, 0, never).reason
    same = [make_example(f"question {n}", "spam") for n in range(300)]
    assert "same label" in calibrate(same, 0, never).reason


def test_no_row_is_judged_by_a_classifier_that_saw_it_or_a_near_copy() -> None:
    text = "Hello, where is the parcel with number {} that I ordered on Monday for my mother?"
    copies = [make_example(text.format(n), "delivery", n) for n in (1, 2, 3)]
    alone = make_example("What does quantum mean?", "physics")
    rows = [*ROWS[:40], *copies, alone]
    seen = []

    def fit_and_score(learned: np.ndarray, judged: np.ndarray) -> tuple[Sequence[str], np.ndarray]:
        assert not set(learned) & set(judged)
        of_copies = {40, 41, 42}
        assert not (of_copies & set(learned) and of_copies & set(judged))
        seen.extend(judged.tolist())
        names = sorted({rows[row].answer for row in learned})
        return names, np.zeros((len(judged), len(names)))

    judged = judge(rows, 0, fit_and_score)
    # The labels of the copies and of the last row are in no other fold.
    assert sorted(seen) == list(range(40))
    labels = sorted({row.answer for row in rows})
    assert [labels[own] for own in judged.own] == [rows[row].answer for row in seen]


def test_no_more_folds_are_judged_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MOST_JUDGED", 90)

    def fit_and_score(learned: np.ndarray, judged: np.ndarray) -> tuple[Sequence[str], np.ndarray]:
        return LABELS, np.zeros((len(judged), len(LABELS)))

    assert 90 <= len(judge(ROWS, 0, fit_and_score).own) < 150
