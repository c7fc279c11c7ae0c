"""Estimates that can be shared once, for a month."""

from __future__ import annotations

from storage.money import ESTIMATE_KEPT_S
from storage.records import StoredEstimate
from storage.store import Store

NOW = 1_790_000_000.0


def keep(store: Store, now: float = NOW) -> StoredEstimate:
    return store.estimates.keep("tickets", "volume=10", channel="C1", person="U1", now=now)


def test_an_estimate_is_shared_once(store: Store) -> None:
    kept = keep(store)
    assert store.estimates.get(kept.id) == kept and kept.state == "shown"
    assert store.estimates.to_share() == []
    assert store.estimates.request_share(kept.id) and not store.estimates.request_share(kept.id)
    assert [one.id for one in store.estimates.to_share()] == [kept.id]
    assert store.estimates.mark_shared(kept.id) and not store.estimates.mark_shared(kept.id)
    assert store.estimates.to_share() == []
    assert not store.estimates.request_share(kept.id)


def test_what_was_not_asked_for_is_not_shared(store: Store) -> None:
    assert not store.estimates.mark_shared(keep(store).id)
    assert not store.estimates.request_share(99)


def test_old_ones_are_forgotten(store: Store) -> None:
    old, young = keep(store), keep(store, NOW + ESTIMATE_KEPT_S / 2)
    keep(store, NOW + ESTIMATE_KEPT_S + 1)
    assert store.estimates.get(old.id) is None and store.estimates.get(young.id) == young


def test_a_number_is_never_given_twice(store: Store) -> None:
    """Cards, buttons and the outbox go by it for ever."""
    old = keep(store)
    assert keep(store, NOW + ESTIMATE_KEPT_S + 1).id > old.id
