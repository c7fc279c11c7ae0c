"""Parses the lines of an engine's log. Pure: reads no file, knows no process.

All three engines use transformers' Trainer, which prints a Python dict for each step and each validation:
    {'loss': '2.738', 'grad_norm': '0.5898', 'learning_rate': '0.01071', 'epoch': '2.667'}
    {'eval_loss': '2.614', 'eval_runtime': '1.683', 'epoch': '3'}
The values are texts from transformers 5 on and numbers before. unsloth's script prints JSON, with the step."""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any

RECORD_START = re.compile(r"\{['\"][a-z_]+['\"]: ")
UNKNOWN_KEY = (
    re.compile(
        r"Some (?:keys|specified arguments) are not used by the HfArgumentParser: \[(?P<key>[^\[\]]*)\]"
    ),
    re.compile(r"^TypeError: .*unexpected keyword argument '(?P<key>\w+)'"),
)
OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|CUDA out of memory|DefaultCPUAllocator: can't allocate memory")
NOT_QUANTIZED = re.compile(r"^(?:\w+\.)?NotQuantized: (?P<message>.*)")
DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")


@dataclass(frozen=True)
class TrainedStep:
    """One step. `loss` is in nats per learnt token. `step` is None if the log doesn't number steps."""

    step: int | None
    loss: float
    learning_rate: float
    gradient_norm: float | None

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm or 0.0)


@dataclass(frozen=True)
class ValidatedStep:
    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class Trouble:
    """A known error. `key` is the config key that the engine refused, and `message` its own words, for the codes that
    use them."""

    code: str
    key: str | None = None
    message: str = ""


Line = TrainedStep | ValidatedStep | Trouble


def read_line(line: str) -> Line | None:
    """Returns None for a line that says nothing about the job."""
    record = _find_record(line)
    if record is None:
        return _find_trouble(line)
    values = _read_values(record)
    if values is None:
        return _find_trouble(line)

    loss = _number(values, "loss")
    rate = _number(values, "learning_rate")
    if loss is not None and rate is not None:
        step = values.get("step")
        if not isinstance(step, int):
            step = None  # only some engines write it
        return TrainedStep(step, loss, rate, _number(values, "grad_norm"))
    validation_loss = _number(values, "eval_loss")
    if validation_loss is None:
        return None
    return ValidatedStep(validation_loss, _number(values, "eval_mean_token_accuracy"))


def _find_record(line: str) -> str | None:
    start = RECORD_START.search(line)
    end = line.rfind("}")
    if start is None or end < start.end():
        return None
    return line[start.start() : end + 1]


def _read_values(text: str) -> dict[str, Any] | None:
    try:
        if text.startswith('{"'):
            values = json.loads(text)
        else:
            # transformers before version 5 printed bare nan and inf, which are not Python literals.
            values = ast.literal_eval(re.sub(r": (-?(?:nan|inf))\b", r": '\1'", text))
    except (ValueError, SyntaxError):  # a truncated line, or something else in braces
        return None
    if not isinstance(values, dict):
        return None
    return values


def _number(values: dict[str, Any], name: str) -> float | None:
    try:
        return float(values[name])
    except (KeyError, TypeError, ValueError):
        return None


def _find_trouble(line: str) -> Trouble | None:
    for pattern in UNKNOWN_KEY:
        match = pattern.search(line)
        if match:
            return Trouble("engine_config_changed", match["key"].replace("'", "") or None)
    match = NOT_QUANTIZED.search(line)
    if match:
        return Trouble("engine_cannot", message=match["message"])
    if OUT_OF_MEMORY.search(line):
        return Trouble("out_of_memory")
    if DISK_FULL.search(line):
        return Trouble("disk_full")
    return None


@dataclass(frozen=True)
class LogPosition:
    """The position in a log: `step` is the last step read, and `validated` the last step with a validation."""

    step: int
    validated: int = 0

    def after(self, line: TrainedStep | ValidatedStep) -> LogPosition:
        if isinstance(line, TrainedStep):
            return replace(self, step=line.step or self.step + 1)
        return replace(self, validated=self.step)

    def is_new_validation(self, line: ValidatedStep) -> bool:
        """Returns False for a validation to ignore: some engines print one before the first step, and repeat the last
        one at their end."""
        return self.step > self.validated
