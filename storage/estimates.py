"""Estimates as they were asked for, so that whoever got one can share it. Those of over a month ago are forgotten."""

from __future__ import annotations

from storage.database import Database
from storage.records import KeptEstimate

KEPT_S = 30 * 24 * 3600.0


class Estimates:
    def __init__(self, database: Database) -> None:
        self._db = database

    def keep(self, dataset: str, asked: str, *, channel: str, person: str, now: float) -> KeptEstimate:
        with self._db.immediate():
            self._db.change("DELETE FROM estimates WHERE at < ?", (now - KEPT_S,))
            (row,) = self._db.rows(
                "INSERT INTO estimates (dataset, asked, channel, person, state, at)"
                " VALUES (?, ?, ?, ?, 'shown', ?) RETURNING *",
                (dataset, asked, channel, person, now),
            )
        return KeptEstimate(**row)

    def get(self, number: int) -> KeptEstimate | None:
        row = self._db.row("SELECT * FROM estimates WHERE id = ?", (number,))
        return KeptEstimate(**row) if row else None

    def newest(self, dataset: str) -> list[KeptEstimate]:
        """Those of a dataset, newest first."""
        rows = self._db.rows("SELECT * FROM estimates WHERE dataset = ? ORDER BY id DESC", (dataset,))
        return [KeptEstimate(**row) for row in rows]

    def share(self, number: int) -> bool:
        """False where it is shared already, or forgotten."""
        return self._move(number, "shown", "wanted")

    def shared(self, number: int) -> bool:
        """False where another hand was quicker."""
        return self._move(number, "wanted", "shared")

    def wanted(self) -> list[KeptEstimate]:
        """Still to be posted, oldest first."""
        rows = self._db.rows("SELECT * FROM estimates WHERE state = 'wanted' ORDER BY id")
        return [KeptEstimate(**row) for row in rows]

    def _move(self, number: int, before: str, after: str) -> bool:
        changed = self._db.change(
            "UPDATE estimates SET state = ? WHERE id = ? AND state = ?", (after, number, before)
        )
        return changed == 1
