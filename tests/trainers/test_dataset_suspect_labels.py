"""Doubted labels: what was planted is found, ranked, and told without a text."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.dataset.checks import Findings
from trainers.dataset.slow_checks import (
    FEWEST_ROWS_OF_LABEL,
    check_suspect_labels,
    sample_rows,
    suspect_labels,
)

NAMES = ("cancel", "order", "refund")
Scores = np.ndarray[tuple[int, int], np.dtype[np.float64]]


def told(truth: list[int], wrong: int = 0) -> Scores:
    """What a classifier says that is right, now more and now less sure, and sure of the first `wrong` rows."""
    chance = np.random.default_rng(1)
    sure = chance.uniform(0.5, 0.95, len(truth))
    sure[:wrong] = 0.97 + np.arange(wrong) / 2000
    said = np.repeat((1 - sure[:, None]) / 2, len(NAMES), axis=1)
    said[np.arange(len(truth)), truth] = sure
    return said


def planted(rows: int = 300, wrong: int = 6) -> tuple[list[str], Scores]:
    truth = [i % 3 for i in range(rows)]
    labels = [NAMES[(t + (i < wrong)) % 3] for i, t in enumerate(truth)]
    return labels, told(truth, wrong)


def keys(count: int) -> list[bytes]:
    return [hashlib.blake2b(str(i).encode(), digest_size=16).digest() for i in range(count)]


def test_exactly_the_planted_errors_are_doubted_the_least_believed_first() -> None:
    labels, scores = planted()

    found, errors = suspect_labels(labels, NAMES, scores)

    assert [doubt.row for doubt in found] == [5, 4, 3, 2, 1, 0]
    assert min(d.chance for d in found) > 0.9
    assert (errors.judged, errors.listed, errors.is_told) == (300, 6, True)
    assert errors.wrong == pytest.approx(6 / 300, abs=0.002)
    assert all(d.given == labels[d.row] and d.likely == NAMES[d.row % 3] for d in found)


def test_a_doubt_names_the_line_and_both_labels_and_the_rest_is_counted() -> None:
    labels, scores = planted()
    found = Findings(2)

    check_suspect_labels(range(100, 400), labels, sample_rows(labels, keys(300), 7), NAMES, scores, found)

    said = found.sorted()
    assert [f.code for f in said] == ["label_errors"] + ["label_doubted"] * 3
    assert said[0].message == (
        "About 6 of the 6 labels below are really wrong; of all 300 judged labels it is about 2.0%."
    )
    assert [f.message for f in said[1:3]] == [
        "Line 104 is labelled 'refund', but similar rows are 'order'.",
        "Line 105 is labelled 'cancel', but similar rows are 'refund'.",
    ]
    assert (said[3].line, said[3].count) == (None, 4)
    assert {f.severity for f in said} == {"warns"}


def test_right_labels_are_not_doubted() -> None:
    labels, scores = planted(wrong=0)

    found, errors = suspect_labels(labels, NAMES, scores)
    assert found == ()
    assert errors.wrong < 0.001 and errors.is_told


def test_one_label_leaves_nothing_to_doubt() -> None:
    found, errors = suspect_labels(["refund"] * 9, ("refund",), np.ones((9, 1)))
    assert (found, errors.wrong) == ((), 0.0)


def test_labels_with_fewer_than_five_rows_are_left_out_and_it_is_said() -> None:
    labels = ["often"] * 5 + ["rare"] * 4
    rows = sample_rows(labels, keys(9), 7)
    found = Findings(20)

    check_suspect_labels(range(5), labels[:5], rows, ("often",), np.ones((5, 1)), found)

    assert rows.rows == (0, 1, 2, 3, 4)
    (said,) = found.sorted()
    assert (said.code, said.severity, said.count) == ("labels_not_judged", "tells", 4)


def test_of_too_many_rows_a_sample_is_judged_and_it_is_said() -> None:
    labels = [NAMES[i % 3] for i in range(300)]
    rows = sample_rows(labels, keys(300), 7, most=90)
    found = Findings(20)

    check_suspect_labels(
        rows.rows, [labels[i] for i in rows.rows], rows, NAMES, told([i % 3 for i in rows.rows]), found
    )

    assert len(rows.rows) == 90
    (said,) = found.sorted()
    assert said.message == "The labels of 90 of 300 rows were judged, always the same sample."


def test_a_classifier_that_can_not_tell_the_labels_apart_says_so() -> None:
    chance = np.random.default_rng(2)
    labels = [NAMES[i % 3] for i in range(300)]
    found = Findings(2)

    errors = check_suspect_labels(
        range(300), labels, sample_rows(labels, keys(300), 7), NAMES, chance.normal(size=(300, 3)), found
    )

    assert not errors.is_told
    (said,) = [one for one in found.sorted() if one.code == "label_errors_unknown"]
    assert said.severity == "tells"
    assert "The number of wrong labels can't be estimated from these texts" in said.message


def test_a_row_that_nobody_can_judge_is_not_doubted() -> None:
    labels, scores = planted()
    scores[:6, :] = -1
    scores[range(6), [NAMES.index(label) for label in labels[:6]]] = np.inf

    assert suspect_labels(labels, NAMES, scores)[0] == ()


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.sampled_from("abcdef"), max_size=80), seed=st.integers(0, 9), most=st.integers(1, 60)
)
def test_the_sample_is_the_same_in_any_order_and_has_no_rare_label(
    labels: list[str], seed: int, most: int
) -> None:
    names = keys(len(labels))
    order = random.Random(seed).sample(range(len(labels)), len(labels))

    rows = sample_rows(labels, names, seed, most)
    again = sample_rows([labels[i] for i in order], [names[i] for i in order], seed, most)

    assert {names[i] for i in rows.rows} == {names[order[i]] for i in again.rows}
    assert len(rows.rows) <= most
    judged_labels = [labels[i] for i in rows.rows]
    assert all(judged_labels.count(label) >= FEWEST_ROWS_OF_LABEL for label in judged_labels)
    if rows.sampled_from is None:
        assert rows.rare + len(rows.rows) == len(labels)
    else:
        assert rows.sampled_from > most


@pytest.mark.parametrize("wrong", [1, 30])
def test_errors_are_found_in_few_and_in_many_rows(wrong: int) -> None:
    labels, scores = planted(wrong=wrong)

    assert {doubt.row for doubt in suspect_labels(labels, NAMES, scores)[0]} == set(range(wrong))
