"""The ends of models that their providers announced, and when each model was listed first. They are kept in the data
folder; the ends override our own lists."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from trainers.models.model_list import RELEASE_SUFFIX
from trainers.providers.providers import ProviderRow

MODEL_ENDS_FILE = "model_ends.json"

StoredEnds = Mapping[str, Mapping[str, Any]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedModels:
    """A provider's models by their names in lower case: those that it `listed` when it was asked last, and the day on
    which each was listed first, also of those that it had before. The first list is of the day `since`."""

    since: date
    listed: frozenset[str]
    first_days: Mapping[str, date]

    def find_listed(self, name: str) -> frozenset[str]:
        """Returns the names under which a model is listed: its own, and those of its releases."""
        return frozenset(each for each in self.listed if _is_called(each, name))

    def first_day(self, name: str) -> date | None:
        """Returns the day on which a model, or a release of it, was listed first; None if it never was."""
        days = [day for each, day in self.first_days.items() if _is_called(each, name)]
        return min(days, default=None)


def store_model_ends(
    data: Path, provider: str, ends: Mapping[str, date], today: date, listed: Collection[str] = ()
) -> None:
    """Replaces everything that this provider announced before, as it may have postponed an end. `listed` are the names
    of all its models."""
    day_by_model = {model: day.isoformat() for model, day in sorted(ends.items())}
    ends_by_provider = dict(_load_stored_ends(data))
    before = _listed_models(ends_by_provider.get(provider, {}))
    # An empty list tells nothing of when a model came.
    if listed and before is None:
        before = ListedModels(today, frozenset(), {})
    stored: dict[str, Any] = {
        "read_on": today.isoformat(),
        "models": day_by_model,
        "listed": sorted(listed),
    }
    if before is not None:
        stored |= _first_days(before, listed, today)
    ends_by_provider[provider] = stored
    path = data / MODEL_ENDS_FILE
    # By way of a second file, so that a kill while it is written leaves the list of before.
    partial = path.with_suffix(".tmp")
    text = json.dumps(ends_by_provider, indent=1)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def models_listed_before(data: Path, provider: str) -> frozenset[str]:
    """Returns the provider's models when it was last asked; empty if it never was."""
    stored = _load_stored_ends(data).get(provider, {})
    return frozenset(stored.get("listed", ()))


def listed_models_of(data: Path, provider: str) -> ListedModels | None:
    """Returns when the provider listed its models first, None if it has never listed any."""
    stored = _load_stored_ends(data).get(provider, {})
    return _listed_models(stored)


def with_announced_ends(rows: Sequence[ProviderRow], data: Path) -> tuple[ProviderRow, ...]:
    ends_by_provider = _load_stored_ends(data)
    return tuple(_with_stored_list(row, ends_by_provider) for row in rows)


def _with_stored_list(row: ProviderRow, ends_by_provider: StoredEnds) -> ProviderRow:
    if row.name not in ends_by_provider:
        return row
    listed = frozenset(ends_by_provider[row.name].get("listed", ()))
    ends = _read_days(ends_by_provider, row.name)
    return row.with_shutdowns(ends, listed)


def _listed_models(stored: Mapping[str, Any]) -> ListedModels | None:
    """Reads what is stored of one provider. An older version stored no first days: then the last list is the first."""
    listed = frozenset(name.lower() for name in stored.get("listed", ()))
    if "since" not in stored:
        if not listed:
            return None
        day = date.fromisoformat(stored["read_on"])
        return ListedModels(day, listed, dict.fromkeys(listed, day))
    first_days = {name: date.fromisoformat(day) for name, day in stored["first_days"].items()}
    since = date.fromisoformat(stored["since"])
    return ListedModels(since, listed, first_days)


def _first_days(before: ListedModels, listed: Collection[str], today: date) -> Mapping[str, Any]:
    days = {name.lower(): today for name in listed}
    # A model that was listed before, left the list and came back isn't new.
    days |= dict(before.first_days)
    return {
        "since": before.since.isoformat(),
        "first_days": {name: day.isoformat() for name, day in sorted(days.items())},
    }


def _is_called(listed: str, name: str) -> bool:
    without_release = RELEASE_SUFFIX.sub("", listed)
    return name.lower() in (listed, without_release)


def _read_days(ends_by_provider: StoredEnds, provider: str) -> Mapping[str, date]:
    models = ends_by_provider[provider]["models"]
    return {model: date.fromisoformat(day) for model, day in models.items()}


def _load_stored_ends(data: Path) -> StoredEnds:
    """Returns {} if the file is missing or damaged: then our own lists hold, until a provider's next answer."""
    path = data / MODEL_ENDS_FILE
    try:
        ends_by_provider: StoredEnds = json.loads(path.read_text(encoding="utf-8"))
        for provider, stored in ends_by_provider.items():
            _read_days(ends_by_provider, provider)
            _listed_models(stored)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        log.warning("ignoring %s, which can't be read: %s", path, error)
        return {}
    return ends_by_provider
