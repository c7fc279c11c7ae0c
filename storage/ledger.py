"""What a month's money is held by: runs, measurements and questions, with what each reserves or has spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from storage.database import Database

HELD = """
SELECT 'run' AS kind, runs.id AS number, datasets.name AS dataset, runs.requester AS person, runs.channel AS channel,
       r.at AS at, CASE WHEN ended.micros IS NULL THEN r.micros ELSE 0 END AS reserved_micros,
       coalesce(ended.micros, 0) AS spent_micros
FROM ledger r JOIN runs ON runs.id = r.run_id JOIN datasets ON datasets.id = runs.dataset_id
LEFT JOIN (SELECT run_id, max(micros) AS micros FROM ledger WHERE kind IN ('settle', 'release') GROUP BY run_id) ended
    ON ended.run_id = r.run_id
WHERE r.kind = 'reserve' AND r.month = ?
UNION ALL
SELECT 'measurement', m.id, datasets.name, m.requested_by, m.channel, m.created_at,
       CASE WHEN m.state IN ('asked', 'running') THEN m.reserved_micros ELSE 0 END,
       CASE WHEN m.state IN ('asked', 'running') THEN 0 ELSE coalesce(m.actual_micros, 0) END
FROM measurements m JOIN datasets ON datasets.id = m.dataset_id
WHERE m.month = ?
UNION ALL
SELECT 'questions', count(*), q.dataset, q.person, q.channel, max(q.at),
       sum(CASE WHEN q.actual_micros IS NULL THEN q.reserved_micros ELSE 0 END), sum(coalesce(q.actual_micros, 0))
FROM questions q WHERE q.month = ? AND q.reserved_micros > 0 GROUP BY q.dataset, q.person, q.channel
"""


NEWEST_FIRST = "ORDER BY at DESC, number DESC"


@dataclass(frozen=True)
class Held:
    """One run or measurement in a month, or a person's questions to the models of a dataset: then `number` is how many.
    Money in micro-dollars: reserved while it is open, spent once it is not."""

    kind: Literal["run", "measurement", "questions"]
    number: int
    dataset: str
    person: str
    channel: str
    at: float
    reserved_micros: int
    spent_micros: int

    @property
    def micros(self) -> int:
        return self.reserved_micros + self.spent_micros


class Ledger:
    def __init__(self, database: Database) -> None:
        self._db = database

    def held(self, month: str) -> list[Held]:
        """Newest first, without what neither reserves nor spent anything. `month` is 'YYYY-MM'."""
        found = [
            Held(**row) for row in self._db.rows(f"{HELD.strip()} {NEWEST_FIRST}", (month, month, month))
        ]
        return [one for one in found if one.micros]

    def committed(self, month: str, kind: Literal["channel", "person"], name: str) -> int:
        """Micro-dollars of the month that a channel or a person reserves and has spent."""
        whose = "channel" if kind == "channel" else "person"
        total = self._db.value(
            f"SELECT coalesce(sum(reserved_micros + spent_micros), 0) FROM ({HELD}) WHERE {whose} = ?",  # noqa: S608
            (month, month, month, name),
        )
        return int(total)

    def warned(self, month: str, whose: str = "team") -> frozenset[int]:
        """At which percent of the month's budget people were warned. `whose`: as Budget.whose."""
        rows = self._db.rows(
            "SELECT percent FROM budget_warnings WHERE month = ? AND whose = ?", (month, whose)
        )
        return frozenset(int(row["percent"]) for row in rows)

    def warn(self, month: str, percent: int, whose: str = "team", *, now: float) -> bool:
        """Once a month, percent and budget; False where it was done before."""
        changed = self._db.change(
            "INSERT INTO budget_warnings (month, whose, percent, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (month, whose, percent, now),
        )
        return changed == 1
