"""Which files may lie at a trainer: written down before one is sent, until it is surely deleted there."""

from __future__ import annotations

from collections.abc import Collection

from storage.database import Database

SETTLE_S = 15 * 60.0  # a file whose upload was cut off may appear in the trainer's list this much later


class Uploads:
    def __init__(self, database: Database) -> None:
        self._db = database

    def intend(self, provider: str, hashes: Collection[str], *, now: float) -> None:
        """Call it before the files are sent: a kill afterwards leaves something to look for."""
        with self._db.immediate():
            for sha256 in hashes:
                self._db.change(
                    "INSERT INTO uploads (provider, sha256, at) VALUES (?, ?, ?)"
                    " ON CONFLICT (provider, sha256) DO UPDATE SET at = excluded.at",
                    (provider, sha256, now),
                )

    def at(self, provider: str) -> set[str]:
        """The sha256 of each file that may lie there."""
        return {
            row["sha256"]
            for row in self._db.rows("SELECT sha256 FROM uploads WHERE provider = ?", (provider,))
        }

    def deleted(self, provider: str, hashes: Collection[str], *, now: float) -> None:
        """They were looked for at `now`, and none is left. One that was sent just before may not have been seen."""
        with self._db.immediate():
            for sha256 in hashes:
                self._db.change(
                    "DELETE FROM uploads WHERE provider = ? AND sha256 = ? AND at < ?",
                    (provider, sha256, now - SETTLE_S),
                )
