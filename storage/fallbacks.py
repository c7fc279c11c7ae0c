"""What answers programs when what is in use for a dataset can't. Rows are kept, so that calls of past months still tell
what answered them.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage.database import Table
from storage.records import Promotable, due_sql


@dataclass(frozen=True)
class Fallback:
    """A `candidate`, as JSON, as this `measurement` measured it, which a `person` chose as what answers for a dataset
    when what is in use can't. It is current while `ended_at` is None.

    `recipe` is the hash of what answers, None until it was built; `next_at` is when that is tried next, and `trouble`
    why it failed. `channel` is where it belongs.
    """

    id: int
    dataset: str
    candidate: str
    measurement: int
    recipe: str | None
    person: str
    channel: str
    at: float
    ended_at: float | None
    ended_by: str | None
    next_at: float
    trouble: str | None

    @property
    def what(self) -> Promotable:
        return Promotable(candidate=self.candidate, measurement=self.measurement)


@dataclass(frozen=True)
class NewFallback:
    dataset: str
    candidate: str
    measurement: int
    person: str
    channel: str


class Fallbacks(Table):
    def choose(self, new: NewFallback, *, now: float) -> Fallback:
        """Adds a fallback in place of the dataset's current one. Call it in a transaction."""
        self.end(new.dataset, new.person, now=now)
        row = self._db.insert_once("fallbacks", {**vars(new), "at": now})
        assert row is not None  # noqa: S101 - the only unique one is the current one, which has ended
        return Fallback(**row)

    def end(self, dataset: str, person: str, *, now: float) -> Fallback | None:
        """Ends the dataset's fallback. Returns None if it has none."""
        sql = "UPDATE fallbacks SET ended_at = ?, ended_by = ? WHERE dataset = ? AND ended_at IS NULL RETURNING *"
        return self._db.first(Fallback, sql, (now, person, dataset))

    def current(self, dataset: str) -> Fallback | None:
        sql = "SELECT * FROM fallbacks WHERE dataset = ? AND ended_at IS NULL"
        return self._db.first(Fallback, sql, (dataset,))

    def all_current(self) -> list[Fallback]:
        """Returns the current fallback of each dataset that has one, ordered by the dataset's name."""
        return self._db.all(Fallback, "SELECT * FROM fallbacks WHERE ended_at IS NULL ORDER BY dataset")

    def with_recipes(self) -> list[Fallback]:
        """Returns every fallback whose recipe was built, oldest first."""
        return self._db.all(Fallback, "SELECT * FROM fallbacks WHERE recipe IS NOT NULL ORDER BY id")

    def by_recipe(self, dataset: str, recipe: str) -> Fallback | None:
        """Returns the newest fallback of the dataset that has this recipe."""
        sql = "SELECT * FROM fallbacks WHERE dataset = ? AND recipe = ? ORDER BY id DESC LIMIT 1"
        return self._db.first(Fallback, sql, (dataset, recipe))

    def to_build(self, now: float) -> list[Fallback]:
        """Returns the current fallbacks whose recipe is missing and whose next try is due."""
        return self._db.all(
            Fallback,
            "SELECT * FROM fallbacks WHERE ended_at IS NULL AND recipe IS NULL"  # noqa: S608 - our names
            f" AND {due_sql('next_at')} ORDER BY dataset",
            (now, now),
        )

    def set_recipe(self, fallback: Fallback, recipe: str) -> Fallback | None:
        """Records the hash of what answers. Returns None if the fallback has ended."""
        return self._update(fallback, "recipe = ?, trouble = NULL", (recipe,))

    def forget_recipe(self, fallback: Fallback) -> None:
        """Has the recipe built again, because its files are gone."""
        self._update(fallback, "recipe = NULL, next_at = 0", ())

    def postpone(self, fallback: Fallback, until: float, trouble: str) -> Fallback | None:
        """Records why the recipe can't be built yet. Returns None if the fallback has ended."""
        return self._update(fallback, "next_at = ?, trouble = ?", (until, trouble))

    def recipes_since(self, ended_after: float) -> frozenset[str]:
        """Returns the recipes of current fallbacks and of those that ended later than that."""
        rows = self._db.rows(
            "SELECT DISTINCT recipe FROM fallbacks WHERE recipe IS NOT NULL AND (ended_at IS NULL OR ended_at > ?)",
            (ended_after,),
        )
        return frozenset(row["recipe"] for row in rows)

    def _update(self, fallback: Fallback, changes: str, values: tuple[object, ...]) -> Fallback | None:
        sql = f"UPDATE fallbacks SET {changes} WHERE id = ? AND ended_at IS NULL RETURNING *"  # noqa: S608 - our words
        return self._db.first(Fallback, sql, (*values, fallback.id))
