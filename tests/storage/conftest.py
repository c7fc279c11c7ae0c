"""A store on a real file, and a run in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.datasets import NewDataset
from storage.records import Dataset, Run
from storage.runs import NewRun
from storage.store import Store
from tests.databases import put_database

TICKETS = NewDataset("tickets", "C1", "U1", "tickets.csv", "F1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(put_database(tmp_path / "finetune.db"))
    yield store
    store.close()


def add_dataset(store: Store, new: NewDataset = TICKETS, *, now: float = 1.0) -> Dataset:
    dataset = store.datasets.receive(new, now=now)
    assert dataset is not None
    return dataset


def add_run(store: Store, name: str = "a", *, now: float = 100.0) -> Run:
    """Adds a run that waits for approval, and its dataset."""
    dataset = add_dataset(store, now=now)
    new = NewRun(f"hash {name}", "{}", f"key {name}", dataset.id, "U1", "C1", "local")
    run = store.runs.add(new, now=now)
    assert run is not None
    return run
