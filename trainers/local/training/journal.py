"""What a training run tells while it goes on: events.jsonl, progress.json, results.csv of its job's folder.

At most about one line of metrics a second; results.csv has every step. Decides nothing.
"""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainers.local.spool import append_event, replace_json

HEADER = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
INTERVAL_S = 1.0
RECENT = 0.1


@dataclass(frozen=True)
class Scores:
    """`loss` in nats a supervised token, `accuracy` the share of them that were the likeliest."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Step:
    """Number `number` of `total`, counted from 1. `trained_tokens` since the run's beginning."""

    number: int
    total: int
    train: Scores
    learning_rate: float
    trained_tokens: int
    valid: Scores | None


class Journal:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._told_at = 0.0
        self._stepped_at = time.monotonic()
        self._step_s: float | None = None

    def begin(self, after: int) -> None:
        """Start results.csv, or cut it back to its first `after` steps."""
        path = self._folder / "results.csv"
        rows = _read_rows(path)[:after]
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([HEADER, *rows])
        temporary.replace(path)
        self._stepped_at = time.monotonic()

    def say(self, message: str, level: Literal["info", "warn"] = "info") -> None:
        append_event(self._folder, message, level=level)

    def record(self, step: Step) -> None:
        now = time.monotonic()
        taken = now - self._stepped_at
        self._step_s = taken if self._step_s is None else (1 - RECENT) * self._step_s + RECENT * taken
        self._stepped_at = now
        self._add_result(step)
        if now - self._told_at >= INTERVAL_S or step.valid or step.number == step.total:
            self._told_at = now
            self._tell(step, self._step_s)

    def _add_result(self, step: Step) -> None:
        valid = (_short(step.valid.loss), _short(step.valid.accuracy)) if step.valid else ("", "")
        with (self._folder / "results.csv").open("a", encoding="utf-8", newline="") as file:
            row = (step.number, _short(step.train.loss), _short(step.train.accuracy), *valid)
            csv.writer(file).writerow(row)

    def _tell(self, step: Step, step_s: float) -> None:
        message = f"Step {step.number}/{step.total}: training loss={step.train.loss:.2f}"
        data: dict[str, object] = {
            "step": step.number,
            "total_steps": step.total,
            "train_loss": step.train.loss,
            "train_mean_token_accuracy": step.train.accuracy,
            "learning_rate": step.learning_rate,
        }
        if step.valid:
            message += f", validation loss={step.valid.loss:.2f}"
            data["valid_loss"] = step.valid.loss
            data["valid_mean_token_accuracy"] = step.valid.accuracy
        append_event(self._folder, message, data=data)
        progress = {
            "step": step.number,
            "total_steps": step.total,
            "trained_tokens": step.trained_tokens,
            "estimated_finish": round(time.time() + (step.total - step.number) * step_s),
        }
        replace_json(self._folder / "progress.json", progress)


def _read_rows(path: Path) -> list[list[str]]:
    """Without the header; a last line cut off by a kill counts as far as it goes."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def _short(value: float) -> str:
    return f"{value:.6g}"
