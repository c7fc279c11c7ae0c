"""Everything the bot remembers, by noun, in one store that migrates itself when opened; and the counts that
monitoring reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from storage.audit import Audit
from storage.database import Database
from storage.dataset_deletion import DatasetDeletions
from storage.datasets import AllDatasetSettings, Cleanings, Datasets, Documents, Scans, Waivers
from storage.evaluations import AnswerCache, Measurements, Preferences
from storage.jobs import Interventions, Uploads
from storage.messages import PATIENT_TRIES, Inbox, Outbox
from storage.money import Estimates, Freezes, Ledger
from storage.promotions import Promotions
from storage.questions import Questions
from storage.records import Model, RunState
from storage.runs import Replacements, Runs


class Store:
    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        self.inbox = Inbox(self.database)
        self.datasets = Datasets(self.database)
        self.dataset_settings = AllDatasetSettings(self.database)
        self.documents = Documents(self.database)
        self.measurements = Measurements(self.database)
        self.replies = AnswerCache(self.database)
        self.preferences = Preferences(self.database)
        self.runs = Runs(self.database)
        self.outbox = Outbox(self.database)
        self.audit = Audit(self.database)
        self.waivers = Waivers(self.database)
        self.cleanings = Cleanings(self.database)
        self.estimates = Estimates(self.database)
        self.freezes = Freezes(self.database)
        self.questions = Questions(self.database)
        self.ledger = Ledger(self.database)
        self.doubts = Interventions(self.database)
        self.replacements = Replacements(self.database)
        self.promotions = Promotions(self.database)
        self.uploads = Uploads(self.database)
        self.scans = Scans(self.database)
        self.forgettings = DatasetDeletions(self.database)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, holding the write lock from the start; with it, the delivery that this thread handles.

        One that changed nothing was refused: it ends once the person was told so, and not before.
        """
        with self.database.immediate():
            before = self.database.changes
            yield
            if self.database.changes > before:
                self.inbox.done_here()

    def committed(self, month: str) -> int:
        """Micro-dollars of a month ('YYYY-MM') reserved and spent, by runs, measurements and questions together."""
        held_by = (self.runs, self.measurements, self.questions)
        return sum(runs.committed(month) for runs in held_by)

    def add_model(self, model: Model) -> None:
        self.database.change(
            "INSERT INTO models (name, run_id, provider, provider_model, state, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING",
            (model.name, model.run_id, model.provider, model.provider_model, model.state, model.created_at),
        )

    def models(self) -> list[Model]:
        """Newest first."""
        rows = self.database.rows("SELECT * FROM models ORDER BY created_at DESC, name")
        return [Model(**row) for row in rows]

    def models_of(self, datasets: Collection[str]) -> list[Model]:
        """Those that were trained on these datasets, newest first."""
        rows = self.database.rows(
            "SELECT models.name AS model, datasets.name AS dataset FROM models"
            " JOIN runs ON runs.id = models.run_id JOIN datasets ON datasets.id = runs.dataset_id"
        )
        names = {row["model"] for row in rows if row["dataset"] in datasets}
        return [model for model in self.models() if model.name in names]

    def model(self, name: str) -> Model | None:
        row = self.database.row("SELECT * FROM models WHERE name = ?", (name,))
        return Model(**row) if row else None

    def best_models(self, holdout_sha256: str, limit: int, *, but: str) -> list[Model]:
        """Those that are there and were measured on this holdout, the most right answers first; `but` this one."""
        rows = self.database.rows(
            "SELECT models.* FROM models JOIN runs ON runs.id = models.run_id"
            " WHERE models.gone_at IS NULL AND models.name <> ? AND runs.result IS NOT NULL"
            " AND json_extract(runs.plan, '$.holdout_sha256') = ?"
            " ORDER BY json_extract(runs.result, '$.tuned.correct') DESC, models.created_at DESC LIMIT ?",
            (but, holdout_sha256, limit),
        )
        return [Model(**row) for row in rows]

    def model_gone(self, model: Model, at: float | None) -> bool:
        """Its provider has it no more, or None: has it again. False where that was known."""
        sql = "UPDATE models SET gone_at = ? WHERE name = ? AND (gone_at IS NULL) = ?"
        return self.database.change(sql, (at, model.name, at is not None)) == 1

    def close(self) -> None:
        self.database.close()


STUCK_S = 600.0


@dataclass(frozen=True)
class Metrics:
    """`runs` has every state. `oldest_s`: for how long the oldest message waits, 0 where none does. `given_up`:
    messages that never got through. `stuck`: messages that failed again and again, and wait for longer than STUCK_S."""

    runs: dict[str, int]
    measurements: int
    waiting: int
    oldest_s: float
    given_up: int
    stuck: int


def read_metrics(database: Database, now: float) -> Metrics:
    counted = {
        row["state"]: row["n"] for row in database.rows("SELECT state, count(*) n FROM runs GROUP BY state")
    }
    oldest = database.value("SELECT min(created_at) FROM outbox WHERE state = 'due'")
    return Metrics(
        runs={state: counted.get(state, 0) for state in get_args(RunState)},
        measurements=database.value("SELECT count(*) FROM measurements WHERE state IN ('asked', 'running')"),
        waiting=database.value("SELECT count(*) FROM outbox WHERE state = 'due'"),
        oldest_s=max(now - oldest, 0.0) if oldest is not None else 0.0,
        given_up=database.value("SELECT count(*) FROM outbox WHERE state = 'dead'"),
        stuck=database.value(
            "SELECT count(*) FROM outbox WHERE state = 'due' AND tries >= ? AND created_at < ?",
            (PATIENT_TRIES, now - STUCK_S),
        ),
    )
