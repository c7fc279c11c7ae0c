"""Deletes stored answers that are no longer needed: those of runs and measurements that ended long ago, and those that
came after their dataset was deleted.

The rows of the runs and measurements stay, as plans, cards and the audit log need them. A row in `expired` says that
the answers are gone, so that each is expired once.
"""

from __future__ import annotations

from storage.database import Table
from storage.records import Measurement, Run

ERASE_LATE_ANSWERS_SQL = """
DELETE FROM replies WHERE owner IN
    (SELECT 'run ' || runs.id FROM runs JOIN datasets ON datasets.id = dataset_id WHERE forgotten_at IS NOT NULL
    UNION ALL SELECT 'm' || measurements.id FROM measurements JOIN datasets ON datasets.id = dataset_id
        WHERE forgotten_at IS NOT NULL)
"""


class Expiries(Table):
    """Ended runs and measurements whose answers were deleted because of their age."""

    def runs(self, before: float, limit: int) -> list[Run]:
        """Returns runs that ended before `before` and were not expired yet, oldest first. Those whose model is in use
        are left out."""
        return self._db.all(
            Run,
            "SELECT * FROM runs WHERE state IN ('done', 'rejected', 'expired', 'cancelled', 'failed')"
            " AND updated_at < ? AND NOT EXISTS (SELECT 1 FROM expired WHERE subject = 'run ' || runs.id)"
            " AND NOT EXISTS (SELECT 1 FROM promotions WHERE promotions.model = runs.model AND ended_at IS NULL)"
            " ORDER BY id LIMIT ?",
            (before, limit),
        )

    def measurements(self, before: float, limit: int) -> list[Measurement]:
        """Returns measurements that ended before `before` and were not expired yet, oldest first."""
        return self._db.all(
            Measurement,
            "SELECT * FROM measurements WHERE state NOT IN ('asked', 'running') AND updated_at < ?"
            " AND NOT EXISTS (SELECT 1 FROM expired WHERE subject = 'm' || measurements.id) ORDER BY id LIMIT ?",
            (before, limit),
        )

    def forget_run(self, run: Run, *, now: float) -> int:
        """Deletes the run's answers. Returns how many there were."""
        n_answers = self._db.change("DELETE FROM answers WHERE run_id = ?", (run.id,))
        return n_answers + self._forget(f"run {run.id}", now)

    def forget_measurement(self, measurement: Measurement, *, now: float) -> int:
        """Deletes the measurement's answers. Returns how many there were."""
        return self._forget(f"m{measurement.id}", now)

    def erase_late_answers(self) -> None:
        """Erases answers that arrived after their dataset was deleted."""
        self._db.change(ERASE_LATE_ANSWERS_SQL)

    def _forget(self, owner: str, now: float) -> int:
        self._db.insert_once("expired", {"subject": owner, "at": now})
        return self._db.change("DELETE FROM replies WHERE owner = ?", (owner,))
