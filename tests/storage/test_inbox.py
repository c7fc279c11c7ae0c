"""Deliveries are stored until they are handled, and are closed in the transaction of their effect."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from storage.store import Store
from tests.storage.threads import run_at_once

BODY = {"type": "x", "token": "verification-secret", "text": "freeze"}


def test_a_delivery_is_handled_once_and_deleted_after_a_day(store: Store) -> None:
    accepted: list[bool] = []
    run_at_once(16, lambda _: accepted.append(store.inbox.receive("Ev1", BODY, now=100.0)))
    assert accepted.count(True) == 1
    store.inbox.end("Ev1")
    assert not store.inbox.receive("Ev1", BODY, now=100.0 + 86_399)
    assert store.inbox.receive("Ev2", BODY, now=100.0 + 86_401)
    assert store.database.value("SELECT count(*) FROM deliveries") == 1


def test_of_many_deliveries_at_once_none_is_taken_for_a_repetition(store: Store) -> None:
    """Threads that wait for each other's commits once took what was just stored for stored before, and lost it."""
    accepted: list[bool] = []

    def receive_several(thread: int) -> None:
        for number in range(20):
            accepted.append(store.inbox.receive(f"Ev{thread}-{number}", BODY, now=5.0))

    run_at_once(16, receive_several)
    assert accepted == [True] * 320
    assert len(store.inbox.waiting()) == 320


def test_an_unhandled_delivery_waits_for_the_next_process_without_slacks_token(tmp_path: Path) -> None:
    store = Store(tmp_path / "finetune.db")
    store.inbox.receive("Ev1", BODY, now=5.0)
    store.inbox.receive("Ev2", BODY, now=6.0)
    store.inbox.end("Ev2")
    store.close()
    store = Store(tmp_path / "finetune.db")
    (only,) = store.inbox.waiting()
    assert (only.id, only.body) == ("Ev1", {"type": "x", "text": "freeze"})
    assert store.inbox.receive("Ev1", BODY, now=7.0), "Slack's repetition of it is handled"
    store.inbox.end("Ev1")
    assert store.inbox.waiting() == []
    store.close()


def test_a_delivery_is_closed_by_the_first_transaction_of_its_thread(store: Store) -> None:
    store.inbox.receive("Ev1", BODY, now=5.0)
    store.inbox.begin("Ev1")
    with pytest.raises(ZeroDivisionError), store.transaction():
        raise ZeroDivisionError
    assert [delivery.id for delivery in store.inbox.waiting()] == ["Ev1"]
    other = threading.Thread(target=lambda: _commit(store))
    other.start()
    other.join()
    assert [delivery.id for delivery in store.inbox.waiting()] == ["Ev1"], (
        "another thread's transaction closes nothing"
    )
    with store.transaction():
        pass
    assert [delivery.id for delivery in store.inbox.waiting()] == ["Ev1"], "nor does one that changed nothing"
    _commit(store)
    assert store.inbox.waiting() == []


def _commit(store: Store) -> None:
    with store.transaction():
        store.audit.add(at=5.0, who="U1", action="freeze", subject="everything")
