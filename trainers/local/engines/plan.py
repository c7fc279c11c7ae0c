"""What every engine needs to know about a job, in one value, and how it is written into the engine's folder: a config,
and a script that starts the engine, for us or for a person."""

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

ROWS, OUTPUT = "rows", "output"
Value = str | int | float | bool | None | list[str] | list[dict[str, str]]
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # all that is needed lies in folders
SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True)
class EngineKeys:
    """The names of a hyperparameter in the engines' configs; `lora.r` is the key r in the part lora of unsloth's."""

    unsloth: tuple[str, ...]
    axolotl: str
    llamafactory: str


# The hyperparameters that other engines honour, by their fields in trainers/methods.py; compatibility.py refuses all
# others. None: there is no single key for it. Rows, modules and the base's bits are written by each engine's module;
# runner.py and scripts/callback.py decide when to validate and when to end.
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
SHARED_SETTINGS: Mapping[
    str, str | int | float
] = {  # alike in all engines; in the part arguments of unsloth's config
    "gradient_accumulation_steps": 1,
    "max_grad_norm": 1.0,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_total_limit": 3,
}


@dataclass(frozen=True)
class EnginePlan:
    """`base` is a local folder, `targets` are the last parts of modules' names, `rows` is the number of training rows.
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
        """Steps between two checkpoints: an epoch, or in a long one the largest number from 25 to 100 that divides it,
        else 100. Under a ceiling 5 to 25, since what comes after the last checkpoint can be lost there.

        Where the steps don't divide an epoch, scripts/callback.py saves a checkpoint at its end too.
        """
        epoch = self.steps_an_epoch
        choices = SAVE_STEPS if self.settings.ceiling_s is None else SAVE_STEPS_BELOW_A_CEILING
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
        return f"{ROWS}/valid.jsonl" if self.has_validation else None


@dataclass(frozen=True)
class EngineConfig:
    """An engine's own files by name, and the commands that it takes, in order; the last one is the training.
    `environment` is added to ours. `keys` are the config keys in use, by what reads them."""

    files: Mapping[str, str]
    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str]
    keys: Mapping[str, frozenset[str]]


def map_settings(plan: EnginePlan, engine: EngineName) -> dict[str, Value]:
    """Returns the hyperparameters by this engine's keys, and the settings that are alike in all engines."""
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
    part = "arguments." if engine == "unsloth" else ""
    return named | {f"{part}{key}": value for key, value in SHARED_SETTINGS.items()}


def read_scripts(**names: str) -> dict[str, str]:
    """Returns texts for the engine's folder by file name: the callback, and for `train="unsloth_train"` a train.py."""
    names = {"callback": "callback", **names}
    return {f"{to}.py": (SCRIPTS / f"{name}.py").read_text(encoding="utf-8") for to, name in names.items()}


def callback_environment(plan: EnginePlan) -> dict[str, str]:
    """The environment that scripts/callback.py reads; Python finds it in the folder where the engine runs."""
    return {
        "PYTHONPATH": ".",
        "FINETUNE_EVAL_STEPS": str(plan.settings.eval_steps or 0),
        "FINETUNE_QUANTIZATION": plan.settings.quantization,
    }


def engine_folder(job_folder: Path) -> Path:
    return job_folder / "engine"


def yaml(values: Mapping[str, Value]) -> str:
    """Writes a line a key. Values are JSON, which YAML includes, but for small numbers: YAML 1.1 reads 1e-05 as text
    and 1.0e-05 as a number."""

    def scalar(value: Value) -> str:
        if not isinstance(value, float):
            return json.dumps(value)
        mantissa, e, exponent = repr(value).partition("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}{e}{exponent}"

    return "".join(f"{key}: {scalar(value)}\n" for key, value in values.items())


def write_files(folder: Path, config: EngineConfig) -> Path:
    """Writes all that the engine needs into `folder` and returns the script that starts it."""
    folder.mkdir(exist_ok=True)
    for name, text in config.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    environment = OFFLINE | dict(config.environment)
    *before, last = (shlex.join(command) for command in config.commands)
    lines = [
        "#!/bin/sh",
        "# Trains this job as the trainer does, and goes on from the newest checkpoint in output/.",
        "# By hand only while the trainer doesn't: two at once would write into one folder.",
        'cd "$(dirname "$0")" || exit 1',
        *(f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())),
        *(f"{command} || exit 1" for command in before),
        f"exec {last}",
    ]
    script = folder / "run.sh"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    script.chmod(0o700)
    return script
