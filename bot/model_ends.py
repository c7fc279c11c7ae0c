"""When the models of each provider end, as it last told us: a small file in the data folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from trainers.providers import ProviderRow

FILE = "model_ends.json"

Kept = Mapping[str, Mapping[str, Any]]

log = logging.getLogger(__name__)


def keep(data: Path, provider: str, ends: Mapping[str, date], today: date) -> None:
    """All that was told before of this provider is replaced: it may have put an end off."""
    told = {model: day.isoformat() for model, day in sorted(ends.items())}
    kept = {**_kept(data), provider: {"read_on": today.isoformat(), "models": told}}
    path = data / FILE
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def with_told_ends(rows: Sequence[ProviderRow], data: Path) -> tuple[ProviderRow, ...]:
    kept = _kept(data)
    return tuple(row.with_shutdowns(_days(kept, row.name)) if row.name in kept else row for row in rows)


def _days(kept: Kept, provider: str) -> Mapping[str, date]:
    return {model: date.fromisoformat(day) for model, day in kept[provider]["models"].items()}


def _kept(data: Path) -> Kept:
    """Nothing where the file is damaged: our lists hold then, and the next answer replaces it."""
    try:
        kept: Kept = json.loads((data / FILE).read_text(encoding="utf-8"))
        for provider in kept:
            _days(kept, provider)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        log.warning("%s can't be read and is left out: %s", data / FILE, error)
        return {}
    return kept
