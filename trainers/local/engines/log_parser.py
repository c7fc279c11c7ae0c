"""Lines of an engine's log → what they mean to a job. Pure: reads no file, knows no engine's process.

All three engines train by transformers' Trainer, which prints a Python dict for each step and each validation:
    {'loss': '2.738', 'grad_norm': '0.5898', 'learning_rate': '0.01071', 'epoch': '2.667'}
    {'eval_loss': '2.614', 'eval_runtime': '1.683', 'epoch': '3'}
Its numbers were text from transformers 5 on and plain before; unsloth's script prints JSON with the step."""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any

RECORD = re.compile(r"\{['\"][a-z_]+['\"]: .*\}")
UNKNOWN_KEY = (
    re.compile(
        r"Some (?:keys|specified arguments) are not used by the HfArgumentParser: \[(?P<key>[^\]]*)\]"
    ),
    re.compile(r"^TypeError: .*unexpected keyword argument '(?P<key>\w+)'"),
)
OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|CUDA out of memory|DefaultCPUAllocator: can't allocate memory")
NOT_QUANTIZED = re.compile(r"^(?:\w+\.)?NotQuantized: (?P<what>.*)")
DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")


@dataclass(frozen=True)
class Trained:
    """One step's loss in nats a learnt token. `step` None: the log doesn't say, the next one is meant."""

    step: int | None
    loss: float
    learning_rate: float
    gradient_norm: float | None

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm or 0.0)


@dataclass(frozen=True)
class Validated:
    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class Trouble:
    """A known reason to stop. `key` is the config key in question, `what` what the engine said, where it matters."""

    code: str
    key: str | None = None
    what: str = ""


Line = Trained | Validated | Trouble


def read_line(line: str) -> Line | None:
    """None where it says nothing about the job."""
    record = RECORD.search(line)
    values = _values(record[0]) if record else None
    if values is not None:
        return _step(values) or _validation(values)
    return _trouble(line)


def _values(text: str) -> dict[str, Any] | None:
    try:
        result = json.loads(text) if text.startswith('{"') else ast.literal_eval(_with_quoted_nan(text))
    except (ValueError, SyntaxError):  # a line cut off, or something else in braces
        return None
    return result if isinstance(result, dict) else None


def _with_quoted_nan(text: str) -> str:
    """Transformers before 5 printed nan and inf bare, which no literal of Python's is."""
    return re.sub(r": (-?(?:nan|inf))\b", r": '\1'", text)


def _step(values: dict[str, Any]) -> Trained | None:
    loss, rate = _number(values, "loss"), _number(values, "learning_rate")
    if loss is None or rate is None:
        return None
    step = values.get("step")
    return Trained(step if isinstance(step, int) else None, loss, rate, _number(values, "grad_norm"))


def _validation(values: dict[str, Any]) -> Validated | None:
    loss = _number(values, "eval_loss")
    return None if loss is None else Validated(loss, _number(values, "eval_mean_token_accuracy"))


def _number(values: dict[str, Any], name: str) -> float | None:
    try:
        return float(values[name])
    except (KeyError, TypeError, ValueError):
        return None


def _trouble(line: str) -> Trouble | None:
    for pattern in UNKNOWN_KEY:
        match = pattern.search(line)
        if match:
            return Trouble("engine_config_changed", match["key"].replace("'", "") or None)
    full = NOT_QUANTIZED.search(line)
    if full:
        return Trouble("engine_cannot", what=full["what"])
    if OUT_OF_MEMORY.search(line):
        return Trouble("out_of_memory")
    return Trouble("disk_full") if DISK_FULL.search(line) else None


@dataclass(frozen=True)
class Reading:
    """How far a log was read. `step` is the last that was seen, `validated` the last whose validation was."""

    step: int
    validated: int = 0

    def after(self, line: Trained | Validated) -> Reading:
        if isinstance(line, Trained):
            return replace(self, step=line.step or self.step + 1)
        return replace(self, validated=self.step)

    def is_news(self, line: Validated) -> bool:
        """Some print the last validation once more at their end, and one before the first step is not ours."""
        return self.step > self.validated
