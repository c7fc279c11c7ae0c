"""What is used for a dataset beside what was promoted: its fallback, and what is tried on its live calls. For each a
recipe is built first, and each is current until it ends, at most one of its kind for a dataset."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Protocol, TypeVar

from storage.database import Table
from storage.records import due_sql


class RecipeUse(Protocol):
    @property
    def id(self) -> int: ...


Use = TypeVar("Use", bound=RecipeUse)


class RecipeUses(Table, Generic[Use]):
    """Base class for the rows of one such table."""

    table: ClassVar[str]

    def _use(self, **row: Any) -> Use:
        """Returns a row as its value."""
        raise NotImplementedError

    def current(self, dataset: str) -> Use | None:
        sql = f"SELECT * FROM {self.table} WHERE dataset = ? AND ended_at IS NULL"  # noqa: S608 - our names
        return self._db.first(self._use, sql, (dataset,))

    def all_current(self) -> list[Use]:
        """Returns the current one of each dataset that has one, ordered by the dataset's name."""
        return self._db.all(self._use, f"SELECT * FROM {self.table} WHERE ended_at IS NULL ORDER BY dataset")  # noqa: S608

    def with_recipes(self) -> list[Use]:
        """Returns all whose recipe was built, oldest first."""
        return self._db.all(self._use, f"SELECT * FROM {self.table} WHERE recipe IS NOT NULL ORDER BY id")  # noqa: S608

    def by_recipe(self, dataset: str, recipe: str) -> Use | None:
        """Returns the newest of the dataset that has this recipe."""
        sql = f"SELECT * FROM {self.table} WHERE dataset = ? AND recipe = ? ORDER BY id DESC LIMIT 1"  # noqa: S608
        return self._db.first(self._use, sql, (dataset, recipe))

    def to_build(self, now: float) -> list[Use]:
        """Returns the current ones whose recipe is missing and whose next try is due."""
        return self._db.all(
            self._use,
            f"SELECT * FROM {self.table} WHERE ended_at IS NULL AND recipe IS NULL"  # noqa: S608 - our names
            f" AND {due_sql('next_at')} ORDER BY dataset",
            (now, now),
        )

    def recipes_since(self, ended_after: float) -> frozenset[str]:
        """Returns the recipes of current ones and of those that ended later than that."""
        rows = self._db.rows(
            f"SELECT DISTINCT recipe FROM {self.table} WHERE recipe IS NOT NULL"  # noqa: S608 - our names
            " AND (ended_at IS NULL OR ended_at > ?)",
            (ended_after,),
        )
        return frozenset(row["recipe"] for row in rows)

    def set_recipe(self, use: Use, recipe: str) -> Use | None:
        """Records the hash of what answers. Returns None if it has ended."""
        return self._update(use, "recipe = ?, trouble = NULL", (recipe,))

    def forget_recipe(self, use: Use) -> None:
        """Has the recipe built again, because its files are gone."""
        self._update(use, "recipe = NULL, next_at = 0", ())

    def postpone(self, use: Use, until: float, trouble: str) -> Use | None:
        """Records why the recipe can't be built yet. Returns None if it has ended."""
        return self._update(use, "next_at = ?, trouble = ?", (until, trouble))

    def _update(self, use: Use, changes: str, values: tuple[object, ...]) -> Use | None:
        sql = f"UPDATE {self.table} SET {changes} WHERE id = ? AND ended_at IS NULL RETURNING *"  # noqa: S608
        return self._db.first(self._use, sql, (*values, use.id))
