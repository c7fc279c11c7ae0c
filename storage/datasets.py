"""Datasets and their versions, settings, documents, waivers, scans for personal data, and requests for
cleaned copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from storage.database import Database
from storage.records import (
    Cleaning,
    Dataset,
    DatasetSettings,
    DatasetState,
    Document,
    DocumentState,
    Waiver,
    due_sql,
)


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


class AllDatasetSettings:
    """What a team wants of all versions of a dataset: quality bar, kind of task, instructions."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def get(self, name: str) -> DatasetSettings | None:
        row = self._db.row("SELECT * FROM dataset_settings WHERE name = ?", (name,))
        return DatasetSettings(**row) if row else None

    def set(
        self,
        name: str,
        *,
        by: str,
        now: float,
        bar: float | None = None,
        task_kind: str | None = None,
        prompt: str | None = None,
    ) -> DatasetSettings:
        """What is None stays as it was."""
        (row,) = self._db.rows(
            "INSERT INTO dataset_settings (name, bar, task_kind, prompt, updated_by, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET bar = coalesce(excluded.bar, bar),"
            " task_kind = coalesce(excluded.task_kind, task_kind), prompt = coalesce(excluded.prompt, prompt),"
            " updated_by = excluded.updated_by, updated_at = excluded.updated_at RETURNING *",
            (name, bar, task_kind, prompt, by, now),
        )
        return DatasetSettings(**row)


@dataclass(frozen=True)
class NewDocument:
    """`source` is a Slack file id; `dataset` a name, for all its versions."""

    dataset: str
    filename: str
    source: str
    channel: str
    uploaded_by: str


class Documents:
    def __init__(self, database: Database) -> None:
        self._db = database

    def receive(self, new: NewDocument, *, now: float) -> Document:
        (row,) = self._db.rows(
            "INSERT INTO documents (dataset, filename, source, state, channel, uploaded_by, created_at, updated_at)"
            " VALUES (?, ?, ?, 'received', ?, ?, ?, ?) RETURNING *",
            (new.dataset, new.filename, new.source, new.channel, new.uploaded_by, now, now),
        )
        return Document(**row)

    def get(self, document_id: int) -> Document | None:
        row = self._db.row("SELECT * FROM documents WHERE id = ?", (document_id,))
        return Document(**row) if row else None

    def due(self, now: float) -> list[Document]:
        """Those that still have to be fetched and read."""
        rows = self._db.rows(
            f"SELECT * FROM documents WHERE state = 'received' AND {due_sql('next_at')} ORDER BY id",  # noqa: S608
            (now, now),
        )
        return [Document(**row) for row in rows]

    def ready(self, dataset: str) -> list[Document]:
        """The newest of each file name, in the order in which they came."""
        rows = self._db.rows(
            "SELECT * FROM documents WHERE id IN (SELECT max(id) FROM documents"
            " WHERE dataset = ? AND state = 'ready' GROUP BY filename) ORDER BY id",
            (dataset,),
        )
        return [Document(**row) for row in rows]

    def refused(self, before: float) -> list[Document]:
        """Those whose file still lies here, and that nothing else has the same file as."""
        rows = self._db.rows(
            "SELECT * FROM documents gone WHERE state = 'refused' AND sha256 IS NOT NULL AND updated_at < ?"
            " AND NOT EXISTS (SELECT 1 FROM documents WHERE sha256 = gone.sha256 AND state <> 'refused')"
            " AND NOT EXISTS (SELECT 1 FROM datasets WHERE sha256 = gone.sha256)",
            (before,),
        )
        return [Document(**row) for row in rows]

    def move(self, document: Document, to: DocumentState, *, now: float, **changes: Any) -> Document | None:
        """One guarded UPDATE; None where another hand has moved this document meanwhile."""
        changes = {**changes, "state": to, "updated_at": now}
        names = ", ".join(f"{name} = ?" for name in changes)
        row = self._db.row(
            f"UPDATE documents SET {names} WHERE id = ? AND state = ? RETURNING *",  # noqa: S608 - our names
            (*changes.values(), document.id, document.state),
        )
        return Document(**row) if row else None


class Cleanings:
    """People who want a cleaned copy of a dataset's file, until they have it."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def ask(self, dataset_id: int, person: str, *, now: float) -> Cleaning | None:
        """None where this person waits for it already."""
        row = self._db.row(
            "INSERT INTO cleanings (dataset_id, person, at) VALUES (?, ?, ?)"
            " ON CONFLICT (dataset_id, person) DO NOTHING RETURNING *",
            (dataset_id, person, now),
        )
        return Cleaning(**row) if row else None

    def waiting(self) -> list[Cleaning]:
        """Oldest first."""
        return [Cleaning(**row) for row in self._db.rows("SELECT * FROM cleanings ORDER BY id")]

    def done(self, cleaning: Cleaning) -> bool:
        """False where another hand was quicker."""
        return self._db.change("DELETE FROM cleanings WHERE id = ?", (cleaning.id,)) == 1


class Scans:
    """What was found in a file, by the sha256 of its bytes and the name of the patterns.

    A row without `found` is a wish: a file that is to be scanned before it leaves.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def want(self, sha256: str, scanner: str, *, now: float) -> None:
        self._db.change(
            "INSERT INTO scans (sha256, scanner, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (sha256, scanner, now),
        )

    def keep(self, sha256: str, scanner: str, result: str, *, now: float) -> None:
        self._db.change(
            "INSERT INTO scans (sha256, scanner, found, at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET found = excluded.found, at = excluded.at",
            (sha256, scanner, result, now),
        )

    def of(self, sha256: str, scanner: str) -> str | None:
        """None where nobody has looked yet."""
        row = self._db.row("SELECT found FROM scans WHERE sha256 = ? AND scanner = ?", (sha256, scanner))
        return row["found"] if row else None

    def wanted(self) -> list[tuple[str, str]]:
        """sha256 and scanner, oldest first."""
        rows = self._db.rows("SELECT sha256, scanner FROM scans WHERE found IS NULL ORDER BY at")
        return [(row["sha256"], row["scanner"]) for row in rows]

    def drop(self, sha256: str) -> None:
        """A wish that can't be granted."""
        self._db.change("DELETE FROM scans WHERE sha256 = ? AND found IS NULL", (sha256,))


class Waivers:
    """Words of people that a dataset with personal data may leave for a vendor. Rows are added, never changed."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, dataset_id: int, person: str, reason: str, *, now: float) -> Waiver | None:
        """Record it, once for a dataset version; None where there is one already."""
        row = self._db.row(
            "INSERT INTO waivers (dataset_id, person, reason, at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (dataset_id) DO NOTHING RETURNING dataset_id, person, reason, at",
            (dataset_id, person, reason, now),
        )
        return Waiver(**row) if row else None

    def of(self, dataset_id: int) -> Waiver | None:
        row = self._db.row(
            "SELECT dataset_id, person, reason, at FROM waivers WHERE dataset_id = ?", (dataset_id,)
        )
        return Waiver(**row) if row else None
