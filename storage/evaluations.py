"""Evaluations and learning curves (asked → running → done | failed | cancelled), the cache of models'
answers, and people's preferences between two answers."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from storage.database import Database
from storage.records import CachedAnswer, Measurement, MeasurementKind, MeasurementState, Preference, due_sql


@dataclass(frozen=True)
class NewMeasurement:
    """`plan` is JSON. What it may cost is reserved later, by `move`, once it is known."""

    kind: MeasurementKind
    dataset_id: int
    channel: str
    requested_by: str
    plan: str
    state: MeasurementState = "asked"


class Measurements:
    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, new: NewMeasurement, *, now: float) -> Measurement:
        (row,) = self._db.rows(
            "INSERT INTO measurements (kind, state, dataset_id, channel, requested_by, plan, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
            (new.kind, new.state, new.dataset_id, new.channel, new.requested_by, new.plan, now, now),
        )
        return Measurement(**row)

    def get(self, measurement_id: int) -> Measurement | None:
        row = self._db.row("SELECT * FROM measurements WHERE id = ?", (measurement_id,))
        return Measurement(**row) if row else None

    def open(self) -> list[Measurement]:
        """Every one whose state is not final, oldest first."""
        return self.due(float("inf"))

    def due(self, now: float) -> list[Measurement]:
        """Open ones whose next step's time has come."""
        rows = self._db.rows(
            f"SELECT * FROM measurements WHERE state IN ('asked', 'running') AND {due_sql('next_at')} ORDER BY id",  # noqa: S608
            (now, now),
        )
        return [Measurement(**row) for row in rows]

    def newest(self, limit: int = 20) -> list[Measurement]:
        rows = self._db.rows("SELECT * FROM measurements ORDER BY id DESC LIMIT ?", (limit,))
        return [Measurement(**row) for row in rows]

    def on(self, datasets: Collection[int]) -> list[Measurement]:
        """Every one on one of these versions, newest first."""
        marks = ", ".join("?" * len(datasets))
        sql = f"SELECT * FROM measurements WHERE dataset_id IN ({marks}) ORDER BY id DESC"  # noqa: S608
        return [Measurement(**row) for row in self._db.rows(sql, tuple(datasets))]

    def done(self, dataset_ids: tuple[int, ...], kind: MeasurementKind) -> list[Measurement]:
        """Those of these datasets that have a result, newest first."""
        marks = ", ".join("?" * len(dataset_ids))
        rows = self._db.rows(
            f"SELECT * FROM measurements WHERE state = 'done' AND kind = ? AND dataset_id IN ({marks})"  # noqa: S608
            " ORDER BY id DESC",
            (kind, *dataset_ids),
        )
        return [Measurement(**row) for row in rows]

    def move(
        self, measurement: Measurement, to: MeasurementState, *, now: float, **changes: Any
    ) -> Measurement | None:
        """One guarded UPDATE on (id, state); None where another hand moved it meanwhile."""
        changes = {**changes, "state": to, "updated_at": now}
        if to != measurement.state:
            changes = {"tries": 0, "next_at": now, **changes}
        names = ", ".join(f"{name} = ?" for name in changes)
        row = self._db.row(
            f"UPDATE measurements SET {names} WHERE id = ? AND state = ? RETURNING *",  # noqa: S608 - our names
            (*changes.values(), measurement.id, measurement.state),
        )
        return Measurement(**row) if row else None

    def committed(self, month: str) -> int:
        """Micro-dollars of a month: what is reserved while a measurement is open, the actual once it is not."""
        return int(
            self._db.value(
                "SELECT coalesce(sum(CASE WHEN state IN ('asked', 'running') THEN reserved_micros"
                " ELSE coalesce(actual_micros, 0) END), 0) FROM measurements WHERE month = ?",
                (month,),
            )
        )


REPLY_COLUMNS = "key, model, text, prompt_tokens, completion_tokens, seconds, at"
KEYS_PER_QUERY = 500  # SQLite takes 999 parameters in its older builds


@dataclass(frozen=True)
class AnswerTotals:
    """How many of some questions have their answer, and the tokens of those that were paid."""

    answers: int
    prompt_tokens: int
    completion_tokens: int


class AnswerCache:
    """What models answered to which prompt, so that the same question is paid once."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def keep(self, replies: Iterable[CachedAnswer], owner: str | None = None) -> None:
        """The first answer to a question stays. `owner` is what asked, 'run 3' or 'm3': with its dataset they go."""
        with self._db.immediate():
            for reply in replies:
                self._db.change(
                    "INSERT INTO replies (key, model, text, prompt_tokens, completion_tokens, seconds, at, owner)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                    (*astuple(reply), owner),
                )

    def forget(self, key: str) -> None:
        self._db.change("DELETE FROM replies WHERE key = ?", (key,))

    def found(self, keys: Sequence[str]) -> Mapping[str, CachedAnswer]:
        """Those that are there, by key."""
        answers_by_name: dict[str, CachedAnswer] = {}
        for start in range(0, len(keys), KEYS_PER_QUERY):
            part = keys[start : start + KEYS_PER_QUERY]
            marks = ", ".join("?" * len(part))
            rows = self._db.rows(f"SELECT {REPLY_COLUMNS} FROM replies WHERE key IN ({marks})", part)  # noqa: S608
            answers_by_name.update((row["key"], CachedAnswer(**row)) for row in rows)
        return answers_by_name

    def answered(self, keys: Sequence[str]) -> frozenset[str]:
        """Those of these questions that have their answer."""
        return self.look(keys, since=0.0)[0]

    def heard(self, keys: Sequence[str], *, since: float) -> AnswerTotals:
        """Of these questions, each counted once; those answered `since` then were paid."""
        return self.look(keys, since=since)[1]

    def look(self, keys: Sequence[str], *, since: float) -> tuple[frozenset[str], AnswerTotals]:
        """Both, as `answered` and `heard`. The texts are not read, and the keys are one value, not a row each: the step
        of each open evaluation asks this."""
        (row,) = self._db.rows(
            "SELECT json_group_array(key) AS keys, count(*) AS answers,"
            " coalesce(sum(prompt_tokens) FILTER (WHERE at >= ?1), 0) AS prompt_tokens,"
            " coalesce(sum(completion_tokens) FILTER (WHERE at >= ?1), 0) AS completion_tokens"
            " FROM replies WHERE key IN (SELECT value FROM json_each(?2))",
            (since, json.dumps(keys)),
        )
        return frozenset(json.loads(row.pop("keys"))), AnswerTotals(**row)

    def heard_of(self, model: str, *, since: float) -> AnswerTotals:
        """All that a model answered `since` then."""
        (row,) = self._db.rows(
            "SELECT count(*) AS answers, coalesce(sum(prompt_tokens), 0) AS prompt_tokens,"
            " coalesce(sum(completion_tokens), 0) AS completion_tokens FROM replies WHERE model = ? AND at >= ?",
            (model, since),
        )
        return AnswerTotals(**row)


class Preferences:
    """Which of two answers people find better, one verdict a person and row. Added, never changed."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, preference: Preference) -> bool:
        """False where this person has a verdict on this row already: the first one stays."""
        changed = self._db.change(
            "INSERT INTO preferences (measurement_id, row, first_arm, second_arm, person, choice, at)"
            " SELECT ?, ?, ?, ?, ?, ?, ? WHERE NOT EXISTS"
            " (SELECT 1 FROM preferences WHERE measurement_id = ? AND row = ? AND person = ?)",
            (*astuple(preference), preference.measurement_id, preference.row, preference.person),
        )
        return changed == 1

    def of(self, measurement_id: int) -> list[Preference]:
        """In the order in which they were given."""
        rows = self._db.rows(
            "SELECT measurement_id, row, first_arm, second_arm, person, choice, at FROM preferences"
            " WHERE measurement_id = ? ORDER BY id",
            (measurement_id,),
        )
        return [Preference(**row) for row in rows]
