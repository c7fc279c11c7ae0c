"""When a model that is prompted stops answering, and which one its maker names as successor.

From what a provider answered (`shutdown_date`), from our rows (providers.py), and from the dated list model_ends.toml.
A model that nobody knows an end of has none here: that is no promise that it stays.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib import resources

from trainers.providers import ProviderRow

# The part of a name that tells one release of a model from the next.
RELEASE = re.compile(r"[-@](latest|\d{8}|\d{4}-\d{2}-\d{2}|\d{3})$")


@dataclass(frozen=True)
class End:
    """`day` is the first one without an answer. `successor` is None where its maker named none."""

    day: date
    successor: str | None = None


def end_of(name: str, providers: Sequence[ProviderRow]) -> End | None:
    """Of 'gpt-4o', 'openai/gpt-4o', 'ft:gpt-4o-2024-08-06:acme::x'. What is sold by another than its maker
    ('azure/gpt-4o') ends when that one says."""
    seller, slash, bare = name.lower().rpartition("/")
    bare = bare.split(":")[1] if bare.startswith("ft:") and bare.count(":") else bare
    listed = _listed(seller, bare)
    day = _day_of_rows(seller if slash else None, bare, providers)
    if day is None:
        return listed
    return End(day, listed.successor if listed else None)


def _day_of_rows(seller: str | None, bare: str, providers: Sequence[ProviderRow]) -> date | None:
    rows = [row for row in providers if seller in (None, row.name)]
    told = (row.shutdowns[bare] for row in rows if bare in row.shutdowns)
    known = (model.ends for row in rows if (model := row.model(bare)))
    return next(told, None) or next(known, None)


def _listed(seller: str, bare: str) -> End | None:
    ends = _ends()
    names = (bare, RELEASE.sub("", bare))
    sellers = [seller] if seller else list(ends)
    return next((ends[one][name] for one in sellers for name in names if name in ends.get(one, {})), None)


@cache
def _ends() -> Mapping[str, Mapping[str, End]]:
    text = resources.files("trainers").joinpath("model_ends.toml").read_text(encoding="utf-8")
    return {
        seller: {name: End(row["ends"], row.get("successor")) for name, row in table["models"].items()}
        for seller, table in tomllib.loads(text).items()
    }
