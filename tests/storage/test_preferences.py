"""Which of two answers a person finds better: one verdict a person and row, kept as it was first said."""

from __future__ import annotations

from dataclasses import replace

from storage.evaluations import NewMeasurement
from storage.records import Preference
from storage.store import Store
from tests.storage.conftest import TICKETS


def label(store: Store) -> Preference:
    dataset = store.datasets.receive(TICKETS, now=1.0)
    measurement = store.measurements.add(NewMeasurement("ladder", dataset.id, "C1", "U1", "{}"), now=1.0)
    return Preference(measurement.id, 7, "zero a/b", "kshot a/b", "U1", "first", 2.0)


def test_the_first_choice_on_a_row_stays(store: Store) -> None:
    first = label(store)
    assert store.preferences.add(first)
    assert not store.preferences.add(replace(first, choice="second", at=3.0))
    assert not store.preferences.add(replace(first, first_arm="kshot a/b", second_arm="zero a/b"))
    assert store.preferences.of(first.measurement_id) == [first]


def test_another_person_and_another_row_have_their_own(store: Store) -> None:
    first = label(store)
    others = [replace(first, person="U2", choice="tie"), replace(first, row=8)]
    assert all(store.preferences.add(one) for one in (first, *others))
    assert store.preferences.of(first.measurement_id) == [first, *others]
    assert store.preferences.of(first.measurement_id + 1) == []
