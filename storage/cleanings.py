"""People who want a cleaned copy of a dataset's file, until they have it."""

from __future__ import annotations

from storage.database import Database
from storage.records import Cleaning


class Cleanings:
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
