"""Waivers: a person's word that a dataset with personal data may leave for a vendor. Added, never changed."""

from __future__ import annotations

from storage.database import Database
from storage.records import Waiver


class Waivers:
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
