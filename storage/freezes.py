"""Freezes: while one stands nothing new is created. At most one stands; each approver's word against it is kept."""

from __future__ import annotations

from dataclasses import dataclass

from storage.database import Database


@dataclass(frozen=True)
class Freeze:
    """`reason` is as a person typed it, '' where none was given. `lifted_at` None: it stands."""

    id: int
    person: str
    reason: str
    channel: str
    at: float
    lifted_at: float | None


class Freezes:
    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, *, person: str, reason: str, channel: str, now: float) -> Freeze | None:
        """None where one stands already."""
        row = self._db.row(
            "INSERT INTO freezes (person, reason, channel, at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING RETURNING *",
            (person, reason, channel, now),
        )
        return Freeze(**row) if row else None

    def current(self) -> Freeze | None:
        row = self._db.row("SELECT * FROM freezes WHERE lifted_at IS NULL")
        return Freeze(**row) if row else None

    def speak_against(self, freeze: Freeze, person: str, *, now: float) -> bool:
        """A person's word that it may end, once; False where they have said so already."""
        changed = self._db.change(
            "INSERT INTO unfreezes (freeze_id, person, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (freeze.id, person, now),
        )
        return changed == 1

    def against(self, freeze: Freeze) -> list[str]:
        """Who has said that it may end, first to last."""
        rows = self._db.rows("SELECT person FROM unfreezes WHERE freeze_id = ? ORDER BY id", (freeze.id,))
        return [str(row["person"]) for row in rows]

    def lift(self, freeze: Freeze, *, now: float) -> bool:
        """False where another hand was quicker."""
        sql = "UPDATE freezes SET lifted_at = ? WHERE id = ? AND lifted_at IS NULL"
        return self._db.change(sql, (now, freeze.id)) == 1
