"""The append-only audit log: each entry's hash covers the one before, so an altered row is found."""

from __future__ import annotations

from storage.chain import GENESIS, entry_hash, misfit
from storage.database import Database
from storage.records import AuditEntry


class Audit:
    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, *, at: float, who: str, action: str, subject: str, detail: str = "") -> None:
        """Append one entry; call it inside the transaction of what it tells."""
        at = float(at)  # as the column gives it back: 5 and 5.0 hash differently
        with self._db.immediate():
            previous = self._db.value("SELECT hash FROM audit ORDER BY id DESC LIMIT 1") or GENESIS
            self._db.change(
                "INSERT INTO audit (at, who, action, subject, detail, previous, hash)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    at,
                    who,
                    action,
                    subject,
                    detail,
                    previous,
                    entry_hash(previous, at, who, action, subject, detail),
                ),
            )

    def entries(self, subject: str | None = None) -> list[AuditEntry]:
        """Oldest first."""
        rows = self._db.rows(
            "SELECT * FROM audit WHERE ? IS NULL OR subject = ? ORDER BY id", (subject, subject)
        )
        return [AuditEntry(**row) for row in rows]

    def first_broken(self) -> AuditEntry | None:
        """The first entry that does not fit its content and its predecessor."""
        previous = GENESIS
        for number, entry in enumerate(self.entries(), start=1):
            if misfit(entry, number, previous):
                return entry
            previous = entry.hash
        return None
