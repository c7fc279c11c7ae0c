"""A plan with everything that an engine needs to know about a job, and the code that writes it to the engine's folder:
a config, and a script that starts the engine."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainers.local.engines.catalog import EngineName
from trainers.local.training.schedule import is_validation_due, steps_an_epoch, warm_up_steps
from trainers.methods import Parameters

SAVE_STEPS = range(25, 101)
SAVE_STEPS_BELOW_A_CEILING = range(5, 26)

# Folders in the engine's.
ROWS = "rows"
OUTPUT = "output"
Value = str | int | float | bool | None | list[str] | list[dict[str, str]]
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # all needed files are in local folders
SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True)
class EngineKeys:
    """The names of a hyperparameter in the engines' configs. In unsloth's config, `lora.r` is key r of part lora."""

    unsloth: tuple[str, ...]
    axolotl: str
    llamafactory: str


# The hyperparameters that other engines support, by their fields in trainers/methods.py; compatibility.py refuses all
# others. None means that there is no single key: each engine's module writes rows, target modules and quantization, and
# runner.py and scripts/callback.py decide when to validate and when to stop.
HYPERPARAMETER_KEYS: Mapping[str, EngineKeys | None] = {
    "n_epochs": EngineKeys(("arguments.num_train_epochs",), "num_epochs", "num_train_epochs"),
    "batch_size": EngineKeys(
        ("arguments.per_device_train_batch_size",), "micro_batch_size", "per_device_train_batch_size"
    ),
    "learning_rate": EngineKeys(("arguments.learning_rate",), "learning_rate", "learning_rate"),
    "learning_rate_multiplier": None,
    "weight_decay": EngineKeys(("arguments.weight_decay",), "weight_decay", "weight_decay"),
    "lora_r": EngineKeys(("lora.r",), "lora_r", "lora_rank"),
    "lora_alpha": EngineKeys(("lora.lora_alpha",), "lora_alpha", "lora_alpha"),
    "lora_dropout": EngineKeys(("lora.lora_dropout",), "lora_dropout", "lora_dropout"),
    "target_modules": None,
    "max_length": EngineKeys(("model.max_seq_length", "arguments.max_length"), "sequence_len", "cutoff_len"),
    "too_long": None,
    "quantization": None,
    "eval_steps": None,
    "patience": None,
    "max_seconds": None,
    "max_usd_micros": None,
    "usd_per_hour_micros": None,
    "engine": None,
}
# The same in all engines. In unsloth's config they are in part arguments.
SHARED_SETTINGS: Mapping[str, str | int | float] = {
    "gradient_accumulation_steps": 1,
    "max_grad_norm": 1.0,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_total_limit": 3,
}


@dataclass(frozen=True)
class EnginePlan:
    """`base` is a local folder, `targets` are suffixes of module names, and `rows` is the number of training rows.
    Paths in configs are relative to the engine's folder."""

    base: str
    settings: Parameters
    seed: int
    targets: tuple[str, ...]
    rows: int
    has_validation: bool
    device: Literal["cpu", "cuda"]
    is_bf16: bool
    is_fp16: bool = False

    @property
    def steps_an_epoch(self) -> int:
        return steps_an_epoch(self.rows, self.settings)

    @property
    def total_steps(self) -> int:
        return self.steps_an_epoch * self.settings.n_epochs

    @property
    def save_steps(self) -> int:
        """The number of steps between two checkpoints: a whole epoch or, if that is too long, the largest number from
        25 to 100 that divides it, or 100. Under a ceiling it is 5 to 25, since steps after the last checkpoint may be
        lost.

        If the number doesn't divide an epoch, scripts/callback.py also saves a checkpoint at the epoch's end.
        """
        epoch = self.steps_an_epoch
        choices = SAVE_STEPS
        if self.settings.ceiling_s is not None:
            choices = SAVE_STEPS_BELOW_A_CEILING
        if epoch <= max(choices):
            return epoch
        return max((steps for steps in choices if epoch % steps == 0), default=max(choices))

    def is_validated(self, step: int) -> bool:
        return self.has_validation and is_validation_due(step, self.steps_an_epoch, self.settings)

    @property
    def warm_up_steps(self) -> int:
        return warm_up_steps(self.total_steps)

    @property
    def train_file(self) -> str:
        return f"{ROWS}/train.jsonl"

    @property
    def valid_file(self) -> str | None:
        if not self.has_validation:
            return None
        return f"{ROWS}/valid.jsonl"


@dataclass(frozen=True)
class EngineConfig:
    """An engine's files by name, and its commands in order, the last of which trains. `environment` is added to ours.
    `keys` are the config keys in use, by their reader."""

    files: Mapping[str, str]
    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str]
    keys: Mapping[str, frozenset[str]]


def map_settings(plan: EnginePlan, engine: EngineName) -> dict[str, Value]:
    """Returns the hyperparameters under this engine's keys, and the settings that are the same in all engines."""
    named: dict[str, Value] = {}
    for field, keys in HYPERPARAMETER_KEYS.items():
        value = getattr(plan.settings, field)
        if keys is None:
            continue
        match engine:
            case "unsloth":
                named |= dict.fromkeys(keys.unsloth, value)
            case "axolotl":
                named[keys.axolotl] = value
            case "llamafactory":
                named[keys.llamafactory] = value
    part = ""
    if engine == "unsloth":
        part = "arguments."
    for key, shared in SHARED_SETTINGS.items():
        named[f"{part}{key}"] = shared
    return named


def read_scripts(**names: str) -> dict[str, str]:
    """Returns the contents of scripts by the file name in the engine's folder: callback.py and, for example, train.py
    for `train="unsloth_train"`."""
    scripts = {}
    for to, name in {"callback": "callback", **names}.items():
        source = SCRIPTS / f"{name}.py"
        scripts[f"{to}.py"] = source.read_text(encoding="utf-8")
    return scripts


def callback_environment(plan: EnginePlan) -> dict[str, str]:
    """Returns the variables for scripts/callback.py, and the PYTHONPATH by which the engine finds it."""
    return {
        "PYTHONPATH": ".",
        "FINETUNE_EVAL_STEPS": str(plan.settings.eval_steps or 0),
        "FINETUNE_QUANTIZATION": plan.settings.quantization,
    }


def engine_folder(job_folder: Path) -> Path:
    return job_folder / "engine"


def yaml(values: Mapping[str, Value]) -> str:
    """Writes one line per key. Values are written as JSON, which is valid YAML except for small numbers: YAML 1.1 reads
    1e-05 as text, so it is written 1.0e-05."""

    return "".join(f"{key}: {_scalar(value)}\n" for key, value in values.items())


def _scalar(value: Value) -> str:
    if not isinstance(value, float):
        return json.dumps(value)
    mantissa, e, exponent = repr(value).partition("e")
    if "." not in mantissa:
        mantissa += ".0"
    return f"{mantissa}{e}{exponent}"


def write_files(folder: Path, config: EngineConfig) -> Path:
    """Writes the engine's files to `folder` and returns the script that starts it."""
    folder.mkdir(exist_ok=True)
    for name, text in config.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    environment = OFFLINE | dict(config.environment)
    *before, last = (shlex.join(command) for command in config.commands)
    lines = [
        "#!/bin/sh",
        "# Trains this job like the trainer does, from the newest checkpoint in output/.",
        "# Don't run it while the trainer does: both would write to the same folder.",
        'cd "$(dirname "$0")" || exit 1',
        *(f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())),
        *(f"{command} || exit 1" for command in before),
        f"exec {last}",
    ]
    script = folder / "run.sh"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    script.chmod(0o700)
    return script
