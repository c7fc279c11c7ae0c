"""Runs with their approvals, money and answers, and which plan replaced which."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from storage.database import Table
from storage.records import (
    OPEN_RUN_SQL,
    OPEN_RUN_STATES,
    AnswerRow,
    Approval,
    ComparedModel,
    Decision,
    LedgerKind,
    Model,
    Run,
    RunState,
    due_sql,
    unreported_sql,
)


@dataclass(frozen=True)
class NewRun:
    plan_hash: str
    plan: str
    key: str
    dataset_id: int
    requester: str
    channel: str
    provider: str


@dataclass(frozen=True)
class RunLook:
    """A run with a result, which showed people its model's score on the holdout with this sha256. With `shows_rows` it
    also showed them held-out rows."""

    id: int
    state_since: float
    provider: str
    model: str | None
    holdout: str
    shows_rows: bool


class Runs(Table):
    def add(self, new: NewRun, *, now: float) -> Run | None:
        """Adds a run that waits for approval. Returns None if a run with the same plan exists."""
        times = {"state_since": now, "created_at": now, "updated_at": now}
        values = {**vars(new), "state": "awaiting_approval", **times}
        # A repeated click makes the same plan, which must not become a second run.
        row = self._db.insert_once("runs", values, unique="plan_hash")
        return Run(**row) if row else None

    def get(self, run_id: int) -> Run | None:
        return self._db.first(Run, "SELECT * FROM runs WHERE id = ?", (run_id,))

    def of_model(self, model: Model) -> Run:
        """Returns the run that trained a model. A model's row refers to it, so there always is one."""
        run = self.get(model.run_id)
        if run is None:
            raise KeyError(model.run_id)
        return run

    def by_plan(self, plan_hash: str) -> Run | None:
        return self._db.first(Run, "SELECT * FROM runs WHERE plan_hash = ?", (plan_hash,))

    def by_key(self, key: str) -> Run | None:
        return self._db.first(Run, "SELECT * FROM runs WHERE key = ?", (key,))

    def keys_at(self, provider: str) -> list[str]:
        """Returns the keys of all runs at this provider. It reads no plans, as there may be thousands of runs."""
        rows = self._db.rows("SELECT key FROM runs WHERE provider = ?", (provider,))
        return [row["key"] for row in rows]

    def in_states(self, states: Collection[RunState]) -> list[Run]:
        """Returns the runs in these states, oldest first."""
        sql = f"SELECT * FROM runs WHERE state IN ({_marks(states)}) ORDER BY id"  # noqa: S608
        return self._db.all(Run, sql, tuple(states))

    def with_job(self, job_id: str) -> Run | None:
        return self._db.first(Run, "SELECT * FROM runs WHERE job_id = ? ORDER BY id LIMIT 1", (job_id,))

    def newest(self, limit: int = 20) -> list[Run]:
        return self._db.all(Run, "SELECT * FROM runs ORDER BY id DESC LIMIT ?", (limit,))

    def on(self, datasets: Collection[int]) -> list[Run]:
        """Returns every run on one of these versions, newest first."""
        sql = f"SELECT * FROM runs WHERE dataset_id IN ({_marks(datasets)}) ORDER BY id DESC"  # noqa: S608
        return self._db.all(Run, sql, tuple(datasets))

    def going_on(self) -> list[Run]:
        """Returns every run whose training goes on from a tuned model, oldest first."""
        sql = "SELECT * FROM runs WHERE json_extract(plan, '$.starts_from.run') IS NOT NULL ORDER BY id"
        return self._db.all(Run, sql)

    def done(self, dataset_ids: tuple[int, ...] | None = None, *, limit: int = -1) -> list[Run]:
        """Returns at most `limit` runs with a result (default: all), newest first; None means on any dataset."""
        condition = "" if dataset_ids is None else f"AND dataset_id IN ({_marks(dataset_ids)})"
        # `+` keeps SQLite from the index of states: nearly all runs are done, and few are on these datasets.
        return self._db.all(
            Run,
            f"SELECT * FROM runs WHERE +state = 'done' {condition} ORDER BY id DESC LIMIT ?",  # noqa: S608
            (*(dataset_ids or ()), limit),
        )

    def looks_on(self, dataset_ids: Collection[int]) -> list[RunLook]:
        """Returns what the results on these versions have shown people. It parses no plan and no result: an overview
        reads the looks of dozens of datasets, each with dozens of runs."""
        rows = self._db.rows(
            "SELECT id, state_since, provider, model, json_extract(plan, '$.holdout_sha256') AS holdout,"
            " coalesce(json_extract(result, '$.shown_rows'), 0) > 0 AS shows_rows"
            " FROM runs WHERE +state = 'done' AND dataset_id IN (SELECT value FROM json_each(?)) ORDER BY id DESC",
            (json.dumps(list(dataset_ids)),),
        )
        return [RunLook(**{**row, "shows_rows": bool(row["shows_rows"])}) for row in rows]

    def trained_on(self, train_sha256: str) -> list[Run]:
        """Returns the runs with a result that were trained on this file, newest first."""
        sql = "SELECT * FROM runs WHERE +state = 'done' AND json_extract(plan, '$.train_sha256') = ? ORDER BY id DESC"
        return self._db.all(Run, sql, (train_sha256,))

    def newest_on(self, datasets: Collection[str], limit: int) -> list[Run]:
        """Returns the newest runs on datasets of these names, newest first."""
        # CROSS JOIN keeps SQLite to this order: from the newest run back, until there are enough.
        return self._db.all(
            Run,
            "SELECT runs.* FROM runs CROSS JOIN datasets ON datasets.id = runs.dataset_id"
            " WHERE datasets.name IN (SELECT value FROM json_each(?)) ORDER BY runs.id DESC LIMIT ?",
            (json.dumps(list(datasets)), limit),
        )

    def newest_results_on(self, datasets: Collection[str], limit: int) -> list[Run]:
        """Like `newest_on`, but only runs that have a result."""
        return self._db.all(
            Run,
            "SELECT runs.* FROM runs CROSS JOIN datasets ON datasets.id = runs.dataset_id"
            " WHERE runs.result IS NOT NULL AND datasets.name IN (SELECT value FROM json_each(?))"
            " ORDER BY runs.id DESC LIMIT ?",
            (json.dumps(list(datasets)), limit),
        )

    def open(self) -> list[Run]:
        """Returns every run whose state is not final, oldest first."""
        return self.due(float("inf"))

    def due(self, now: float, states: tuple[RunState, ...] = OPEN_RUN_STATES) -> list[Run]:
        """Returns the runs in one of these open states whose next step is due, oldest first."""
        return self._db.all(
            Run,
            f"SELECT * FROM runs WHERE {OPEN_RUN_SQL} AND +state IN ({_marks(states)})"  # noqa: S608
            f" AND {due_sql('next_at')} ORDER BY id",
            (*states, now, now),
        )

    def providers_due(self, now: float, states: tuple[RunState, ...]) -> set[str]:
        """Returns the providers of the runs that `due` returns."""
        sql = (
            f"SELECT DISTINCT provider FROM runs WHERE {OPEN_RUN_SQL} AND +state IN ({_marks(states)})"  # noqa: S608
            f" AND {due_sql('next_at')}"
        )
        return {str(row["provider"]) for row in self._db.rows(sql, (*states, now, now))}

    def postpone(self, run_ids: Sequence[int], next_at: float) -> None:
        """Postpones the next step of these runs, except those that no longer train or that a person wants to cancel,
        pause or resume."""
        self._db.change(
            "UPDATE runs SET next_at = ? WHERE state = 'training' AND cancel_asked_by IS NULL AND wish IS NULL"
            " AND id IN (SELECT value FROM json_each(?))",
            (next_at, json.dumps(run_ids)),
        )

    def count_training(self) -> int:
        """Returns the number of runs that are training."""
        return int(self._db.value("SELECT count(*) FROM runs WHERE state = 'training'"))

    def move(self, run: Run, to: RunState, *, now: float, **changes: Any) -> Run | None:
        """Returns the moved run, or None if it is no longer in its state."""
        changes = {**changes, "state": to, "updated_at": now}
        if to != run.state:
            changes = {"tries": 0, "next_at": now, "state_since": now, **changes}
        row = self._db.move("runs", run.id, run.state, changes)
        return Run(**row) if row else None

    def complete_wish(self, run: Run, *, now: float) -> None:
        """Records that the trainer has carried out the run's wish. A newer wish stays."""
        self._db.change(
            "UPDATE runs SET wish = NULL, wished_by = CASE wish WHEN 'pause' THEN wished_by END, updated_at = ?"
            " WHERE id = ? AND wish = ?",
            (now, run.id, run.wish),
        )

    def decide(
        self, run: Run, person: str, decision: Decision, *, reason: str | None = None, now: float
    ) -> bool:
        """Records a person's decision on a plan. Returns False if they have decided already."""
        approval = Approval(run.id, run.plan_hash, person, decision, reason, now)
        return self._db.insert_once("approvals", vars(approval)) is not None

    def decisions(self, run_id: int) -> list[Approval]:
        return self._db.all(
            Approval,
            "SELECT run_id, plan_hash, person, decision, reason, at"
            " FROM approvals WHERE run_id = ? ORDER BY id",
            (run_id,),
        )

    def valid_approvals(self, run_id: int) -> list[Approval]:
        """Returns the approvals that were not voided."""
        return self._db.all(
            Approval,
            "SELECT run_id, plan_hash, person, decision, reason, at FROM approvals a"
            " WHERE run_id = ? AND decision = 'approve' AND NOT EXISTS"
            " (SELECT 1 FROM voids WHERE voids.run_id = a.run_id AND voids.person = a.person) ORDER BY id",
            (run_id,),
        )

    def void_approval(self, run: Run, person: str, why: str, *, now: float) -> None:
        """Voids a person's approval of this run permanently."""
        self._db.insert_once("voids", {"run_id": run.id, "person": person, "why": why, "at": now})

    def delete_reservation(self, run: Run) -> None:
        """Deletes the reservation of a run whose job was never created and which waits for approval again."""
        # One that was settled or released stays, since it says what was spent.
        self._db.change(
            "DELETE FROM ledger WHERE run_id = ? AND kind = 'reserve' AND NOT EXISTS"
            " (SELECT 1 FROM ledger e WHERE e.run_id = ledger.run_id AND e.kind <> 'reserve')",
            (run.id,),
        )

    def reservation_month(self, run: Run) -> str | None:
        """Returns the month ('YYYY-MM') of the run's reservation, None if it has none."""
        sql = "SELECT month FROM ledger WHERE run_id = ? AND kind = 'reserve'"
        month: str | None = self._db.value(sql, (run.id,))
        return month

    def raise_reservation(self, run: Run, micros: int) -> None:
        """Raises the run's reservation to at least this much."""
        sql = "UPDATE ledger SET micros = max(micros, ?) WHERE run_id = ? AND kind = 'reserve'"
        self._db.change(sql, (micros, run.id))

    def move_reservation(self, run: Run, month: str) -> None:
        """Moves the run's reservation to this month."""
        self._db.change("UPDATE ledger SET month = ? WHERE run_id = ? AND kind = 'reserve'", (month, run.id))

    def book(self, run: Run, kind: LedgerKind, micros: int, *, month: str, now: float) -> bool:
        """Books micro-dollars, once per run and kind; `month` is 'YYYY-MM'. Returns False if they were booked
        before."""
        values = {"run_id": run.id, "month": month, "kind": kind, "micros": micros, "at": now}
        return self._db.insert_once("ledger", values) is not None

    def settled(self, run: Run) -> int:
        """Returns the micro-dollars that the run was settled with, 0 if it was not."""
        sql = "SELECT coalesce(sum(micros), 0) FROM ledger WHERE run_id = ? AND kind = 'settle'"
        return int(self._db.value(sql, (run.id,)))

    def correct_settlement(self, run: Run, micros: int) -> None:
        """Replaces what the run was settled with, once its vendor's bill is known. It counts in the month in which it
        was reserved, as before."""
        self._db.change("UPDATE ledger SET micros = ? WHERE run_id = ? AND kind = 'settle'", (micros, run.id))

    def committed(self, month: str) -> int:
        """Returns the micro-dollars reserved or spent in a month. A reservation counts until it is settled or
        released."""
        return int(
            self._db.value(
                """
                SELECT coalesce(sum(coalesce(
                    (SELECT micros FROM ledger end_of
                     WHERE end_of.run_id = r.run_id AND end_of.kind IN ('settle', 'release')),
                    r.micros)), 0)
                FROM ledger r WHERE r.kind = 'reserve' AND r.month = ?
                """,
                (month,),
            )
        )

    def keep_answers(self, answers: Iterable[AnswerRow]) -> None:
        with self._db.immediate():
            for answer in answers:
                self._db.insert_once("answers", vars(answer))

    def answers(self, run_id: int, compared: ComparedModel) -> list[AnswerRow]:
        """Returns one model's answers in the order of the holdout."""
        rows = self._db.rows(
            "SELECT * FROM answers WHERE run_id = ? AND arm = ? ORDER BY row", (run_id, compared)
        )
        return [AnswerRow(**{**row, "correct": bool(row["correct"])}) for row in rows]

    def unreported(self, since: float) -> Run | None:
        """Returns the oldest run with a result since `since` (unix seconds) that has no report yet."""
        sql = f"{unreported_sql('runs', 'run')} ORDER BY runs.id LIMIT 1"
        return self._db.first(Run, sql, (since,))


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))


@dataclass(frozen=True)
class Replacement:
    """The run `run_id` was replaced by `by_run_id`, whose card is at `channel` and `ts`."""

    run_id: int
    by_run_id: int
    channel: str
    ts: str


class Replacements(Table):
    def add(self, run_id: int, by_run_id: int) -> None:
        self._db.change("INSERT INTO replacements (run_id, by_run_id) VALUES (?, ?)", (run_id, by_run_id))

    def by(self, run_id: int) -> int | None:
        """Returns the run whose plan replaced this one's, None if there is none."""
        number: int | None = self._db.value("SELECT by_run_id FROM replacements WHERE run_id = ?", (run_id,))
        return number

    def of(self, run_id: int) -> list[int]:
        """Returns the runs whose plans this one's replaced."""
        rows = self._db.rows("SELECT run_id FROM replacements WHERE by_run_id = ? ORDER BY run_id", (run_id,))
        return [int(row["run_id"]) for row in rows]

    def unlinked(self, since: float) -> list[Replacement]:
        """Returns the replacements by runs created since `since` (unix seconds) whose cards are both posted, but whose
        old card has no link to the new one yet."""
        return self._db.all(
            Replacement,
            "SELECT r.run_id, r.by_run_id, newer.channel, newer.ts FROM replacements r"
            " JOIN runs ON runs.id = r.by_run_id AND runs.created_at >= ?"
            " JOIN cards newer ON newer.name = 'plan ' || r.by_run_id"
            " JOIN cards former ON former.name = 'plan ' || r.run_id WHERE r.linked_at IS NULL",
            (since,),
        )

    def mark_linked(self, run_id: int, *, now: float) -> bool:
        """Records that the old card links to the new one. Returns False if that was recorded before."""
        sql = "UPDATE replacements SET linked_at = ? WHERE run_id = ? AND linked_at IS NULL"
        return self._db.change(sql, (now, run_id)) == 1
