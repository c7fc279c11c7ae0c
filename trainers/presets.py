"""The base models that we know beforehand: rows of presets.toml. Reads and finds them; trains nothing."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Preset:
    """`hub_id` names it on the hub, `model_class` is transformers'. `within`: LoRA only below this module, where
    the model has other parts (vision). `parameters` as published. `config`: words of its config.json."""

    hub_id: str
    aliases: tuple[str, ...]
    model_class: str
    template: str
    target_modules: tuple[str, ...]
    within: str | None
    context: int
    licence: str
    is_gated: bool
    parameters: int
    config: Mapping[str, Any]


@cache
def presets() -> tuple[Preset, ...]:
    text = resources.files("trainers").joinpath("presets.toml").read_text(encoding="utf-8")
    return tuple(_preset(hub_id, row) for hub_id, row in tomllib.loads(text)["presets"].items())


def find_preset(name: str) -> Preset | None:
    """By hub id or alias, in any case of letters."""
    wanted = name.lower()
    return next((one for one in presets() if wanted in (one.hub_id.lower(), *one.aliases)), None)


def preset_names() -> Sequence[str]:
    """Hub ids and aliases."""
    return [name for one in presets() for name in (one.hub_id, *one.aliases)]


def _preset(hub_id: str, row: Mapping[str, Any]) -> Preset:
    return Preset(
        hub_id=hub_id,
        aliases=tuple(row["aliases"]),
        model_class=row["class"],
        template=row["template"],
        target_modules=tuple(row["target_modules"]),
        within=row.get("within"),
        context=row["context"],
        licence=row["licence"],
        is_gated=row["gated"],
        parameters=row["parameters"],
        config=row["config"],
    )
