"""Rows with wrong answers that people asked to read: which held-out rows somebody was shown, for good, and requests for
training rows until a worker has found them. No row's words are stored."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from storage.database import Table


@dataclass(frozen=True)
class ShownRows:
    """Held-out rows that a person was shown with wrong answers, by their positions in the file of the holdout (its
    sha256). `subject` is the run or measurement that answered them, 'run 3' or 'm7'."""

    dataset_id: int
    holdout: str
    subject: str
    person: str
    places: tuple[int, ...]
    at: float


@dataclass(frozen=True)
class RowRequest:
    """A person's request for wrong training rows, from the place `first` on, answered at a later tick."""

    id: int
    dataset_id: int
    subject: str
    person: str
    first: int
    at: float


class AllShownRows(Table):
    """Rows are added, never changed."""

    def add(self, shown: ShownRows) -> None:
        self._db.insert("shown_rows", {**vars(shown), "places": json.dumps(shown.places)})

    def on(self, dataset_ids: Collection[int]) -> list[ShownRows]:
        """Returns what people were shown of the holdouts of these versions, in that order."""
        rows = self._db.rows(
            "SELECT dataset_id, holdout, subject, person, places, at FROM shown_rows"
            " WHERE dataset_id IN (SELECT value FROM json_each(?)) ORDER BY id",
            (json.dumps(list(dataset_ids)),),
        )
        return [ShownRows(**{**row, "places": _read_places(row["places"])}) for row in rows]


class RowRequests(Table):
    def ask(self, dataset_id: int, subject: str, person: str, first: int, *, now: float) -> RowRequest | None:
        """Records a request. Returns None if this person is waiting for rows of the same dataset already."""
        values = {
            "dataset_id": dataset_id,
            "subject": subject,
            "person": person,
            "first": first,
            "at": now,
        }
        row = self._db.insert_once("row_requests", values)
        return RowRequest(**row) if row else None

    def waiting(self) -> list[RowRequest]:
        """Returns the open requests, oldest first."""
        return self._db.all(RowRequest, "SELECT * FROM row_requests ORDER BY id")

    def finish(self, request: RowRequest) -> bool:
        """Deletes an answered request. Returns False if another thread did so first."""
        return self._db.change("DELETE FROM row_requests WHERE id = ?", (request.id,)) == 1


def _read_places(text: str) -> tuple[int, ...]:
    places: Sequence[int] = json.loads(text)
    return tuple(places)
