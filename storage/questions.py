"""Questions by `try` and questions in plain words, their cost, and people's verdicts on the answers.

A question's maximum cost is reserved before it is sent and settled when it is answered. Then the row of a `try` in
`asks` is deleted, while its cost is kept in `questions`; of a question in plain words the text is erased. A copy of
what was tried, with its answer, is stored for the verdict of the person who asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from storage.audit import query_read_only
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


PlainOutcome = Literal["ran", "offered", "none", "by_words"]
"""What a question in plain words got: a command that reads ran at once, a command was offered, the model named none,
or no model could read it, so that its words decided what was offered."""


@dataclass(frozen=True)
class NewPlainQuestion:
    """A question in plain words, which `model` ('provider/model') reads. `delivery` names Slack's delivery: one that is
    handled again after a kill is the same question. In the conversation with the bot (`is_direct`) it is answered by a
    message, elsewhere to the person alone. `mentioned` are the ids of the people in it, separated by spaces. `month`
    and `day` ('YYYY-MM-DD', UTC) are those that pay."""

    delivery: str
    person: str
    channel: str
    thread: str | None
    is_direct: bool
    mentioned: str
    model: str
    text: str
    month: str
    day: str
    reserved_micros: int


@dataclass(frozen=True, kw_only=True)
class PlainQuestion(NewPlainQuestion):
    """`text` is '' once it was answered. `sent_at` is when it was sent to the model. `is_right` is the verdict of the
    person who asked, None if there is none."""

    id: int
    actual_micros: int | None
    at: float
    sent_at: float | None
    outcome: PlainOutcome | None
    is_right: bool | None


@dataclass(frozen=True)
class PlainCounts:
    """How many questions in plain words were answered by a model (`answers`), and people's verdicts on these."""

    answers: int
    right: int
    wrong: int


_COUNTS_SQL = """
SELECT count(*) AS answers, coalesce(sum(is_right = 1), 0) AS right, coalesce(sum(is_right = 0), 0) AS wrong
FROM plain_questions WHERE model = ? AND outcome IN ('ran', 'offered', 'none')
"""


def plain_counts_in(database: Path, model: str) -> PlainCounts:
    """Like PlainQuestions.counts, for a database that is only read. Raises StorageError."""
    (row,) = query_read_only(database, _COUNTS_SQL, (model,), what="the questions in plain words")
    answers, right, wrong = row
    return PlainCounts(answers, right, wrong)


class PlainQuestions(Table):
    def add(self, new: NewPlainQuestion, *, now: float) -> PlainQuestion | None:
        """Returns None if this delivery's question was added before."""
        row = self._db.insert_once("plain_questions", {**vars(new), "at": now})
        return _plain_question(**row) if row else None

    def get(self, number: int) -> PlainQuestion | None:
        return self._db.first(_plain_question, "SELECT * FROM plain_questions WHERE id = ?", (number,))

    def waiting(self) -> list[PlainQuestion]:
        sql = "SELECT * FROM plain_questions WHERE outcome IS NULL ORDER BY id"
        return self._db.all(_plain_question, sql)

    def has(self, delivery: str) -> bool:
        """Returns whether this delivery's question was added."""
        sql = "SELECT count(*) FROM plain_questions WHERE delivery = ?"
        return bool(self._db.value(sql, (delivery,)))

    def mark_sent(self, question: PlainQuestion, *, now: float) -> None:
        """Records that it is about to be sent to its model: from now on it may have to be paid for."""
        self._db.change("UPDATE plain_questions SET sent_at = ? WHERE id = ?", (now, question.id))

    def end(self, question: PlainQuestion, outcome: PlainOutcome, actual_micros: int) -> bool:
        """Erases the text and settles the cost. Returns False if that was done before."""
        sql = (
            "UPDATE plain_questions SET outcome = ?, actual_micros = ?, text = NULL"
            " WHERE id = ? AND outcome IS NULL"
        )
        return self._db.change(sql, (outcome, actual_micros, question.id)) == 1

    def judge(self, question: PlainQuestion, *, is_right: bool) -> None:
        """Records a verdict, which replaces an earlier one."""
        sql = "UPDATE plain_questions SET is_right = ? WHERE id = ?"
        self._db.change(sql, (is_right, question.id))

    def counts(self, model: str) -> PlainCounts:
        """Returns how many questions this model has read, and how people found its answers."""
        (row,) = self._db.rows(_COUNTS_SQL, (model,))
        return PlainCounts(**row)

    def committed(self, month: str, day: str | None = None) -> int:
        """Returns the micro-dollars of a month or of one of its days: reserved for open questions, spent on the
        others."""
        total = "coalesce(sum(coalesce(actual_micros, reserved_micros)), 0)"
        sql = f"SELECT {total} FROM plain_questions WHERE month = ? AND (? IS NULL OR day = ?)"  # noqa: S608
        return int(self._db.value(sql, (month, day, day)))

    def erase_late_answers(self) -> None:
        """Erases answers that arrived after their question was given up."""
        self._db.change(
            "DELETE FROM replies WHERE owner LIKE 'plain question %' AND NOT EXISTS"
            " (SELECT 1 FROM plain_questions WHERE outcome IS NULL AND 'plain question ' || id = owner)"
        )


def _plain_question(**row: Any) -> PlainQuestion:
    row["is_direct"] = bool(row["is_direct"])
    row["text"] = row["text"] or ""
    if row["is_right"] is not None:
        row["is_right"] = bool(row["is_right"])
    return PlainQuestion(**row)
