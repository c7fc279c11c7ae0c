"""Models in use: one a dataset stands, each says what a rollback puts back, and none is forgotten."""

from __future__ import annotations

import pytest

from storage.datasets import NewDataset
from storage.driver import sqlite3
from storage.promotions import NewPromotion, Promotion
from storage.records import Model
from storage.runs import NewRun
from storage.store import Store
from tests.storage.test_database import at_once

NAMES = ("tickets-1", "tickets-2", "tickets-3")


@pytest.fixture(autouse=True)
def models(store: Store) -> None:
    dataset = store.datasets.receive(NewDataset("tickets", "C1", "U1", "tickets.csv", "F1"), now=1.0)
    for number, name in enumerate(NAMES, start=1):
        new = NewRun(f"hash-{number}", "{}", f"ft-{number}", dataset.id, "U1", "C1", "local")
        assert store.runs.add(new, now=1.0)
        store.add_model(Model(name, number, "local", f"ft:{number}", "candidate", 1.0))


def promoted(store: Store, model: str, *, now: float = 5.0) -> Promotion:
    standing = store.promotions.current("tickets")
    new = NewPromotion("tickets", model, "U2", "C1", standing, standing.id if standing else None)
    made = store.promotions.add(new, now=now)
    assert made is not None
    return made


def states(store: Store) -> list[str]:
    models = (store.model(name) for name in NAMES)
    return [model.state if model else "missing" for model in models]


def test_of_sixteen_threads_one_promotes(store: Store) -> None:
    made: list[Promotion | None] = []

    def add(number: int) -> None:
        new = NewPromotion("tickets", NAMES[number % 3], f"U{number}", "C1", None, None)
        with store.transaction():
            made.append(store.promotions.add(new, now=float(number)))

    at_once(16, add)
    (one,) = [promotion for promotion in made if promotion]
    assert store.promotions.current("tickets") == one
    assert sorted(states(store)) == ["candidate", "candidate", "promoted"]


def test_another_takes_its_place_and_says_what_it_returns_to(store: Store) -> None:
    first, second = promoted(store, "tickets-1"), promoted(store, "tickets-2", now=6.0)
    assert (second.instead_of, second.returns_to, second.ended_at) == (first.id, first.id, None)
    ended = store.promotions.get(first.id)
    assert ended is not None and ended.ended_at == 6.0
    assert states(store) == ["retired", "promoted", "candidate"]
    assert store.promotions.all_current() == [second]


def test_who_saw_another_standing_changes_nothing(store: Store) -> None:
    first = promoted(store, "tickets-1")
    promoted(store, "tickets-2")
    late = NewPromotion("tickets", "tickets-3", "U2", "C1", first, first.id)
    with store.transaction():
        assert store.promotions.add(late, now=7.0) is None
    assert states(store) == ["retired", "promoted", "candidate"]


def test_what_the_trainer_was_told_is_noted_once_and_of_what_stands_alone(store: Store) -> None:
    first = promoted(store, "tickets-1")
    assert store.promotions.to_sync(5.0) == [first]
    off = store.promotions.postpone(first, 9.0, "busy")
    assert off is not None and (off.tries, off.trouble) == (1, "busy")
    assert store.promotions.to_sync(8.9) == [] and store.promotions.to_sync(9.0) == [off]
    carried = store.promotions.mark_synced(off, now=9.5)
    assert carried is not None and (carried.carried_at, carried.trouble) == (9.5, None)
    assert store.promotions.mark_synced(off, now=9.6) is None and store.promotions.to_sync(10.0) == []
    assert store.promotions.mark_unsynced(carried) and len(store.promotions.to_sync(10.0)) == 1
    promoted(store, "tickets-2")
    assert store.promotions.mark_synced(carried, now=11.0) is None


def test_a_model_is_gone_once_and_back_once(store: Store) -> None:
    model = store.model("tickets-1")
    assert model is not None
    assert store.mark_model_gone(model, 5.0) and not store.mark_model_gone(model, 6.0)
    gone = store.model("tickets-1")
    assert gone is not None and gone.gone_at == 5.0
    assert store.mark_model_gone(model, None) and not store.mark_model_gone(model, None)


def test_promotions_are_kept(store: Store) -> None:
    promoted(store, "tickets-1")
    with pytest.raises(sqlite3.IntegrityError, match="promotions are kept"):
        store.database.change("DELETE FROM promotions")
    with pytest.raises(sqlite3.IntegrityError):
        store.database.change(
            "INSERT INTO promotions (dataset, model, person, channel, at)"
            " VALUES ('tickets', 'tickets-2', 'U1', 'C1', 1)"
        )
