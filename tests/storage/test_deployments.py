"""Deployments by the hour: one a run, time counted by the day, and in the budget once the run has settled."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from storage.deployments import DeployedModel, DeploymentRecord, NewDeployment
from storage.driver import sqlite3
from storage.records import Model, Run
from storage.store import Store
from tests.storage.conftest import add_run

LATE = datetime(2026, 11, 30, 23, 30, tzinfo=UTC).timestamp()
HOUR = 5_500_000


def deploy(store: Store, run: Run, name: str = "ft-run1-a-1", now: float = LATE) -> DeploymentRecord:
    new = NewDeployment(run.id, "acme", "tickets-1", name, "C1", "U1", HOUR, 1800, 20_000_000)
    record = store.deployments.intend(new, now=now)
    assert record is not None
    moved = store.deployments.move(record, "ready", now=now, billed_until=now, chat_model="m-1")
    assert moved is not None
    return moved


def test_a_run_has_one_deployment_at_a_time(store: Store) -> None:
    run = add_run(store)
    record = deploy(store, run)
    again = NewDeployment(run.id, "acme", "tickets-1", "ft-run1-a-2", "C1", "U1", HOUR, 1800, 0)
    assert store.deployments.intend(again, now=LATE) is None
    store.deployments.move(record, "stopped", now=LATE)
    assert store.deployments.intend(again, now=LATE) is not None


def test_a_deployments_time_is_counted_by_day(store: Store) -> None:
    run = add_run(store)
    record = deploy(store, run)
    for until in (LATE + 900.25, LATE + 3600):  # until half past midnight in December
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


def test_a_deployment_counts_in_the_month_once_its_run_has_settled(store: Store) -> None:
    run = add_run(store)
    record = deploy(store, run)
    store.runs.book(run, "reserve", 9_000_000, month="2026-11", now=LATE)
    store.deployments.bill(record, LATE + 1800)
    assert store.committed("2026-11") == 9_000_000
    store.runs.book(run, "settle", 1_000_000, month="2026-11", now=LATE)
    assert store.committed("2026-11") == 1_000_000 + HOUR // 2
    assert sum(row.micros for row in store.ledger.commitments("2026-11")) == 1_000_000 + HOUR // 2
    latest = store.deployments.get(record.id)
    assert latest is not None
    store.deployments.bill(latest, LATE + 3600)
    assert store.committed("2026-12") == HOUR // 2
    after = store.runs.get(run.id)
    assert after is not None and after.actual_micros == 1_000_000 + HOUR


def test_a_deployment_scaled_to_zero_costs_nothing(store: Store) -> None:
    record = deploy(store, add_run(store))
    asleep = store.deployments.move(record, "ready", now=LATE, is_billed=False)
    assert asleep is not None
    store.deployments.bill(asleep, LATE + 1800)
    assert store.deployments.cost_of_run(record.run_id) == 0


def test_a_question_finds_its_models_deployment_and_counts_as_use(store: Store) -> None:
    run = add_run(store)
    record = deploy(store, run)
    store.add_model(Model("tickets-1", run.id, "acme", "ft:small:1", "candidate", LATE))
    assert store.deployments.record_use("acme/ft:small:1", now=LATE + 60) == DeployedModel("acme", "m-1")
    assert store.deployments.record_use("acme/ft:small:2", now=LATE + 60) is None
    latest = store.deployments.get(record.id)
    assert latest is not None and latest.used_at == LATE + 60
    store.deployments.move(latest, "stopping", now=LATE)
    assert store.deployments.record_use("acme/ft:small:1", now=LATE + 90) is None


def test_a_deployment_cannot_be_deleted(store: Store) -> None:
    deploy(store, add_run(store))
    with pytest.raises(sqlite3.IntegrityError):
        store.database.change("DELETE FROM deployments")
