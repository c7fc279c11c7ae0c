"""Everything the bot stores, by subject, in one object that migrates its database when it is opened; and the counts for
monitoring."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from storage.actuals import Actuals
from storage.audit import Audit
from storage.database import Database
from storage.datasets import AllDatasetSettings, Cleanings, Datasets, Documents, Scans, Waivers
from storage.deletion.dataset_deletion import DatasetDeletions
from storage.deletion.expiries import Expiries
from storage.deletion.wipes import Wipes
from storage.deployments import Deployments
from storage.evaluations import AnswerCache, HumanVerdicts, Measurements, Preferences, SentQuestions
from storage.jobs import Interventions, Uploads
from storage.messages import PATIENT_TRIES, Inbox, MessageSettings, Outbox
from storage.money import Estimates, Freezes, Ledger, VendorBills
from storage.monitoring.live_tests import ComparedCalls, LiveTests
from storage.monitoring.monthly_measurements import MonthlyMeasurements
from storage.monitoring.proposals import Proposals, WatchMeasurements
from storage.monitoring.watches import LiveLabels, WatchedWeeks, Watches
from storage.promotions import Fallbacks, PromotionRequests, Promotions
from storage.questions import PlainQuestions, Questions, TriedAnswers
from storage.records import Model, RunState
from storage.row_labels import Labellings
from storage.runs import Replacements, Runs
from storage.shown_rows import AllShownRows, RowRequests

# A curve's sizes with `from_before` were looked at by an earlier curve or a run.
LOOKS_SQL = """
SELECT holdout, count(*) AS looks FROM (
    SELECT json_extract(plan, '$.holdout_sha256') AS holdout FROM measurements
        WHERE +state = 'done' AND kind = 'ladder' AND dataset_id IN (SELECT value FROM json_each(:dataset_ids))
    UNION ALL SELECT json_extract(plan, '$.holdout_sha256') FROM runs
        WHERE +state = 'done' AND dataset_id IN (SELECT value FROM json_each(:dataset_ids))
    UNION ALL SELECT json_extract(plan, '$.holdout_sha256') FROM measurements, json_each(progress, '$.sizes') AS size
        WHERE state = 'done' AND kind = 'curve' AND json_extract(plan, '$.provider') IS NOT NULL
        AND json_extract(size.value, '$.from_before') IS NULL
        AND dataset_id IN (SELECT value FROM json_each(:dataset_ids))
) GROUP BY holdout
"""


class Store:
    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        self.inbox = Inbox(self.database)
        self.datasets = Datasets(self.database)
        self.dataset_settings = AllDatasetSettings(self.database)
        self.documents = Documents(self.database)
        self.measurements = Measurements(self.database)
        self.answers = AnswerCache(self.database)
        self.sent_questions = SentQuestions(self.database)
        self.preferences = Preferences(self.database)
        self.human_verdicts = HumanVerdicts(self.database)
        self.shown_rows = AllShownRows(self.database)
        self.row_requests = RowRequests(self.database)
        self.runs = Runs(self.database)
        self.message_settings = MessageSettings(self.database)
        self.outbox = Outbox(self.database, self.message_settings)
        self.audit = Audit(self.database)
        self.waivers = Waivers(self.database)
        self.cleanings = Cleanings(self.database)
        self.estimates = Estimates(self.database)
        self.freezes = Freezes(self.database)
        self.questions = Questions(self.database)
        self.tried_answers = TriedAnswers(self.database)
        self.plain_questions = PlainQuestions(self.database)
        self.ledger = Ledger(self.database)
        self.vendor_bills = VendorBills(self.database)
        self.interventions = Interventions(self.database)
        self.replacements = Replacements(self.database)
        self.promotions = Promotions(self.database)
        self.fallbacks = Fallbacks(self.database)
        self.promotion_requests = PromotionRequests(self.database)
        self.actuals = Actuals(self.database)
        self.uploads = Uploads(self.database)
        self.deployments = Deployments(self.database)
        self.scans = Scans(self.database)
        self.deletions = DatasetDeletions(self.database)
        self.labellings = Labellings(self.database)
        self.watches = Watches(self.database)
        self.watched_weeks = WatchedWeeks(self.database)
        self.live_labels = LiveLabels(self.database)
        self.live_tests = LiveTests(self.database)
        self.compared_calls = ComparedCalls(self.database)
        self.proposals = Proposals(self.database)
        self.watch_measurements = WatchMeasurements(self.database)
        self.monthly_measurements = MonthlyMeasurements(self.database)
        self.wipes = Wipes(self.database)
        self.expiries = Expiries(self.database)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Runs the block in a write transaction, and closes the delivery that this thread handles.

        If the block changed nothing, the request was refused: its delivery stays open until the person is told so.
        """
        with self.database.immediate():
            before = self.database.changes
            yield
            if self.database.changes > before:
                self.inbox.close_current()

    def committed(self, month: str) -> int:
        """Returns the micro-dollars that the ledger's commitments reserve or have spent in a month ('YYYY-MM')."""
        return sum(
            (
                self.runs.committed(month),
                self.measurements.committed(month),
                self.questions.committed(month),
                self.plain_questions.committed(month),
                self.deployments.committed(month),
                self.compared_calls.committed(month),
            )
        )

    def add_model(self, model: Model) -> None:
        # A step that is repeated after a kill adds the same model again.
        self.database.insert_once("models", vars(model))

    def models(self) -> list[Model]:
        """Returns every tuned model, newest first."""
        return self.database.all(Model, "SELECT * FROM models ORDER BY created_at DESC, name")

    def model_names(self, datasets: Collection[str]) -> list[str]:
        """Returns the names of the models that were trained on these datasets, newest first. It reads no plans, as
        there may be thousands of models."""
        # CROSS JOIN keeps SQLite to this order: from few datasets on, not through all models.
        rows = self.database.rows(
            "SELECT models.name FROM datasets CROSS JOIN runs ON runs.dataset_id = datasets.id"
            " CROSS JOIN models ON models.run_id = runs.id"
            " WHERE datasets.name IN (SELECT value FROM json_each(?)) ORDER BY models.created_at DESC, models.name",
            (json.dumps(list(datasets)),),
        )
        return [row["name"] for row in rows]

    def model(self, name: str) -> Model | None:
        return self.database.first(Model, "SELECT * FROM models WHERE name = ?", (name,))

    def models_at_provider(self, provider_model: str) -> list[Model]:
        """Returns the models that their providers call by this name, newest first."""
        sql = "SELECT * FROM models WHERE provider_model = ? ORDER BY created_at DESC, name"
        return self.database.all(Model, sql, (provider_model,))

    def best_models(self, holdout_sha256: str, limit: int, *, but: str) -> list[Model]:
        """Returns the models except `but` that still exist and were measured on this holdout, best first."""
        return self.database.all(
            Model,
            "SELECT models.* FROM models JOIN runs ON runs.id = models.run_id"
            " WHERE models.gone_at IS NULL AND models.name <> ? AND runs.result IS NOT NULL"
            " AND json_extract(runs.plan, '$.holdout_sha256') = ?"
            " ORDER BY json_extract(runs.result, '$.tuned.correct') DESC, models.created_at DESC LIMIT ?",
            (but, holdout_sha256, limit),
        )

    def looks(self, datasets: Collection[int]) -> dict[str, int]:
        """Returns the number of looks at each holdout of these versions, by the holdout's sha256: finished comparisons,
        runs, and sizes of tuned models' curves."""
        rows = self.database.rows(LOOKS_SQL, {"dataset_ids": json.dumps(list(datasets))})
        return {str(row["holdout"]): int(row["looks"]) for row in rows}

    def mark_model_gone(self, model: Model, at: float | None) -> bool:
        """Records when the provider was found to have lost the model, or with None that it has it again. Returns False
        if that was recorded already."""
        sql = "UPDATE models SET gone_at = ? WHERE name = ? AND (gone_at IS NULL) = ?"
        return self.database.change(sql, (at, model.name, at is not None)) == 1

    def close(self) -> None:
        self.database.close()


STUCK_S = 600.0


@dataclass(frozen=True)
class Metrics:
    """Counts for monitoring.

    `runs` are counts by state, every state included. `measurements` and `deployments` (models hosted by the hour) are
    the open ones. `waiting` messages are in the outbox, the oldest for `oldest_s` seconds (0 if there is none).
    `given_up` messages were never delivered. `stuck` ones have failed repeatedly and waited longer than STUCK_S.
    """

    runs: dict[str, int]
    measurements: int
    deployments: int
    waiting: int
    oldest_s: float
    given_up: int
    stuck: int


def read_metrics(database: Database, now: float) -> Metrics:
    rows = database.rows("SELECT state, count(*) AS count FROM runs GROUP BY state")
    counts = {row["state"]: row["count"] for row in rows}
    oldest = database.value("SELECT min(created_at) FROM outbox WHERE state = 'due'")
    return Metrics(
        runs={state: counts.get(state, 0) for state in get_args(RunState)},
        measurements=database.value("SELECT count(*) FROM measurements WHERE state IN ('asked', 'running')"),
        deployments=database.value("SELECT count(*) FROM deployments WHERE state <> 'stopped'"),
        waiting=database.value("SELECT count(*) FROM outbox WHERE state = 'due'"),
        oldest_s=max(now - oldest, 0.0) if oldest is not None else 0.0,
        given_up=database.value("SELECT count(*) FROM outbox WHERE state = 'dead'"),
        stuck=database.value(
            "SELECT count(*) FROM outbox WHERE state = 'due' AND tries >= ? AND created_at < ?",
            (PATIENT_TRIES, now - STUCK_S),
        ),
    )
