"""What every engine is told about a job, in one value, and how it is written down: a config and a script by
which a person, or we, start the engine."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainers.local.engines.catalog import EngineName
from trainers.local.training.schedule import is_due
from trainers.methods import Parameters

PARTS = range(25, 101)
SHORT_PARTS = range(5, 26)
WARM_UP = 0.05
ROWS, OUTPUT = "rows", "output"
Value = str | int | float | bool | None | list[str] | list[dict[str, str]]
SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True)
class EngineKeys:
    """What each engine calls a hyperparameter in its config; `lora.r` is the key r in the part lora of unsloth's."""

    unsloth: tuple[str, ...]
    axolotl: str
    llamafactory: str


# The hyperparameters that other engines honour, by their fields in trainers/methods.py: what is not here is refused
# (compatibility.py). None: no single key has it. Rows, modules and the base's bits are written by each engine's module,
# ends and looks are decided by runner.py and scripts/callback.py.
HONOURED: Mapping[str, EngineKeys | None] = {
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
ALIKE: Mapping[str, str | int | float] = {  # in all engines, of unsloth's in the part arguments
    "gradient_accumulation_steps": 1,
    "max_grad_norm": 1.0,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_total_limit": 3,
}


@dataclass(frozen=True)
class EnginePlan:
    """`base` is a local folder. `targets` are the last parts of modules' names. `rows` is how many there are to
    learn from. Paths in configs are relative to the engine's folder."""

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
        return math.ceil(self.rows / self.settings.batch_size)

    @property
    def total_steps(self) -> int:
        return self.steps_an_epoch * self.settings.n_epochs

    @property
    def save_steps(self) -> int:
        """A checkpoint at each epoch's end, and within a long one each 25 to 100 steps: as many as divide it, else
        100. Under a ceiling 5 to 25: what comes after the last checkpoint can be lost there.

        Epochs' ends are kept by scripts/callback.py where the parts don't divide them.
        """
        steps, parts = self.steps_an_epoch, PARTS if self.settings.ceiling_s is None else SHORT_PARTS
        if steps <= max(parts):
            return steps
        return max((part for part in parts if steps % part == 0), default=max(parts))

    def is_validated(self, step: int) -> bool:
        return self.has_validation and is_due(step, self.steps_an_epoch, self.settings)

    @property
    def warm_up_steps(self) -> int:
        return max(1, round(WARM_UP * self.total_steps))

    @property
    def train_file(self) -> str:
        return f"{ROWS}/train.jsonl"

    @property
    def valid_file(self) -> str | None:
        return f"{ROWS}/valid.jsonl" if self.has_validation else None


@dataclass(frozen=True)
class EngineConfig:
    """An engine's own files by name, and the commands that train, in order; the last one is the training.
    `environment` is what they have beside ours. `keys` are the config keys in use, by what reads them."""

    files: Mapping[str, str]
    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str]
    keys: Mapping[str, frozenset[str]]


def settings_of(plan: EnginePlan, engine: EngineName) -> dict[str, Value]:
    """The hyperparameters by this engine's keys, and what is alike in all engines."""
    named: dict[str, Value] = {}
    for field, keys in HONOURED.items():
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
    return named | {f"{part}{key}": value for key, value in ALIKE.items()}


def scripts(**names: str) -> dict[str, str]:
    """Files for the engine's folder by the names that they have there: the callback and what is given."""
    wanted = {"callback": "callback", **names}
    return {f"{to}.py": (SCRIPTS / f"{name}.py").read_text(encoding="utf-8") for to, name in wanted.items()}


def callback_environment(plan: EnginePlan) -> dict[str, str]:
    """The environment of scripts/callback.py, which lies where the engine runs."""
    every = plan.settings.eval_steps or 0
    return {
        "PYTHONPATH": ".",
        "FINETUNE_EVAL_STEPS": str(every),
        "FINETUNE_QUANTIZATION": plan.settings.quantization,
    }


def engine_folder(job_folder: Path) -> Path:
    return job_folder / "engine"


# How configs are written: YAML of one key a line, and the script by which a person, or we, start an
# engine.


OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # all that is needed lies in folders


def yaml(values: Mapping[str, Value]) -> str:
    return "".join(f"{key}: {_scalar(value)}\n" for key, value in values.items())


def _scalar(value: Value) -> str:
    """As JSON, which YAML includes, but for small numbers: YAML 1.1 reads 1e-05 as text and 1.0e-05 as a number."""
    if isinstance(value, float):
        mantissa, e, exponent = repr(value).partition("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}{e}{exponent}"
    return json.dumps(value)


def write_files(folder: Path, written: EngineConfig) -> Path:
    """All that the engine needs, in `folder`; returns the script that starts it."""
    folder.mkdir(exist_ok=True)
    for name, text in written.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    script = folder / "run.sh"
    script.write_text(_script(written), encoding="utf-8")
    script.chmod(0o700)
    return script


def _script(written: EngineConfig) -> str:
    environment = OFFLINE | dict(written.environment)
    settings = [f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())]
    *before, last = (shlex.join(command) for command in written.commands)
    lines = [
        "#!/bin/sh",
        "# Trains this job as the trainer does, and goes on from the newest checkpoint in output/.",
        "# By hand only while the trainer doesn't: two at once would write into one folder.",
        'cd "$(dirname "$0")" || exit 1',
        *settings,
        *(f"{command} || exit 1" for command in before),
        f"exec {last}",
    ]
    return "\n".join(lines) + "\n"
