"""Which of two answers a person prefers: one choice for each person and row, and the first one stays."""

from __future__ import annotations

from dataclasses import replace

from storage.evaluations import NewMeasurement
from storage.records import HumanVerdict, Preference
from storage.store import Store
from tests.storage.conftest import add_dataset


def preference(store: Store) -> Preference:
    dataset = add_dataset(store)
    measurement = store.measurements.add(NewMeasurement("ladder", dataset.id, "C1", "U1", "{}"), now=1.0)
    return Preference(measurement.id, 7, "zero a/b", "kshot a/b", "U1", "first", 2.0)


def test_the_first_preference_on_a_row_stays(store: Store) -> None:
    first = preference(store)
    assert store.preferences.add(first)
    assert not store.preferences.add(replace(first, choice="second", at=3.0))
    assert not store.preferences.add(replace(first, first_arm="kshot a/b", second_arm="zero a/b"))
    assert store.preferences.of(first.measurement_id) == [first]


def test_preferences_differ_by_person_and_row(store: Store) -> None:
    first = preference(store)
    others = [replace(first, person="U2", choice="tie"), replace(first, row=8)]
    assert all(store.preferences.add(choice) for choice in (first, *others))
    assert store.preferences.of(first.measurement_id) == [first, *others]
    assert store.preferences.of(first.measurement_id + 1) == []


def test_the_first_verdict_of_a_person_on_an_answer_stays_in_all_measurements(store: Store) -> None:
    first = preference(store)
    verdict = HumanVerdict("faq", "acme/judge", first.measurement_id, "hash", "yes", "U1", "no", 2.0)
    assert store.human_verdicts.add(verdict)
    assert not store.human_verdicts.add(replace(verdict, verdict="yes", at=3.0))
    others = [replace(verdict, person="U2"), replace(verdict, answer="other")]
    assert all(store.human_verdicts.add(other) for other in others)
    assert store.human_verdicts.add(replace(verdict, judge="acme/other"))
    assert store.human_verdicts.add(replace(verdict, dataset="tickets"))
    assert store.human_verdicts.on("faq", "acme/judge") == [verdict, *others]
