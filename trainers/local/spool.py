"""A job is a directory. The server writes job.json once; the training process writes all that follows.

jobs/ID/
  job.json          what to train (TrainingJob), written by rename, never changed
  lock              flock'ed by the training process for its life
  events.jsonl      appended: {"created_at", "level", "type": "message"|"metrics", "message", "data"}
  progress.json     {"step", "total_steps", "trained_tokens", "estimated_finish"}, replaced by rename
  checkpoints/step-000123/   adapter, optimizer and generator states; complete once renamed into place
  adapter/          the result, by rename
  results.csv       step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy
  DONE              last of all: {"trained_tokens", "seconds", "trainable_parameters"}
  FAILED            instead of DONE: {"code", "message", "param"}
  CANCELLED         written by the server; the training process is ended first
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal


@dataclass(frozen=True)
class LoraSettings:
    """Resolved hyperparameters. `target_modules` is 'all-linear' or module names separated by commas."""

    n_epochs: int = 1
    batch_size: int = 8
    learning_rate: float = 1e-3
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: str = "all-linear"
    max_length: int = 1024


@dataclass(frozen=True)
class TrainingJob:
    """`base` is a local folder or a hub id; files are paths to chat JSONL; `created_at` in unix seconds."""

    id: str
    base: str
    base_name: str
    training_file: str
    validation_file: str | None
    seed: int
    settings: LoraSettings
    suffix: str | None
    metadata: Mapping[str, str]
    created_at: int


def write_job(folder: Path, job: TrainingJob) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    replace_json(folder / "job.json", asdict(job))


def read_job(folder: Path) -> TrainingJob:
    raw = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    return TrainingJob(**{**raw, "settings": LoraSettings(**raw["settings"])})


def replace_json(path: Path, value: object) -> None:
    """Write so that a reader sees the old file or the new one, and a power cut keeps one of them."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return value


def append_event(
    folder: Path,
    message: str,
    *,
    level: Literal["info", "warn", "error"] = "info",
    data: Mapping[str, object] | None = None,
) -> None:
    """Add one line; an event with data is of type 'metrics'."""
    event = {
        "created_at": int(time.time()),
        "level": level,
        "type": "metrics" if data else "message",
        "message": message,
        "data": dict(data or {}),
    }
    with (folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Oldest first. A last line cut off by a kill is left out."""
    try:
        lines = (folder / "events.jsonl").read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines[:-1] if line]


@contextmanager
def exclusive(folder: Path) -> Iterator[IO[str] | None]:
    """Hold the job's lock; yields None where another process holds it."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file
