"""Doubted labels: what was planted is found, ranked, and told without a text."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.dataset.findings import Findings
from trainers.dataset.rules.doubts import FEWEST, check_doubts, doubts, judged

NAMES = ("cancel", "order", "refund")
Probabilities = np.ndarray[tuple[int, int], np.dtype[np.float64]]


def told(truth: list[int], wrong: int = 0) -> Probabilities:
    """What a classifier says that is right, now more and now less sure, and sure of the first `wrong` rows."""
    chance = np.random.default_rng(1)
    sure = chance.uniform(0.5, 0.95, len(truth))
    sure[:wrong] = 0.97 + np.arange(wrong) / 2000
    said = np.repeat((1 - sure[:, None]) / 2, len(NAMES), axis=1)
    said[np.arange(len(truth)), truth] = sure
    return said


def planted(rows: int = 300, wrong: int = 6) -> tuple[list[str], Probabilities]:
    truth = [i % 3 for i in range(rows)]
    labels = [NAMES[(t + (i < wrong)) % 3] for i, t in enumerate(truth)]
    return labels, told(truth, wrong)


def keys(count: int) -> list[bytes]:
    return [hashlib.blake2b(str(i).encode(), digest_size=16).digest() for i in range(count)]


def test_exactly_the_planted_errors_are_doubted_the_least_believed_first() -> None:
    labels, probabilities = planted()

    found = doubts(labels, NAMES, probabilities)

    assert [doubt.row for doubt in found] == [5, 4, 3, 2, 1, 0]
    assert [d.confidence for d in found] == sorted(d.confidence for d in found)
    assert all(d.given == labels[d.row] and d.likely == NAMES[d.row % 3] for d in found)


def test_a_doubt_names_the_line_and_both_labels_and_the_rest_is_counted() -> None:
    labels, probabilities = planted()
    found = Findings(2)

    check_doubts(range(100, 400), labels, judged(labels, keys(300), 7), NAMES, probabilities, found)

    said = found.sorted()
    assert [f.code for f in said] == ["label_doubted"] * 3
    assert [f.message for f in said[:2]] == [
        "Line 104 is labelled 'refund', but rows like it are 'order'.",
        "Line 105 is labelled 'cancel', but rows like it are 'refund'.",
    ]
    assert (said[2].line, said[2].count) == (None, 4)
    assert {f.severity for f in said} == {"warns"}


def test_right_labels_are_not_doubted() -> None:
    labels, probabilities = planted(wrong=0)

    assert doubts(labels, NAMES, probabilities) == ()


def test_one_label_leaves_nothing_to_doubt() -> None:
    assert doubts(["refund"] * 9, ("refund",), np.ones((9, 1))) == ()


def test_labels_with_fewer_than_five_rows_are_left_out_and_it_is_said() -> None:
    labels = ["often"] * 5 + ["rare"] * 4
    rows = judged(labels, keys(9), 7)
    found = Findings(20)

    check_doubts(range(5), labels[:5], rows, ("often",), np.ones((5, 1)), found)

    assert rows.rows == (0, 1, 2, 3, 4)
    (said,) = found.sorted()
    assert (said.code, said.severity, said.count) == ("labels_not_judged", "tells", 4)


def test_of_too_many_rows_a_sample_is_judged_and_it_is_said() -> None:
    labels = [NAMES[i % 3] for i in range(300)]
    rows = judged(labels, keys(300), 7, most=90)
    found = Findings(20)

    check_doubts(
        rows.rows, [labels[i] for i in rows.rows], rows, NAMES, told([i % 3 for i in rows.rows]), found
    )

    assert len(rows.rows) == 90
    (said,) = found.sorted()
    assert said.message == "The labels of 90 of 300 rows were judged, a fixed sample."


def test_a_label_that_is_only_half_believed_is_not_doubted() -> None:
    """A weak rung 0 mistakes many right labels, and is not sure of it."""
    labels, probabilities = planted(wrong=6)
    probabilities[:6] = [0.04, 0.04, 0.92]

    doubted = doubts(labels, NAMES, probabilities)

    assert not {doubt.row for doubt in doubted} & set(range(6))


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.sampled_from("abcdef"), max_size=80), seed=st.integers(0, 9), most=st.integers(1, 60)
)
def test_the_sample_is_the_same_in_any_order_and_has_no_rare_label(
    labels: list[str], seed: int, most: int
) -> None:
    names = keys(len(labels))
    order = random.Random(seed).sample(range(len(labels)), len(labels))

    rows = judged(labels, names, seed, most)
    again = judged([labels[i] for i in order], [names[i] for i in order], seed, most)

    assert {names[i] for i in rows.rows} == {names[order[i]] for i in again.rows}
    assert len(rows.rows) <= most
    judged_labels = [labels[i] for i in rows.rows]
    assert all(judged_labels.count(label) >= FEWEST for label in judged_labels)
    if rows.sampled_from is None:
        assert rows.rare + len(rows.rows) == len(labels)
    else:
        assert rows.sampled_from > most


@pytest.mark.parametrize("wrong", [1, 30])
def test_errors_are_found_in_few_and_in_many_rows(wrong: int) -> None:
    labels, probabilities = planted(wrong=wrong)

    assert {doubt.row for doubt in doubts(labels, NAMES, probabilities)} == set(range(wrong))
