"""Datasets and their versions, settings, documents, waivers, scans for personal data, and requests for cleaned
copies."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from storage.database import Table
from storage.records import (
    Cleaning,
    Dataset,
    DatasetOrigin,
    DatasetSettings,
    DatasetState,
    Document,
    DocumentState,
    Waiver,
    due_sql,
)


@dataclass(frozen=True)
class NewDataset:
    """An upload. With `may_add` it becomes the next version of a dataset of that name in its channel. `origin`,
    `sealed` and `sheet` are those of a Dataset."""

    name: str
    channel: str
    uploaded_by: str
    filename: str
    source: str
    text_column: str | None = None
    label_column: str | None = None
    may_add: bool = True
    origin: DatasetOrigin | None = None
    sealed: int = 0
    sheet: str | None = None


class Datasets(Table):
    def receive(self, new: NewDataset, *, now: float) -> Dataset | None:
        """Records an upload, as the next version if the channel has a dataset of that name. Returns None if another
        channel has the name, or this one has it and `may_add` is False."""
        with self._db.immediate():
            last = self._db.row(
                "SELECT version, owner, sources FROM datasets WHERE name = ? ORDER BY version DESC LIMIT 1",
                (new.name,),
            )
            if last and (last["owner"] != new.channel or not new.may_add):
                return None
            sources = {new.channel}
            if last:
                sources |= set(last["sources"].split())
            values = {**vars(new), "state": "received", "created_at": now, "updated_at": now}
            del values["may_add"]
            values["version"] = last["version"] + 1 if last else 1
            values |= {"owner": new.channel, "sources": " ".join(sorted(sources))}
            row = self._db.insert("datasets", values)
        return Dataset(**row)

    def get(self, dataset_id: int) -> Dataset:
        dataset = self._db.first(Dataset, "SELECT * FROM datasets WHERE id = ?", (dataset_id,))
        if dataset is None:
            raise KeyError(dataset_id)
        return dataset

    def newest(self, name: str) -> Dataset | None:
        """Returns the newest usable version of this name or, if there is none, the newest of any state."""
        return self._db.first(
            Dataset,
            "SELECT * FROM datasets WHERE name = ? AND forgotten_at IS NULL"
            " ORDER BY state = 'ready' DESC, version DESC LIMIT 1",
            (name,),
        )

    def owners(self) -> dict[str, str]:
        """Returns the channel that each dataset belongs to, by the dataset's name."""
        rows = self._db.rows("SELECT DISTINCT name, owner FROM datasets")
        return {row["name"]: row["owner"] for row in rows}

    def names(self) -> list[str]:
        """Returns the names of the datasets that have a version which was not deleted, the newest version first."""
        rows = self._db.rows(
            "SELECT name FROM datasets WHERE forgotten_at IS NULL GROUP BY name ORDER BY max(id) DESC"
        )
        return [row["name"] for row in rows]

    def all(self) -> list[Dataset]:
        """Returns every version that was not deleted, newest first."""
        return self._db.all(Dataset, "SELECT * FROM datasets WHERE forgotten_at IS NULL ORDER BY id DESC")

    def newest_of(self, names: Collection[str], limit: int) -> list[Dataset]:
        """Returns the newest versions of these names that were not deleted, newest first."""
        return self._db.all(
            Dataset,
            "SELECT * FROM datasets WHERE forgotten_at IS NULL AND +name IN (SELECT value FROM json_each(?))"
            " ORDER BY id DESC LIMIT ?",
            (json.dumps(list(names)), limit),
        )

    def count_of(self, names: Collection[str]) -> int:
        """Returns the number of versions of these names that were not deleted."""
        sql = (
            "SELECT count(*) FROM datasets WHERE forgotten_at IS NULL"
            " AND name IN (SELECT value FROM json_each(?))"
        )
        return int(self._db.value(sql, (json.dumps(list(names)),)))

    def usable_names(self) -> list[str]:
        """Returns the names that have a version that can be used, the most recent version first."""
        rows = self._db.rows(
            "SELECT name FROM datasets WHERE forgotten_at IS NULL AND state = 'ready' AND report IS NOT NULL"
            " GROUP BY name ORDER BY max(id) DESC"
        )
        return [row["name"] for row in rows]

    def has_file(self, sha256: str) -> bool:
        """Returns True if a version that was not deleted has this file."""
        sql = "SELECT EXISTS (SELECT 1 FROM datasets WHERE sha256 = ? AND forgotten_at IS NULL)"
        return bool(self._db.value(sql, (sha256,)))

    def refused(self, before: float) -> list[Dataset]:
        """Returns the versions refused before `before` whose file is still stored, newest first."""
        return self._db.all(
            Dataset,
            "SELECT * FROM datasets WHERE forgotten_at IS NULL AND state = 'refused' AND sha256 IS NOT NULL"
            " AND updated_at < ? ORDER BY id DESC",
            (before,),
        )

    def versions(self, name: str) -> list[Dataset]:
        """Returns every version of this name that was not deleted, newest first."""
        sql = "SELECT * FROM datasets WHERE name = ? AND forgotten_at IS NULL ORDER BY id DESC"
        return self._db.all(Dataset, sql, (name,))

    def due(self, now: float) -> list[Dataset]:
        """Returns the versions that have to be fetched or checked and whose next try is due, oldest first."""
        return self._db.all(
            Dataset,
            f"SELECT * FROM datasets WHERE state IN ('received', 'checking') AND {due_sql('next_at')} ORDER BY id",  # noqa: S608
            (now, now),
        )

    def move(self, dataset: Dataset, to: DatasetState, *, now: float, **changes: Any) -> Dataset | None:
        """Returns the moved version, or None if it is no longer in its state."""
        changes = {**changes, "state": to, "updated_at": now}
        row = self._db.move("datasets", dataset.id, dataset.state, changes)
        return Dataset(**row) if row else None


class AllDatasetSettings(Table):
    """A team's settings for all versions of a dataset: quality bar, kind of task, instructions."""

    def get(self, name: str) -> DatasetSettings | None:
        return self._db.first(DatasetSettings, "SELECT * FROM dataset_settings WHERE name = ?", (name,))

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
        """Sets the values that are not None and leaves the others unchanged."""
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
    """A document for all versions of the dataset with the name `dataset`. `source` is a Slack file id."""

    dataset: str
    filename: str
    source: str
    channel: str
    uploaded_by: str


class Documents(Table):
    def receive(self, new: NewDocument, *, now: float) -> Document:
        values = {**vars(new), "state": "received", "created_at": now, "updated_at": now}
        return Document(**self._db.insert("documents", values))

    def get(self, document_id: int) -> Document | None:
        return self._db.first(Document, "SELECT * FROM documents WHERE id = ?", (document_id,))

    def due(self, now: float) -> list[Document]:
        """Returns the documents that have to be fetched and read and whose next try is due, oldest first."""
        return self._db.all(
            Document,
            f"SELECT * FROM documents WHERE state = 'received' AND {due_sql('next_at')} ORDER BY id",  # noqa: S608
            (now, now),
        )

    def has_unread(self, dataset: str) -> bool:
        """Returns True if a document of this dataset has not been read yet."""
        sql = "SELECT count(*) FROM documents WHERE dataset = ? AND state = 'received'"
        return bool(self._db.value(sql, (dataset,)))

    def ready(self, dataset: str) -> list[Document]:
        """Returns the newest usable document of each file name, in the order of their uploads."""
        return self._db.all(
            Document,
            "SELECT * FROM documents WHERE id IN (SELECT max(id) FROM documents"
            " WHERE dataset = ? AND state = 'ready' GROUP BY filename) ORDER BY id",
            (dataset,),
        )

    def of(self, dataset: str) -> list[Document]:
        """Returns all documents of a dataset, also those that were refused or replaced, oldest first."""
        return self._db.all(Document, "SELECT * FROM documents WHERE dataset = ? ORDER BY id", (dataset,))

    def refused(self, before: float) -> list[Document]:
        """Returns the documents refused before `before` whose file is still stored and has no other use."""
        return self._db.all(
            Document,
            "SELECT * FROM documents gone WHERE state = 'refused' AND sha256 IS NOT NULL AND updated_at < ?"
            " AND NOT EXISTS (SELECT 1 FROM documents WHERE sha256 = gone.sha256 AND state <> 'refused')"
            " AND NOT EXISTS (SELECT 1 FROM datasets WHERE sha256 = gone.sha256)",
            (before,),
        )

    def remove(self, document: Document, *, now: float) -> bool:
        """Takes a document and its earlier versions, which have the same name, out of use. Their files have to be
        deleted: they are in `removed` until then. Returns False if that was done before."""
        # A document without a source was removed: Slack's id of the file is needed no more.
        sql = (
            "UPDATE documents SET state = 'refused', source = '', refusal = 'It was removed.', updated_at = ?"
            " WHERE dataset = ? AND filename = ? AND state = 'ready'"
        )
        return self._db.change(sql, (now, document.dataset, document.filename)) > 0

    def removed(self) -> list[Document]:
        """Returns the removed documents whose files are still to be deleted."""
        sql = "SELECT * FROM documents WHERE state = 'refused' AND source = '' AND sha256 IS NOT NULL"
        return self._db.all(Document, sql)

    def is_file_used(self, sha256: str) -> bool:
        """Returns True if the file of a removed document is also that of another document or of a dataset."""
        sql = (
            "SELECT (SELECT count(*) FROM documents WHERE sha256 = :sha256 AND source <> '')"
            " + (SELECT count(*) FROM datasets WHERE sha256 = :sha256)"
        )
        return bool(self._db.value(sql, {"sha256": sha256}))

    def move(self, document: Document, to: DocumentState, *, now: float, **changes: Any) -> Document | None:
        """Returns the moved document, or None if it is no longer in its state."""
        changes = {**changes, "state": to, "updated_at": now}
        row = self._db.move("documents", document.id, document.state, changes)
        return Document(**row) if row else None


class Cleanings(Table):
    """Unanswered requests for a cleaned copy of a dataset's file."""

    def ask(self, dataset_id: int, person: str, *, now: float) -> Cleaning | None:
        """Records a request. Returns None if this person is waiting for the same file already."""
        row = self._db.insert_once("cleanings", {"dataset_id": dataset_id, "person": person, "at": now})
        return Cleaning(**row) if row else None

    def waiting(self) -> list[Cleaning]:
        """Returns the open requests, oldest first."""
        return self._db.all(Cleaning, "SELECT * FROM cleanings ORDER BY id")

    def finish(self, cleaning: Cleaning) -> bool:
        """Deletes an answered request. Returns False if another thread did so first."""
        return self._db.change("DELETE FROM cleanings WHERE id = ?", (cleaning.id,)) == 1


class Scans(Table):
    """Results of scans for personal data, by the file's sha256 and the scanner's name.

    A row whose `found` is NULL is a request: the file has to be scanned before it leaves this machine.
    """

    def request(self, sha256: str, scanner: str, *, now: float) -> None:
        self._db.insert_once("scans", {"sha256": sha256, "scanner": scanner, "at": now})

    def save(self, sha256: str, scanner: str, result: str, *, now: float) -> None:
        self._db.change(
            "INSERT INTO scans (sha256, scanner, found, at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET found = excluded.found, at = excluded.at",
            (sha256, scanner, result, now),
        )

    def of(self, sha256: str, scanner: str) -> str | None:
        """Returns the result, None if the file has not been scanned yet."""
        sql = "SELECT found FROM scans WHERE sha256 = ? AND scanner = ?"
        result: str | None = self._db.value(sql, (sha256, scanner))
        return result

    def requested(self) -> list[tuple[str, str]]:
        """Returns the sha256 and the scanner of each request, oldest first."""
        rows = self._db.rows("SELECT sha256, scanner FROM scans WHERE found IS NULL ORDER BY at")
        return [(row["sha256"], row["scanner"]) for row in rows]

    def drop(self, sha256: str) -> None:
        """Deletes the requests for a file that can't be scanned."""
        self._db.change("DELETE FROM scans WHERE sha256 = ? AND found IS NULL", (sha256,))


class Waivers(Table):
    """People's decisions that a dataset with personal data may be sent to a vendor. Rows are added, never changed."""

    def add(self, dataset_id: int, person: str, reason: str, *, now: float) -> Waiver | None:
        """Records a waiver for a dataset version. Returns None if it has one already."""
        waiver = Waiver(dataset_id, person, reason, now)
        return waiver if self._db.insert_once("waivers", vars(waiver)) else None

    def of(self, dataset_id: int) -> Waiver | None:
        return self._db.first(
            Waiver, "SELECT dataset_id, person, reason, at FROM waivers WHERE dataset_id = ?", (dataset_id,)
        )
