"""Datasets: versions under a name, and guarded moves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storage.datasets import NewDataset
from storage.driver import sqlite3
from storage.questions import NewAsk
from storage.records import Dataset
from storage.store import Store
from tests.storage.conftest import TICKETS, add_dataset
from tests.storage.threads import run_at_once


def test_a_new_dataset_has_the_values_of_its_upload(store: Store) -> None:
    new = NewDataset("tickets", "C1", "U1", "tickets.csv", "F1", text_column="body", label_column="topic")
    dataset = store.datasets.get(add_dataset(store, new, now=5.0).id)
    assert (dataset.name, dataset.version, dataset.state, dataset.source) == ("tickets", 1, "received", "F1")
    assert (dataset.text_column, dataset.label_column, dataset.created_at, dataset.next_at) == (
        "body",
        "topic",
        5.0,
        0.0,
    )


def test_the_same_name_again_is_its_next_version(store: Store) -> None:
    first, second = (add_dataset(store) for _ in range(2))
    other = add_dataset(store, replace(TICKETS, name="faq"))
    assert (first.title, second.title, other.title) == ("tickets", "tickets (version 2)", "faq")
    assert [row.id for row in store.datasets.all()] == [other.id, second.id, first.id]


def test_a_name_belongs_to_the_channel_that_had_it_first(store: Store) -> None:
    first = add_dataset(store)
    assert store.datasets.receive(replace(TICKETS, channel="C2"), now=2.0) is None
    assert store.datasets.receive(replace(TICKETS, may_add=False), now=2.0) is None
    second = add_dataset(store, now=2.0)
    assert (second.version, second.owner) == (2, "C1") and second.source_channels == {"C1"}
    assert store.datasets.owners() == {"tickets": "C1"} and store.datasets.all() == [second, first]


def test_a_race_of_two_channels_for_a_name_has_one_winner(store: Store) -> None:
    run_at_once(16, lambda n: store.datasets.receive(replace(TICKETS, channel=f"C{n % 2}"), now=1.0))
    assert len({row.channel for row in store.datasets.all()}) == 1 and len(store.datasets.all()) == 8


def test_sixteen_uploads_at_once_get_sixteen_versions(store: Store) -> None:
    run_at_once(16, lambda _: add_dataset(store))
    assert sorted(row.version for row in store.datasets.all()) == list(range(1, 17))


def test_a_dataset_is_moved_by_the_first_of_two_writers(store: Store) -> None:
    dataset = add_dataset(store)
    moved = store.datasets.move(dataset, "checking", now=2.0, sha256="ab")
    assert moved is not None
    assert (moved.state, moved.sha256, moved.updated_at) == ("checking", "ab", 2.0)
    assert store.datasets.move(dataset, "refused", now=3.0, refusal="late") is None
    assert store.datasets.get(dataset.id) == moved


def test_a_race_for_one_move_has_one_winner(store: Store) -> None:
    dataset = add_dataset(store)
    won: list[Dataset | None] = []
    run_at_once(16, lambda n: won.append(store.datasets.move(dataset, "checking", now=2.0, sha256=str(n))))
    (winner,) = filter(None, won)
    assert store.datasets.get(dataset.id).sha256 == winner.sha256


def test_datasets_are_due_if_they_are_unfinished_and_their_time_has_come(store: Store) -> None:
    waits, ready, later = (add_dataset(store) for _ in range(3))
    store.datasets.move(ready, "ready", now=1.0)
    store.datasets.move(later, "checking", now=1.0, next_at=50.0)
    assert [row.id for row in store.datasets.due(49.0)] == [waits.id]
    assert [row.id for row in store.datasets.due(50.0)] == [waits.id, later.id]


def test_a_name_refers_to_its_newest_usable_version(store: Store) -> None:
    assert store.datasets.newest("tickets") is None
    first = add_dataset(store)
    assert store.datasets.newest("tickets") == first
    ready = store.datasets.move(first, "ready", now=1.0)
    second = add_dataset(store)
    store.datasets.move(second, "refused", now=1.0)
    assert store.datasets.newest("tickets") == ready


def test_an_unknown_state_is_refused_by_the_database(store: Store) -> None:
    dataset = add_dataset(store)
    with pytest.raises(sqlite3.IntegrityError):
        store.datasets.move(dataset, "lost", now=2.0)  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        store.datasets.get(99)


def test_a_clock_set_back_delays_no_deletion(store: Store) -> None:
    deletion = store.deletions.ask("tickets", [1], person="U1", channel=None, now=1e6)
    assert deletion is not None
    store.deletions.postpone(deletion, next_at=1e6 + 300)
    assert store.deletions.open(1e6) == []
    assert [waiting.id for waiting in store.deletions.open(1e6 - 86_400)] == [deletion.id]


def test_deleting_a_dataset_frees_the_reservations_of_its_unsent_questions(store: Store) -> None:
    """A question that was sent may have to be paid, so its maximum counts as spent."""
    dataset = add_dataset(store)
    assert dataset is not None
    new = NewAsk("U1", "C1", "tickets", "tickets", "Where is it?", "2026-11", 40)
    store.questions.add(new, now=2.0)
    sent = store.questions.add(new, now=3.0)
    store.questions.mark_sent(sent, now=4.0)
    assert store.questions.committed("2026-11") == 80
    with store.transaction():
        store.deletions.erase([dataset.id], "tickets", files=[], about=[], is_whole=True, now=5.0)
    assert store.questions.waiting() == []
    assert store.questions.committed("2026-11") == 40
    (commitment,) = store.ledger.commitments("2026-11")
    assert (commitment.reserved_micros, commitment.spent_micros) == (0, 40)
