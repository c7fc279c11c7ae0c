"""Parses `hyperparameters.sweep` of a create: {"lora_r": [8, 16], "learning_rate": [0.0005, 0.001]}. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainers import sweeps
from trainers.local.problems import invalid
from trainers.sweeps import Sweep

RATES = ("learning_rate", "learning_rate_multiplier")


def parse_sweep(value: object, path: str) -> Sweep | None:
    """None where there is none. Raises Problem (400)."""
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(values, list) for values in value.values()):
        text = f"'sweep' must be an object of lists, like {{\"lora_r\": {sweeps.example('lora_r')}}}."
        raise invalid(text, path, "invalid_type")
    sweep = tuple((name, tuple(_value(name, one) for one in values)) for name, values in value.items())
    wrong = sweeps.complaint(sweep)
    if wrong:
        text, name = wrong
        raise invalid(text, f"{path}.{name}" if name else path)
    return sweep


def check_sweep(sweep: Sweep, single: Mapping[str, object], *, has_validation: bool) -> None:
    """Beside the single hyperparameters that were given. Raises Problem (400)."""
    names = {name for name, _ in sweep}
    for name in single:
        rate = next((other for other in RATES if name in RATES and other in names), None)
        if name in names or rate:
            text = f"'{name}' is given singly and '{rate or name}' in the sweep. Say it in one of the two places."
            raise invalid(text, f"hyperparameters.{name}")
    if "patience" in single:
        text = "The halving of a sweep stops arms itself, so 'patience' doesn't go with it. Leave one of the two out."
        raise invalid(text, "hyperparameters.patience")
    if not has_validation:
        text = (
            "A sweep chooses by the loss on a validation file. Give 'validation_file', or leave 'sweep' out."
        )
        raise invalid(text, "hyperparameters.sweep")


def _value(name: str, value: Any) -> Any:
    """Names of modules may come as a list, as they may singly; what it must be is asked later."""
    is_names = name == "target_modules" and isinstance(value, list) and all(isinstance(x, str) for x in value)
    return ",".join(value) if is_names else value
