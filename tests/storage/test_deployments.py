"""What runs by the hour: one a run at a time, its time counted by the day, in the budget once its run is over."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from storage.deployments import DeploymentRecord, NewDeployment
from storage.driver import sqlite3
from storage.records import Model, Run
from storage.store import Store
from tests.storage.conftest import add_run

LATE = datetime(2026, 11, 30, 23, 30, tzinfo=UTC).timestamp()
HOUR = 5_500_000


def deployed(store: Store, run: Run, name: str = "ft-run1-a-1", now: float = LATE) -> DeploymentRecord:
    new = NewDeployment(run.id, "acme", "tickets-1", name, "C1", "U1", HOUR, 1800, 20_000_000)
    record = store.deployments.intend(new, now=now)
    assert record is not None
    moved = store.deployments.move(record, "ready", now=now, billed_until=now, chat_model="m-1")
    assert moved is not None
    return moved


def test_a_run_has_one_at_a_time(store: Store) -> None:
    run = add_run(store)
    record = deployed(store, run)
    again = NewDeployment(run.id, "acme", "tickets-1", "ft-run1-a-2", "C1", "U1", HOUR, 1800, 0)
    assert store.deployments.intend(again, now=LATE) is None
    store.deployments.move(record, "stopped", now=LATE)
    assert store.deployments.intend(again, now=LATE) is not None


def test_time_is_counted_by_the_day_and_the_month(store: Store) -> None:
    run = add_run(store)
    record = deployed(store, run)
    for until in (LATE + 900.25, LATE + 3600):  # to half past midnight of December
        latest = store.deployments.get(record.id)
        assert latest is not None
        store.deployments.bill(latest, until)
    assert (
        store.deployments.cost_of_day("2026-11-30")
        == store.deployments.cost_of_day("2026-12-01")
        == HOUR // 2
    )
    assert store.deployments.cost_of_run(run.id) == HOUR
    latest = store.deployments.get(record.id)
    assert latest is not None and latest.micros == HOUR


def test_it_counts_in_the_month_once_its_run_has_settled(store: Store) -> None:
    run = add_run(store)
    record = deployed(store, run)
    store.runs.book(run, "reserve", 9_000_000, month="2026-11", now=LATE)
    store.deployments.bill(record, LATE + 1800)
    assert store.committed("2026-11") == 9_000_000
    store.runs.book(run, "settle", 1_000_000, month="2026-11", now=LATE)
    assert store.committed("2026-11") == 1_000_000 + HOUR // 2
    assert sum(each.micros for each in store.ledger.commitments("2026-11")) == 1_000_000 + HOUR // 2
    latest = store.deployments.get(record.id)
    assert latest is not None
    store.deployments.bill(latest, LATE + 3600)
    assert store.committed("2026-12") == HOUR // 2
    after = store.runs.get(run.id)
    assert after is not None and after.actual_micros == 1_000_000 + HOUR


def test_what_is_scaled_to_zero_costs_nothing(store: Store) -> None:
    record = deployed(store, add_run(store))
    asleep = store.deployments.move(record, "ready", now=LATE, is_billed=False)
    assert asleep is not None
    store.deployments.bill(asleep, LATE + 1800)
    assert store.deployments.cost_of_run(record.run_id) == 0


def test_a_question_finds_where_the_model_runs_and_counts_as_its_use(store: Store) -> None:
    run = add_run(store)
    record = deployed(store, run)
    store.add_model(Model("tickets-1", run.id, "acme", "ft:small:1", "candidate", LATE))
    assert store.deployments.record_use("acme/ft:small:1", now=LATE + 60) == "m-1"
    assert store.deployments.record_use("acme/ft:small:2", now=LATE + 60) is None
    latest = store.deployments.get(record.id)
    assert latest is not None and latest.used_at == LATE + 60
    store.deployments.move(latest, "stopping", now=LATE)
    assert store.deployments.record_use("acme/ft:small:1", now=LATE + 90) is None


def test_none_is_forgotten(store: Store) -> None:
    deployed(store, add_run(store))
    with pytest.raises(sqlite3.IntegrityError):
        store.database.change("DELETE FROM deployments")
