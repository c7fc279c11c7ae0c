"""When to warn a team that a model it relies on will be shut down, and which targets will last. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from trainers.providers.providers import ModelRow, ProviderRow, model_verdict

# Days before the end on which people are warned, once each. Of the warnings that were missed only the latest is sent.
NOTICES = (0, 7, 30, 90)
# A model that is trained now should pay back, and not need a warning of its own soon.
LASTING = timedelta(days=180)
UseKind = Literal["in use", "fallback", "planned", "today's", "target", "closed target", "price"]


@dataclass(frozen=True)
class ModelUse:
    """A model that a dataset relies on, or that the settings name. For a tuned model in use (`is_tuned`) or planned,
    `model` is its base and `name` is the tuned model or the run. For a prompt in use or as a fallback, `name` is what
    people call it; otherwise `model` is the name as people type it. `ends` is the first day on which it no longer
    answers, None if no day is known."""

    kind: UseKind
    dataset: str
    model: str
    name: str | None = None
    ends: date | None = None
    successor: str | None = None
    said_by: str | None = None
    is_tuned: bool = False

    def days_left(self, today: date) -> int | None:
        if self.ends is None:
            return None
        return (self.ends - today).days

    def has_ended(self, today: date) -> bool:
        return self.ends is not None and today >= self.ends


def due_notice(use: ModelUse, today: date) -> int | None:
    """Returns the notice that is due, as days before the end; None if the end is far away or unknown."""
    days = use.days_left(today)
    if days is None:
        return None
    # The shortest that is due: people need not read that it ends in 90 days if it ends in 7.
    return next((notice for notice in NOTICES if days <= notice), None)


def notice_key(use: ModelUse, notice: int) -> str:
    """Returns the key by which a notice is sent only once. If the end is postponed the key changes, and it is sent
    again."""
    return f"sunset {use.kind} {use.dataset} {use.name or ''} {use.model} {use.ends} {notice}"


def ending_soon(uses: Iterable[ModelUse], today: date) -> tuple[ModelUse, ...]:
    """Returns the models that end within the longest notice period, the nearest end first."""
    near = [use for use in uses if due_notice(use, today) is not None]
    near.sort(key=lambda use: (use.ends or today, use.dataset, use.kind))
    return tuple(near)


def is_lasting_target(row: ProviderRow, model: ModelRow, today: date) -> bool:
    """True if a model can be trained there now, and will then answer for at least `LASTING`."""
    if not row.trains or not row.provider.can("chat"):
        return False
    if row.closed_to_new is not None and today >= row.closed_to_new:
        return False
    if model.ends is not None and model.ends - today < LASTING:
        return False
    verdict = model_verdict(row, model, today)
    return verdict.level == "ok"
