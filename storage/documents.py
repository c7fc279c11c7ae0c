"""Documents that a team gave as knowledge beside a dataset: received → ready | refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from storage.database import Database
from storage.records import Document, DocumentState, due_sql


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
