"""Tuned models that are hosted at vendors, by the hour or by the token: recorded before a machine is started, or an
adapter uploaded, until it is certain that it is gone, with the time that a machine ran on each day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from storage.audit import query_read_only
from storage.database import Table
from storage.records import due_sql

DeploymentState = Literal["starting", "ready", "stopping", "stopped"]

# Whole milliseconds times whole micro-dollars per hour, rounded per day, without floats.
SUM_SQL = "SELECT coalesce(sum((days.ms * deployments.micros_per_hour + 1800000) / 3600000), 0)"
TOTAL_SQL = f"{SUM_SQL} FROM deployment_days days JOIN deployments ON deployments.id = days.deployment_id"
OWN_SQL = f"{SUM_SQL} FROM deployment_days days WHERE days.deployment_id = deployments.id"
RECORDS_SQL = f"SELECT deployments.*, ({OWN_SQL}) AS micros FROM deployments"  # noqa: S608 - our names


@dataclass(frozen=True)
class DeploymentRecord:
    """A machine that hosts, or hosted, a run's tuned model. `name` is also its name at the vendor.

    `run_id` is None if it belongs to no known run. `sent_at` is when the start was last sent, None if it was not.
    `micros` is its cost until `billed_until`; with `is_billed` the time since then costs money too. `used_at` is its
    latest question. `kept_by` is the person who wants it to keep running without questions. `reason` is a code of
    rules/models/deployments.py for its stop; `detail` is a sentence about that, or about what prevents it.
    `missing_since` is when the vendor's list first lacked it, None while it is listed. With `by_token` it costs nothing
    while nobody asks, and has no price by the hour.
    """

    id: int
    run_id: int | None
    provider: str
    model: str
    name: str
    state: DeploymentState
    channel: str
    person: str
    micros_per_hour: int
    idle_stop_s: int
    day_micros: int
    chat_model: str | None
    sent_at: float | None
    ready_at: float | None
    used_at: float
    billed_until: float | None
    is_billed: bool
    ended_at: float | None
    kept_by: str | None
    reason: str | None
    detail: str | None
    tries: int
    next_at: float
    created_at: float
    updated_at: float
    missing_since: float | None = None
    by_token: bool = False
    micros: int = 0


@dataclass(frozen=True)
class NewDeployment:
    run_id: int | None
    provider: str
    model: str
    name: str
    channel: str
    person: str
    micros_per_hour: int
    idle_stop_s: int
    day_micros: int
    by_token: bool = False


@dataclass(frozen=True)
class DeployedModel:
    """Who answers for a deployed model, and the name by which it is called there."""

    provider: str
    chat_model: str


class Deployments(Table):
    def intend(self, new: NewDeployment, *, now: float) -> DeploymentRecord | None:
        """Records a start before it is sent. Returns None if the run has a deployment that is not stopped."""
        return self._add(new, "starting", now, {})

    def add_orphan(self, new: NewDeployment, *, reason: str, now: float) -> DeploymentRecord | None:
        """Adds a deployment that this bot did not start, so that it will be stopped. Returns None if it is known
        already."""
        return self._add(new, "stopping", now, {"sent_at": now, "reason": reason})

    def take_over(self, new: NewDeployment, *, now: float) -> DeploymentRecord | None:
        """Adds a run's own deployment that a restored backup doesn't know. Returns None if the run has another one that
        is not stopped."""
        return self._add(new, "starting", now, {"sent_at": now})

    def _add(
        self, new: NewDeployment, state: DeploymentState, now: float, more: dict[str, Any]
    ) -> DeploymentRecord | None:
        times = {"used_at": now, "created_at": now, "updated_at": now}
        # An orphan has no run, and a unique index takes any number of NULLs.
        row = self._db.insert_once("deployments", {**vars(new), "state": state, **times, **more})
        return DeploymentRecord(**row) if row else None

    def get(self, number: int) -> DeploymentRecord | None:
        return self._db.first(DeploymentRecord, f"{RECORDS_SQL} WHERE id = ?", (number,))

    def of_run(self, run_id: int) -> list[DeploymentRecord]:
        """Returns the deployments of a run, newest first."""
        return self._db.all(DeploymentRecord, f"{RECORDS_SQL} WHERE run_id = ? ORDER BY id DESC", (run_id,))

    def live(self) -> list[DeploymentRecord]:
        """Returns the deployments that may still exist, oldest first."""
        return self._db.all(DeploymentRecord, f"{RECORDS_SQL} WHERE state <> 'stopped' ORDER BY id")

    def due(self, now: float) -> list[DeploymentRecord]:
        sql = f"{RECORDS_SQL} WHERE state <> 'stopped' AND {due_sql('next_at')} ORDER BY id"
        return self._db.all(DeploymentRecord, sql, (now, now))

    def find_by_name(self, provider: str, name: str) -> DeploymentRecord | None:
        return self._db.first(
            DeploymentRecord, f"{RECORDS_SQL} WHERE provider = ? AND name = ?", (provider, name)
        )

    def move(
        self, record: DeploymentRecord, to: DeploymentState, *, now: float, **changes: Any
    ) -> DeploymentRecord | None:
        """Returns the moved deployment, or None if it is no longer in its state."""
        changes = {"next_at": now, **changes, "state": to, "updated_at": now}
        moved = self._db.move("deployments", record.id, record.state, changes)
        return self.get(record.id) if moved else None

    def record_use(self, full_name: str, *, now: float) -> DeployedModel | None:
        """Records a question to a model ('provider/model', by the provider's name). Returns its running deployment,
        None if it has none."""
        provider, _, model = full_name.partition("/")
        is_its = (
            "state = 'ready' AND model IN (SELECT name FROM models WHERE provider = ? AND provider_model = ?)"
        )
        # Most models of our own trainer have none, and reading waits for no other process.
        count = self._db.value(f"SELECT count(*) FROM deployments WHERE {is_its}", (provider, model))  # noqa: S608
        if not count:
            return None
        row = self._db.row(
            f"UPDATE deployments SET used_at = ? WHERE {is_its} RETURNING provider, chat_model",  # noqa: S608
            (now, provider, model),
        )
        if row is None or row["chat_model"] is None:
            return None
        return DeployedModel(row["provider"], row["chat_model"])

    def keep_running(self, record: DeploymentRecord, person: str, *, now: float) -> bool:
        """Keeps it running without questions. Returns False if somebody did so before, or it is being stopped."""
        # next_at = 0: its next step was planned before anybody wanted it to keep running.
        sql = (
            "UPDATE deployments SET kept_by = ?, used_at = ?, next_at = 0 WHERE id = ? AND kept_by IS NULL"
            " AND state IN ('starting', 'ready')"
        )
        return self._db.change(sql, (person, now, record.id)) == 1

    def micros_between(self, run_id: int, first: str, end: str) -> int:
        """Returns what the machines of a run's model cost from the day `first` ('2026-11-01') to before the day `end`,
        as far as it is booked."""
        sql = f"{TOTAL_SQL} WHERE deployments.run_id = ? AND days.day >= ? AND days.day < ?"
        return int(self._db.value(sql, (run_id, first, end)))

    def bill(self, record: DeploymentRecord, until: float) -> None:
        """Books the time since `billed_until`, per day in UTC. Call it in the transaction that moves the record."""
        # A clock that was set back must not book any time twice.
        if record.billed_until is None or until < record.billed_until:
            return
        if record.is_billed:
            self._add_time(record, record.billed_until, until)
        self._db.change("UPDATE deployments SET billed_until = ? WHERE id = ?", (until, record.id))
        # If the run was settled before, its actual cost has to include what the deployment has cost since.
        self._db.change(
            "UPDATE runs SET actual_micros = ? + (SELECT micros FROM ledger WHERE run_id = runs.id AND kind = 'settle')"
            " WHERE id = ? AND EXISTS (SELECT 1 FROM ledger WHERE run_id = runs.id AND kind = 'settle')",
            (self.cost_of_run(record.run_id), record.run_id),
        )

    def _add_time(self, record: DeploymentRecord, since: float, until: float) -> None:
        for day, ms in _days(since, until):
            self._db.change(
                "INSERT INTO deployment_days (deployment_id, day, ms) VALUES (?, ?, ?)"
                " ON CONFLICT (deployment_id, day) DO UPDATE SET ms = ms + excluded.ms",
                (record.id, day, ms),
            )

    def cost_of_day(self, day: str, number: int | None = None) -> int:
        """Returns the micro-dollars of a day ('YYYY-MM-DD') of the deployment with this number, None means of all."""
        sql = f"{TOTAL_SQL} WHERE days.day = ?"
        if number is None:
            return int(self._db.value(sql, (day,)))
        return int(self._db.value(f"{sql} AND deployments.id = ?", (day, number)))

    def cost_of_run(self, run_id: int | None) -> int:
        """Returns the micro-dollars of all of a run's deployments so far."""
        return int(self._db.value(f"{TOTAL_SQL} WHERE deployments.run_id = ?", (run_id,)))

    def committed(self, month: str) -> int:
        """Returns the micro-dollars of a month for runs that are over. An open run's reservation includes them."""
        is_over = "EXISTS (SELECT 1 FROM ledger WHERE ledger.run_id = deployments.run_id AND ledger.kind <> 'reserve')"
        sql = f"{TOTAL_SQL} WHERE substr(days.day, 1, 7) = ? AND {is_over}"
        return int(self._db.value(sql, (month,)))


def deployment_names(database: Path, provider: str) -> set[str]:
    """Returns the names of all deployments at a provider that this database knows. Raises StorageError."""
    sql = "SELECT name FROM deployments WHERE provider = ?"
    rows = query_read_only(database, sql, (provider,), what="the machines by the hour")
    return {str(row[0]) for row in rows}


def _days(start: float, end: float) -> Iterator[tuple[str, int]]:
    """Yields each UTC day between the two times with its milliseconds, whose sum is the rounded total."""
    while start < end:
        day = datetime.fromtimestamp(start, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        until = min(end, (day + timedelta(days=1)).timestamp())
        yield f"{day:%Y-%m-%d}", round(until * 1000) - round(start * 1000)
        start = until
