"""Traces at providers: people's decisions about uncertain creates, jobs that belong to no known run, and uploaded files
that have not been deleted there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from storage.database import Table
from storage.records import Run

InterventionChoice = Literal["retry", "adopt", "give_up"]


@dataclass(frozen=True)
class InterventionDecision:
    """One person's decision about an uncertain create.

    `since` is the run's `state_since` when the create became uncertain. `job_id` is the job to adopt. `outcome` is None
    until the decision is carried out, which may need a second person's.
    """

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
        """Records a decision. Returns None if an earlier one of this person about this create is not carried out
        yet."""
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
        """Returns every decision about the run's present uncertain create, oldest first."""
        return self._db.all(
            InterventionDecision,
            "SELECT * FROM words_on_doubts WHERE run_id = ? AND since = ? ORDER BY id",
            (run.id, run.state_since),
        )

    def runs_with_open_decisions(self) -> list[int]:
        """Returns the ids of the runs in needs_human with a decision that is not carried out yet."""
        # `since`: decisions about an earlier uncertain create don't count for the present one.
        rows = self._db.rows(
            "SELECT DISTINCT runs.id AS id FROM words_on_doubts word CROSS JOIN runs ON runs.id = word.run_id"
            " WHERE word.outcome IS NULL AND runs.state = 'needs_human' AND word.since = runs.state_since ORDER BY id"
        )
        return [int(row["id"]) for row in rows]

    def conclude(self, run: Run, outcome: str) -> None:
        """Closes all open decisions about this create, so that the same people may decide again."""
        self._db.change(
            "UPDATE words_on_doubts SET outcome = ? WHERE run_id = ? AND since = ? AND outcome IS NULL",
            (outcome, run.id, run.state_since),
        )

    def record_orphan(self, provider: str, job_id: str, key: str, *, now: float) -> bool:
        """Records a job that belongs to no known run. Returns False if it was recorded before."""
        values = {"provider": provider, "job_id": job_id, "key": key, "at": now}
        return self._db.insert_once("stray_jobs", values) is not None


UPLOAD_SETTLE_S = 15 * 60.0
"""Seconds after which a file whose upload was interrupted may still appear in the trainer's list."""


class Uploads(Table):
    """Files that may be at a trainer: recorded before they are sent, until it is certain that they are deleted
    there."""

    def intend(self, provider: str, hashes: Collection[str], *, now: float) -> None:
        """Records files that are about to be sent, so that they can be found and deleted after a kill."""
        with self._db.immediate():
            for sha256 in hashes:
                # A file that is sent again may again not be listed for a while.
                self._db.change(
                    "INSERT INTO uploads (provider, sha256, at) VALUES (?, ?, ?)"
                    " ON CONFLICT (provider, sha256) DO UPDATE SET at = excluded.at",
                    (provider, sha256, now),
                )

    def at(self, provider: str) -> set[str]:
        """Returns the sha256 of each file that may be at the provider."""
        rows = self._db.rows("SELECT sha256 FROM uploads WHERE provider = ?", (provider,))
        return {row["sha256"] for row in rows}

    def confirm_deleted(self, provider: str, hashes: Collection[str], *, now: float) -> None:
        """Removes the records of files that the trainer did not list at `now`, except recently sent ones, which may not
        be listed yet."""
        with self._db.immediate():
            for sha256 in hashes:
                self._db.change(
                    "DELETE FROM uploads WHERE provider = ? AND sha256 = ? AND at < ?",
                    (provider, sha256, now - UPLOAD_SETTLE_S),
                )
