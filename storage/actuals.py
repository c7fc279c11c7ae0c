"""The monthly usage of models in use: calls, tokens, their cost, and what the best alternative would have cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from storage.audit import query_read_only
from storage.database import Table
from storage.records import Promotable

CostUnknown = Literal["no_price", "no_tokens", "estimate"]
SavingUnknown = Literal["nothing_before", "no_price_before", "cost"]


@dataclass(frozen=True)
class ActualMonth:
    """How much was used under a dataset's name in a month ('2026-11'), counted at the time `at`. `model` is our name of
    the tuned model, or what people call the candidate.

    `failed` of the calls got no whole answer; `cached_tokens` are among `prompt_tokens`. `micros` is the cost, None for
    the reason `cost_unknown`: no price, calls whose answers named no tokens, or an estimate that can't be made any
    more. The saving is relative to `alternative`, which would have cost `alternative_micros` for the same calls, None
    for the reason `saving_unknown`: nothing was in use before, its price is unknown, or the cost is.
    """

    dataset: str
    model: str
    month: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    micros: int | None
    alternative: str | None
    alternative_micros: int | None
    at: float
    failed: int = 0
    cached_tokens: int = 0
    cost_unknown: CostUnknown | None = None
    saving_unknown: SavingUnknown | None = None

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def saving_micros(self) -> int | None:
        """The saving, negative if the model cost more than the alternative; None if a price is unknown."""
        if self.micros is None or self.alternative_micros is None:
            return None
        return self.alternative_micros - self.micros


class Actuals(Table):
    def keep(self, month: ActualMonth) -> None:
        """Stores a month, replacing an earlier count of it."""
        columns = ", ".join(vars(month))
        marks = ", ".join("?" * len(vars(month)))
        self._db.change(
            f"INSERT OR REPLACE INTO actual_months ({columns}) VALUES ({marks})",  # noqa: S608 - our names
            tuple(vars(month).values()),
        )

    def get(self, dataset: str, model: str, month: str) -> ActualMonth | None:
        sql = "SELECT * FROM actual_months WHERE dataset = ? AND model = ? AND month = ?"
        return self._db.first(ActualMonth, sql, (dataset, model, month))

    def of(self, dataset: str) -> list[ActualMonth]:
        """Returns a dataset's months, newest first, with one value for each model that was in use."""
        sql = "SELECT * FROM actual_months WHERE dataset = ? ORDER BY month DESC, model"
        return self._db.all(ActualMonth, sql, (dataset,))


@dataclass(frozen=True)
class CurrentUse:
    """What is in use for a dataset since `at`, by the promotion of that number: a tuned `model`, under our name and its
    provider's, or a `candidate` as a `measurement` measured it. `trouble` is why programs don't get it yet, and
    `fallback` the candidate, as JSON, that answers when it can't.
    `expected_micros` is the monthly saving that a model's plan predicted; `plan` and `result` are those of its run as
    JSON. `months` are the dataset's, newest first."""

    dataset: str
    promotion: int
    model: str | None
    candidate: str | None
    measurement: int | None
    trouble: str | None
    provider: str | None
    provider_model: str | None
    at: float
    expected_micros: int | None
    plan: str | None
    result: str | None
    fallback: str | None
    months: tuple[ActualMonth, ...]

    @property
    def what(self) -> Promotable:
        return Promotable(self.model, self.candidate, self.measurement)


CURRENT_USES_SQL = """
SELECT promotions.dataset, promotions.id, promotions.model, promotions.candidate, promotions.measurement,
    promotions.trouble, models.provider, models.provider_model, promotions.at,
    json_extract(runs.plan, '$.predicted.saving_micros'), runs.plan, runs.result,
    (SELECT candidate FROM fallbacks WHERE fallbacks.dataset = promotions.dataset AND fallbacks.ended_at IS NULL),
    (SELECT json_group_array(json_array(dataset, model, month, calls, prompt_tokens, completion_tokens, micros,
        alternative, alternative_micros, at, failed, cached_tokens, cost_unknown, saving_unknown))
        FROM (SELECT * FROM actual_months AS month WHERE month.dataset = promotions.dataset ORDER BY month DESC, model))
FROM promotions LEFT JOIN models ON models.name = promotions.model LEFT JOIN runs ON runs.id = models.run_id
WHERE promotions.ended_at IS NULL ORDER BY promotions.dataset
"""


def current_uses(database: Path) -> list[CurrentUse]:
    """Returns what is in use, one per dataset, also while a bot is running. Raises StorageError."""
    uses = []
    for *use, months in query_read_only(database, CURRENT_USES_SQL, what="what is in use"):
        values = [*use, tuple(ActualMonth(*month) for month in json.loads(months))]
        uses.append(CurrentUse(*values))
    return uses
