"""When a team is told that a model which it relies on ends, and which targets stay. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from trainers.providers import ModelRow, ProviderRow, model_verdict

# Days before the end, and the day itself: each is told once, and of those that were missed only the nearest.
NOTICES = (0, 7, 30, 90)
# A model that is trained now should outlive the notices of its own end, and pay back before.
STAYS = timedelta(days=180)
UseKind = Literal["in use", "planned", "today's", "target", "price"]


@dataclass(frozen=True)
class ModelUse:
    """A model that a dataset relies on, or that the settings name. `model` is the base of what is in use or planned,
    else as people type it; `name` that of the tuned model, or of the run. `ends`: the first day without an answer, None
    where none is known."""

    kind: UseKind
    dataset: str
    model: str
    name: str | None = None
    ends: date | None = None
    successor: str | None = None
    said_by: str | None = None

    def days_left(self, today: date) -> int | None:
        return None if self.ends is None else (self.ends - today).days

    def has_ended(self, today: date) -> bool:
        return self.ends is not None and today >= self.ends


def due_notice(use: ModelUse, today: date) -> int | None:
    """Returns which of the notices it is time for, None where the end is far or not known."""
    days = use.days_left(today)
    return None if days is None else next((notice for notice in NOTICES if days <= notice), None)


def notice_key(use: ModelUse, notice: int) -> str:
    """Names a notice, so that it is told once. An end that was put off is told again."""
    return f"sunset {use.kind} {use.dataset} {use.name or ''} {use.model} {use.ends} {notice}"


def ending_soon(uses: Iterable[ModelUse], today: date) -> tuple[ModelUse, ...]:
    """Returns those that end within the longest notice, the nearest end first."""
    near = [use for use in uses if due_notice(use, today) is not None]
    return tuple(sorted(near, key=lambda use: (use.ends or today, use.dataset, use.kind)))


def is_lasting_target(row: ProviderRow, model: ModelRow, today: date) -> bool:
    """Returns whether a model can be trained there now, and asked for long enough."""
    is_open = (
        row.trains and row.provider.can("chat") and (row.closed_to_new is None or today < row.closed_to_new)
    )
    lasts = model.ends is None or model.ends - today >= STAYS
    return is_open and lasts and model_verdict(row, model, today).level == "ok"
