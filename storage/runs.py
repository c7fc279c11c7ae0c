"""Runs with their approvals, their money and their answers, and which plan superseded which."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from storage.database import Database
from storage.records import (
    OPEN_RUN_STATES,
    AnswerRow,
    Approval,
    Arm,
    Decision,
    LedgerKind,
    Run,
    RunState,
    due_sql,
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


class Runs:
    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, new: NewRun, *, now: float) -> Run | None:
        """A run that waits for approval; None where this very plan has its run already."""
        row = self._db.row(
            "INSERT INTO runs (plan_hash, plan, key, state, dataset_id, requester, channel, provider,"
            " state_since, created_at, updated_at)"
            " VALUES (?, ?, ?, 'awaiting_approval', ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (plan_hash) DO NOTHING RETURNING *",
            (
                new.plan_hash,
                new.plan,
                new.key,
                new.dataset_id,
                new.requester,
                new.channel,
                new.provider,
                now,
                now,
                now,
            ),
        )
        return Run(**row) if row else None

    def get(self, run_id: int) -> Run | None:
        row = self._db.row("SELECT * FROM runs WHERE id = ?", (run_id,))
        return Run(**row) if row else None

    def by_plan(self, plan_hash: str) -> Run | None:
        row = self._db.row("SELECT * FROM runs WHERE plan_hash = ?", (plan_hash,))
        return Run(**row) if row else None

    def at(self, provider: str) -> list[Run]:
        """All that are for this provider."""
        return [Run(**row) for row in self._db.rows("SELECT * FROM runs WHERE provider = ?", (provider,))]

    def with_job(self, job_id: str) -> Run | None:
        row = self._db.row("SELECT * FROM runs WHERE job_id = ? ORDER BY id LIMIT 1", (job_id,))
        return Run(**row) if row else None

    def newest(self, limit: int = 20) -> list[Run]:
        return [Run(**row) for row in self._db.rows("SELECT * FROM runs ORDER BY id DESC LIMIT ?", (limit,))]

    def on(self, datasets: Collection[int]) -> list[Run]:
        """Every run on one of these versions, newest first."""
        marks = ", ".join("?" * len(datasets))
        sql = f"SELECT * FROM runs WHERE dataset_id IN ({marks}) ORDER BY id DESC"  # noqa: S608
        return [Run(**row) for row in self._db.rows(sql, tuple(datasets))]

    def done(self, dataset_ids: tuple[int, ...] | None = None, *, limit: int = -1) -> list[Run]:
        """Those with a result, newest first; on one of these datasets, where they are named. At most `limit`."""
        marks = "?" if dataset_ids is None else ", ".join("?" * len(dataset_ids))
        rows = self._db.rows(
            f"SELECT * FROM runs WHERE state = 'done' AND (? OR dataset_id IN ({marks}))"  # noqa: S608
            " ORDER BY id DESC LIMIT ?",
            (dataset_ids is None, *(dataset_ids if dataset_ids is not None else (0,)), limit),
        )
        return [Run(**row) for row in rows]

    def open(self) -> list[Run]:
        """Every run whose state is not final, oldest first."""
        return self._in_states(OPEN_RUN_STATES, float("inf"))

    def due(self, now: float, states: tuple[RunState, ...] = OPEN_RUN_STATES) -> list[Run]:
        """Runs in one of these states whose next step's time has come."""
        return self._in_states(states, now)

    def providers_due(self, now: float, states: tuple[RunState, ...]) -> set[str]:
        """Of the runs that are `due`."""
        sql = f"SELECT DISTINCT provider FROM runs WHERE state IN ({_marks(states)}) AND {due_sql('next_at')}"  # noqa: S608
        return {str(row["provider"]) for row in self._db.rows(sql, (*states, now, now))}

    def put_off(self, run_ids: Sequence[int], next_at: float) -> None:
        """Those of these runs that still train, and of which nobody has wished anything meanwhile."""
        self._db.change(
            "UPDATE runs SET next_at = ? WHERE state = 'training' AND cancel_asked_by IS NULL AND wish IS NULL"
            " AND id IN (SELECT value FROM json_each(?))",
            (next_at, json.dumps(run_ids)),
        )

    def training(self) -> int:
        """How many train now."""
        return int(self._db.value("SELECT count(*) FROM runs WHERE state = 'training'"))

    def move(self, run: Run, to: RunState, *, now: float, **changes: Any) -> Run | None:
        """One guarded UPDATE on (id, state); None where another hand moved the run meanwhile."""
        changes = {**changes, "state": to, "updated_at": now}
        if to != run.state:
            changes = {"tries": 0, "next_at": now, "state_since": now, **changes}
        names = ", ".join(f"{name} = ?" for name in changes)
        row = self._db.row(
            f"UPDATE runs SET {names} WHERE id = ? AND state = ? RETURNING *",  # noqa: S608 - our names
            (*changes.values(), run.id, run.state),
        )
        return Run(**row) if row else None

    def grant(self, run: Run, *, now: float) -> None:
        """Its wish came true. A newer one stays."""
        self._db.change(
            "UPDATE runs SET wish = NULL, wished_by = CASE wish WHEN 'pause' THEN wished_by END, updated_at = ?"
            " WHERE id = ? AND wish = ?",
            (now, run.id, run.wish),
        )

    def decide(
        self, run: Run, person: str, decision: Decision, *, reason: str | None = None, now: float
    ) -> bool:
        """Record a person's word on a plan, once; False where they have spoken already."""
        changed = self._db.change(
            "INSERT INTO approvals (run_id, plan_hash, person, decision, reason, at)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (run_id, person) DO NOTHING",
            (run.id, run.plan_hash, person, decision, reason, now),
        )
        return changed == 1

    def decisions(self, run_id: int) -> list[Approval]:
        rows = self._db.rows(
            "SELECT run_id, plan_hash, person, decision, reason, at"
            " FROM approvals WHERE run_id = ? ORDER BY id",
            (run_id,),
        )
        return [Approval(**row) for row in rows]

    def standing(self, run_id: int) -> list[Approval]:
        """The approvals that count: those that were not voided."""
        rows = self._db.rows(
            "SELECT run_id, plan_hash, person, decision, reason, at FROM approvals a"
            " WHERE run_id = ? AND decision = 'approve' AND NOT EXISTS"
            " (SELECT 1 FROM voids WHERE voids.run_id = a.run_id AND voids.person = a.person) ORDER BY id",
            (run_id,),
        )
        return [Approval(**row) for row in rows]

    def void(self, run: Run, person: str, why: str, *, now: float) -> None:
        """A person's approval of this run counts no longer, for good."""
        self._db.change(
            "INSERT INTO voids (run_id, person, why, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (run.id, person, why, now),
        )

    def unreserve(self, run: Run) -> None:
        """As if it had not been approved yet: for a run whose job was never created, and which waits again."""
        self._db.change(
            "DELETE FROM ledger WHERE run_id = ? AND kind = 'reserve' AND NOT EXISTS"
            " (SELECT 1 FROM ledger e WHERE e.run_id = ledger.run_id AND e.kind <> 'reserve')",
            (run.id,),
        )

    def reserved_in(self, run: Run) -> str | None:
        """The month ('YYYY-MM') in which its reservation counts; None where nothing is reserved."""
        row = self._db.row("SELECT month FROM ledger WHERE run_id = ? AND kind = 'reserve'", (run.id,))
        return str(row["month"]) if row else None

    def reserve_in(self, run: Run, month: str) -> None:
        """Its reservation counts in this month from now on."""
        self._db.change("UPDATE ledger SET month = ? WHERE run_id = ? AND kind = 'reserve'", (month, run.id))

    def book(self, run: Run, kind: LedgerKind, micros: int, *, month: str, now: float) -> bool:
        """Enter money once per run and kind; `month` is 'YYYY-MM'. False where it was booked before."""
        changed = self._db.change(
            "INSERT INTO ledger (run_id, month, kind, micros, at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (run_id, kind) DO NOTHING",
            (run.id, month, kind, micros, now),
        )
        return changed == 1

    def committed(self, month: str) -> int:
        """Micro-dollars reserved and spent in a month: a reservation counts until settled or released."""
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
                self._db.change(
                    "INSERT INTO answers (run_id, arm, row, text, correct, prompt_tokens, completion_tokens, seconds,"
                    " came_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    astuple(answer),
                )

    def answers(self, run_id: int, arm: Arm) -> list[AnswerRow]:
        """In the holdout's order."""
        rows = self._db.rows("SELECT * FROM answers WHERE run_id = ? AND arm = ? ORDER BY row", (run_id, arm))
        return [AnswerRow(**{**row, "correct": bool(row["correct"])}) for row in rows]

    def _in_states(self, states: tuple[RunState, ...], until: float) -> list[Run]:
        rows = self._db.rows(
            f"SELECT * FROM runs WHERE state IN ({_marks(states)}) AND {due_sql('next_at')} ORDER BY id",  # noqa: S608
            (*states, until, until),
        )
        return [Run(**row) for row in rows]


def _marks(values: tuple[object, ...]) -> str:
    return ", ".join("?" * len(values))


@dataclass(frozen=True)
class Replacement:
    """`channel` and `ts` are those of the new plan's card."""

    run_id: int
    by_run_id: int
    channel: str
    ts: str


class Replacements:
    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, run_id: int, by_run_id: int) -> None:
        self._db.change("INSERT INTO replacements (run_id, by_run_id) VALUES (?, ?)", (run_id, by_run_id))

    def by(self, run_id: int) -> int | None:
        """The run whose plan took this one's place."""
        number: int | None = self._db.value("SELECT by_run_id FROM replacements WHERE run_id = ?", (run_id,))
        return number

    def of(self, run_id: int) -> list[int]:
        """The runs whose plans this one's took the place of."""
        rows = self._db.rows("SELECT run_id FROM replacements WHERE by_run_id = ? ORDER BY run_id", (run_id,))
        return [int(row["run_id"]) for row in rows]

    def unlinked(self, since: float) -> list[Replacement]:
        """Those of plans made `since` then (unix seconds) whose cards both stand, and the former without a link."""
        rows = self._db.rows(
            "SELECT r.run_id, r.by_run_id, newer.channel, newer.ts FROM replacements r"
            " JOIN runs ON runs.id = r.by_run_id AND runs.created_at >= ?"
            " JOIN cards newer ON newer.name = 'plan ' || r.by_run_id"
            " JOIN cards former ON former.name = 'plan ' || r.run_id WHERE r.linked_at IS NULL",
            (since,),
        )
        return [Replacement(**row) for row in rows]

    def linked(self, run_id: int, *, now: float) -> bool:
        sql = "UPDATE replacements SET linked_at = ? WHERE run_id = ? AND linked_at IS NULL"
        return self._db.change(sql, (now, run_id)) == 1
