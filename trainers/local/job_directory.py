"""A job is a directory. The server writes job.json once; unless noted, the training process writes the rest.

jobs/ID/
  job.json          what to train (TrainingJob), written by rename, never changed
  tuned/            written by the server: the adapter that is trained further, if the job names a tuned model
  base.json         {"fingerprint"} of the base model's weights
  rows/             the files' chats as tokens, until the job has ended, so that a restart need not tokenize them again
  kernels.json      {"kernels", "why"} on CUDA: "liger 0.8.0", or "PyTorch" and why not Liger's
  lock              flock'ed by the training process as long as it lives
  events.jsonl      appended: {"created_at", "level", "type": "message"|"metrics", "message", "data"}
  progress.json     {"step", "total_steps", "trained_tokens", "estimated_finish", "seconds", "step_s"}, by rename
  checkpoints/step-000123/   adapter, optimizer and generator states; complete once renamed into place
  adapter/          the result, by rename; for an encoder a classifier's folder (trainers/encoders/classifier.py)
  results.csv       step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy, and the method's own columns
  DONE              written last: {"trained_tokens", "seconds", "trainable_parameters", "step", "result_step",
                    "stopped"}; for a sweep also "winner", the number of the trial that result_step belongs to
  FAILED            instead of DONE: {"code", "message", "param"}
  engine/           if another engine trains: its config, run.sh, log.txt, output/
  CANCELLED         written by the server, once the training process has ended
  PAUSED            written by the server, removed to resume; the process saves a checkpoint and ends when it sees it
  sweep.csv         for a sweep: a line per trial
  arms/01/          for a sweep: a trial's folder, with the same layout; the winner's checkpoints become the job's
  tensorboard/      the same curves as events, for `tensorboard --logdir`"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any, Literal

from trainers.hyperparameters import sweep_from_lists
from trainers.json_values import stored_as, to_object
from trainers.methods import METHODS, MethodName, Parameters
from trainers.types import JobState

KEPT_ROWS = "rows"
LOG_TAIL_BYTES = 4096
RESULTS_HEADER = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")


@dataclass(frozen=True)
class Integration:
    """A service that also gets the training curves. `project` is W&B's project or MLflow's experiment."""

    kind: Literal["wandb", "mlflow"]
    project: str
    name: str | None = None
    entity: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingJob:
    """`base` is a local folder or a hub id. The files are paths to chat JSONL, or to preference pairs for the method
    dpo. `created_at` is in unix seconds. `continues` names the tuned model whose adapter, in tuned/, is trained
    further.

    `trials` has the resolved settings of each trial of a sweep, in the order of `combinations` (hyperparameters.py);
    without a sweep it is empty.
    """

    id: str
    base: str
    base_name: str
    training_file: str
    validation_file: str | None
    seed: int
    settings: Parameters
    suffix: str | None
    metadata: Mapping[str, str]
    created_at: int
    integrations: tuple[Integration, ...] = ()
    trials: tuple[Parameters, ...] = field(default=(), metadata=stored_as("arms"))
    method: MethodName = "supervised"
    continues: str | None = None


def is_disk_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_job(folder: Path, job: TrainingJob) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    replace_json(folder / "job.json", to_object(job))


def read_job(folder: Path) -> TrainingJob:
    raw = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    kind = METHODS[raw.get("method", "supervised")].parameters
    values = {
        "settings": _parameters(raw["settings"], kind),
        "trials": tuple(_parameters(trial, kind) for trial in raw.pop("arms", ())),
        "integrations": tuple(
            Integration(**{**integration, "tags": tuple(integration["tags"])})
            for integration in raw.get("integrations", ())
        ),
    }
    return TrainingJob(**{**raw, **values})


def _parameters(raw: Mapping[str, Any], kind: type[Parameters]) -> Parameters:
    """Ignores unknown names, since jobs of earlier versions also have those of other methods, as null."""
    names = {field.name for field in fields(kind)}
    values = {name: value for name, value in raw.items() if name in names}
    return kind(**{**values, "sweep": sweep_from_lists(raw.get("sweep", ()))})


def with_winning_settings(folder: Path, job: TrainingJob) -> TrainingJob:
    """Returns the job with the settings of the winning trial if it is a finished sweep, else the job as it is."""
    done = read_json(folder / "DONE") or {}
    winner = done.get("winner")
    if not winner:
        return job
    return replace(job, settings=job.trials[winner - 1], trials=())


def replace_json(path: Path, value: object) -> None:
    """Replaces the file atomically: readers see either the old or the new one, even after a power cut."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yields a temporary folder and renames it to `target` at the end, so that `target` is complete if it exists."""
    temporary = target.with_name(f".{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.iterdir():
            _sync(path)
        _sync(temporary)
        temporary.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_result_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes the job's adapter/ at the end."""
    shutil.rmtree(folder / "adapter", ignore_errors=True)  # from a run that was killed before it wrote DONE
    with atomic_folder(folder / "adapter") as temporary:
        yield temporary


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete_folder(folder: Path) -> None:
    """Deletes the folder, if it is still there. It is renamed to a hidden name first, so that nobody sees half of it;
    the server's next start removes what an interrupted deletion leaves."""
    hidden = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        folder.rename(hidden)
    except FileNotFoundError:  # another request deleted it meanwhile
        return
    shutil.rmtree(hidden)


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns None if there is no such file."""
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
    state: JobState | None = None,
) -> None:
    """Appends an event, of type 'metrics' if it has data. `state` is the job's new state, for programs to read."""
    facts = dict(data or {})
    if state:
        facts = {"state": state}
    kind = "message"
    if data:
        kind = "metrics"
    event = {
        "created_at": int(time.time()),
        "level": level,
        "type": kind,
        "message": message,
        "data": facts,
    }
    line = json.dumps(event).encode() + b"\n"
    with (folder / "events.jsonl").open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                # A full disk truncated the line before, which must not swallow this one.
                line = b"\n" + line
        file.write(line)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Returns the events, oldest first, without lines that a kill or a full disk truncated."""
    try:
        text = (folder / "events.jsonl").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    events: list[dict[str, Any]] = []
    for line in text.split("\n")[:-1]:
        with suppress(ValueError):
            events.append(json.loads(line))
    return events


def last_log_lines(log_file: Path) -> list[str]:
    """Returns the last three different lines of a log, without a traceback's listing, cut at 200 characters each."""
    if not log_file.exists():
        return []
    start = max(0, log_file.stat().st_size - LOG_TAIL_BYTES)
    with log_file.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    messages = [line for line in lines if line.strip() and not line.startswith((" ", "Traceback"))]
    # A program of several processes writes the same error several times.
    different = list(dict.fromkeys(messages))
    return [line[:200] for line in different[-3:]]


@contextmanager
def lock_job(folder: Path) -> Iterator[IO[str] | None]:
    """Yields the job's lock, held until the block ends, or None if another process holds it."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file
