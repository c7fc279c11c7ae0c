"""Measurements, stored answers, documents, and the settings of a dataset."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storage.datasets import NewDocument
from storage.evaluations import AnswerTotals, NewMeasurement
from storage.records import CachedAnswer, Measurement
from storage.store import Store
from tests.storage.conftest import add_dataset, add_run
from tests.storage.threads import run_at_once

MAY, JUNE = "2026-05", "2026-06"


def add(store: Store, kind: str = "ladder") -> Measurement:
    dataset = add_dataset(store)
    new = NewMeasurement(kind, dataset.id, "C1", "U1", "{}")  # type: ignore[arg-type]
    return store.measurements.add(new, now=2.0)


def test_a_requested_measurement_is_due_and_open(store: Store) -> None:
    added = add(store)
    assert (added.state, added.reserved_micros, added.actual_micros, added.month) == ("asked", 0, None, None)
    assert store.measurements.due(2.0) == store.measurements.open() == [added]
    later = store.measurements.move(added, "asked", now=3.0, next_at=60.0)
    assert store.measurements.due(59.0) == [] and store.measurements.open() == [later]


def test_a_race_to_move_a_measurement_has_one_winner(store: Store) -> None:
    added, winners = add(store), []

    def push(number: int) -> None:
        winners.extend([number] * bool(store.measurements.move(added, "running", now=3.0)))

    run_at_once(8, push)
    assert len(winners) == 1
    running = store.measurements.get(added.id)
    assert running and running.state == "running" and running.next_at == 3.0


def test_a_new_state_resets_the_tries_of_a_measurement(store: Store) -> None:
    retried = store.measurements.move(add(store), "asked", now=3.0, tries=2)
    assert retried and retried.tries == 2
    running = store.measurements.move(retried, "running", now=4.0)
    assert running and running.tries == 0


@pytest.mark.parametrize("end", ["done", "failed", "cancelled"])
def test_a_measurements_money_is_reserved_while_open_and_spent_afterwards(store: Store, end: str) -> None:
    reserved = store.measurements.move(add(store), "asked", now=3.0, reserved_micros=500, month=MAY)
    assert reserved and store.measurements.committed(MAY) == 500 and store.measurements.committed(JUNE) == 0
    running = store.measurements.move(reserved, "running", now=4.0)
    assert running and store.measurements.committed(MAY) == 500
    store.measurements.move(running, end, now=5.0, actual_micros=120)  # type: ignore[arg-type]
    assert store.measurements.committed(MAY) == 120


def test_runs_and_measurements_share_the_month(store: Store) -> None:
    run = add_run(store)
    store.runs.book(run, "reserve", 1_000, month=MAY, now=1.0)
    store.measurements.move(add(store), "running", now=3.0, reserved_micros=500, month=MAY)
    assert store.committed(MAY) == 1_500


def test_results_are_listed_by_dataset_and_kind_newest_first(store: Store) -> None:
    first = add(store)
    second = add(store)
    curve = add(store, "curve")
    unfinished = add(store)
    for measurement in (first, second, curve):
        store.measurements.move(measurement, "done", now=3.0, result="{}")
    datasets = tuple(row.dataset_id for row in (first, second, curve, unfinished))
    assert [row.id for row in store.measurements.done(datasets, "ladder")] == [second.id, first.id]
    assert [row.id for row in store.measurements.done((curve.dataset_id,), "curve")] == [curve.id]
    assert store.measurements.done((), "ladder") == []


def reply(key: str, text: str = "refund") -> CachedAnswer:
    return CachedAnswer(key, "acme/small", text, 10, 2, 0.5, 7.0)


def test_an_answer_is_stored_once(store: Store) -> None:
    store.answers.keep([reply("a"), reply("b")])
    store.answers.keep([reply("a", "another"), reply("c")])
    assert store.answers.read(["a", "b", "c", "d"]) == {key: reply(key) for key in "abc"}


def test_thousands_of_answers_are_read_in_one_call(store: Store) -> None:
    keys = [f"key {number}" for number in range(2_500)]
    store.answers.keep(map(reply, keys))
    assert len(store.answers.read(keys)) == 2_500 and store.answers.read([]) == {}


def test_totals_count_each_answer_once_from_a_given_time_on(store: Store) -> None:
    store.answers.keep([replace(reply("a"), at=4.9), reply("b"), reply("c")])
    assert store.answers.totals(["a", "b", "b", "d"], since=5.0) == AnswerTotals(2, 10, 2)
    assert store.answers.totals(["a", "b", "b", "d"], since=4.0) == AnswerTotals(2, 20, 4)


def test_threads_store_answers_concurrently(store: Store) -> None:
    def keep(number: int) -> None:
        store.answers.keep([reply(f"{number} {row}") for row in range(20)])
        store.database.close_connection()

    run_at_once(8, keep)
    assert store.database.value("SELECT count(*) FROM replies") == 160


def test_the_newest_upload_of_a_document_counts(store: Store) -> None:
    new = NewDocument("tickets", "faq.md", "F1", "C1", "U1")
    first, other = store.documents.receive(new, now=1.0), store.documents.receive(new, now=2.0)
    assert [row.id for row in store.documents.due(2.0)] == [first.id, other.id]
    for document in (first, other):
        store.documents.move(document, "ready", now=3.0, sha256=f"{document.id}", passages=4)
    assert [row.id for row in store.documents.ready("tickets")] == [other.id]
    assert store.documents.due(9.0) == [] and store.documents.ready("faq") == []
    assert store.documents.move(first, "refused", now=4.0) is None, "it was moved meanwhile"


def test_settings_of_a_dataset_that_are_not_given_stay(store: Store) -> None:
    assert store.dataset_settings.get("tickets") is None
    store.dataset_settings.set("tickets", by="U1", now=1.0, bar=0.9, prompt="Sort.")
    settings = store.dataset_settings.set("tickets", by="U2", now=2.0, task_kind="style")
    assert (settings.bar, settings.task_kind, settings.prompt, settings.updated_by) == (
        0.9,
        "style",
        "Sort.",
        "U2",
    )
    assert store.dataset_settings.get("tickets") == settings and store.dataset_settings.get("faq") is None
