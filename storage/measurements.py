"""Measurements (ladders and learning curves): asked → running → done | failed | cancelled."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from storage.database import Database
from storage.records import Measurement, MeasurementKind, MeasurementState, due_sql


@dataclass(frozen=True)
class NewMeasurement:
    """`plan` is JSON. What it may cost is reserved later, by `move`, once it is known."""

    kind: MeasurementKind
    dataset_id: int
    channel: str
    requested_by: str
    plan: str
    state: MeasurementState = "asked"


class Measurements:
    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, new: NewMeasurement, *, now: float) -> Measurement:
        (row,) = self._db.rows(
            "INSERT INTO measurements (kind, state, dataset_id, channel, requested_by, plan, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
            (new.kind, new.state, new.dataset_id, new.channel, new.requested_by, new.plan, now, now),
        )
        return Measurement(**row)

    def get(self, measurement_id: int) -> Measurement | None:
        row = self._db.row("SELECT * FROM measurements WHERE id = ?", (measurement_id,))
        return Measurement(**row) if row else None

    def open(self) -> list[Measurement]:
        """Every one whose state is not final, oldest first."""
        return self.due(float("inf"))

    def due(self, now: float) -> list[Measurement]:
        """Open ones whose next step's time has come."""
        rows = self._db.rows(
            f"SELECT * FROM measurements WHERE state IN ('asked', 'running') AND {due_sql('next_at')} ORDER BY id",  # noqa: S608
            (now, now),
        )
        return [Measurement(**row) for row in rows]

    def newest(self, limit: int = 20) -> list[Measurement]:
        rows = self._db.rows("SELECT * FROM measurements ORDER BY id DESC LIMIT ?", (limit,))
        return [Measurement(**row) for row in rows]

    def on(self, datasets: Collection[int]) -> list[Measurement]:
        """Every one on one of these versions, newest first."""
        marks = ", ".join("?" * len(datasets))
        sql = f"SELECT * FROM measurements WHERE dataset_id IN ({marks}) ORDER BY id DESC"  # noqa: S608
        return [Measurement(**row) for row in self._db.rows(sql, tuple(datasets))]

    def done(self, dataset_ids: tuple[int, ...], kind: MeasurementKind) -> list[Measurement]:
        """Those of these datasets that have a result, newest first."""
        marks = ", ".join("?" * len(dataset_ids))
        rows = self._db.rows(
            f"SELECT * FROM measurements WHERE state = 'done' AND kind = ? AND dataset_id IN ({marks})"  # noqa: S608
            " ORDER BY id DESC",
            (kind, *dataset_ids),
        )
        return [Measurement(**row) for row in rows]

    def move(
        self, measurement: Measurement, to: MeasurementState, *, now: float, **changes: Any
    ) -> Measurement | None:
        """One guarded UPDATE on (id, state); None where another hand moved it meanwhile."""
        changes = {**changes, "state": to, "updated_at": now}
        if to != measurement.state:
            changes = {"tries": 0, "next_at": now, **changes}
        names = ", ".join(f"{name} = ?" for name in changes)
        row = self._db.row(
            f"UPDATE measurements SET {names} WHERE id = ? AND state = ? RETURNING *",  # noqa: S608 - our names
            (*changes.values(), measurement.id, measurement.state),
        )
        return Measurement(**row) if row else None

    def committed(self, month: str) -> int:
        """Micro-dollars of a month: what is reserved while a measurement is open, the actual once it is not."""
        return int(
            self._db.value(
                "SELECT coalesce(sum(CASE WHEN state IN ('asked', 'running') THEN reserved_micros"
                " ELSE coalesce(actual_micros, 0) END), 0) FROM measurements WHERE month = ?",
                (month,),
            )
        )
