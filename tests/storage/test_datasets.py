"""Datasets: versions under a name, and moves that only one hand makes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storage.datasets import NewDataset
from storage.driver import sqlite3
from storage.questions import NewAsk
from storage.records import Dataset
from storage.store import Store
from tests.storage.conftest import TICKETS
from tests.storage.test_database import at_once


def test_what_was_handed_over_is_kept_as_it_was(store: Store) -> None:
    new = NewDataset("tickets", "C1", "U1", "tickets.csv", "F1", text_column="body", label_column="topic")
    got = store.datasets.get(store.datasets.receive(new, now=5.0).id)
    assert (got.name, got.version, got.state, got.source) == ("tickets", 1, "received", "F1")
    assert (got.text_column, got.label_column, got.created_at, got.next_at) == ("body", "topic", 5.0, 0.0)


def test_the_same_name_again_is_its_next_version(store: Store) -> None:
    first, second = (store.datasets.receive(TICKETS, now=1.0) for _ in range(2))
    other = store.datasets.receive(replace(TICKETS, name="faq"), now=1.0)
    assert (first.title, second.title, other.title) == ("tickets", "tickets (version 2)", "faq")
    assert [one.id for one in store.datasets.all()] == [other.id, second.id, first.id]


def test_a_name_belongs_to_the_channel_that_had_it_first(store: Store) -> None:
    first = store.datasets.receive(TICKETS, now=1.0)
    assert store.datasets.receive(replace(TICKETS, channel="C2"), now=2.0) is None
    assert store.datasets.receive(replace(TICKETS, may_add=False), now=2.0) is None
    second = store.datasets.receive(TICKETS, now=2.0)
    assert (second.version, second.owner, second.source_channels) == (2, "C1", {"C1"})
    assert store.datasets.owners() == {"tickets": "C1"} and store.datasets.all() == [second, first]


def test_of_two_channels_at_once_one_gets_the_name(store: Store) -> None:
    at_once(16, lambda n: store.datasets.receive(replace(TICKETS, channel=f"C{n % 2}"), now=1.0))
    assert len({one.channel for one in store.datasets.all()}) == 1 and len(store.datasets.all()) == 8


def test_sixteen_uploads_at_once_get_sixteen_versions(store: Store) -> None:
    at_once(16, lambda _: store.datasets.receive(TICKETS, now=1.0))
    assert sorted(one.version for one in store.datasets.all()) == list(range(1, 17))


def test_of_two_hands_one_moves_a_dataset(store: Store) -> None:
    dataset = store.datasets.receive(TICKETS, now=1.0)
    moved = store.datasets.move(dataset, "checking", now=2.0, sha256="ab")
    assert moved is not None
    assert (moved.state, moved.sha256, moved.updated_at) == ("checking", "ab", 2.0)
    assert store.datasets.move(dataset, "refused", now=3.0, refusal="late") is None
    assert store.datasets.get(dataset.id) == moved


def test_a_race_for_one_move_has_one_winner(store: Store) -> None:
    dataset = store.datasets.receive(TICKETS, now=1.0)
    won: list[Dataset | None] = []
    at_once(16, lambda n: won.append(store.datasets.move(dataset, "checking", now=2.0, sha256=str(n))))
    (winner,) = [one for one in won if one]
    assert store.datasets.get(dataset.id).sha256 == winner.sha256


def test_due_is_what_is_not_settled_and_whose_time_has_come(store: Store) -> None:
    waits, ready, later = (store.datasets.receive(TICKETS, now=1.0) for _ in range(3))
    store.datasets.move(ready, "ready", now=1.0)
    store.datasets.move(later, "checking", now=1.0, next_at=50.0)
    assert [one.id for one in store.datasets.due(49.0)] == [waits.id]
    assert [one.id for one in store.datasets.due(50.0)] == [waits.id, later.id]


def test_the_newest_usable_version_answers_to_the_name(store: Store) -> None:
    assert store.datasets.newest("tickets") is None
    first = store.datasets.receive(TICKETS, now=1.0)
    assert store.datasets.newest("tickets") == first
    ready = store.datasets.move(first, "ready", now=1.0)
    second = store.datasets.receive(TICKETS, now=1.0)
    store.datasets.move(second, "refused", now=1.0)
    assert store.datasets.newest("tickets") == ready


def test_a_state_that_is_none_is_refused_by_the_database(store: Store) -> None:
    dataset = store.datasets.receive(TICKETS, now=1.0)
    with pytest.raises(sqlite3.IntegrityError):
        store.datasets.move(dataset, "lost", now=2.0)  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        store.datasets.get(99)


def test_a_clock_put_back_holds_up_no_deletion(store: Store) -> None:
    deletion = store.deletions.ask("tickets", [1], person="U1", channel=None, now=1e6)
    assert deletion is not None
    store.deletions.postpone(deletion, next_at=1e6 + 300)
    assert store.deletions.open(1e6) == []
    assert [waiting.id for waiting in store.deletions.open(1e6 - 86_400)] == [deletion.id]


def test_questions_that_go_with_their_dataset_reserve_nothing_any_more(store: Store) -> None:
    """One that was sent may have to be paid, so that its maximum counts as spent."""
    dataset = store.datasets.receive(TICKETS, now=1.0)
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
