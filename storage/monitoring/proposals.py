"""Models that are proposed to watched datasets, each once, and the measurements that watching a dataset began."""

from __future__ import annotations

from dataclasses import dataclass

from storage.database import Table


@dataclass(frozen=True)
class NewProposal:
    """`model` ('provider/model') would answer a dataset's calls for `micros` micro-dollars per 1,000 calls, instead of
    `in_use_micros`."""

    dataset: str
    model: str
    micros: int
    in_use_micros: int


@dataclass(frozen=True)
class Proposal:
    """A model that was proposed to a dataset. `shown_week` is the Monday of the week whose card shows it, like
    '2026-11-23', None if none has. It is over at `ended_at`: measured, or no longer offered."""

    id: int
    dataset: str
    model: str
    micros: int
    in_use_micros: int
    at: float
    shown_week: str | None
    ended_at: float | None


class Proposals(Table):
    def add(self, new: NewProposal, *, now: float) -> Proposal | None:
        """Returns None if this model was proposed to this dataset before."""
        row = self._db.insert_once("proposals", {**vars(new), "at": now})
        return Proposal(**row) if row else None

    def get(self, number: int) -> Proposal | None:
        return self._db.first(Proposal, "SELECT * FROM proposals WHERE id = ?", (number,))

    def open(self, dataset: str) -> list[Proposal]:
        """Returns a dataset's proposals that are not over, oldest first."""
        sql = "SELECT * FROM proposals WHERE dataset = ? AND ended_at IS NULL ORDER BY id"
        return self._db.all(Proposal, sql, (dataset,))

    def shown(self, dataset: str, week: str) -> Proposal | None:
        """Returns the proposal on the card of this week, None if it has none."""
        sql = "SELECT * FROM proposals WHERE dataset = ? AND shown_week = ?"
        return self._db.first(Proposal, sql, (dataset, week))

    def waiting(self) -> list[Proposal]:
        """Returns the proposals on a card of which no measurement was begun, oldest first."""
        sql = (
            "SELECT * FROM proposals WHERE ended_at IS NULL AND shown_week IS NOT NULL"
            " AND NOT EXISTS (SELECT 1 FROM watch_measurements WHERE proposal = proposals.id) ORDER BY id"
        )
        return self._db.all(Proposal, sql)

    def measured(self) -> list[Proposal]:
        """Returns the proposals that are not over, but whose newest measurement is."""
        sql = (
            "SELECT proposals.* FROM proposals JOIN watch_measurements ON proposal = proposals.id"
            " JOIN measurements ON measurements.id = measurement"
            " WHERE ended_at IS NULL GROUP BY proposals.id"
            " HAVING max(state IN ('asked', 'running')) = 0 ORDER BY proposals.id"
        )
        return self._db.all(Proposal, sql)

    def show(self, proposal: Proposal, week: str, prices: NewProposal) -> None:
        """Records that the card of this week shows it, with today's prices."""
        sql = (
            "UPDATE proposals SET shown_week = ?, micros = ?, in_use_micros = ?"
            " WHERE id = ? AND shown_week IS NULL"
        )
        self._db.change(sql, (week, prices.micros, prices.in_use_micros, proposal.id))

    def end(self, proposal: Proposal, *, now: float) -> bool:
        """Returns False if it was over before."""
        sql = "UPDATE proposals SET ended_at = ? WHERE id = ? AND ended_at IS NULL"
        return self._db.change(sql, (now, proposal.id)) == 1


@dataclass(frozen=True)
class WatchMeasurement:
    """A `measurement` that watching a dataset led to: of a `proposal`'s model, or of what is in use. `person` asked
    for it; None if the policy has it measured without asking, which began at `begun_at`."""

    measurement: int
    dataset: str
    proposal: int | None
    person: str | None
    at: float
    begun_at: float | None = None


class WatchMeasurements(Table):
    def add(self, measured: WatchMeasurement) -> None:
        self._db.insert("watch_measurements", vars(measured))

    def get(self, measurement: int) -> WatchMeasurement | None:
        """Returns None if watching a dataset didn't lead to this measurement."""
        sql = "SELECT * FROM watch_measurements WHERE measurement = ?"
        return self._db.first(WatchMeasurement, sql, (measurement,))

    def of(self, proposal: int) -> WatchMeasurement | None:
        """Returns the newest measurement of a proposal, None if there is none."""
        sql = "SELECT * FROM watch_measurements WHERE proposal = ? ORDER BY measurement DESC LIMIT 1"
        return self._db.first(WatchMeasurement, sql, (proposal,))

    def open(self) -> list[WatchMeasurement]:
        """Returns those whose measurement is not over, oldest first."""
        sql = (
            "SELECT watch_measurements.* FROM watch_measurements JOIN measurements ON measurements.id = measurement"
            " WHERE state IN ('asked', 'running') ORDER BY measurement"
        )
        return self._db.all(WatchMeasurement, sql)

    def begin(self, measured: WatchMeasurement, *, now: float) -> None:
        """Records that it began without anybody's click."""
        sql = "UPDATE watch_measurements SET begun_at = ? WHERE measurement = ?"
        self._db.change(sql, (now, measured.measurement))

    def committed(self, month: str) -> int:
        """Returns the micro-dollars of a month ('2026-11') that nobody was asked about: the reservation of open
        measurements, the actual cost of the others."""
        sql = (
            "SELECT coalesce(sum(CASE WHEN state IN ('asked', 'running') THEN reserved_micros"
            " ELSE coalesce(actual_micros, 0) END), 0) FROM watch_measurements"
            " JOIN measurements ON measurements.id = measurement WHERE begun_at IS NOT NULL AND month = ?"
        )
        return int(self._db.value(sql, (month,)))
