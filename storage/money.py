"""What holds a month's money, the spending freeze, and estimates kept for sharing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from storage.database import Database
from storage.records import KeptEstimate

COMMITMENTS_SQL = """
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
class Commitment:
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

    def held(self, month: str) -> list[Commitment]:
        """Newest first, without what neither reserves nor spent anything. `month` is 'YYYY-MM'."""
        commitments = [
            Commitment(**row)
            for row in self._db.rows(f"{COMMITMENTS_SQL.strip()} {NEWEST_FIRST}", (month, month, month))
        ]
        return [commitment for commitment in commitments if commitment.micros]

    def committed(self, month: str, kind: Literal["channel", "person"], name: str) -> int:
        """Micro-dollars of the month that a channel or a person reserves and has spent."""
        whose = "channel" if kind == "channel" else "person"
        total = self._db.value(
            f"SELECT coalesce(sum(reserved_micros + spent_micros), 0) FROM ({COMMITMENTS_SQL}) WHERE {whose} = ?",  # noqa: S608
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
    """While one stands nothing new is created. At most one stands; each approver's word against it is kept."""

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


ESTIMATE_KEPT_S = 30 * 24 * 3600.0


class Estimates:
    """Estimates as they were asked for, so that a person can share the one they got. Kept for a month."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def keep(self, dataset: str, question: str, *, channel: str, person: str, now: float) -> KeptEstimate:
        with self._db.immediate():
            self._db.change("DELETE FROM estimates WHERE at < ?", (now - ESTIMATE_KEPT_S,))
            (row,) = self._db.rows(
                "INSERT INTO estimates (dataset, asked, channel, person, state, at)"
                " VALUES (?, ?, ?, ?, 'shown', ?) RETURNING *",
                (dataset, question, channel, person, now),
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
