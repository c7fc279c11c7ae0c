"""`python -m trainers.local.rentals.attempt`: trains a job on a rented machine, in a folder with its repository's
files.

First it trains a few steps on 8 rows, so that a job that can't work fails after minutes, not hours. Then it trains the
job, and stops before the machine's time is over. Progress is uploaded now and then, and the result with the end mark in
one last commit. Checkpoints are uploaded too, so that another machine can continue if this one is lost.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

from trainers.errors import TrainerError
from trainers.local.job_directory import (
    TrainingJob,
    append_event,
    last_log_lines,
    read_job,
    read_json,
    write_job,
)
from trainers.local.jobs.records import Failure, fail, has_ended
from trainers.local.launch import train_command
from trainers.local.ray.job_files import is_in_folder, needed_files
from trainers.local.rentals.machines import RESULT, RESUME
from trainers.rentals.prices import hub_api, translate_errors

SMOKE_ROWS = 8
SMOKE_S = 1800.0
UPLOAD_S = 120.0  # between two uploads of progress; a sixtieth of a short rental
CHECKPOINT_S = 600.0  # between two uploads of a checkpoint; a twelfth of a short rental
LAST_UPLOAD_S = 600.0
RESERVED = 0.15  # of the rented time, for loading before the training and uploading after it
MIN_TRAINING_S = 60
PROGRESS_FILES = ("progress.json", "events.jsonl")
INPUTS = ("job.json", "train.jsonl", "valid.jsonl", "tuned/*", "base.json")
# Not uploaded: the server has it, only this machine needs it, or it is too large to be worth the time.
NOT_UPLOADED = (*INPUTS, "lock", "train.log", "rows/*", "checkpoints/*", "arms/*", ".*")


def main() -> int:
    began = time.monotonic()
    folder = Path("job").resolve()
    limit_s = float(os.environ["FINETUNE_SECONDS"])
    job = _use_local_paths(folder)
    if Path(RESUME).is_dir():  # uploaded by a machine before this one
        _restore_checkpoint(folder)
        _train(folder, job, limit_s, began)
    elif failure := _smoke_failure(folder, job):
        fail(folder, failure)
    else:
        append_event(folder, f"A few steps on {SMOKE_ROWS} rows went well. The training begins.")
        _train(folder, job, limit_s, began)
    _upload_all(folder)
    if (folder / "DONE").exists():
        return 0
    return 1


def _use_local_paths(folder: Path) -> TrainingJob:
    """Writes this machine's paths into the job, and returns it."""
    job = replace(read_job(folder), training_file=str(folder / "train.jsonl"))
    if job.validation_file:
        job = replace(job, validation_file=str(folder / "valid.jsonl"))
    base = folder.with_name("base")
    if base.is_dir():  # a base that is a local folder of the trainer came with the job; others are downloaded
        job = replace(job, base=str(base))
    write_job(folder, job)
    return job


def _restore_checkpoint(folder: Path) -> None:
    shutil.copytree(RESUME, folder, dirs_exist_ok=True)
    # These are newer than the checkpoint. All events are needed, since the server skips as many as it has already.
    for name in PROGRESS_FILES:
        uploaded = Path(RESULT, name)
        if uploaded.exists():
            shutil.copy(uploaded, folder / name)


def _smoke_failure(folder: Path, job: TrainingJob) -> Failure | None:
    """Trains a few steps on a few rows in a folder of its own. Returns why that failed, or None."""
    smoke = folder.with_name("smoke")
    smoke.mkdir()
    for name in ("train.jsonl", "valid.jsonl"):
        source = folder / name
        if source.exists():
            with source.open("rb") as rows:
                first_rows = b"".join(islice(rows, SMOKE_ROWS))
            (smoke / name).write_bytes(first_rows)
    tuned = folder / "tuned"
    if tuned.exists():
        shutil.copytree(tuned, smoke / "tuned")

    settings = replace(job.settings, n_epochs=1, sweep=())
    training_file = str(smoke / "train.jsonl")
    # Without integrations, so that the smoke test's curves don't appear beside the job's.
    smoke_job = replace(job, settings=settings, trials=(), integrations=(), training_file=training_file)
    if job.validation_file:
        smoke_job = replace(smoke_job, validation_file=str(smoke / "valid.jsonl"))
    write_job(smoke, smoke_job)
    code = _run(smoke, SMOKE_S)
    if (smoke / "DONE").exists():
        return None
    reason = _reason(smoke, code)
    text = f"The first steps, on {SMOKE_ROWS} rows, failed: {reason}"
    return Failure("smoke_failed", text, None)


def _train(folder: Path, job: TrainingJob, limit_s: float, began: float) -> None:
    gone_s = time.monotonic() - began
    left_s = int(limit_s * (1 - RESERVED) - gone_s)
    # max_seconds counts the whole job's training, so earlier machines' seconds come on top.
    progress = read_json(folder / "progress.json") or {}
    earlier_s = int(progress.get("seconds") or 0)
    ceiling_s = max(MIN_TRAINING_S, left_s) + earlier_s
    if job.settings.max_seconds:
        ceiling_s = min(ceiling_s, job.settings.max_seconds)

    settings = replace(job.settings, max_seconds=ceiling_s)
    trials = tuple(replace(trial, max_seconds=ceiling_s) for trial in job.trials)
    limited = replace(job, settings=settings, trials=trials)
    write_job(folder, limited)
    code = _run(folder, None)
    if not has_ended(folder):
        reason = _reason(folder, code)
        fail(folder, Failure("training_crashed", reason, None))


def _run(folder: Path, limit_s: float | None) -> int:
    """Trains the folder and returns the exit code. Without a limit it is the job itself, not the smoke test, and its
    progress is uploaded meanwhile."""
    rented_s = float(os.environ["FINETUNE_SECONDS"])
    checkpoint_s = min(CHECKPOINT_S, rented_s / 12)
    wait_s = limit_s
    if limit_s is None:
        wait_s = min(UPLOAD_S, rented_s / 60)
    saved_at = time.monotonic()
    with (folder / "train.log").open("ab") as log:
        process = subprocess.Popen([*train_command(1), str(folder)], stdout=log, stderr=log)
        while True:
            try:
                return process.wait(wait_s)
            except subprocess.TimeoutExpired:
                if limit_s is not None:
                    process.kill()
                    return process.wait()
                is_due = time.monotonic() - saved_at >= checkpoint_s
                if is_due:
                    saved_at = time.monotonic()
                _upload_progress(folder, with_checkpoint=is_due)


def _reason(folder: Path, code: int) -> str:
    failed = read_json(folder / "FAILED")
    if failed is not None:
        return str(failed["message"])
    words = " / ".join(last_log_lines(folder / "train.log")) or "nothing"
    return f"the process ended with exit code {code}. Its log ends with: {words}"


def _upload_progress(folder: Path, *, with_checkpoint: bool) -> None:
    try:
        progress = [name for name in PROGRESS_FILES if (folder / name).exists()]
        _upload(folder, RESULT, progress)
        needed = [path for path in needed_files(folder) if not _matches(path, INPUTS)]
        has_checkpoint = any(is_in_folder(path) for path in needed)
        if with_checkpoint and has_checkpoint:
            _upload(folder, RESUME, needed)
    except (TrainerError, OSError) as error:  # OSError: a checkpoint was deleted meanwhile
        print(error, file=sys.stderr, flush=True)


def _upload_all(folder: Path) -> None:
    """Uploads the result, and tries for ten minutes, since the machine and its disk will be gone."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    paths = [path for path in files if not _matches(path, NOT_UPLOADED)]
    deadline = time.monotonic() + LAST_UPLOAD_S
    pause_s = 1.0
    while True:
        try:
            return _upload(folder, RESULT, paths)
        except TrainerError as error:
            print(error, file=sys.stderr, flush=True)
            if time.monotonic() > deadline:
                raise
            time.sleep(pause_s)
            pause_s = min(30.0, 2 * pause_s)


def _upload(folder: Path, into: str, paths: Iterable[str]) -> None:
    """Uploads files into the repository's folder `into` in a single commit; `upload_folder` could need several. Files
    of an earlier checkpoint are deleted by the same commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repository = os.environ["FINETUNE_REPO"]
    api = hub_api()
    with translate_errors("uploading a job's result"):
        changes: list[CommitOperationAdd | CommitOperationDelete] = []
        added = set()
        for path in paths:
            target = f"{into}/{path}"
            added.add(target)
            changes.append(CommitOperationAdd(target, folder / path))
        if into == RESUME:
            for stored in api.list_repo_files(repository):
                if stored.startswith(f"{RESUME}/") and stored not in added:
                    changes.append(CommitOperationDelete(stored))
        api.create_commit(repository, changes, commit_message=f"Upload {into}")


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


if __name__ == "__main__":
    sys.exit(main())
