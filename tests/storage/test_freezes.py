"""Freezes: one at a time, one request a person to lift it, and both are kept."""

from __future__ import annotations

import pytest

from storage.driver import sqlite3
from storage.money import Freeze
from storage.store import Store
from tests.storage.threads import run_at_once


def add_freeze(store: Store) -> Freeze:
    freeze = store.freezes.add(person="U1", reason="audit", channel="C1", now=5.0)
    assert freeze is not None
    return freeze


def test_one_of_sixteen_threads_adds_the_freeze(store: Store) -> None:
    freezes: list[Freeze | None] = []
    run_at_once(
        16, lambda n: freezes.append(store.freezes.add(person=f"U{n}", reason="", channel="C1", now=float(n)))
    )
    (freeze,) = filter(None, freezes)
    assert store.freezes.current() == freeze


def test_a_person_requests_the_lift_once(store: Store) -> None:
    freeze = add_freeze(store)
    counted = [store.freezes.request_lift(freeze, person, now=6.0) for person in ("U2", "U2", "U1")]
    assert counted == [True, False, True]
    assert store.freezes.lift_requests(freeze) == ["U2", "U1"]


def test_after_a_lift_another_freeze_has_its_own_requests(store: Store) -> None:
    first = add_freeze(store)
    store.freezes.request_lift(first, "U2", now=6.0)
    assert store.freezes.lift(first, now=7.0) and not store.freezes.lift(first, now=8.0)
    assert store.freezes.current() is None
    second = add_freeze(store)
    assert store.freezes.current() == second != first
    assert store.freezes.lift_requests(second) == []


@pytest.mark.parametrize(
    "sql", ["DELETE FROM freezes", "DELETE FROM unfreezes", "UPDATE unfreezes SET person = 'U9'"]
)
def test_freezes_and_requests_cannot_be_changed_or_deleted(store: Store, sql: str) -> None:
    store.freezes.request_lift(add_freeze(store), "U2", now=6.0)
    with pytest.raises(sqlite3.IntegrityError):
        store.database.change(sql)
