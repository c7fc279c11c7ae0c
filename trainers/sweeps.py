"""A sweep: hyperparameters with several values each, every combination an arm. Pure; bot and trainer ask here.

What may be swept, and within which bounds: the rules are those of a single value.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainers.sizing.halving import FEWEST_ARMS, MOST_ARMS, at_most

Value = int | float | str
Sweep = tuple[tuple[str, tuple[Value, ...]], ...]  # names in the order in which they were said


@dataclass(frozen=True)
class Rule:
    """`wants` completes "it must be"."""

    wants: str
    accepts: Callable[[Any], bool]


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    return is_int(value) or isinstance(value, float)


def whole(low: int, high: int) -> Rule:
    return Rule(f"a whole number from {low} to {high}", lambda value: is_int(value) and low <= value <= high)


SWEPT: Mapping[str, Rule] = {
    "n_epochs": whole(1, 50),
    "batch_size": whole(1, 256),
    "learning_rate": Rule("a number above 0, at most 1", lambda v: is_number(v) and 0 < v <= 1),
    "learning_rate_multiplier": Rule(
        "a number above 0, at most 100", lambda v: is_number(v) and 0 < v <= 100
    ),
    "lora_r": whole(1, 512),
    "lora_alpha": whole(1, 1024),
    "lora_dropout": Rule("a number from 0 to below 1", lambda v: is_number(v) and 0 <= v < 1),
    "target_modules": Rule(
        "'all-linear' or names of modules separated by commas",
        lambda v: isinstance(v, str) and re.fullmatch(r"[\w.-]+(,[\w.-]+)*", v) is not None,
    ),
}


def complaint(sweep: Sweep) -> tuple[str, str | None] | None:
    """Why this can't be a sweep, and the name that it is about; None where it can."""
    for name, values in sweep:
        if name not in SWEPT:
            known = ", ".join(SWEPT)
            return (
                f"'{name}' can't be swept: all arms share the base and the rows. Those that can: {known}.",
                name,
            )
        for value in values:
            if not SWEPT[name].accepts(value):
                return f"'{name}' is {value!r} in the sweep; it must be {SWEPT[name].wants}.", name
        if not values or len(set(values)) < len(values):
            return f"'{name}' needs different values in the sweep, like {example(name)}.", name
    names = [name for name, _ in sweep]
    if {"learning_rate", "learning_rate_multiplier"} <= set(names):
        return "Sweep 'learning_rate' or 'learning_rate_multiplier', not both.", "learning_rate"
    return _miscounted(sweep)


def combinations(sweep: Sweep) -> tuple[Mapping[str, Value], ...]:
    """What is special to each arm, the first arm first; the last name's values change fastest."""
    names = [name for name, _ in sweep]
    every = itertools.product(*(values for _, values in sweep))
    return tuple(dict(zip(names, chosen, strict=True)) for chosen in every)


def courses_of(sweep: Sweep) -> float:
    """How many single trainings all arms are together, by halving; 1 without a sweep."""
    return at_most([1.0] * len(combinations(sweep))) if sweep else 1.0


def example(name: str) -> str:
    return {"learning_rate": "[0.0005, 0.001]", "lora_dropout": "[0.0, 0.1]"}.get(name, "[8, 16]")


def described(chosen: Mapping[str, Value]) -> str:
    """'lora_r 8, learning_rate 0.0005'."""
    return ", ".join(f"{name} {value}" for name, value in chosen.items())


def as_lists(sweep: Sweep) -> dict[str, list[Value]]:
    return {name: list(values) for name, values in sweep}


def from_lists(raw: Sequence[Sequence[Any]]) -> Sweep:
    """Out of JSON, where tuples became lists."""
    return tuple((str(name), tuple(values)) for name, values in raw)


def _miscounted(sweep: Sweep) -> tuple[str, None] | None:
    arms = math.prod(len(values) for _, values in sweep) if sweep else 0
    if FEWEST_ARMS <= arms <= MOST_ARMS:
        return None
    said = f"The sweep has {arms} arm{'s' if arms != 1 else ''}" if sweep else "The sweep is empty"
    cure = "Give more values" if arms < FEWEST_ARMS else "Leave some values out"
    return f"{said}; it takes {FEWEST_ARMS} to {MOST_ARMS}, one for each combination of values. {cure}.", None
