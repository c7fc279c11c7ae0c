"""Which plan took the place of which: for the link from the former one's card, and for who still clicks there."""

from __future__ import annotations

from dataclasses import dataclass

from storage.database import Database


@dataclass(frozen=True)
class Replacement:
    """`channel` and `ts` are those of the new plan's card."""

    run_id: int
    by_run_id: int
    channel: str
    ts: str


class Replacements:
    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, run_id: int, by_run_id: int) -> None:
        self._db.change("INSERT INTO replacements (run_id, by_run_id) VALUES (?, ?)", (run_id, by_run_id))

    def by(self, run_id: int) -> int | None:
        """The run whose plan took this one's place."""
        number: int | None = self._db.value("SELECT by_run_id FROM replacements WHERE run_id = ?", (run_id,))
        return number

    def of(self, run_id: int) -> list[int]:
        """The runs whose plans this one's took the place of."""
        rows = self._db.rows("SELECT run_id FROM replacements WHERE by_run_id = ? ORDER BY run_id", (run_id,))
        return [int(row["run_id"]) for row in rows]

    def unlinked(self, since: float) -> list[Replacement]:
        """Those of plans made `since` then (unix seconds) whose cards both stand, and the former without a link."""
        rows = self._db.rows(
            "SELECT r.run_id, r.by_run_id, newer.channel, newer.ts FROM replacements r"
            " JOIN runs ON runs.id = r.by_run_id AND runs.created_at >= ?"
            " JOIN cards newer ON newer.name = 'plan ' || r.by_run_id"
            " JOIN cards former ON former.name = 'plan ' || r.run_id WHERE r.linked_at IS NULL",
            (since,),
        )
        return [Replacement(**row) for row in rows]

    def linked(self, run_id: int, *, now: float) -> bool:
        sql = "UPDATE replacements SET linked_at = ? WHERE run_id = ? AND linked_at IS NULL"
        return self._db.change(sql, (now, run_id)) == 1
