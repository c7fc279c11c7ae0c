"""Wrong rows: training rows are answered by what hasn't learnt from them, held-out rows by their stored scores."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.trainers.evaluation.builders import make_orders, make_rows
from trainers.evaluation.wrong_rows import find_wrong_training_rows, wrong_indices
from trainers.types import Message

SEED = 7


def test_a_mislabelled_training_row_is_the_first_and_copies_are_named_once() -> None:
    rows = make_rows(120)
    mislabelled = replace(rows[0], messages=(rows[0].messages[0], Message("assistant", "login")))
    result = find_wrong_training_rows((mislabelled, *rows[1:], mislabelled), "label", SEED, 0, 8)
    assert result.of == 120
    first = result.rows[0]
    assert (first.question, first.expected, first.answer) == (rows[0].prompt[-1].content, "login", "refund")
    assert [row.question for row in result.rows].count(first.question) == 1


@pytest.mark.deep
@pytest.mark.parametrize("scoring", ["label", "json"])
def test_pages_fit_together(scoring: str) -> None:
    plain = make_orders(60)
    if scoring == "label":
        plain = make_rows(60)
    rows = tuple(
        replace(row, messages=(row.messages[0], plain[place - 1].messages[1])) if place % 9 == 0 else row
        for place, row in enumerate(plain)
    )
    everything = find_wrong_training_rows(rows, scoring, SEED, 0, 1_000)  # type: ignore[arg-type]
    assert len(everything.rows) == everything.wrong > 4
    pages = [find_wrong_training_rows(rows, scoring, SEED, first, 3) for first in (0, 3)]  # type: ignore[arg-type]
    assert pages[0].rows + pages[1].rows == everything.rows[:6]
    assert all(row.answer != row.expected for row in everything.rows)


def test_free_text_has_no_free_model_that_could_answer() -> None:
    with pytest.raises(ValueError, match="no free model"):
        find_wrong_training_rows(make_rows(10), "f1", SEED, 0, 8)


def test_rows_of_one_label_are_all_right() -> None:
    assert find_wrong_training_rows(make_rows(40, ("card",)), "label", SEED, 0, 8).wrong == 0


def test_the_worst_rows_come_first() -> None:
    assert wrong_indices((1.0, 0.5, 0.0, 1.0, 0.0)) == (2, 4, 1)
