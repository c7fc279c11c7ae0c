"""The commitments of a month, the bills of vendors, the spending freeze, and estimates stored for sharing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from storage.database import Table
from storage.records import Run, StoredEstimate

# 3600000 are an hour's milliseconds, and adding half of them rounds, per day as in deployments.py.
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
UNION ALL
SELECT 'deployment', deployments.run_id, datasets.name, deployments.person, deployments.channel, deployments.updated_at,
0,
       sum((days.ms * deployments.micros_per_hour + 1800000) / 3600000)
FROM deployments JOIN deployment_days days ON days.deployment_id = deployments.id
JOIN runs ON runs.id = deployments.run_id JOIN datasets ON datasets.id = runs.dataset_id
WHERE substr(days.day, 1, 7) = ? AND EXISTS
    (SELECT 1 FROM ledger WHERE ledger.run_id = deployments.run_id AND ledger.kind <> 'reserve')
GROUP BY deployments.id
UNION ALL
SELECT 'live_test', live_tests.id, live_tests.dataset, live_tests.person, live_tests.channel,
       max(compared_calls.called_at), 0, sum(coalesce(compared_calls.micros, 0))
FROM compared_calls JOIN live_tests ON live_tests.id = compared_calls.test
WHERE compared_calls.month = ? GROUP BY live_tests.id
UNION ALL
SELECT 'plain_questions', count(*), '', q.person, q.channel, max(q.at),
       sum(CASE WHEN q.actual_micros IS NULL THEN q.reserved_micros ELSE 0 END), sum(coalesce(q.actual_micros, 0))
FROM plain_questions q WHERE q.month = ? AND q.reserved_micros > 0 GROUP BY q.person, q.channel
"""
# Each part of it has the month as its parameter.
_MONTHS = COMMITMENTS_SQL.count("?")


@dataclass(frozen=True)
class Commitment:
    """The money of one run, measurement, deployment or live test in a month, of a person's questions to a dataset's
    models, or of those in plain words, which are about no dataset ('').

    `number` is that of the run, measurement or live test, a deployment's run, or the number of questions. Micro-dollars
    are reserved while it is open and spent afterwards. While a deployment's run is open, its cost is part of the run's
    reservation.
    """

    kind: Literal["run", "measurement", "questions", "deployment", "live_test", "plain_questions"]
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


class Ledger(Table):
    def commitments(self, month: str) -> list[Commitment]:
        """Returns the commitments of a month ('YYYY-MM') that reserve or have spent anything, newest first."""
        sql = f"{COMMITMENTS_SQL} ORDER BY at DESC, number DESC"
        commitments = self._db.all(Commitment, sql, (month,) * _MONTHS)
        return [commitment for commitment in commitments if commitment.micros]

    def committed(self, month: str, kind: Literal["channel", "person"], name: str) -> int:
        """Returns the micro-dollars that a channel or a person reserves or has spent in a month."""
        total = self._db.value(
            f"SELECT coalesce(sum(reserved_micros + spent_micros), 0) FROM ({COMMITMENTS_SQL}) WHERE {kind} = ?",  # noqa: S608
            (*(month,) * _MONTHS, name),
        )
        return int(total)

    def warned(self, month: str, whose: str = "team") -> frozenset[int]:
        """Returns the percentages of the month's budget at which people were warned. `whose` is that of a Budget."""
        rows = self._db.rows(
            "SELECT percent FROM budget_warnings WHERE month = ? AND whose = ?", (month, whose)
        )
        return frozenset(int(row["percent"]) for row in rows)

    def warn(self, month: str, percent: int, whose: str = "team", *, now: float) -> bool:
        """Records a warning. Returns False if one was recorded for this month, percentage and budget before."""
        values = {"month": month, "whose": whose, "percent": percent, "at": now}
        return self._db.insert_once("budget_warnings", values) is not None


class VendorBills(Table):
    """The bills of runs at vendors that list what they bill. A bill is open until it is booked or given up."""

    def waiting(self, provider: str, since: float) -> list[Run]:
        """Returns the ended runs at a provider whose bill is open, and those that have ended since `since` (unix
        seconds) and have none yet, oldest first."""
        return self._db.all(
            Run,
            "SELECT runs.* FROM runs LEFT JOIN vendor_bills bills ON bills.run_id = runs.id"
            " WHERE runs.provider = ? AND runs.job_id IS NOT NULL AND runs.state IN ('done', 'failed', 'cancelled')"
            " AND (bills.state = 'open' OR (bills.state IS NULL AND runs.state_since >= ?))"
            " AND EXISTS (SELECT 1 FROM ledger WHERE ledger.run_id = runs.id AND ledger.kind = 'settle')"
            " ORDER BY runs.id",
            (provider, since),
        )

    def open(self, run: Run, *, now: float) -> None:
        """Opens the run's bill, unless it has one."""
        self._db.insert_once("vendor_bills", {"run_id": run.id, "state": "open", "at": now})

    def refuse(self, run: Run, *, now: float) -> bool:
        """Records that the vendor doesn't show us the bill. Returns False if that was recorded before."""
        sql = "UPDATE vendor_bills SET refused_at = ? WHERE run_id = ? AND refused_at IS NULL"
        return self._db.change(sql, (now, run.id)) == 1

    def book(self, run: Run, *, booked_micros: int, billed_micros: int, now: float) -> bool:
        """Records what was booked for the run's training and what the vendor bills for it. Returns False if the bill is
        not open any more."""
        sql = (
            "UPDATE vendor_bills SET state = 'booked', booked_micros = ?, billed_micros = ?, at = ?"
            " WHERE run_id = ? AND state = 'open'"
        )
        return self._db.change(sql, (booked_micros, billed_micros, now, run.id)) == 1

    def give_up(self, run: Run, *, now: float) -> bool:
        """Returns False if the bill is not open any more."""
        sql = "UPDATE vendor_bills SET state = 'given_up', at = ? WHERE run_id = ? AND state = 'open'"
        return self._db.change(sql, (now, run.id)) == 1


@dataclass(frozen=True)
class Freeze:
    """A stop to all new spending. `reason` is what the person typed, '' for none. It is in force while `lifted_at` is
    None."""

    id: int
    person: str
    reason: str
    channel: str
    at: float
    lifted_at: float | None


class Freezes(Table):
    """Freezes, at most one of which is in force, and the approvers who want it lifted."""

    def add(self, *, person: str, reason: str, channel: str, now: float) -> Freeze | None:
        """Adds a freeze. Returns None if one is in force already."""
        values = {"person": person, "reason": reason, "channel": channel, "at": now}
        # A unique index allows one freeze that is not lifted.
        row = self._db.insert_once("freezes", values)
        return Freeze(**row) if row else None

    def current(self) -> Freeze | None:
        return self._db.first(Freeze, "SELECT * FROM freezes WHERE lifted_at IS NULL")

    def request_lift(self, freeze: Freeze, person: str, *, now: float) -> bool:
        """Records that a person wants the freeze lifted. Returns False if that was recorded before."""
        values = {"freeze_id": freeze.id, "person": person, "at": now}
        return self._db.insert_once("unfreezes", values) is not None

    def lift_requests(self, freeze: Freeze) -> list[str]:
        """Returns the people who want the freeze lifted, in the order in which they asked."""
        rows = self._db.rows("SELECT person FROM unfreezes WHERE freeze_id = ? ORDER BY id", (freeze.id,))
        return [str(row["person"]) for row in rows]

    def lift(self, freeze: Freeze, *, now: float) -> bool:
        """Lifts the freeze. Returns False if another thread did so first."""
        sql = "UPDATE freezes SET lifted_at = ? WHERE id = ? AND lifted_at IS NULL"
        return self._db.change(sql, (now, freeze.id)) == 1


ESTIMATE_KEPT_S = 30 * 24 * 3600.0


class Estimates(Table):
    """Estimates that people got, so that they can share them. Stored for a month; the newest shared one of a dataset
    for longer, because it names today's model."""

    def keep(self, dataset: str, question: str, *, channel: str, person: str, now: float) -> StoredEstimate:
        with self._db.immediate():
            self._db.change(
                "DELETE FROM estimates WHERE at < ? AND id NOT IN"
                " (SELECT max(id) FROM estimates WHERE state <> 'shown' GROUP BY dataset)",
                (now - ESTIMATE_KEPT_S,),
            )
            values = {"dataset": dataset, "asked": question, "channel": channel, "person": person, "at": now}
            return StoredEstimate(**self._db.insert("estimates", {**values, "state": "shown"}))

    def get(self, number: int) -> StoredEstimate | None:
        return self._db.first(StoredEstimate, "SELECT * FROM estimates WHERE id = ?", (number,))

    def newest(self, dataset: str) -> list[StoredEstimate]:
        """Returns a dataset's estimates, newest first."""
        return self._db.all(
            StoredEstimate, "SELECT * FROM estimates WHERE dataset = ? ORDER BY id DESC", (dataset,)
        )

    def newest_shared(self, dataset: str) -> list[StoredEstimate]:
        """Returns a dataset's estimates that people shared, newest first. The others are what-ifs of one person."""
        return self._db.all(
            StoredEstimate,
            "SELECT * FROM estimates WHERE dataset = ? AND state <> 'shown' ORDER BY id DESC",
            (dataset,),
        )

    def request_share(self, number: int) -> bool:
        """Requests that an estimate is shared. Returns False if it was requested before, or the estimate was
        deleted."""
        return self._move(number, "shown", "wanted")

    def mark_shared(self, number: int) -> bool:
        """Records that an estimate was posted. Returns False if another thread did so first."""
        return self._move(number, "wanted", "shared")

    def to_share(self) -> list[StoredEstimate]:
        """Returns the estimates that people want to share and that are not posted yet, oldest first."""
        return self._db.all(StoredEstimate, "SELECT * FROM estimates WHERE state = 'wanted' ORDER BY id")

    def _move(self, number: int, before: str, after: str) -> bool:
        return self._db.move("estimates", number, before, {"state": after}) is not None
