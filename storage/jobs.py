"""What may exist at providers: people's decisions about uncertain creates, jobs that no run knows, and
uploaded files until they are deleted there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from storage.database import Database
from storage.records import Run

InterventionChoice = Literal["retry", "adopt", "give_up"]


@dataclass(frozen=True)
class InterventionDecision:
    """One person's decision. `since`: the `state_since` of the doubt that it is about; `job_id`: for adopt.
    `outcome` None: not carried out yet, it may wait for a second person's."""

    id: int
    run_id: int
    since: float
    choice: InterventionChoice
    job_id: str | None
    person: str
    reason: str
    at: float
    outcome: str | None


class Interventions:
    def __init__(self, database: Database) -> None:
        self._db = database

    def say(
        self,
        run: Run,
        choice: InterventionChoice,
        job_id: str | None,
        person: str,
        reason: str,
        *,
        now: float,
    ) -> InterventionDecision | None:
        """None where this person has a word on this doubt that still waits."""
        row = self._db.row(
            "INSERT INTO words_on_doubts (run_id, since, choice, job_id, person, reason, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING *",
            (run.id, run.state_since, choice, job_id, person, reason, now),
        )
        return InterventionDecision(**row) if row else None

    def of(self, run: Run) -> list[InterventionDecision]:
        """All on the doubt that the run is in now, oldest first."""
        rows = self._db.rows(
            "SELECT * FROM words_on_doubts WHERE run_id = ? AND since = ? ORDER BY id",
            (run.id, run.state_since),
        )
        return [InterventionDecision(**row) for row in rows]

    def runs_with_words(self) -> list[int]:
        """Numbers of runs in doubt about which somebody has said something that is not carried out yet."""
        rows = self._db.rows(
            "SELECT DISTINCT runs.id AS id FROM words_on_doubts word JOIN runs ON runs.id = word.run_id"
            " WHERE word.outcome IS NULL AND runs.state = 'needs_human' AND word.since = runs.state_since ORDER BY id"
        )
        return [int(row["id"]) for row in rows]

    def conclude(self, run: Run, outcome: str) -> None:
        """Whatever waited on this doubt is over; its people may speak again."""
        self._db.change(
            "UPDATE words_on_doubts SET outcome = ? WHERE run_id = ? AND since = ? AND outcome IS NULL",
            (outcome, run.id, run.state_since),
        )

    def first_seen(self, provider: str, job_id: str, key: str, *, now: float) -> bool:
        """True the first time that this job, which none of our runs knows, is seen."""
        changed = self._db.change(
            "INSERT INTO stray_jobs (provider, job_id, key, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (provider, job_id, key, now),
        )
        return changed == 1


UPLOAD_SETTLE_S = (
    15 * 60.0
)  # a file whose upload was cut off may appear in the trainer's list this much later


class Uploads:
    """Files that may lie at a trainer: written down before one is sent, until it is surely deleted there."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def intend(self, provider: str, hashes: Collection[str], *, now: float) -> None:
        """Call it before the files are sent: a kill afterwards leaves something to look for."""
        with self._db.immediate():
            for sha256 in hashes:
                self._db.change(
                    "INSERT INTO uploads (provider, sha256, at) VALUES (?, ?, ?)"
                    " ON CONFLICT (provider, sha256) DO UPDATE SET at = excluded.at",
                    (provider, sha256, now),
                )

    def at(self, provider: str) -> set[str]:
        """The sha256 of each file that may lie there."""
        return {
            row["sha256"]
            for row in self._db.rows("SELECT sha256 FROM uploads WHERE provider = ?", (provider,))
        }

    def deleted(self, provider: str, hashes: Collection[str], *, now: float) -> None:
        """They were looked for at `now`, and none is left. One that was sent just before may not have been seen."""
        with self._db.immediate():
            for sha256 in hashes:
                self._db.change(
                    "DELETE FROM uploads WHERE provider = ? AND sha256 = ? AND at < ?",
                    (provider, sha256, now - UPLOAD_SETTLE_S),
                )
