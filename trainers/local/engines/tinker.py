"""Writes a job's config for Tinker, and the rows and the learning rate of each step. scripts/tinker_train.py sends
them.

The order of rows, the learning rate of each step and the mean over learnt tokens are those of our own loop.
"""

from __future__ import annotations

import json
from pathlib import Path

from trainers.local.engines.catalog import Installation
from trainers.local.engines.plan import ROWS, SAVE_STEPS, SCRIPTS, EngineConfig
from trainers.local.engines.vendor_jobs import CONFIG, STATE_DAYS, hosted_base
from trainers.local.job_directory import TrainingJob
from trainers.local.training.loop import steps_after
from trainers.local.training.schedule import MAX_NORM, learning_rate_share, steps_an_epoch
from trainers.methods import HOSTED_STATE, Parameters

TRAIN = f"{ROWS}/train.jsonl"
STEPS = f"{ROWS}/steps.jsonl"


def build_config(job: TrainingJob, rows: int, logged: int, installation: Installation) -> EngineConfig:
    """`rows` is the number of training rows, and `logged` steps are in the job's results already."""
    settings = job.settings
    config = {
        "job": job.id,
        "base": hosted_base(job),
        "rank": settings.lora_r,
        "seed": job.seed,
        "weight_decay": settings.weight_decay,
        "max_norm": MAX_NORM,
        "keeps_state": job.metadata.get(HOSTED_STATE) == "kept",
        "save_steps": save_steps(rows, settings),
        "ttl_seconds": STATE_DAYS * 86400,
        "logged": logged,
        "rows": TRAIN,
        "steps": STEPS,
    }
    files = {CONFIG: json.dumps(config, indent=2) + "\n"}
    for name, script in {"train": "tinker_train", "tinker_runs": "tinker_runs"}.items():
        files[f"{name}.py"] = (SCRIPTS / f"{script}.py").read_text(encoding="utf-8")
    python = str(installation.env / "bin" / "python")
    return EngineConfig(
        files=files,
        commands=((python, "train.py", CONFIG),),
        environment={"TINKER_TELEMETRY": "0"},
        keys={},
    )


def save_steps(rows: int, settings: Parameters) -> int:
    """Returns the number of steps between two states: an epoch, or fewer if it is long. What a kill loses is paid
    twice."""
    return min(steps_an_epoch(rows, settings), min(SAVE_STEPS))


def write_steps(path: Path, rows: int, job: TrainingJob) -> int:
    """Writes each step's rows, by their places, and its learning rate. Returns the number of steps."""
    settings = job.settings
    total = steps_an_epoch(rows, settings) * settings.n_epochs
    with path.open("w", encoding="utf-8") as file:
        for number, places in steps_after(range(rows), settings, job.seed, 0):
            rate = settings.learning_rate * learning_rate_share(number, total)
            file.write(json.dumps({"rows": places, "rate": rate}) + "\n")
    return total
