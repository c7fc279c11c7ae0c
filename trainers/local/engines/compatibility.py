"""Checks whether a job's engine can train it, before anything starts. A refusal is a sentence that says what to do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from trainers.host import TINKER_KEY
from trainers.local.engines.catalog import INSTALLABLE, VLLM, Engine, Installation, find_installation
from trainers.local.engines.plan import HYPERPARAMETER_KEYS
from trainers.methods import BUILTIN, Parameters


@dataclass(frozen=True)
class Refusal:
    """`param` is the hyperparameter to change."""

    code: str
    message: str
    param: str = "engine"


def find_refusal(root: Path, settings: Parameters) -> Refusal | None:
    """Returns why the job's engine can't train with these settings, or None. `root` is the folder of engines."""
    if settings.engine == BUILTIN:
        return None
    engine = INSTALLABLE[settings.engine]
    installation = find_installation(root, engine)
    if installation is None:
        text = (
            f"The engine {engine.name} is not installed on this trainer. Run `finetune engines install {engine.name}` "
            f"(about {engine.gigabytes} GB, {engine.minutes:g} minutes), or leave 'engine' out."
        )
        return Refusal("engine_not_installed", text)

    if installation.present_version != installation.version:
        version = "no version"
        if installation.present_version:
            version = f"version {installation.present_version}"
        text = (
            f"The engine {engine.name} was installed in version {installation.version}, but its environment now has "
            f"{version}. Run `finetune engines install {engine.name}` to repair it."
        )
        return Refusal("engine_changed", text)

    if engine is VLLM:
        return _refuse_samples(settings)

    if engine.is_hosted:
        return refuse_at_vendor(engine, settings)

    if settings.quantization != "none" and "bitsandbytes" not in installation.versions:
        text = (
            f"quantization '{settings.quantization}' with the engine {engine.name} needs the package bitsandbytes, "
            f"which it lacks. Run `finetune engines install {engine.name}` to add it, or leave quantization out."
        )
        return Refusal("quantization_unavailable", text, "quantization")

    refusal = None
    if not installation.has_cuda:
        refusal = refuse_int8_on_cpu(settings)
    return refusal or refuse_unsupported(engine, settings)


def _refuse_samples(settings: Parameters) -> Refusal | None:
    """Returns why vLLM can't write the answers of a training with these settings, or None."""
    if settings.quantization == "none":
        return None
    text = (
        f"vLLM loads the base without quantization, so it would answer otherwise than a model trained in "
        f"{settings.quantization}. Leave out 'quantization' or 'engine'."
    )
    return Refusal("engine_cannot", text, "quantization")


# What the job may set. All other hyperparameters keep their defaults: Tinker scales LoRA its own way, has no dropout,
# and trains all linear layers.
TAKEN = frozenset(
    {
        "n_epochs",
        "batch_size",
        "learning_rate",
        "learning_rate_multiplier",
        "weight_decay",
        "lora_r",
        "max_length",
        "too_long",
        "engine",
    }
)


def refuse_at_vendor(
    engine: Engine, settings: Parameters, environment: Mapping[str, str] = os.environ
) -> Refusal | None:
    """Returns why the vendor of a hosted engine can't train with these settings, or None."""
    if not environment.get(TINKER_KEY):
        text = (
            f"The engine {engine.name} needs a key: set {TINKER_KEY} in the trainer's environment and start it again, "
            "or leave 'engine' out."
        )
        return Refusal("no_key", text)
    if settings.sweep:
        return _unsupported(engine, "sweep")
    usual = asdict(type(settings)())
    # Its "auto" is twice the rank, which is as good as leaving it out.
    usual["lora_alpha"] = 2 * settings.lora_r
    for field, value in asdict(settings).items():
        if field not in TAKEN and value != usual[field]:
            return _unsupported(engine, field.removesuffix("_micros"))
    return None


def _unsupported(engine: Engine, name: str) -> Refusal:
    text = f"The engine {engine.name} does not support {name}. Leave {name} out, or set engine to builtin."
    return Refusal("engine_cannot", text, name)


def refuse_int8_on_cpu(settings: Parameters) -> Refusal | None:
    """On a CPU unsloth can't load 8 bits: it only warns, and loads the unquantised base."""
    if (settings.engine, settings.quantization) != ("unsloth", "int8"):
        return None
    text = (
        "The engine unsloth supports int8 only on a GPU, and it can't use one here. Set quantization to nf4, which it "
        "supports on a CPU too, or set engine to builtin."
    )
    return Refusal("engine_cannot", text, "quantization")


def refuse_unsupported(engine: Engine, settings: Parameters) -> Refusal | None:
    """Refuses a setting that only the built-in engine supports, unless it has its default value."""
    default = asdict(type(settings)())
    for field, value in asdict(settings).items():
        if field not in HYPERPARAMETER_KEYS and value != default[field]:
            return _unsupported(engine, field.removesuffix("_micros"))
    return None


def refuse_unknown_keys(
    engine: Engine, installation: Installation, keys_by_reader: Mapping[str, frozenset[str]]
) -> Refusal | None:
    """Refuses config keys that the installed engine doesn't know."""
    for reader, keys in keys_by_reader.items():
        missing = sorted(keys - installation.keys.get(reader, frozenset()))
        if missing:
            return refuse_key(engine, installation, ", ".join(missing))
    return None


def refuse_key(engine: Engine, installation: Installation, key: str | None) -> Refusal:
    """Returns the refusal for a config key that the engine doesn't know. `key` is None if its log doesn't name the
    key."""
    version = installation.present_version or installation.version
    which = "one of its config keys"
    if key:
        which = f"the config key {key}"
    text = (
        f"{engine.name} {version} does not know {which}; our configs are for version {engine.version}. Install that: "
        f"`finetune engines remove {engine.name}`, then `finetune engines install {engine.name}`."
    )
    return Refusal("engine_config_changed", text)


def refuse_unquantized(engine: Engine, kind: str, sentence: str) -> Refusal:
    """`sentence` is the description of the base's layers by scripts/callback.py."""
    text = f"{engine.name} did not load the base in {kind}: {sentence}. "
    text += "Leave quantization out, or set engine to builtin."
    return Refusal("engine_cannot", text, "quantization")
