"""Proposals: each model once for a dataset, one a week; what measuring without asking has cost in a month; and the
measurement of each month."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storage.driver import sqlite3
from storage.evaluations import NewMeasurement
from storage.monitoring.monthly_measurements import MonthlyMeasurement
from storage.monitoring.proposals import NewProposal, Proposal, WatchMeasurement
from storage.records import Measurement
from storage.store import Store

MONTH = "2026-11"
DUE = MonthlyMeasurement("tickets", "2026-12", "2026-11-30", promotion=4, at=5.0)


def add(store: Store, model: str = "acme/tiny") -> Proposal:
    proposal = store.proposals.add(NewProposal("tickets", model, 120, 200), now=5.0)
    assert proposal is not None
    return proposal


def measure(
    store: Store, proposal: Proposal, *, person: str | None = None, begun_at: float | None = 6.0
) -> Measurement:
    """A measurement that reserves 70 micro-dollars."""
    new = NewMeasurement("ladder", 1, "C1", "U1", "{}")
    measurement = store.measurements.add(new, now=6.0)
    began = WatchMeasurement(measurement.id, "tickets", proposal.id, person, 6.0, begun_at)
    store.watch_measurements.add(began)
    moved = store.measurements.move(measurement, "running", now=6.0, reserved_micros=70, month=MONTH)
    assert moved is not None
    return moved


@pytest.fixture(autouse=True)
def _dataset(store: Store) -> None:
    store.database.change(
        "INSERT INTO datasets (id, name, version, state, channel, uploaded_by, filename, source, created_at,"
        " updated_at) VALUES (1, 'tickets', 1, 'ready', 'C1', 'U1', 't.csv', 'F1', 1.0, 1.0)"
    )


def test_a_model_is_proposed_once_to_a_dataset(store: Store) -> None:
    first = add(store)
    assert store.proposals.end(first, now=6.0) and not store.proposals.end(first, now=7.0)
    assert store.proposals.add(NewProposal("tickets", "acme/tiny", 1, 2), now=8.0) is None
    assert store.proposals.add(NewProposal("faq", "acme/tiny", 1, 2), now=8.0) is not None
    assert store.proposals.open("tickets") == []


def test_a_week_shows_one_proposal_with_the_prices_of_that_day(store: Store) -> None:
    first = add(store)
    second = add(store, "acme/mini")
    store.proposals.show(first, "2026-11-23", NewProposal("tickets", "acme/tiny", 90, 210))
    with pytest.raises(sqlite3.IntegrityError):
        store.proposals.show(second, "2026-11-23", NewProposal("tickets", "acme/mini", 1, 2))
    shown = store.proposals.shown("tickets", "2026-11-23")
    assert shown is not None and (shown.id, shown.micros, shown.in_use_micros) == (first.id, 90, 210)
    assert store.proposals.waiting() == [shown]


def test_only_what_nobody_was_asked_about_counts_in_the_month(store: Store) -> None:
    unasked = measure(store, add(store))
    measure(store, add(store, "acme/mini"), person="U1", begun_at=None)
    assert store.watch_measurements.committed(MONTH) == 70
    store.measurements.move(unasked, "done", now=7.0, actual_micros=30)
    assert store.watch_measurements.committed(MONTH) == 30
    assert store.watch_measurements.committed("2026-12") == 0


def test_a_proposal_is_measured_once_its_measurement_is_over(store: Store) -> None:
    proposal = add(store)
    measurement = measure(store, proposal)
    assert store.proposals.measured() == []
    assert [began.measurement for began in store.watch_measurements.open()] == [measurement.id]
    store.measurements.move(measurement, "failed", now=7.0, actual_micros=0)
    assert store.proposals.measured() == [proposal]
    assert store.watch_measurements.open() == []


def test_a_month_has_one(store: Store) -> None:
    assert store.monthly_measurements.add(DUE)
    assert not store.monthly_measurements.add(replace(DUE, week="2026-12-07", at=6.0))
    assert store.monthly_measurements.add(replace(DUE, month="2027-01", week="2026-12-28", at=6.0))
    assert store.monthly_measurements.shown("tickets", "2026-11-30") == DUE
    assert store.monthly_measurements.shown("tickets", "2026-12-07") is None


def test_what_holds_it_is_recorded_until_it_begins(store: Store) -> None:
    months = store.monthly_measurements
    months.add(DUE)
    assert months.hold(DUE, "money") and not months.hold(DUE, "money")
    assert months.hold(DUE, "refused", "no key") and months.hold(DUE, "refused", "no rows")
    measurement = store.measurements.add(NewMeasurement("ladder", 1, "C1", "U1", "{}"), now=6.0)
    months.begin(DUE, measurement.id)
    begun = months.shown("tickets", "2026-11-30")
    assert begun == replace(DUE, measurement=measurement.id)
    assert not months.hold(DUE, "money"), "it has begun"
    assert months.waiting() == [] == months.measured()
    store.measurements.move(measurement, "done", now=7.0, actual_micros=1)
    assert months.measured() == [begun]
    assert months.end(DUE, now=8.0) and not months.end(DUE, now=9.0)
    assert months.measured() == []
