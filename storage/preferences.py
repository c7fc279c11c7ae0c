"""Which of two answers people find better, one verdict a person and row. Added, never changed."""

from __future__ import annotations

from dataclasses import astuple

from storage.database import Database
from storage.records import Preference


class Preferences:
    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, preference: Preference) -> bool:
        """False where this person has a verdict on this row already: the first one stays."""
        changed = self._db.change(
            "INSERT INTO preferences (measurement_id, row, first_arm, second_arm, person, choice, at)"
            " SELECT ?, ?, ?, ?, ?, ?, ? WHERE NOT EXISTS"
            " (SELECT 1 FROM preferences WHERE measurement_id = ? AND row = ? AND person = ?)",
            (*astuple(preference), preference.measurement_id, preference.row, preference.person),
        )
        return changed == 1

    def of(self, measurement_id: int) -> list[Preference]:
        """In the order in which they were given."""
        rows = self._db.rows(
            "SELECT measurement_id, row, first_arm, second_arm, person, choice, at FROM preferences"
            " WHERE measurement_id = ? ORDER BY id",
            (measurement_id,),
        )
        return [Preference(**row) for row in rows]
