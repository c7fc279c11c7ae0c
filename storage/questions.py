"""Questions by `try`, their cost, and people's verdicts on the answers.

A question's maximum cost is reserved before it is sent and settled when it is answered. Then its row in `asks` is
deleted, while its cost is kept in `questions`. A copy of question and answer is stored for the verdict of the person
who asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from storage.database import Table
from storage.records import Ask

ASKS_SQL = """
SELECT asks.*, coalesce(questions.reserved_micros, 0) AS most_micros, questions.id IS NOT NULL AS is_priced
FROM asks LEFT JOIN questions ON questions.id = asks.id
"""


@dataclass(frozen=True)
class NewAsk:
    """A question to a model that was trained on `dataset`, or to what is in use for it by this `promotion`. The budget
    of `month` ('YYYY-MM') pays for it."""

    person: str
    channel: str
    model: str
    dataset: str
    text: str
    month: str
    most_micros: int
    promotion: int | None = None


class Questions(Table):
    def add(self, new: NewAsk, *, now: float) -> Ask:
        with self._db.immediate():
            who = {"person": new.person, "channel": new.channel}
            what = {"model": new.model, "text": new.text, "promotion": new.promotion}
            row = self._db.insert("asks", {**who, **what, "created_at": now})
            money = {"month": new.month, "reserved_micros": new.most_micros, "at": now}
            self._db.insert("questions", {"id": row["id"], "dataset": new.dataset, **who, **money})
            (added,) = self._asks("WHERE asks.id = ?", row["id"])
            return added

    def waiting(self) -> list[Ask]:
        return self._asks("ORDER BY asks.id")

    def mark_sent(self, ask: Ask, *, now: float) -> None:
        """Records that the question is about to be sent to its model: from now on it may have to be paid for."""
        self._db.change("UPDATE asks SET sent_at = ? WHERE id = ?", (now, ask.id))

    def end(self, ask: Ask, actual_micros: int) -> bool:
        """Deletes the question and settles its cost. Returns False if that was done before."""
        with self._db.immediate():
            is_first = self._db.change("DELETE FROM asks WHERE id = ?", (ask.id,)) == 1
            if is_first:
                sql = "UPDATE questions SET actual_micros = ? WHERE id = ?"
                self._db.change(sql, (actual_micros, ask.id))
        return is_first

    def committed(self, month: str) -> int:
        """Returns the micro-dollars of a month: the reservation of open questions, the actual cost of the others."""
        total = "coalesce(sum(coalesce(actual_micros, reserved_micros)), 0)"
        return int(self._db.value(f"SELECT {total} FROM questions WHERE month = ?", (month,)))  # noqa: S608

    def _asks(self, where: str, *parameters: object) -> list[Ask]:
        rows = self._db.rows(f"{ASKS_SQL.strip()} {where}", parameters)
        return [Ask(**{**row, "is_priced": bool(row["is_priced"])}) for row in rows]


@dataclass(frozen=True)
class TriedAnswer:
    """An answer to `try`, under its question's number. `is_good` is the verdict of the person who asked, None if there
    is none; `better` is the better answer that they typed."""

    id: int
    dataset: str
    model: str
    person: str
    question: str
    answer: str
    at: float
    is_good: bool | None = None
    better: str | None = None


class TriedAnswers(Table):
    def add(self, tried: TriedAnswer) -> None:
        self._db.insert_once("tried_answers", vars(tried))

    def get(self, number: int) -> TriedAnswer | None:
        return next(iter(self._rows("WHERE id = ?", number)), None)

    def judge(self, tried: TriedAnswer, *, is_good: bool, better: str | None = None) -> None:
        """Records a verdict, which replaces an earlier one."""
        sql = "UPDATE tried_answers SET is_good = ?, better = ? WHERE id = ?"
        self._db.change(sql, (is_good, better, tried.id))

    def judged(self, dataset: str) -> list[TriedAnswer]:
        """Returns the answers of a dataset's models that have a verdict, oldest first."""
        return self._rows("WHERE dataset = ? AND is_good IS NOT NULL ORDER BY id", dataset)

    def drop_unjudged(self, before: float) -> None:
        self._db.change("DELETE FROM tried_answers WHERE is_good IS NULL AND at < ?", (before,))

    def _rows(self, where: str, *parameters: object) -> list[TriedAnswer]:
        rows = self._db.rows(f"SELECT * FROM tried_answers {where}", parameters)  # noqa: S608 - our own conditions
        return [_tried_answer(**row) for row in rows]


def _tried_answer(**row: Any) -> TriedAnswer:
    if row["is_good"] is not None:
        row["is_good"] = bool(row["is_good"])  # SQLite knows only 0 and 1
    return TriedAnswer(**row)
