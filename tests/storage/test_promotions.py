"""Promotions: one in use for each dataset, each knows what a rollback returns to, and none is deleted."""

from __future__ import annotations

import pytest

from storage.driver import sqlite3
from storage.evaluations import NewMeasurement
from storage.promotions import NewPromotion, NewPromotionRequest, Promotion, PromotionDecision
from storage.records import COMPARISON, Model, Promotable
from storage.runs import NewRun
from storage.store import Store
from tests.storage.conftest import add_dataset
from tests.storage.threads import run_at_once

NAMES = ("tickets-1", "tickets-2", "tickets-3")


@pytest.fixture(autouse=True)
def models(store: Store) -> None:
    dataset = add_dataset(store)
    for number, name in enumerate(NAMES, start=1):
        new = NewRun(f"hash-{number}", "{}", f"ft-{number}", dataset.id, "U1", "C1", "local")
        assert store.runs.add(new, now=1.0)
        store.add_model(Model(name, number, "local", f"ft:{number}", "candidate", 1.0))


def promote(store: Store, model: str, *, now: float = 5.0) -> Promotion:
    current = store.promotions.current("tickets")
    new = NewPromotion("tickets", Promotable(model), "U2", "C1", current, current.id if current else None)
    promotion = store.promotions.add(new, now=now)
    assert promotion is not None
    return promotion


def states(store: Store) -> list[str]:
    models = (store.model(name) for name in NAMES)
    return [model.state if model else "missing" for model in models]


def test_one_of_sixteen_threads_promotes(store: Store) -> None:
    promotions: list[Promotion | None] = []

    def add(number: int) -> None:
        new = NewPromotion("tickets", Promotable(NAMES[number % 3]), f"U{number}", "C1", None, None)
        with store.transaction():
            promotions.append(store.promotions.add(new, now=float(number)))

    run_at_once(16, add)
    (promotion,) = filter(None, promotions)
    assert store.promotions.current("tickets") == promotion
    assert sorted(states(store)) == ["candidate", "candidate", "promoted"]


def test_a_promotion_replaces_the_last_one_and_knows_what_a_rollback_returns_to(store: Store) -> None:
    first, second = promote(store, "tickets-1"), promote(store, "tickets-2", now=6.0)
    assert (second.instead_of, second.returns_to, second.ended_at) == (first.id, first.id, None)
    ended = store.promotions.get(first.id)
    assert ended is not None and ended.ended_at == 6.0
    assert states(store) == ["retired", "promoted", "candidate"]
    assert store.promotions.all_current() == [second]


def test_a_promotion_based_on_an_outdated_one_changes_nothing(store: Store) -> None:
    first = promote(store, "tickets-1")
    promote(store, "tickets-2")
    late = NewPromotion("tickets", Promotable("tickets-3"), "U2", "C1", first, first.id)
    with store.transaction():
        assert store.promotions.add(late, now=7.0) is None
    assert states(store) == ["retired", "promoted", "candidate"]


def test_only_the_current_promotion_is_synced_and_once(store: Store) -> None:
    without_recipe = promote(store, "tickets-1")
    assert store.promotions.to_sync(5.0) == [without_recipe]
    first = store.promotions.set_recipe(without_recipe, "ab12")
    assert first is not None and store.promotions.to_sync(5.0) == [first]
    postponed = store.promotions.postpone(first, 9.0, "busy")
    assert postponed is not None and (postponed.tries, postponed.trouble) == (1, "busy")
    assert store.promotions.to_sync(8.9) == [] and store.promotions.to_sync(9.0) == [postponed]
    synced = store.promotions.mark_synced(postponed, now=9.5)
    assert synced is not None and (synced.carried_at, synced.trouble) == (9.5, None)
    assert store.promotions.mark_synced(postponed, now=9.6) is None and store.promotions.to_sync(10.0) == []
    assert store.promotions.mark_unsynced(synced) and len(store.promotions.to_sync(10.0)) == 1
    promote(store, "tickets-2")
    assert store.promotions.mark_synced(synced, now=11.0) is None


def test_a_model_disappears_once_and_returns_once(store: Store) -> None:
    model = store.model("tickets-1")
    assert model is not None
    assert store.mark_model_gone(model, 5.0) and not store.mark_model_gone(model, 6.0)
    gone = store.model("tickets-1")
    assert gone is not None and gone.gone_at == 5.0
    assert store.mark_model_gone(model, None) and not store.mark_model_gone(model, None)


def test_promotions_cannot_be_deleted(store: Store) -> None:
    promote(store, "tickets-1")
    with pytest.raises(sqlite3.IntegrityError, match="promotions are kept"):
        store.database.change("DELETE FROM promotions")
    with pytest.raises(sqlite3.IntegrityError):
        store.database.change(
            "INSERT INTO promotions (dataset, model, person, channel, at)"
            " VALUES ('tickets', 'tickets-2', 'U1', 'C1', 1)"
        )


def test_a_measured_candidate_is_promoted_and_taken_out_of_use(store: Store) -> None:
    first = promote(store, "tickets-1")
    dataset = store.datasets.all()[0]
    measurement = store.measurements.add(NewMeasurement(COMPARISON, dataset.id, "C1", "U1", "{}"), now=5.5)
    what = Promotable(candidate='{"rung": "encoder"}', measurement=measurement.id)
    with store.transaction():
        second = store.promotions.add(NewPromotion("tickets", what, "U2", "C1", first, first.id), now=6.0)
    assert second is not None and (second.what, second.model, second.carried_at) == (what, None, None)
    assert states(store)[0] == "retired"

    built = store.promotions.set_recipe(second, "ab12")
    assert built is not None and built.recipe == "ab12"
    with store.transaction():
        over = store.promotions.take_out_of_use(built, "U3", "it is wrong", now=7.0)
        assert store.promotions.take_out_of_use(built, "U3", None, now=7.0) is None
    assert over is not None and (over.ended_at, over.taken_out_by) == (7.0, "U3")
    assert store.promotions.current("tickets") is None and store.promotions.out_of_use() == [over]
    assert store.promotions.set_recipe(over, "cd34") is None
    assert (
        store.promotions.recipes_since(6.9) == {"ab12"} and store.promotions.recipes_since(7.0) == frozenset()
    )


def test_a_promotion_is_of_a_model_or_of_a_candidate(store: Store) -> None:
    for what in (Promotable(), Promotable("tickets-1", '{"rung": "zero"}', 1), Promotable(candidate="{}")):
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            store.promotions.add(NewPromotion("tickets", what, "U2", "C1", None, None), now=5.0)


def test_a_request_is_asked_once_decided_once_a_person_and_ends_once(store: Store) -> None:
    new = NewPromotionRequest("tickets", Promotable("tickets-1"), "U1", "it is the demo", "C1", "ab12")
    request = store.promotion_requests.add(new, now=5.0)
    assert request is not None and request.what == Promotable("tickets-1")
    assert store.promotion_requests.add(new, now=5.5) is None and store.promotion_requests.open() == [request]

    decision = PromotionDecision(request.id, "ab12", "U2", "approve", None, 6.0)
    assert store.promotion_requests.decide(decision) and not store.promotion_requests.decide(decision)
    assert store.promotion_requests.decisions(request.id) == [decision]
    approved = store.promotion_requests.end(request, "approved", now=6.0)
    assert approved is not None and (approved.state, approved.ended_at) == ("approved", 6.0)
    assert store.promotion_requests.end(request, "expired", now=7.0) is None
    assert store.promotion_requests.open() == [] and store.promotion_requests.add(new, now=8.0) is not None
