"""Evaluations and learning curves (asked → running → done, failed or cancelled), the cache of models' answers, the
questions whose answers were lost, people's preferences between two answers, and their verdicts on answers that a judge
has judged."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from storage.database import Table
from storage.records import (
    CachedAnswer,
    HumanVerdict,
    Measurement,
    MeasurementKind,
    MeasurementState,
    Preference,
    due_sql,
    unreported_sql,
)


@dataclass(frozen=True)
class NewMeasurement:
    """A measurement that a person requests. `plan` is JSON. `move` reserves its maximum cost once that is known."""

    kind: MeasurementKind
    dataset_id: int
    channel: str
    requested_by: str
    plan: str
    state: MeasurementState = "asked"


class Measurements(Table):
    def add(self, new: NewMeasurement, *, now: float) -> Measurement:
        return Measurement(
            **self._db.insert("measurements", {**vars(new), "created_at": now, "updated_at": now})
        )

    def get(self, measurement_id: int) -> Measurement | None:
        return self._db.first(Measurement, "SELECT * FROM measurements WHERE id = ?", (measurement_id,))

    def open(self) -> list[Measurement]:
        """Returns every measurement whose state is not final, oldest first."""
        return self.due(float("inf"))

    def due(self, now: float) -> list[Measurement]:
        """Returns the open measurements whose next step is due, oldest first."""
        return self._db.all(
            Measurement,
            f"SELECT * FROM measurements WHERE state IN ('asked', 'running') AND {due_sql('next_at')} ORDER BY id",  # noqa: S608
            (now, now),
        )

    def unreported(self, since: float) -> list[Measurement]:
        """Returns the comparisons with a result since `since` (unix seconds) that have no report yet, oldest first."""
        sql = f"{unreported_sql('measurements', 'measurement')} AND kind = 'ladder' ORDER BY measurements.id"
        return self._db.all(Measurement, sql, (since,))

    def newest(self, limit: int = 20) -> list[Measurement]:
        return self._db.all(Measurement, "SELECT * FROM measurements ORDER BY id DESC LIMIT ?", (limit,))

    def newest_results_on(self, datasets: Collection[str], limit: int) -> list[Measurement]:
        """Returns the newest measurements with a result on datasets of these names, newest first."""
        return self._db.all(
            Measurement,
            "SELECT measurements.* FROM measurements CROSS JOIN datasets ON datasets.id = measurements.dataset_id"
            " WHERE measurements.result IS NOT NULL AND datasets.name IN (SELECT value FROM json_each(?))"
            " ORDER BY measurements.id DESC LIMIT ?",
            (json.dumps(list(datasets)), limit),
        )

    def on(self, datasets: Collection[int]) -> list[Measurement]:
        """Returns every measurement on one of these versions, newest first."""
        marks = ", ".join("?" * len(datasets))
        sql = f"SELECT * FROM measurements WHERE dataset_id IN ({marks}) ORDER BY id DESC"  # noqa: S608
        return self._db.all(Measurement, sql, tuple(datasets))

    def done(self, dataset_ids: tuple[int, ...], kind: MeasurementKind) -> list[Measurement]:
        """Returns the measurements of these datasets that have a result, newest first."""
        marks = ", ".join("?" * len(dataset_ids))
        return self._db.all(
            Measurement,
            f"SELECT * FROM measurements WHERE +state = 'done' AND kind = ? AND dataset_id IN ({marks})"  # noqa: S608
            " ORDER BY id DESC",
            (kind, *dataset_ids),
        )

    def for_promotion(self, model: str) -> Measurement | None:
        """Returns the newest finished measurement that opened sealed rows for this tuned model, None if there is
        none."""
        sql = (
            "SELECT * FROM measurements WHERE state = 'done' AND kind = 'ladder'"
            " AND json_extract(plan, '$.promotes') = ? ORDER BY id DESC LIMIT 1"
        )
        return self._db.first(Measurement, sql, (model,))

    def move(
        self, measurement: Measurement, to: MeasurementState, *, now: float, **changes: Any
    ) -> Measurement | None:
        """Returns the moved measurement, or None if it is no longer in its state."""
        changes = {**changes, "state": to, "updated_at": now}
        if to != measurement.state:
            changes = {"tries": 0, "next_at": now, **changes}
        row = self._db.move("measurements", measurement.id, measurement.state, changes)
        return Measurement(**row) if row else None

    def committed(self, month: str) -> int:
        """Returns the micro-dollars of a month: the reservation of open measurements, the actual cost of the others."""
        return int(
            self._db.value(
                "SELECT coalesce(sum(CASE WHEN state IN ('asked', 'running') THEN reserved_micros"
                " ELSE coalesce(actual_micros, 0) END), 0) FROM measurements WHERE month = ?",
                (month,),
            )
        )


REPLY_COLUMNS = "key, model, text, prompt_tokens, completion_tokens, seconds, at"


@dataclass(frozen=True)
class AnswerTotals:
    """The number of questions that have an answer, and the tokens of the answers that were paid for."""

    answers: int
    prompt_tokens: int
    completion_tokens: int


class AnswerCache(Table):
    """Models' answers to prompts, so that the same question is paid for once."""

    def keep(self, replies: Iterable[CachedAnswer], owner: str | None = None) -> None:
        """Stores the first answer to each question. `owner` is the run or measurement that asked ('run 3' or 'm3'),
        with whose dataset the answers are deleted."""
        with self._db.immediate():
            for reply in replies:
                # The first one stays: a score must not change because a question was sent twice.
                self._db.insert_once("replies", {**vars(reply), "owner": owner})

    def forget(self, key: str) -> None:
        self._db.change("DELETE FROM replies WHERE key = ?", (key,))

    def read(self, keys: Sequence[str]) -> Mapping[str, CachedAnswer]:
        """Returns the stored answers by key."""
        sql = f"SELECT {REPLY_COLUMNS} FROM replies WHERE key IN (SELECT value FROM json_each(?))"  # noqa: S608
        answers = self._db.all(CachedAnswer, sql, (json.dumps(keys),))
        return {answer.key: answer for answer in answers}

    def answered(self, keys: Sequence[str]) -> frozenset[str]:
        """Returns the keys that have an answer."""
        return self.count(keys, since=0.0)[0]

    def totals(self, keys: Sequence[str], *, since: float) -> AnswerTotals:
        """Returns the totals of these questions, each counted once. Only answers since `since` were paid for."""
        return self.count(keys, since=since)[1]

    def count(self, keys: Sequence[str], *, since: float) -> tuple[frozenset[str], AnswerTotals]:
        """Returns the results of both `answered` and `totals` from one query, since each step of an open evaluation
        needs them. For speed the query reads no texts and passes all keys as one JSON value."""
        (row,) = self._db.rows(
            "SELECT json_group_array(key) AS keys, count(*) AS answers,"
            " coalesce(sum(prompt_tokens) FILTER (WHERE at >= :since), 0) AS prompt_tokens,"
            " coalesce(sum(completion_tokens) FILTER (WHERE at >= :since), 0) AS completion_tokens"
            " FROM replies WHERE key IN (SELECT value FROM json_each(:keys))",
            {"since": since, "keys": json.dumps(keys)},
        )
        return frozenset(json.loads(row.pop("keys"))), AnswerTotals(**row)

    def totals_of(self, model: str, *, since: float) -> AnswerTotals:
        """Returns the totals of all of a model's answers since `since`."""
        (row,) = self._db.rows(
            "SELECT count(*) AS answers, coalesce(sum(prompt_tokens), 0) AS prompt_tokens,"
            " coalesce(sum(completion_tokens), 0) AS completion_tokens FROM replies WHERE model = ? AND at >= ?",
            (model, since),
        )
        return AnswerTotals(**row)


class SentQuestions(Table):
    """Questions that were sent and have no answer yet. One whose answer was lost, by a kill or a broken connection, may
    have been paid for, and it is sent again as another one. Each counts with the most tokens that it may be billed
    for. No text is stored."""

    def add(self, owner: str, model: str, prompt_tokens: int, completion_tokens: int, *, now: float) -> int:
        """Records that `owner` ('m3', 'run 3') is about to send a question. Returns its id."""
        values = {
            "owner": owner,
            "model": model,
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "at": now,
        }
        return int(self._db.insert("sent_questions", values)["id"])

    def remove(self, sent_id: int) -> None:
        """Forgets a question that was answered, or surely not billed."""
        self._db.change("DELETE FROM sent_questions WHERE id = ?", (sent_id,))

    def mark_lost(self, sent_id: int) -> None:
        self._db.change("UPDATE sent_questions SET is_lost = 1 WHERE id = ?", (sent_id,))

    def mark_all_lost(self) -> None:
        """Call it when a process begins: whatever an earlier one was waiting for is lost."""
        self._db.change("UPDATE sent_questions SET is_lost = 1 WHERE is_lost = 0")

    def forget_before(self, at: float) -> None:
        """Forgets questions that were sent before `at` (unix seconds), whose owners have been booked since."""
        self._db.change("DELETE FROM sent_questions WHERE at < ?", (at,))

    def lost(self, owner: str) -> Mapping[str, AnswerTotals]:
        """Returns the questions of `owner` whose answers were lost, by model."""
        rows = self._db.rows(
            "SELECT model, count(*) AS answers, sum(prompt_tokens) AS prompt_tokens,"
            " sum(completion_tokens) AS completion_tokens FROM sent_questions"
            " WHERE owner = ? AND is_lost = 1 GROUP BY model",
            (owner,),
        )
        return {row.pop("model"): AnswerTotals(**row) for row in rows}


class Preferences(Table):
    """People's choices between two answers, one per person and row. Rows are added, never changed."""

    def add(self, preference: Preference) -> bool:
        """Records a choice. Returns False if this person has chosen for this row before: the first choice counts."""
        # The table's constraint includes both models, but a person chooses once per row, whichever they are.
        changed = self._db.change(
            "INSERT INTO preferences (measurement_id, row, first_arm, second_arm, person, choice, at)"
            " SELECT ?, ?, ?, ?, ?, ?, ? WHERE NOT EXISTS"
            " (SELECT 1 FROM preferences WHERE measurement_id = ? AND row = ? AND person = ?)",
            (*astuple(preference), preference.measurement_id, preference.row, preference.person),
        )
        return changed == 1

    def of(self, measurement_id: int) -> list[Preference]:
        """Returns a measurement's choices in the order in which they were made."""
        return self._db.all(
            Preference,
            "SELECT measurement_id, row, first_arm, second_arm, person, choice, at FROM preferences"
            " WHERE measurement_id = ? ORDER BY id",
            (measurement_id,),
        )


class HumanVerdicts(Table):
    """People's verdicts on answers that a judge has judged, one per person and answer. Rows are added, never
    changed."""

    def add(self, verdict: HumanVerdict) -> bool:
        """Records a verdict. Returns False if this person has judged the answer before: the first verdict counts."""
        return self._db.insert_once("human_verdicts", vars(verdict)) is not None

    def on_measurement(self, measurement_id: int) -> list[HumanVerdict]:
        """Returns the verdicts on answers that people were shown under this measurement, in the order in which they
        were given."""
        return self._db.all(
            HumanVerdict,
            "SELECT dataset, judge, measurement_id, answer, judged, person, verdict, at FROM human_verdicts"
            " WHERE measurement_id = ? ORDER BY id",
            (measurement_id,),
        )

    def on(self, dataset: str, judge: str) -> list[HumanVerdict]:
        """Returns the verdicts on this judge's answers of a dataset, in the order in which they were given."""
        return self._db.all(
            HumanVerdict,
            "SELECT dataset, judge, measurement_id, answer, judged, person, verdict, at FROM human_verdicts"
            " WHERE dataset = ? AND judge = ? ORDER BY id",
            (dataset, judge),
        )
