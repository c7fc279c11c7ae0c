"""What is in use for watched datasets is measured again each month: one row for each dataset and month, so that neither
a kill nor a second card begins another measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from storage.database import Table

Hindrance = Literal["money", "freeze", "refused"]


@dataclass(frozen=True)
class MonthlyMeasurement:
    """What was in use by `promotion` should be measured in `month` ('2026-12'). `week` is the Monday of the week whose
    card shows it. `measurement` is None until one was begun or asked for; `hindrance` is why none has been, with the
    words of a refusal in `refusal`. It is over at `ended_at`: measured, or given up because something else is in use or
    a later card was posted."""

    dataset: str
    month: str
    week: str
    promotion: int
    at: float
    measurement: int | None = None
    hindrance: Hindrance | None = None
    refusal: str | None = None
    ended_at: float | None = None


class MonthlyMeasurements(Table):
    def add(self, due: MonthlyMeasurement) -> bool:
        """Returns False if the dataset has one of this month."""
        return self._db.insert_once("monthly_measurements", vars(due)) is not None

    def shown(self, dataset: str, week: str) -> MonthlyMeasurement | None:
        """Returns the one on the card of this week, None if it has none."""
        sql = "SELECT * FROM monthly_measurements WHERE dataset = ? AND week = ?"
        return self._db.first(MonthlyMeasurement, sql, (dataset, week))

    def waiting(self) -> list[MonthlyMeasurement]:
        """Returns those of which no measurement was begun, oldest first."""
        sql = (
            "SELECT * FROM monthly_measurements WHERE ended_at IS NULL AND measurement IS NULL"
            " ORDER BY at, dataset"
        )
        return self._db.all(MonthlyMeasurement, sql)

    def measured(self) -> list[MonthlyMeasurement]:
        """Returns those that are not over, but whose measurement is."""
        sql = (
            "SELECT monthly_measurements.* FROM monthly_measurements JOIN measurements ON measurements.id = measurement"
            " WHERE ended_at IS NULL AND state NOT IN ('asked', 'running') ORDER BY measurement"
        )
        return self._db.all(MonthlyMeasurement, sql)

    def begin(self, due: MonthlyMeasurement, measurement: int) -> None:
        """Records its measurement, in place of one that was begun before."""
        # Open again, since a person may ask for it by the card's button after it was given up.
        sql = (
            "UPDATE monthly_measurements SET measurement = ?, hindrance = NULL, refusal = NULL, ended_at = NULL"
            " WHERE dataset = ? AND month = ?"
        )
        self._db.change(sql, (measurement, due.dataset, due.month))

    def hold(self, due: MonthlyMeasurement, hindrance: Hindrance, refusal: str | None = None) -> bool:
        """Records why none was begun. Returns False if that was recorded before."""
        # Only another reason changes the row, because the card is updated with it. IS NOT, as they may be NULL.
        sql = (
            "UPDATE monthly_measurements SET hindrance = ?, refusal = ? WHERE dataset = ? AND month = ?"
            " AND measurement IS NULL AND (hindrance IS NOT ? OR refusal IS NOT ?)"
        )
        values = (hindrance, refusal, due.dataset, due.month, hindrance, refusal)
        return self._db.change(sql, values) == 1

    def end(self, due: MonthlyMeasurement, *, now: float) -> bool:
        """Returns False if it was over before."""
        sql = "UPDATE monthly_measurements SET ended_at = ? WHERE dataset = ? AND month = ? AND ended_at IS NULL"
        return self._db.change(sql, (now, due.dataset, due.month)) == 1
