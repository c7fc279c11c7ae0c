"""Waivers and wishes for a cleaned file: each once, and a waiver stands as it was given."""

from __future__ import annotations

import pytest

from storage.driver import sqlite3
from storage.store import Store
from tests.storage.conftest import TICKETS


def test_a_waiver_is_kept_with_who_and_why(store: Store) -> None:
    dataset = store.datasets.receive(TICKETS, now=1.0)
    assert store.waivers.of(dataset.id) is None
    given = store.waivers.add(dataset.id, "U1", "the customers agreed", now=2.0)
    assert given is not None and given == store.waivers.of(dataset.id)
    assert (given.person, given.reason, given.at) == ("U1", "the customers agreed", 2.0)


def test_the_first_waiver_stands(store: Store) -> None:
    dataset = store.datasets.receive(TICKETS, now=1.0)
    first = store.waivers.add(dataset.id, "U1", "the customers agreed", now=2.0)
    assert store.waivers.add(dataset.id, "U2", "so do I", now=3.0) is None
    assert store.waivers.of(dataset.id) == first


def test_a_waiver_of_one_version_is_none_of_the_next(store: Store) -> None:
    first, second = (store.datasets.receive(TICKETS, now=1.0) for _ in range(2))
    store.waivers.add(first.id, "U1", "the customers agreed", now=2.0)
    assert store.waivers.of(second.id) is None


@pytest.mark.parametrize("change", ["UPDATE waivers SET reason = 'other'", "DELETE FROM waivers"])
def test_a_waiver_can_be_neither_changed_nor_deleted(store: Store, change: str) -> None:
    dataset = store.datasets.receive(TICKETS, now=1.0)
    store.waivers.add(dataset.id, "U1", "the customers agreed", now=2.0)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        store.database.change(change)


def test_a_wish_for_a_cleaned_file_waits_once_until_it_is_done(store: Store) -> None:
    dataset = store.datasets.receive(TICKETS, now=1.0)
    asked = store.cleanings.ask(dataset.id, "U1", now=2.0)
    assert asked is not None
    assert store.cleanings.ask(dataset.id, "U1", now=3.0) is None
    other = store.cleanings.ask(dataset.id, "U2", now=3.0)
    assert store.cleanings.waiting() == [asked, other]
    assert (store.cleanings.finish(asked), store.cleanings.finish(asked)) == (True, False)
    assert store.cleanings.waiting() == [other]
    assert store.cleanings.ask(dataset.id, "U1", now=4.0) is not None, "asked again, made again"
