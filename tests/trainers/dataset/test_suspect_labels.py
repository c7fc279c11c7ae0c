"""Suspect labels: planted errors are found, ranked, and reported without a text."""

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
    LabelErrors,
    SuspectLabel,
    check_suspect_labels,
    report_suspects,
    sample_rows,
    suspect_labels,
)

NAMES = ("cancel", "order", "refund")
Scores = np.ndarray[tuple[int, int], np.dtype[np.float64]]


def make_scores(truth: list[int], wrong: int = 0) -> Scores:
    """Makes the scores of a classifier that is always right, with varying certainty but very sure of the first rows."""
    chance = np.random.default_rng(1)
    certainty = chance.uniform(0.5, 0.95, len(truth))
    certainty[:wrong] = 0.97 + np.arange(wrong) / 2000
    scores = np.repeat((1 - certainty[:, None]) / 2, len(NAMES), axis=1)
    scores[np.arange(len(truth)), truth] = certainty
    return scores


def plant_errors(rows: int = 300, wrong: int = 6) -> tuple[list[str], Scores]:
    """Makes labels of which the first are wrong, and scores."""
    truth = [i % 3 for i in range(rows)]
    labels = [NAMES[(t + (i < wrong)) % 3] for i, t in enumerate(truth)]
    return labels, make_scores(truth, wrong)


def make_keys(count: int) -> list[bytes]:
    return [hashlib.blake2b(str(i).encode(), digest_size=16).digest() for i in range(count)]


def test_exactly_the_planted_errors_are_suspected_the_least_likely_label_first() -> None:
    labels, scores = plant_errors()
    suspects, estimate = suspect_labels(labels, NAMES, scores)
    assert [suspect.row for suspect in suspects] == [5, 4, 3, 2, 1, 0]
    assert min(suspect.chance for suspect in suspects) > 0.9
    assert (estimate.judged, estimate.listed, estimate.is_told) == (300, 6, True)
    assert estimate.wrong == pytest.approx(6 / 300, abs=0.002)
    assert all(s.given == labels[s.row] and s.likely == NAMES[s.row % 3] for s in suspects)


def test_a_suspect_label_is_reported_with_its_line_and_both_labels() -> None:
    labels, scores = plant_errors()
    findings = Findings(2)

    check_suspect_labels(
        range(100, 400), labels, sample_rows(labels, make_keys(300), 7), NAMES, scores, findings
    )

    summary, first, second, rest = findings.sorted()
    assert (summary.code, first.code, rest.code) == ("label_errors", "label_doubted", "label_doubted")
    assert summary.message == (
        "6 labels look different from those of similar rows; about 6 of them are probably wrong (2.0% of 300)."
    )
    assert first.message == "Line 104 is labelled 'refund', but similar rows are 'order'."
    assert second.message == "Line 105 is labelled 'cancel', but similar rows are 'refund'."
    assert (rest.line, rest.count) == (None, 4)
    assert {finding.severity for finding in findings.sorted()} == {"warns"}


def test_right_labels_and_a_single_label_are_not_suspected() -> None:
    labels, scores = plant_errors(wrong=0)
    suspects, estimate = suspect_labels(labels, NAMES, scores)
    assert suspects == ()
    assert estimate.wrong < 0.001 and estimate.is_told
    suspects, estimate = suspect_labels(["refund"] * 9, ("refund",), np.ones((9, 1)))
    assert (suspects, estimate.wrong) == ((), 0.0)


def test_labels_with_fewer_than_five_rows_are_left_out_and_counted() -> None:
    labels, scores = plant_errors(wrong=0)
    rows = sample_rows([*labels, *["rare"] * 4], make_keys(304), 7)
    findings = Findings(20)
    check_suspect_labels(range(300), labels, rows, NAMES, scores, findings)
    assert rows.rows == tuple(range(300))
    (finding,) = findings.sorted()
    assert (finding.code, finding.severity, finding.count) == ("labels_not_judged", "tells", 4)


def test_of_too_many_rows_a_sample_is_judged_and_reported() -> None:
    labels = [NAMES[i % 3] for i in range(900)]
    rows = sample_rows(labels, make_keys(900), 7, most=270)
    findings, scores = Findings(20), make_scores([i % 3 for i in rows.rows])
    check_suspect_labels(rows.rows, [labels[i] for i in rows.rows], rows, NAMES, scores, findings)
    assert len(rows.rows) == 270
    (finding,) = findings.sorted()
    assert finding.message == "The labels of 270 of 900 rows were judged, always the same sample."


def test_no_label_is_doubted_if_a_classifier_cannot_tell_them_apart() -> None:
    chance = np.random.default_rng(2)
    labels = [NAMES[i % 3] for i in range(300)]
    findings, rows = Findings(2), sample_rows(labels, make_keys(300), 7)
    estimate = check_suspect_labels(range(300), labels, rows, NAMES, chance.normal(size=(300, 3)), findings)
    assert (estimate.is_judged, estimate.listed, estimate.expected, estimate.counts) == (False, 0, 0.0, False)
    (finding,) = findings.sorted()
    assert (finding.code, finding.severity) == ("labels_not_told_apart", "tells")
    assert "agrees with only 35% of the labels" in finding.message


def test_a_classifier_that_only_knows_the_most_frequent_label_is_not_able_to_judge() -> None:
    """It agrees with 57% of these labels, all of which are right."""
    chance = np.random.default_rng(3)
    labels = [NAMES[0 if i % 100 < 57 else 1 + i % 2] for i in range(900)]
    scores = chance.normal(size=(900, 3), scale=0.05)
    scores[:, 0] += 0.3
    estimate = suspect_labels(labels, NAMES, scores)[1]
    assert estimate.agreed == pytest.approx(0.57, abs=0.01) and not estimate.is_judged


def test_no_label_of_a_small_file_is_doubted() -> None:
    """A classifier learns too little from few rows: of 90 clean support tickets it suspected 19."""
    labels, scores = plant_errors(rows=199)
    findings, rows = Findings(2), sample_rows(labels, make_keys(199), 7)
    estimate = check_suspect_labels(range(199), labels, rows, NAMES, scores, findings)
    assert (estimate.is_judged, estimate.listed, estimate.counts) == (False, 0, False)
    (finding,) = findings.sorted()
    assert (finding.code, finding.severity) == ("too_few_rows_to_judge", "tells")
    assert "that takes 200 rows" in finding.message and "there are 199" in finding.message


def test_many_wrong_labels_do_not_make_a_classifier_look_unable() -> None:
    """It agrees with 60% of these labels, which are all that are right."""
    labels, scores = plant_errors(rows=300, wrong=120)
    estimate = suspect_labels(labels, NAMES, scores)[1]
    assert estimate.agreed == pytest.approx(0.6) and estimate.counts


def test_a_short_unclear_list_gets_no_number_and_blames_no_texts() -> None:
    findings = Findings(9)
    suspects = tuple(SuspectLabel(row, NAMES[row], NAMES[row + 1], 0.2) for row in range(2))
    estimate = LabelErrors(300, 2, 0.4, 0.4 / 300, 298 / 300, is_told=False)
    report_suspects(suspects, estimate, range(300), findings)
    (summary,) = [finding for finding in findings.sorted() if finding.line is None]
    assert (summary.code, summary.severity) == ("label_errors_unknown", "tells")
    assert [finding.line for finding in findings.sorted() if finding.code == "label_doubted"] == [0, 1]
    assert summary.message == (
        "2 labels look different from those of similar rows. They are too few or too unclear to say how many are wrong."
    )


def test_a_row_that_cannot_be_judged_is_not_suspected() -> None:
    labels, scores = plant_errors()
    scores[:6, :] = -1
    scores[range(6), [NAMES.index(label) for label in labels[:6]]] = np.inf
    assert suspect_labels(labels, NAMES, scores)[0] == ()


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.sampled_from("abcdef"), max_size=80), seed=st.integers(0, 9), most=st.integers(1, 60)
)
def test_the_sample_does_not_depend_on_the_order_and_has_no_rare_label(
    labels: list[str], seed: int, most: int
) -> None:
    names = make_keys(len(labels))
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
def test_one_and_many_errors_are_found(wrong: int) -> None:
    labels, scores = plant_errors(wrong=wrong)
    assert {suspect.row for suspect in suspect_labels(labels, NAMES, scores)[0]} == set(range(wrong))
