"""May this job be trained by its engine? Asked before anything starts; the answer is None or a sentence with
its cure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from trainers.local.engines.catalog import ENGINES, Engine, Installed, installed
from trainers.local.engines.plan import HONOURED
from trainers.methods import BUILTIN, Parameters


@dataclass(frozen=True)
class Refused:
    """`param` is the hyperparameter to change."""

    code: str
    message: str
    param: str = "engine"


def refusal(root: Path, settings: Parameters) -> Refused | None:
    """`root` is the folder of engines."""
    if settings.engine == BUILTIN:
        return None
    engine = ENGINES[settings.engine]
    there = installed(root, engine)
    if there is None:
        return Refused("engine_not_installed", _not_installed(engine))
    on_cpu = None if there.has_cuda else refusal_on_cpu(settings)
    return (
        _changed(engine, there)
        or _without_bits(engine, there, settings)
        or on_cpu
        or _beyond(engine, settings)
    )


def refusal_on_cpu(settings: Parameters) -> Refused | None:
    """unsloth says that it can't load 8 bits on a CPU, and loads all of them."""
    if (settings.engine, settings.quantization) != ("unsloth", "int8"):
        return None
    text = (
        "The engine unsloth loads a base in int8 on a GPU only, and there is none that it could use. Set quantization "
        "to nf4, which it trains on a CPU too, or let the engine be builtin."
    )
    return Refused("engine_cannot", text, "quantization")


def unknown_keys(engine: Engine, there: Installed, used: Mapping[str, frozenset[str]]) -> Refused | None:
    """Config keys that this installation, when it was asked, did not name."""
    for reader, keys in used.items():
        names = there.keys.get(reader, frozenset())
        missing = sorted(keys - names)
        if missing:
            return Refused("engine_config_changed", _keys_changed(engine, there, ", ".join(missing)))
    return None


def key_refused(engine: Engine, there: Installed, key: str | None) -> Refused:
    """What the engine itself said no to."""
    return Refused("engine_config_changed", _keys_changed(engine, there, key or "a key of its config"))


def not_quantized(engine: Engine, kind: str, sentence: str) -> Refused:
    """What scripts/callback.py found."""
    text = (
        f"{engine.name} did not load the base in {kind}: {sentence}. Leave quantization out, or let the engine be "
        "builtin."
    )
    return Refused("engine_cannot", text, "quantization")


def _not_installed(engine: Engine) -> str:
    return (
        f"The engine {engine.name} is not installed on this trainer. `finetune engines install {engine.name}` "
        f"does it (about {engine.gigabytes} GB, {engine.minutes:g} minutes), or leave 'engine' out."
    )


def _changed(engine: Engine, there: Installed) -> Refused | None:
    if there.found == there.version:
        return None
    what = f"version {there.found}" if there.found else "no version"
    text = (
        f"The engine {engine.name} was installed in version {there.version}, and now {what} lies there. "
        f"`finetune engines install {engine.name}` checks its config keys and mends it."
    )
    return Refused("engine_changed", text)


def _keys_changed(engine: Engine, there: Installed, keys: str) -> str:
    return (
        f"{engine.name} {there.found or there.version} does not know the config key {keys}; the configs written "
        f"here are for version {engine.version}. `finetune engines remove {engine.name}`, then "
        f"`finetune engines install {engine.name}` brings that one."
    )


def _without_bits(engine: Engine, there: Installed, settings: Parameters) -> Refused | None:
    if settings.quantization == "none" or "bitsandbytes" in there.versions:
        return None
    text = (
        f"quantization '{settings.quantization}' by the engine {engine.name} needs the package bitsandbytes, which "
        f"was not found beside it. `finetune engines install {engine.name}` adds it, or leave quantization out."
    )
    return Refused("quantization_unavailable", text, "quantization")


def _beyond(engine: Engine, settings: Parameters) -> Refused | None:
    """A setting that only the built-in engine knows, and that isn't at its default."""
    default = asdict(type(settings)())
    for field, value in asdict(settings).items():
        if field not in HONOURED and value != default[field]:
            name = field.removesuffix("_micros")
            text = f"The engine {engine.name} cannot honour {name}. Leave {name} out, or let the engine be builtin."
            return Refused("engine_cannot", text, name)
    return None
