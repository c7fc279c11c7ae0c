"""Published facts about models that are only prompted: when they are shut down, the successor that their maker names,
whether they can answer without thinking, and prices that the library genai-prices lacks.

Read from models.toml, which `python docs/models.py` writes. Training and its prices are in providers.toml.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from importlib import resources

# The suffix of a name that distinguishes releases of one model.
RELEASE_SUFFIX = re.compile(r"[-@](latest|\d{8}|\d{4}-\d{2}-\d{2}|\d{3})$")
# Appended to the name of a model that needn't think: it may think a little before it answers.
LOW_EFFORT_SUFFIX = "@low"


@dataclass(frozen=True)
class ListedModel:
    """A model of models.toml. `ends` is the first day on which it no longer answers, or None if no end is announced.
    `unconfirmed`: nobody has read its end and its successor together on a page of its maker.
    `takes_none`: it can be asked not to think (reasoning_effort "none"). `thinks`: it always thinks. Prices are in USD
    per 1M tokens."""

    seller: str
    name: str
    source: str
    as_of: date
    ends: date | None = None
    successor: str | None = None
    unconfirmed: bool = False
    takes_none: bool = False
    thinks: bool = False
    input: Decimal | None = None
    cached_input: Decimal | None = None
    output: Decimal | None = None

    @property
    def said_by(self) -> str:
        return f"{self.source}, {self.as_of}"

    def has_ended(self, today: date) -> bool:
        return self.ends is not None and today >= self.ends


@cache
def listed_models() -> Mapping[str, Mapping[str, ListedModel]]:
    """Returns the models by seller and name, in lower case."""
    file = resources.files("trainers").joinpath("models.toml")
    return read_list(file.read_text(encoding="utf-8"))


def read_list(text: str) -> Mapping[str, Mapping[str, ListedModel]]:
    models: dict[str, dict[str, ListedModel]] = {}
    for seller, table in tomllib.loads(text).items():
        models[seller] = {}
        for name, row in table["models"].items():
            values = {"source": table["source"], "as_of": table["as_of"], **row}
            for key in ("input", "cached_input", "output"):
                if key in row:
                    values[key] = Decimal(row[key])
            models[seller][name] = ListedModel(seller, name, **values)
    return models


def find_listed_model(name: str, seller: str | None = None) -> ListedModel | None:
    """Finds a model by name, ignoring case; an unlisted release (gpt-4o-2024-11-20) is found as its model (gpt-4o). A
    `seller` of None searches all sellers."""
    models = listed_models()
    lowered = name.lower()
    sellers = list(models)
    if seller:
        sellers = [seller]
    for each in sellers:
        of_seller = models.get(each, {})
        for wanted in (lowered, RELEASE_SUFFIX.sub("", lowered)):
            if wanted in of_seller:
                return of_seller[wanted]
    return None


def available_successors(seller: str, today: date) -> tuple[ListedModel, ...]:
    """Returns the models that this seller names as successors and that have not ended themselves."""
    models = listed_models().get(seller, {})
    named = [model.successor for model in models.values() if model.successor]
    successors = [models[name] for name in dict.fromkeys(named) if name in models]
    return tuple(successor for successor in successors if not successor.has_ended(today))


def strip_effort(name: str) -> str:
    """'openai/gpt-6-luna@low' → 'openai/gpt-6-luna'."""
    return name.removesuffix(LOW_EFFORT_SUFFIX)
