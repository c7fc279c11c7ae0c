"""What is, or was, in use for each dataset: a tuned model, or a candidate as it was measured; and what answers when
that can't. It can be read while a bot is running.

Each promotion and each rollback is a row, which names the row that it replaces and the one that a rollback returns to,
so that two rollbacks go back two promotions. The last one is ended without a successor. What the evidence doesn't
support is requested first, and other people approve it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from storage.audit import query_read_only
from storage.database import Table
from storage.records import Promotable, due_sql

UNPUBLISHED_SQL = "(carried_at IS NULL OR recipe IS NULL)"


@dataclass(frozen=True)
class Promotion:
    """A time in use for a dataset, current while `ended_at` is None. What is in use is `what`: a tuned model, or a
    candidate as it was measured.

    `recipe` is the hash of what answers programs, None until it was built. `reason` is the person's, if one was
    required, and `request` the number of the request that others approved. It replaced the promotion `instead_of`; a
    rollback goes to `returns_to`. `taken_out_by` ended it without putting anything in its place. `carried_at` is when
    programs got it: it is published, and the trainer's alias is set if it has one. It is None until then; `tries` and
    `trouble` are about doing so.
    """

    id: int
    dataset: str
    model: str | None
    candidate: str | None
    measurement: int | None
    recipe: str | None
    person: str
    reason: str | None
    request: int | None
    channel: str
    at: float
    ended_at: float | None
    taken_out_by: str | None
    taken_out_because: str | None
    instead_of: int | None
    returns_to: int | None
    is_rollback: bool
    carried_at: float | None
    tries: int
    next_at: float
    trouble: str | None

    @property
    def what(self) -> Promotable:
        return Promotable(self.model, self.candidate, self.measurement)


@dataclass(frozen=True)
class PromotedBase:
    """A model in use for a dataset, by its `name`, and the base that it was tuned from."""

    dataset: str
    name: str
    provider: str
    provider_model: str
    base_model: str


@dataclass(frozen=True)
class NewPromotion:
    """A promotion to record, which replaces the current one `instead_of`. `request` is the number of the approved
    request for it."""

    dataset: str
    what: Promotable
    person: str
    channel: str
    instead_of: Promotion | None
    returns_to: int | None
    reason: str | None = None
    request: int | None = None
    is_rollback: bool = False


class Promotions(Table):
    def add(self, new: NewPromotion, *, now: float) -> Promotion | None:
        """Returns None if `instead_of` is no longer the current promotion. Call it in a transaction."""
        before = new.instead_of
        # First, since an index allows one model in use per dataset.
        if before is not None and not self.end(before, now=now):
            return None
        values = {**vars(new), **vars(new.what), "at": now}
        del values["what"]
        values["instead_of"] = before.id if before else None
        row = self._db.insert_once("promotions", values)
        if row is None:
            return None
        self._db.change("UPDATE models SET state = 'promoted' WHERE name = ?", (new.what.model,))
        return _promotion(**row)

    def end(self, promotion: Promotion, *, now: float) -> bool:
        """Ends a promotion and retires its model, if it is one. Returns False if it had ended before."""
        changed = self._db.change(
            "UPDATE promotions SET ended_at = ? WHERE id = ? AND ended_at IS NULL", (now, promotion.id)
        )
        if changed:
            # It may be in use for its pairs' own dataset as well, by a promotion of an earlier release.
            self._db.change(
                "UPDATE models SET state = 'retired' WHERE name = ? AND NOT EXISTS"
                " (SELECT 1 FROM promotions WHERE model = models.name AND ended_at IS NULL)",
                (promotion.model,),
            )
        return changed == 1

    def take_out_of_use(
        self, promotion: Promotion, person: str, reason: str | None, *, now: float
    ) -> Promotion | None:
        """Ends a promotion with nothing in its place. Returns None if it had ended before. Call it in a transaction."""
        if not self.end(promotion, now=now):
            return None
        sql = "UPDATE promotions SET taken_out_by = ?, taken_out_because = ? WHERE id = ? RETURNING *"
        return self._db.first(_promotion, sql, (person, reason, promotion.id))

    def set_recipe(self, promotion: Promotion, recipe: str) -> Promotion | None:
        """Records the hash of what answers programs. Returns None if the promotion has ended."""
        return self._update(promotion, "recipe = ?, tries = 0, trouble = NULL", (recipe,), "TRUE")

    def forget_recipe(self, promotion: Promotion) -> None:
        """Has the recipe built again, because its files are gone."""
        self._update(promotion, "recipe = NULL, next_at = 0", (), "recipe IS NOT NULL")

    def recipes_since(self, ended_after: float) -> frozenset[str]:
        """Returns the recipes of what is in use and of what ended later than that."""
        rows = self._db.rows(
            "SELECT DISTINCT recipe FROM promotions WHERE recipe IS NOT NULL AND (ended_at IS NULL OR ended_at > ?)",
            (ended_after,),
        )
        return frozenset(row["recipe"] for row in rows)

    def get(self, number: int) -> Promotion | None:
        return self._db.first(_promotion, "SELECT * FROM promotions WHERE id = ?", (number,))

    def of(self, model: str) -> list[Promotion]:
        """Returns every promotion of this model, oldest first."""
        return self._db.all(_promotion, "SELECT * FROM promotions WHERE model = ? ORDER BY id", (model,))

    def with_recipes(self) -> list[Promotion]:
        """Returns every promotion whose recipe was built, oldest first."""
        return self._db.all(_promotion, "SELECT * FROM promotions WHERE recipe IS NOT NULL ORDER BY id")

    def for_dataset(self, dataset: str) -> list[Promotion]:
        """Returns every promotion for a dataset, oldest first."""
        return self._db.all(_promotion, "SELECT * FROM promotions WHERE dataset = ? ORDER BY id", (dataset,))

    def last(self, dataset: str) -> Promotion | None:
        """Returns the newest promotion for a dataset, also if it has ended."""
        sql = "SELECT * FROM promotions WHERE dataset = ? ORDER BY id DESC LIMIT 1"
        return self._db.first(_promotion, sql, (dataset,))

    def out_of_use(self) -> list[Promotion]:
        """Returns the last promotion of each dataset for which nothing is in use any more, ordered by the dataset's
        name."""
        return self._db.all(
            _promotion,
            "SELECT * FROM promotions WHERE id IN (SELECT max(id) FROM promotions GROUP BY dataset)"
            " AND ended_at IS NOT NULL ORDER BY dataset",
        )

    def next(self, promotion: Promotion) -> Promotion | None:
        """Returns the promotion that replaced this one, None while it is current."""
        return self._db.first(_promotion, "SELECT * FROM promotions WHERE instead_of = ?", (promotion.id,))

    def current(self, dataset: str) -> Promotion | None:
        sql = "SELECT * FROM promotions WHERE dataset = ? AND ended_at IS NULL"
        return self._db.first(_promotion, sql, (dataset,))

    def all_current(self) -> list[Promotion]:
        """Returns the current promotion of each dataset, ordered by the dataset's name."""
        return self._db.all(_promotion, "SELECT * FROM promotions WHERE ended_at IS NULL ORDER BY dataset")

    def datasets(self) -> list[str]:
        """Returns the datasets for which something is or was in use, by name."""
        rows = self._db.rows("SELECT DISTINCT dataset FROM promotions ORDER BY dataset")
        return [str(row["dataset"]) for row in rows]

    def current_of(self, model: str) -> list[Promotion]:
        """Returns the promotions by which this model is in use, ordered by the dataset's name."""
        sql = "SELECT * FROM promotions WHERE model = ? AND ended_at IS NULL ORDER BY dataset"
        return self._db.all(_promotion, sql, (model,))

    def to_sync(self, now: float) -> list[Promotion]:
        """Returns the current promotions that programs don't get yet and whose next try is due. Those from before
        recipes were built have none."""
        return self._db.all(
            _promotion,
            f"SELECT * FROM promotions WHERE ended_at IS NULL AND {UNPUBLISHED_SQL}"  # noqa: S608 - our names
            f" AND {due_sql('next_at')} ORDER BY dataset",
            (now, now),
        )

    def bases(self) -> list[PromotedBase]:
        """Returns the base of each tuned model in use, ordered by the dataset's name. It reads no whole plan, as there
        may be hundreds of models in use."""
        return self._db.all(
            PromotedBase,
            "SELECT promotions.dataset, models.name, models.provider, models.provider_model,"
            " json_extract(runs.plan, '$.base_model') AS base_model"
            " FROM promotions JOIN models ON models.name = promotions.model JOIN runs ON runs.id = models.run_id"
            " WHERE promotions.ended_at IS NULL ORDER BY promotions.dataset",
        )

    def mark_synced(self, promotion: Promotion, *, now: float) -> Promotion | None:
        """Records that programs get it. Returns None if the promotion has ended or that was recorded before."""
        changes = "carried_at = ?, tries = 0, trouble = NULL"
        return self._update(promotion, changes, (now,), "carried_at IS NULL")

    def postpone(self, promotion: Promotion, until: float, trouble: str) -> Promotion | None:
        """Records why programs don't get it yet. Returns None as `mark_synced` does."""
        changes = "tries = tries + 1, next_at = ?, trouble = ?"
        return self._update(promotion, changes, (until, trouble), UNPUBLISHED_SQL)

    def mark_unsynced(self, promotion: Promotion) -> Promotion | None:
        """Records that the trainer's alias points to another model. Returns None if the promotion has ended."""
        return self._update(promotion, "carried_at = NULL, next_at = 0", (), "carried_at IS NOT NULL")

    def _update(
        self, promotion: Promotion, changes: str, values: tuple[object, ...], condition: str
    ) -> Promotion | None:
        return self._db.first(
            _promotion,
            f"UPDATE promotions SET {changes} WHERE id = ? AND ended_at IS NULL AND {condition} RETURNING *",  # noqa: S608 - our words
            (*values, promotion.id),
        )


def _promotion(**row: Any) -> Promotion:
    return Promotion(**{**row, "is_rollback": bool(row["is_rollback"])})


RequestState = Literal["asked", "approved", "declined", "withdrawn", "expired", "outdated"]


@dataclass(frozen=True)
class PromotionRequest:
    """`hash` covers what would be deployed, what it would replace, and the evidence that the card shows. A request is
    'outdated' if any of these has changed."""

    id: int
    dataset: str
    model: str | None
    candidate: str | None
    measurement: int | None
    person: str
    reason: str
    channel: str
    hash: str
    state: RequestState
    at: float
    ended_at: float | None

    @property
    def what(self) -> Promotable:
        return Promotable(self.model, self.candidate, self.measurement)


@dataclass(frozen=True)
class NewPromotionRequest:
    dataset: str
    what: Promotable
    person: str
    reason: str
    channel: str
    hash: str


@dataclass(frozen=True)
class PromotionDecision:
    """A person's decision on a request, for the hash that its card had."""

    request: int
    hash: str
    person: str
    decision: Literal["approve", "decline"]
    reason: str | None
    at: float


class PromotionRequests(Table):
    def add(self, new: NewPromotionRequest, *, now: float) -> PromotionRequest | None:
        """Returns None if the same is asked for already."""
        values = {**vars(new), **vars(new.what), "state": "asked", "at": now}
        del values["what"]
        # An index allows one open request for the same thing on the same evidence.
        row = self._db.insert_once("promotion_requests", values)
        return PromotionRequest(**row) if row else None

    def get(self, number: int) -> PromotionRequest | None:
        return self._db.first(PromotionRequest, "SELECT * FROM promotion_requests WHERE id = ?", (number,))

    def open(self) -> list[PromotionRequest]:
        """Returns every request that waits for a decision, oldest first."""
        sql = "SELECT * FROM promotion_requests WHERE state = 'asked' ORDER BY id"
        return self._db.all(PromotionRequest, sql)

    def end(self, request: PromotionRequest, state: RequestState, *, now: float) -> PromotionRequest | None:
        """Returns None if it had ended before."""
        row = self._db.move("promotion_requests", request.id, "asked", {"state": state, "ended_at": now})
        return PromotionRequest(**row) if row else None

    def decide(self, decision: PromotionDecision) -> bool:
        """Records a person's decision. Returns False if they have decided already."""
        return self._db.insert_once("promotion_decisions", vars(decision)) is not None

    def decisions(self, number: int) -> list[PromotionDecision]:
        """Returns the decisions on a request, oldest first."""
        return self._db.all(
            PromotionDecision,
            "SELECT request, hash, person, decision, reason, at FROM promotion_decisions WHERE request = ? ORDER BY id",
            (number,),
        )


class RecipeUse(Protocol):
    @property
    def id(self) -> int: ...


Use = TypeVar("Use", bound=RecipeUse)


class RecipeUses(Table, Generic[Use]):
    """Base class: what is used for a dataset beside what was promoted, such as its fallback. For each a recipe is built
    first, and each is current until it ends, at most one of its kind for a dataset."""

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


@dataclass(frozen=True)
class Fallback:
    """A `candidate`, as JSON, as this `measurement` measured it, which a `person` chose as what answers for a dataset
    when what is in use can't, or takes longer than `after_s` seconds, if that is set. It is current while `ended_at` is
    None.

    `recipe` is the hash of what answers, None until it was built; `next_at` is when that is tried next, and `trouble`
    why it failed. `channel` is where it belongs.
    """

    id: int
    dataset: str
    candidate: str
    measurement: int
    after_s: float | None
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
    after_s: float | None = None


class Fallbacks(RecipeUses[Fallback]):
    table = "fallbacks"

    def choose(self, new: NewFallback, *, now: float) -> Fallback:
        """Adds a fallback in place of the dataset's current one. Call it in a transaction."""
        self.end(new.dataset, new.person, now=now)
        row = self._db.insert("fallbacks", {**vars(new), "at": now})
        return Fallback(**row)

    def end(self, dataset: str, person: str, *, now: float) -> Fallback | None:
        """Ends the dataset's fallback. Returns None if it has none."""
        sql = "UPDATE fallbacks SET ended_at = ?, ended_by = ? WHERE dataset = ? AND ended_at IS NULL RETURNING *"
        return self._db.first(Fallback, sql, (now, person, dataset))

    def _use(self, **row: Any) -> Fallback:
        return Fallback(**row)


CURRENT_MODEL_SQL = """
SELECT promotions.model, promotions.candidate, promotions.measurement, models.provider_model,
    (SELECT count(*) FROM deployments WHERE deployments.model = models.name
        AND (NOT by_token OR state = 'ready' OR json_extract(runs.plan, '$.hosting') IS NOT NULL)),
    (SELECT chat_model FROM deployments WHERE deployments.model = models.name AND state = 'ready')
FROM promotions LEFT JOIN models ON models.name = promotions.model LEFT JOIN runs ON runs.id = models.run_id
WHERE promotions.dataset = ? AND promotions.ended_at IS NULL
"""


@dataclass(frozen=True)
class CurrentModel:
    """What is in use for a dataset, and the name by which programs call a tuned model at its provider. That is None if
    it answers only on a machine by the hour and none runs, and for a candidate, which has no name of its own."""

    what: Promotable
    called: str | None


def current_model(database: Path, dataset: str) -> CurrentModel | None:
    """Returns None if nothing is in use. Raises StorageError."""
    rows = query_read_only(database, CURRENT_MODEL_SQL, (dataset,), what="the model in use")
    if not rows:
        return None
    model, candidate, measurement, provider_model, machines, chat_model = rows[0]
    what = Promotable(model, candidate, measurement)
    if machines:  # while it runs on one, it is called by the machine's own name
        return CurrentModel(what, chat_model)
    return CurrentModel(what, provider_model)
