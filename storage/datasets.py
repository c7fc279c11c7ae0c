"""Datasets and their versions: received → checking → ready | refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from storage.database import Database
from storage.records import Dataset, DatasetState, due_sql


@dataclass(frozen=True)
class NewDataset:
    """`may_add`: where the channel has a dataset of this name, this is its next version."""

    name: str
    channel: str
    uploaded_by: str
    filename: str
    source: str
    text_column: str | None = None
    label_column: str | None = None
    may_add: bool = True


class Datasets:
    def __init__(self, database: Database) -> None:
        self._db = database

    def receive(self, new: NewDataset, *, now: float) -> Dataset | None:
        """Record what a person handed over; a name that its channel has gets its next version. None where the name
        is taken: by another channel, or in this one where nothing may be added."""
        with self._db.immediate():
            last = self._db.row(
                "SELECT version, owner, sources FROM datasets WHERE name = ? ORDER BY version DESC LIMIT 1",
                (new.name,),
            )
            if last and (last["owner"] != new.channel or not new.may_add):
                return None
            sources = {new.channel, *(last["sources"].split() if last else ())}
            row = self._db.row(
                "INSERT INTO datasets (name, version, owner, sources, state, channel, uploaded_by, filename, source,"
                " text_column, label_column, created_at, updated_at)"
                " VALUES (?, ?, ?, ?, 'received', ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
                (
                    new.name,
                    last["version"] + 1 if last else 1,
                    new.channel,
                    " ".join(sorted(sources)),
                    new.channel,
                    new.uploaded_by,
                    new.filename,
                    new.source,
                    new.text_column,
                    new.label_column,
                    now,
                    now,
                ),
            )
        assert row is not None  # noqa: S101 - RETURNING after INSERT
        return Dataset(**row)

    def get(self, dataset_id: int) -> Dataset:
        row = self._db.row("SELECT * FROM datasets WHERE id = ?", (dataset_id,))
        if row is None:
            raise KeyError(dataset_id)
        return Dataset(**row)

    def newest(self, name: str) -> Dataset | None:
        """The newest usable version under this name; where there is none, the newest of any state."""
        row = self._db.row(
            "SELECT * FROM datasets WHERE name = ? AND forgotten_at IS NULL"
            " ORDER BY state = 'ready' DESC, version DESC LIMIT 1",
            (name,),
        )
        return Dataset(**row) if row else None

    def owners(self) -> dict[str, str]:
        """The channel that each dataset belongs to, by the dataset's name."""
        rows = self._db.rows("SELECT DISTINCT name, owner FROM datasets")
        return {row["name"]: row["owner"] for row in rows}

    def all(self) -> list[Dataset]:
        """Newest first, but for those that were deleted."""
        rows = self._db.rows("SELECT * FROM datasets WHERE forgotten_at IS NULL ORDER BY id DESC")
        return [Dataset(**row) for row in rows]

    def due(self, now: float) -> list[Dataset]:
        """Those that still have to be fetched or checked."""
        rows = self._db.rows(
            f"SELECT * FROM datasets WHERE state IN ('received', 'checking') AND {due_sql('next_at')} ORDER BY id",  # noqa: S608
            (now, now),
        )
        return [Dataset(**row) for row in rows]

    def move(self, dataset: Dataset, to: DatasetState, *, now: float, **changes: Any) -> Dataset | None:
        """One guarded UPDATE; None where another hand has moved this dataset meanwhile."""
        changes = {**changes, "state": to, "updated_at": now}
        names = ", ".join(f"{name} = ?" for name in changes)
        row = self._db.row(
            f"UPDATE datasets SET {names} WHERE id = ? AND state = ? RETURNING *",  # noqa: S608 - our names
            (*changes.values(), dataset.id, dataset.state),
        )
        return Dataset(**row) if row else None
