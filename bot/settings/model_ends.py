"""The ends of models that their providers announced. They are kept in the data folder, and override our own lists."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from trainers.providers.providers import ProviderRow

MODEL_ENDS_FILE = "model_ends.json"

StoredEnds = Mapping[str, Mapping[str, Any]]

log = logging.getLogger(__name__)


def store_model_ends(
    data: Path, provider: str, ends: Mapping[str, date], today: date, listed: Collection[str] = ()
) -> None:
    """Replaces everything that this provider announced before, as it may have postponed an end. `listed` are the names
    of all its models."""
    day_by_model = {model: day.isoformat() for model, day in sorted(ends.items())}
    ends_by_provider = dict(_load_stored_ends(data))
    ends_by_provider[provider] = {
        "read_on": today.isoformat(),
        "models": day_by_model,
        "listed": sorted(listed),
    }
    path = data / MODEL_ENDS_FILE
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(ends_by_provider, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def models_listed_before(data: Path, provider: str) -> frozenset[str]:
    """Returns the provider's models when it was last asked; empty if it never was."""
    return frozenset(_load_stored_ends(data).get(provider, {}).get("listed", ()))


def with_announced_ends(rows: Sequence[ProviderRow], data: Path) -> tuple[ProviderRow, ...]:
    ends_by_provider = _load_stored_ends(data)
    return tuple(_with_stored_list(row, ends_by_provider) for row in rows)


def _with_stored_list(row: ProviderRow, ends_by_provider: StoredEnds) -> ProviderRow:
    if row.name not in ends_by_provider:
        return row
    listed = frozenset(ends_by_provider[row.name].get("listed", ()))
    return row.with_shutdowns(_read_days(ends_by_provider, row.name), listed)


def _read_days(ends_by_provider: StoredEnds, provider: str) -> Mapping[str, date]:
    return {model: date.fromisoformat(day) for model, day in ends_by_provider[provider]["models"].items()}


def _load_stored_ends(data: Path) -> StoredEnds:
    """Returns {} if the file is missing or damaged: then our own lists hold, until a provider's next answer."""
    try:
        ends_by_provider: StoredEnds = json.loads((data / MODEL_ENDS_FILE).read_text(encoding="utf-8"))
        for provider in ends_by_provider:
            _read_days(ends_by_provider, provider)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        log.warning("ignoring %s, which can't be read: %s", data / MODEL_ENDS_FILE, error)
        return {}
    return ends_by_provider
