"""What people ask tuned models with `try`: the question until it is answered, and for good what it cost.

The text is deleted once it is answered, its cost is not: a question's maximum cost is reserved before it is sent, and
settled when it is over.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage.database import Database
from storage.records import Ask

WAITING = """
SELECT asks.*, coalesce(questions.reserved_micros, 0) AS most_micros, questions.id IS NOT NULL AS is_priced
FROM asks LEFT JOIN questions ON questions.id = asks.id
"""


@dataclass(frozen=True)
class NewAsk:
    """`dataset` is what the model was trained on; `month` ('YYYY-MM') is the one whose budget pays."""

    person: str
    channel: str
    model: str
    dataset: str
    text: str
    month: str
    most_micros: int


class Questions:
    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, new: NewAsk, *, now: float) -> Ask:
        with self._db.immediate():
            who = {"person": new.person, "channel": new.channel}
            row = self._db.insert("asks", {**who, "model": new.model, "text": new.text, "created_at": now})
            money = {"month": new.month, "reserved_micros": new.most_micros, "at": now}
            self._db.insert("questions", {"id": row["id"], "dataset": new.dataset, **who, **money})
            (added,) = self._asks("WHERE asks.id = ?", row["id"])
            return added

    def waiting(self) -> list[Ask]:
        return self._asks("ORDER BY asks.id")

    def sent(self, ask: Ask, *, now: float) -> None:
        """Records that it is about to be sent to its model: from here on it may have to be paid."""
        self._db.change("UPDATE asks SET sent_at = ? WHERE id = ?", (now, ask.id))

    def end(self, ask: Ask, actual_micros: int) -> bool:
        """Deletes the text and settles the money. Returns False if that was done before."""
        with self._db.immediate():
            is_first = self._db.change("DELETE FROM asks WHERE id = ?", (ask.id,)) == 1
            if is_first:
                sql = "UPDATE questions SET actual_micros = ? WHERE id = ?"
                self._db.change(sql, (actual_micros, ask.id))
        return is_first

    def committed(self, month: str) -> int:
        """Returns the micro-dollars of a month: reserved until a question is over, the actual cost from then on."""
        total = "coalesce(sum(coalesce(actual_micros, reserved_micros)), 0)"
        return int(self._db.value(f"SELECT {total} FROM questions WHERE month = ?", (month,)))  # noqa: S608

    def _asks(self, where: str, *parameters: object) -> list[Ask]:
        rows = self._db.rows(f"{WAITING.strip()} {where}", parameters)
        return [Ask(**{**row, "is_priced": bool(row["is_priced"])}) for row in rows]
