"""Decides whether a job may be trained by its engine, before anything starts. The answer is None or a sentence with
its cure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from trainers.local.engines.catalog import ENGINES, Engine, Installation, find_installation
from trainers.local.engines.plan import HYPERPARAMETER_KEYS
from trainers.methods import BUILTIN, Parameters


@dataclass(frozen=True)
class Refusal:
    """`param` is the hyperparameter to change."""

    code: str
    message: str
    param: str = "engine"


def find_refusal(root: Path, settings: Parameters) -> Refusal | None:
    """`root` is the folder of engines."""
    if settings.engine == BUILTIN:
        return None
    engine = ENGINES[settings.engine]
    installation = find_installation(root, engine)
    if installation is None:
        text = (
            f"The engine {engine.name} is not installed on this trainer. `finetune engines install {engine.name}` "
            f"does it (about {engine.gigabytes} GB, {engine.minutes:g} minutes), or leave 'engine' out."
        )
        return Refusal("engine_not_installed", text)

    if installation.present_version != installation.version:
        present = installation.present_version
        version = f"version {present}" if present else "no version"
        text = (
            f"The engine {engine.name} was installed in version {installation.version}, and now {version} lies there. "
            f"`finetune engines install {engine.name}` checks its config keys and repairs it."
        )
        return Refusal("engine_changed", text)

    if settings.quantization != "none" and "bitsandbytes" not in installation.versions:
        text = (
            f"quantization '{settings.quantization}' by the engine {engine.name} needs the package bitsandbytes, which "
            f"was not found beside it. `finetune engines install {engine.name}` adds it, or leave quantization out."
        )
        return Refusal("quantization_unavailable", text, "quantization")

    on_cpu = None if installation.has_cuda else refuse_int8_on_cpu(settings)
    return on_cpu or refuse_unsupported(engine, settings)


def refuse_int8_on_cpu(settings: Parameters) -> Refusal | None:
    """On a CPU unsloth warns that it can't load 8 bits, and loads the base in full instead."""
    if (settings.engine, settings.quantization) != ("unsloth", "int8"):
        return None
    text = (
        "The engine unsloth loads a base in int8 on a GPU only, and there is none that it could use. Set quantization "
        "to nf4, which it trains on a CPU too, or let the engine be builtin."
    )
    return Refusal("engine_cannot", text, "quantization")


def refuse_unsupported(engine: Engine, settings: Parameters) -> Refusal | None:
    """Refuses a setting that only the built-in engine honours, unless it is at its default."""
    default = asdict(type(settings)())
    for field, value in asdict(settings).items():
        if field not in HYPERPARAMETER_KEYS and value != default[field]:
            name = field.removesuffix("_micros")
            text = f"The engine {engine.name} cannot honour {name}. Leave {name} out, or let the engine be builtin."
            return Refusal("engine_cannot", text, name)
    return None


def refuse_unknown_keys(
    engine: Engine, installation: Installation, keys_by_reader: Mapping[str, frozenset[str]]
) -> Refusal | None:
    """Refuses config keys that the engine did not list when it was installed."""
    for reader, keys in keys_by_reader.items():
        missing = sorted(keys - installation.keys.get(reader, frozenset()))
        if missing:
            return refuse_key(engine, installation, ", ".join(missing))
    return None


def refuse_key(engine: Engine, installation: Installation, key: str | None) -> Refusal:
    """For a config key that the engine itself complained about; None: its log doesn't name it."""
    text = (
        f"{engine.name} {installation.present_version or installation.version} does not know the config key "
        f"{key or 'a key of its config'}; the configs written here are for version {engine.version}. "
        f"`finetune engines remove {engine.name}`, then `finetune engines install {engine.name}` brings that one."
    )
    return Refusal("engine_config_changed", text)


def refuse_unquantized(engine: Engine, kind: str, sentence: str) -> Refusal:
    """`sentence` is how scripts/callback.py describes the base's layers."""
    text = (
        f"{engine.name} did not load the base in {kind}: {sentence}. Leave quantization out, or let the engine be "
        "builtin."
    )
    return Refusal("engine_cannot", text, "quantization")
