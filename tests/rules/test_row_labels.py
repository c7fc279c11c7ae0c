"""The outcome of people's answers to a batch of rows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bot.values.row_labels import BatchOutcome, outcome_in_version, tally_answers
from storage.records import LabellingRow, RowLabel

ROWS = [
    LabellingRow(1, 0, "k0", "where is it?", "billing", "shipping"),
    LabellingRow(1, 1, "k1", "money back", "billing", "refund"),
    LabellingRow(1, 2, "k2", "hello", None, "billing"),
]


def outcome(*answers: tuple[int, str, str | None]) -> BatchOutcome:
    return tally_answers(ROWS, [RowLabel(1, place, person, label, 0.0) for place, person, label in answers])


def test_without_answers_nothing_changes() -> None:
    empty = outcome()
    assert (empty.answered, empty.changes, empty.people, empty.between) == (0, 0, 0, None)


def test_answers_keep_change_drop_or_add_labels() -> None:
    batch = outcome((0, "U1", "billing"), (1, "U1", None), (2, "U1", "billing"))
    assert (batch.stay, batch.changed, batch.dropped, batch.added, batch.changes) == (1, 0, 1, 1, 2)
    assert batch.decided == {0: "billing", 1: None, 2: "billing"}


def test_dropping_an_unlabelled_row_changes_nothing() -> None:
    batch = outcome((2, "U1", None))
    assert (batch.dropped, batch.changes) == (1, 0)


def test_answers_that_a_newer_version_overtook_or_holds_already_are_not_counted_as_changes() -> None:
    batch = outcome((0, "U1", "shipping"), (1, "U1", "refund"), (2, "U1", "billing"))
    newer = outcome_in_version(batch, ROWS, {"k0"}, {"k1"})
    assert (newer.changed, newer.stay, newer.added, newer.changes, newer.answered) == (0, 1, 1, 1, 3)
    assert newer.decided == {1: "refund", 2: "billing"}


@pytest.mark.parametrize(
    ("labels", "decided", "disputed"),
    [
        (["refund", "shipping"], {}, 1),
        (["refund", "shipping", "refund"], {1: "refund"}, 0),
        (["refund", None], {}, 1),
        (["refund", "refund", "shipping", "shipping"], {}, 1),
    ],
)
def test_a_label_needs_more_people_than_any_other(
    labels: Sequence[str | None], decided: dict[int, str], disputed: int
) -> None:
    batch = outcome(*((1, f"U{number}", label) for number, label in enumerate(labels)))
    assert (batch.decided, batch.disputed) == (decided, disputed)


def test_agreement_counts_rows_that_two_people_answered() -> None:
    batch = outcome(
        (0, "U1", "billing"),
        (0, "U2", "billing"),
        (1, "U1", "refund"),
        (1, "U2", "billing"),
        (2, "U1", "refund"),
    )
    assert batch.between is not None
    assert (batch.between.n, batch.between.agreed, batch.people) == (2, 1, 2)


def test_agreement_is_independent_of_the_order_of_answers() -> None:
    answers = [(0, "U1", "billing"), (0, "U2", "refund"), (1, "U2", "refund"), (1, "U1", "billing")]
    assert outcome(*answers).between == outcome(*reversed(answers)).between
