"""Waivers, which can't be changed, and requests for a cleaned file."""

from __future__ import annotations

import pytest

from storage.driver import sqlite3
from storage.store import Store
from tests.storage.conftest import add_dataset


def test_a_waiver_has_its_person_and_reason(store: Store) -> None:
    dataset = add_dataset(store)
    assert store.waivers.of(dataset.id) is None
    waiver = store.waivers.add(dataset.id, "U1", "the customers agreed", now=2.0)
    assert waiver is not None and waiver == store.waivers.of(dataset.id)
    assert (waiver.person, waiver.reason, waiver.at) == ("U1", "the customers agreed", 2.0)


def test_the_first_waiver_stands(store: Store) -> None:
    dataset = add_dataset(store)
    first = store.waivers.add(dataset.id, "U1", "the customers agreed", now=2.0)
    assert store.waivers.add(dataset.id, "U2", "so do I", now=3.0) is None
    assert store.waivers.of(dataset.id) == first


def test_a_waiver_covers_one_version_only(store: Store) -> None:
    first, second = (add_dataset(store) for _ in range(2))
    store.waivers.add(first.id, "U1", "the customers agreed", now=2.0)
    assert store.waivers.of(second.id) is None


@pytest.mark.parametrize("change", ["UPDATE waivers SET reason = 'other'", "DELETE FROM waivers"])
def test_a_waiver_can_be_neither_changed_nor_deleted(store: Store, change: str) -> None:
    dataset = add_dataset(store)
    store.waivers.add(dataset.id, "U1", "the customers agreed", now=2.0)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        store.database.change(change)


def test_a_request_for_a_cleaned_file_waits_once_until_it_is_done(store: Store) -> None:
    dataset = add_dataset(store)
    request = store.cleanings.ask(dataset.id, "U1", now=2.0)
    assert request is not None
    assert store.cleanings.ask(dataset.id, "U1", now=3.0) is None
    other = store.cleanings.ask(dataset.id, "U2", now=3.0)
    assert store.cleanings.waiting() == [request, other]
    assert (store.cleanings.finish(request), store.cleanings.finish(request)) == (True, False)
    assert store.cleanings.waiting() == [other]
    assert store.cleanings.ask(dataset.id, "U1", now=4.0) is not None, "asked again, made again"
