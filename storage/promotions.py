"""Which tuned model is in use for each dataset and which were before; readable beside a running bot.

Each promotion is a row of its own, and so is a rollback: it says which row it replaces and which one it puts back, so
that two rollbacks go two models back.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from storage.audit import open_read_only
from storage.database import Database, StorageError
from storage.driver import sqlite3
from storage.records import is_due


@dataclass(frozen=True)
class Promotion:
    """`reason` is a person's where one was asked for. `ended_at` None: it stands. `instead_of` stood until then;
    `returns_to` is what a rollback puts back.

    `carried_at`: when the trainer's alias was seen to stand for it, None while that is still to do; `tries` and
    `trouble` are of that.
    """

    id: int
    dataset: str
    model: str
    person: str
    reason: str | None
    channel: str
    at: float
    ended_at: float | None
    instead_of: int | None
    returns_to: int | None
    is_rollback: bool
    carried_at: float | None
    tries: int
    next_at: float
    trouble: str | None


@dataclass(frozen=True)
class NewPromotion:
    """`instead_of`: what stands now. `is_carried`: there is nothing to tell a trainer."""

    dataset: str
    model: str
    person: str
    channel: str
    instead_of: Promotion | None
    returns_to: int | None
    reason: str | None = None
    is_rollback: bool = False
    is_carried: bool = False


class Promotions:
    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, new: NewPromotion, *, now: float) -> Promotion | None:
        """None where something else stands by now than `instead_of`. Call it in a transaction."""
        before = new.instead_of
        if before is not None and not self._end(before, now):
            return None
        row = self._db.row(
            "INSERT INTO promotions (dataset, model, person, reason, channel, at, instead_of, returns_to, is_rollback,"
            " carried_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING *",
            (
                new.dataset,
                new.model,
                new.person,
                new.reason,
                new.channel,
                now,
                before.id if before else None,
                new.returns_to,
                new.is_rollback,
                now if new.is_carried else None,
            ),
        )
        if row is None:
            return None
        self._db.change("UPDATE models SET state = 'promoted' WHERE name = ?", (new.model,))
        return _promotion(row)

    def end(self, promotion: Promotion, *, now: float) -> None:
        """Nothing takes its place: its dataset is being deleted."""
        self._end(promotion, now)

    def get(self, number: int) -> Promotion | None:
        row = self._db.row("SELECT * FROM promotions WHERE id = ?", (number,))
        return _promotion(row) if row else None

    def standing(self, dataset: str) -> Promotion | None:
        row = self._db.row("SELECT * FROM promotions WHERE dataset = ? AND ended_at IS NULL", (dataset,))
        return _promotion(row) if row else None

    def all_standing(self) -> list[Promotion]:
        """By dataset."""
        rows = self._db.rows("SELECT * FROM promotions WHERE ended_at IS NULL ORDER BY dataset")
        return [_promotion(row) for row in rows]

    def to_carry(self, now: float) -> list[Promotion]:
        """Those that stand and that their trainer is still to be told, where the time has come."""
        return [
            promotion
            for promotion in self.all_standing()
            if promotion.carried_at is None and is_due(promotion.next_at, now)
        ]

    def carried(self, promotion: Promotion, *, now: float) -> Promotion | None:
        """None where it stands no more, or another hand noted it."""
        return self._noted(
            "carried_at = ?, tries = 0, trouble = NULL", (now,), promotion, "carried_at IS NULL"
        )

    def put_off(self, promotion: Promotion, until: float, trouble: str) -> Promotion | None:
        """It could not be carried over. None as above."""
        changes = "tries = tries + 1, next_at = ?, trouble = ?"
        return self._noted(changes, (until, trouble), promotion, "carried_at IS NULL")

    def carry_again(self, promotion: Promotion) -> Promotion | None:
        """The trainer was found to say something else. None where it stands no more."""
        return self._noted("carried_at = NULL, next_at = 0", (), promotion, "carried_at IS NOT NULL")

    def _noted(
        self, changes: str, values: tuple[object, ...], promotion: Promotion, guard: str
    ) -> Promotion | None:
        row = self._db.row(
            f"UPDATE promotions SET {changes} WHERE id = ? AND ended_at IS NULL AND {guard} RETURNING *",  # noqa: S608 - our words
            (*values, promotion.id),
        )
        return _promotion(row) if row else None

    def _end(self, promotion: Promotion, now: float) -> bool:
        changed = self._db.change(
            "UPDATE promotions SET ended_at = ? WHERE id = ? AND ended_at IS NULL", (now, promotion.id)
        )
        self._db.change(
            "UPDATE models SET state = 'retired' WHERE name = ? AND ? = 1", (promotion.model, changed)
        )
        return changed == 1


def _promotion(row: dict[str, object]) -> Promotion:
    return Promotion(**{**row, "is_rollback": bool(row["is_rollback"])})  # type: ignore[arg-type]  # the columns' kinds


CURRENT_MODEL_SQL = """
SELECT models.provider_model FROM promotions JOIN models ON models.name = promotions.model
WHERE promotions.dataset = ? AND promotions.ended_at IS NULL
"""


def current_model(database: Path, dataset: str) -> str | None:
    """As its provider knows it; None where none is in use. Raises StorageError."""
    with closing(open_read_only(database)) as connection:
        try:
            row = connection.execute(CURRENT_MODEL_SQL, (dataset,)).fetchone()
        except sqlite3.DatabaseError as error:
            raise StorageError(
                f"Looking in {database} for the model in use: {error}. A database of an older version gets what it "
                "lacks when the bot is started once."
            ) from error
    return str(row[0]) if row else None
