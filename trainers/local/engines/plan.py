"""What every engine is told about a job, in one value: they differ in how they write it down, not in what it says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainers.local.spool import LoraSettings

PARTS = range(25, 101)
WARM_UP = 0.05
ROWS, OUTPUT = "rows", "output"


@dataclass(frozen=True)
class EnginePlan:
    """`base` is a local folder. `targets` are the last parts of modules' names. `rows` is how many there are to
    learn from. Paths in configs are relative to the engine's folder."""

    base: str
    settings: LoraSettings
    seed: int
    targets: tuple[str, ...]
    rows: int
    has_validation: bool
    device: Literal["cpu", "cuda"]
    is_bf16: bool

    @property
    def steps_an_epoch(self) -> int:
        return math.ceil(self.rows / self.settings.batch_size)

    @property
    def total_steps(self) -> int:
        return self.steps_an_epoch * self.settings.n_epochs

    @property
    def save_steps(self) -> int:
        """A checkpoint at each epoch's end, and within a long one, where its steps divide into parts of 25 to 100.

        Where they don't, each 100 steps: unless there are validations, which want one at each epoch's end.
        """
        steps = self.steps_an_epoch
        if steps <= max(PARTS):
            return steps
        parts = [part for part in PARTS if steps % part == 0]
        return max(parts, default=steps if self.has_validation else max(PARTS))

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
class Written:
    """An engine's own files by name, and the commands that train, in order; the last one is the training.
    `environment` is what they have beside ours. `keys` are the config keys in use, by what reads them."""

    files: Mapping[str, str]
    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str]
    keys: Mapping[str, frozenset[str]]


def engine_folder(job_folder: Path) -> Path:
    return job_folder / "engine"
