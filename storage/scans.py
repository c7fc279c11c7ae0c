"""What was found in a file, by the sha256 of the bytes that were looked at and by the patterns' name.

A row without `found` is a wish: a file that is to be looked at before it leaves.
"""

from __future__ import annotations

from storage.database import Database


class Scans:
    def __init__(self, database: Database) -> None:
        self._db = database

    def want(self, sha256: str, scanner: str, *, now: float) -> None:
        self._db.change(
            "INSERT INTO scans (sha256, scanner, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (sha256, scanner, now),
        )

    def keep(self, sha256: str, scanner: str, found: str, *, now: float) -> None:
        self._db.change(
            "INSERT INTO scans (sha256, scanner, found, at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET found = excluded.found, at = excluded.at",
            (sha256, scanner, found, now),
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
