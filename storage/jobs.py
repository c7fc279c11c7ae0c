"""What may exist at providers: people's decisions about uncertain creates, jobs that no run knows, and
uploaded files until they are deleted there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from storage.database import Table
from storage.records import Run

InterventionChoice = Literal["retry", "adopt", "give_up"]


@dataclass(frozen=True)
class InterventionDecision:
    """One person's decision about an uncertain create. `since`: the run's `state_since` when it became uncertain;
    `job_id`: for adopt. `outcome` None: it is not carried out yet, and may wait for a second person's."""

    id: int
    run_id: int
    since: float
    choice: InterventionChoice
    job_id: str | None
    person: str
    reason: str
    at: float
    outcome: str | None


class Interventions(Table):
    def decide(
        self,
        run: Run,
        choice: InterventionChoice,
        job_id: str | None,
        person: str,
        reason: str,
        *,
        now: float,
    ) -> InterventionDecision | None:
        """Returns None if this person's decision about this create still waits."""
        values = {
            "run_id": run.id,
            "since": run.state_since,
            "choice": choice,
            "job_id": job_id,
            "person": person,
            "reason": reason,
            "at": now,
        }
        row = self._db.insert_once("words_on_doubts", values)
        return InterventionDecision(**row) if row else None

    def of(self, run: Run) -> list[InterventionDecision]:
        """Returns every decision about the create that is uncertain now, oldest first."""
        return self._db.all(
            InterventionDecision,
            "SELECT * FROM words_on_doubts WHERE run_id = ? AND since = ? ORDER BY id",
            (run.id, run.state_since),
        )

    def runs_with_open_decisions(self) -> list[int]:
        """Returns the ids of runs that wait for people and have a decision that is not carried out yet."""
        rows = self._db.rows(
            "SELECT DISTINCT runs.id AS id FROM words_on_doubts word JOIN runs ON runs.id = word.run_id"
            " WHERE word.outcome IS NULL AND runs.state = 'needs_human' AND word.since = runs.state_since ORDER BY id"
        )
        return [int(row["id"]) for row in rows]

    def conclude(self, run: Run, outcome: str) -> None:
        """Closes every decision about this create that waits; the same people may decide again."""
        self._db.change(
            "UPDATE words_on_doubts SET outcome = ? WHERE run_id = ? AND since = ? AND outcome IS NULL",
            (outcome, run.id, run.state_since),
        )

    def record_orphan(self, provider: str, job_id: str, key: str, *, now: float) -> bool:
        """Records a job that no run knows. Returns True the first time."""
        values = {"provider": provider, "job_id": job_id, "key": key, "at": now}
        return self._db.insert_once("stray_jobs", values) is not None


UPLOAD_SETTLE_S = 15 * 60.0
"""A file whose upload was cut off may appear in the trainer's list this much later."""


class Uploads(Table):
    """Files that may be at a trainer: written down before one is sent, until it is certainly deleted there."""

    def intend(self, provider: str, hashes: Collection[str], *, now: float) -> None:
        """Records files before they are sent, so that a kill afterwards leaves something to look for."""
        with self._db.immediate():
            for sha256 in hashes:
                self._db.change(
                    "INSERT INTO uploads (provider, sha256, at) VALUES (?, ?, ?)"
                    " ON CONFLICT (provider, sha256) DO UPDATE SET at = excluded.at",
                    (provider, sha256, now),
                )

    def at(self, provider: str) -> set[str]:
        """Returns the sha256 of each file that may be there."""
        rows = self._db.rows("SELECT sha256 FROM uploads WHERE provider = ?", (provider,))
        return {row["sha256"] for row in rows}

    def confirm_deleted(self, provider: str, hashes: Collection[str], *, now: float) -> None:
        """Forgets files that the trainer didn't list at `now`, but for those sent just before: they may not have been
        listed yet."""
        with self._db.immediate():
            for sha256 in hashes:
                self._db.change(
                    "DELETE FROM uploads WHERE provider = ? AND sha256 = ? AND at < ?",
                    (provider, sha256, now - UPLOAD_SETTLE_S),
                )
