"""What `finetune sunsets` gathers and prints: the ends of all models that the bot's database or the settings name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

from bot.cards import sunsets as cards
from bot.cli.output import show, show_json
from bot.services import sunsets
from bot.settings import Settings
from bot.values.sunsets import ModelUse
from storage.backup import opened_copy


def utc_today() -> date:
    return datetime.now(UTC).date()


def gather(settings: Settings, today: date) -> tuple[ModelUse, ...]:
    """Returns the uses of datasets, then what the settings name.

    The database, where there is one, is read as a copy, beside a running bot. Raises StorageError.
    """
    named = sunsets.configured(settings, today)
    if not settings.database.exists():
        return tuple(named)
    with opened_copy(settings.database) as store:
        return (*sunsets.uses(store, settings, today), *named)


def ended(uses: Sequence[ModelUse], today: date) -> list[ModelUse]:
    """Returns those that a dataset relies on and that answer no more."""
    return [use for use in uses if use.dataset and use.has_ended(today)]


def print_uses(uses: Sequence[ModelUse], today: date, *, as_json: bool) -> None:
    """Prints a table of all, and in words what ends within the notices."""
    if as_json:
        show_json(uses_json(uses, today))
    else:
        show(cards.listing(uses, today).parts, "warning" if ended(uses, today) else "plain")


def uses_json(uses: Sequence[ModelUse], today: date) -> list[dict[str, Any]]:
    """One object a use, in the order of their ends. `use`: in use, planned, today's, target (it can be trained) or
    price (it has a price of its own in finetune.toml)."""
    return [
        {
            "use": use.kind,
            "dataset": use.dataset or None,
            "model": use.model,
            "name": use.name,
            "ends": use.ends.isoformat() if use.ends else None,
            "days_left": use.days_left(today),
            "has_ended": use.has_ended(today),
            "successor": use.successor,
            "said_by": use.said_by,
        }
        for use in sorted(uses, key=lambda use: (use.ends or date.max, use.model))
    ]
