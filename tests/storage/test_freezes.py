"""Freezes: one stands at a time, each word against it is kept once, and neither is forgotten."""

from __future__ import annotations

import pytest

from storage.driver import sqlite3
from storage.money import Freeze
from storage.store import Store
from tests.storage.test_database import at_once


def frozen(store: Store) -> Freeze:
    made = store.freezes.add(person="U1", reason="audit", channel="C1", now=5.0)
    assert made is not None
    return made


def test_of_sixteen_threads_one_freezes(store: Store) -> None:
    made: list[Freeze | None] = []
    at_once(
        16, lambda n: made.append(store.freezes.add(person=f"U{n}", reason="", channel="C1", now=float(n)))
    )
    (one,) = [freeze for freeze in made if freeze]
    assert store.freezes.current() == one


def test_a_person_speaks_against_it_once(store: Store) -> None:
    freeze = frozen(store)
    said = [store.freezes.request_lift(freeze, person, now=6.0) for person in ("U2", "U2", "U1")]
    assert said == [True, False, True]
    assert store.freezes.lift_requests(freeze) == ["U2", "U1"]


def test_after_it_is_lifted_another_may_stand_with_words_of_its_own(store: Store) -> None:
    first = frozen(store)
    store.freezes.request_lift(first, "U2", now=6.0)
    assert store.freezes.lift(first, now=7.0) and not store.freezes.lift(first, now=8.0)
    assert store.freezes.current() is None
    second = frozen(store)
    assert store.freezes.current() == second != first
    assert store.freezes.lift_requests(second) == []


@pytest.mark.parametrize(
    "sql", ["DELETE FROM freezes", "DELETE FROM unfreezes", "UPDATE unfreezes SET person = 'U9'"]
)
def test_what_was_said_stays(store: Store, sql: str) -> None:
    store.freezes.request_lift(frozen(store), "U2", now=6.0)
    with pytest.raises(sqlite3.IntegrityError):
        store.database.change(sql)
