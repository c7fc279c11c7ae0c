"""What a team wants of a dataset, whatever its version: the quality bar, the kind of task, the instructions."""

from __future__ import annotations

from storage.database import Database
from storage.records import DatasetSettings


class AllDatasetSettings:
    def __init__(self, database: Database) -> None:
        self._db = database

    def get(self, name: str) -> DatasetSettings | None:
        row = self._db.row("SELECT * FROM dataset_settings WHERE name = ?", (name,))
        return DatasetSettings(**row) if row else None

    def set(
        self,
        name: str,
        *,
        by: str,
        now: float,
        bar: float | None = None,
        task_kind: str | None = None,
        prompt: str | None = None,
    ) -> DatasetSettings:
        """What is None stays as it was."""
        (row,) = self._db.rows(
            "INSERT INTO dataset_settings (name, bar, task_kind, prompt, updated_by, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET bar = coalesce(excluded.bar, bar),"
            " task_kind = coalesce(excluded.task_kind, task_kind), prompt = coalesce(excluded.prompt, prompt),"
            " updated_by = excluded.updated_by, updated_at = excluded.updated_at RETURNING *",
            (name, bar, task_kind, prompt, by, now),
        )
        return DatasetSettings(**row)
