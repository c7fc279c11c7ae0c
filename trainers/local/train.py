"""`python -m trainers.local.train JOB_DIR`: trains the job in that folder (see job_directory.py), or resumes it from
its last checkpoint.

Exit codes: 0 the job is done, 1 it failed and FAILED says why, 75 another process is training it, 76 it is paused, 77
it has to start again with fewer tokens at a time. The training itself is in training/methods, for a sweep in
training/sweeps/sweep.py, for another engine in engines/runner.py; each is imported only when it is needed. vLLM is an
engine that doesn't train: it writes answers for training/methods/grpo.py."""

from __future__ import annotations

import argparse
import os
import sys
import time
from importlib import import_module
from pathlib import Path

from trainers.local.engines.catalog import ENGINES
from trainers.local.engines.plan import engine_folder
from trainers.local.engines.process import kill_leftover
from trainers.local.job_directory import TrainingJob, lock_job, read_job
from trainers.local.launch import BUSY, PAUSED, die_with_parent, grow_segments, quick_imports
from trainers.local.training.errors import PAUSE_MARK, TrainingFailed, TrainingPaused, write_failure
from trainers.methods import BUILTIN, METHODS, VLLM

END_MARKS = ("DONE", "FAILED", "CANCELLED")
# how long the first process of a team may take to save a checkpoint or to write why it failed
LAST_WORDS_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the job in a folder, or resume it.")
    parser.add_argument("folder", type=Path, metavar="JOB_DIR", help="folder with a job.json")
    folder: Path = parser.parse_args().folder
    if not (folder / "job.json").is_file():
        parser.error(f"{folder} has no job.json, so it is not a job's folder.")
    grow_segments()
    if "RANK" in os.environ:
        die_with_parent()
    if os.environ.get("RANK", "0") != "0":
        return train_as_helper(folder)
    with lock_job(folder) as lock:
        if lock is None:
            print(f"{folder}: another process is training this job. Wait for it or stop it.", file=sys.stderr)
            return BUSY
        return run_training(folder)


def train_as_helper(folder: Path) -> int:
    """Trains as a process of a team other than its first. It writes nothing, and the first process ends the team."""
    if any((folder / mark).exists() for mark in (*END_MARKS, PAUSE_MARK)):
        return 0
    try:
        train_job(folder, read_job(folder), None)
    except (TrainingPaused, TrainingFailed):
        time.sleep(LAST_WORDS_S)
        return 1
    return 0


def run_training(folder: Path, checkpoint_s: float | None = None) -> int:
    """Trains and returns the exit code. `checkpoint_s` is the time between checkpoints within an epoch, None the
    default."""
    for mark in END_MARKS:
        if (folder / mark).exists():
            print(f"{folder}: this job has ended (see {mark}).", file=sys.stderr)
            return 1 if mark == "FAILED" else 0
    if (folder / PAUSE_MARK).exists():
        return _print_paused(folder)
    try:
        train_job(folder, read_job(folder), checkpoint_s)
    except TrainingPaused:
        return _print_paused(folder)
    except TrainingFailed as error:
        print(f"{folder}: {error.message}", file=sys.stderr)
        write_failure(folder, error)
        return 1
    return 0


def train_job(folder: Path, job: TrainingJob, checkpoint_s: float | None) -> None:
    if job.settings.engine not in (BUILTIN, VLLM):
        kill_leftover(engine_folder(folder))  # before the imports, which take seconds
        engine = ENGINES[job.settings.engine]
        if engine.is_hosted:
            from trainers.local.engines.vendor_runner import train_hosted

            return train_hosted(engine, folder, job)
        from trainers.local.engines.runner import train_with_engine

        return train_with_engine(engine, folder, job)
    method = METHODS[job.method]
    if method.is_for_encoders:  # `head` needs no torch
        return import_module(f"trainers.local.training.methods.{method.module}").train(folder, job)  # type: ignore[no-any-return]
    with quick_imports():
        from trainers.local.training.checkpoints import CHECKPOINT_S
        from trainers.local.training.sweeps.sweep import train_sweep

        module = import_module(f"trainers.local.training.methods.{method.module}")
    if checkpoint_s is None:
        checkpoint_s = CHECKPOINT_S
    if job.trials:
        train_sweep(folder, job, checkpoint_s)
    elif job.settings.engine == VLLM:
        from trainers.local.serving.vllm_sampler import start_sampler

        module.train(folder, job, checkpoint_s, start_sampler)
    else:
        module.train(folder, job, checkpoint_s)


def _print_paused(folder: Path) -> int:
    print(f"{folder}: this job is paused. Resume it, or remove the file {PAUSE_MARK}.", file=sys.stderr)
    return PAUSED


if __name__ == "__main__":
    sys.exit(main())
