"""Estimates can be shared once, within a month."""

from __future__ import annotations

from storage.money import ESTIMATE_KEPT_S
from storage.records import StoredEstimate
from storage.store import Store

NOW = 1_790_000_000.0


def store_estimate(store: Store, now: float = NOW) -> StoredEstimate:
    return store.estimates.keep("tickets", "volume=10", channel="C1", person="U1", now=now)


def test_an_estimate_is_shared_once(store: Store) -> None:
    estimate = store_estimate(store)
    assert store.estimates.get(estimate.id) == estimate and estimate.state == "shown"
    assert store.estimates.to_share() == []
    assert store.estimates.request_share(estimate.id) and not store.estimates.request_share(estimate.id)
    assert [estimate.id for estimate in store.estimates.to_share()] == [estimate.id]
    assert store.estimates.mark_shared(estimate.id) and not store.estimates.mark_shared(estimate.id)
    assert store.estimates.to_share() == []
    assert not store.estimates.request_share(estimate.id)


def test_an_estimate_is_not_shared_without_a_request(store: Store) -> None:
    assert not store.estimates.mark_shared(store_estimate(store).id)
    assert not store.estimates.request_share(99)


def test_old_estimates_are_deleted(store: Store) -> None:
    old, young = store_estimate(store), store_estimate(store, NOW + ESTIMATE_KEPT_S / 2)
    store_estimate(store, NOW + ESTIMATE_KEPT_S + 1)
    assert store.estimates.get(old.id) is None and store.estimates.get(young.id) == young


def test_only_shared_estimates_are_the_teams(store: Store) -> None:
    private, shared = store_estimate(store), store_estimate(store)
    assert store.estimates.request_share(shared.id)
    assert [estimate.id for estimate in store.estimates.newest_shared("tickets")] == [shared.id]
    later = store_estimate(store, NOW + ESTIMATE_KEPT_S + 1)
    assert store.estimates.get(private.id) is None
    assert [estimate.id for estimate in store.estimates.newest("tickets")] == [later.id, shared.id]


def test_an_estimates_number_is_never_reused(store: Store) -> None:
    """Cards, buttons and the outbox refer to it forever."""
    old = store_estimate(store)
    assert store_estimate(store, NOW + ESTIMATE_KEPT_S + 1).id > old.id
