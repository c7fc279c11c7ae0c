"""What a job has at Tinker: its training runs, found by the metadata that they were created with, and their
checkpoints.

Runs in Tinker's environment: `python tinker_runs.py config.json` deletes all checkpoints of a job. Imports nothing of
this project.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import tinker

JOB = "finetune_job"  # key of the metadata of runs, sessions and states
PAGE = 100
STATE_NAME = re.compile(r"step-(\d{6,})$")
FORGOTTEN = Path("output/forgotten")


def runs_of(client: tinker.RestClient, job: str) -> list[Any]:
    """Returns the job's runs. Each continuation of a job is a run of its own."""
    runs = []
    offset = 0
    while True:
        page = client.list_training_runs(limit=PAGE, offset=offset).result()
        for run in page.training_runs:
            if (run.user_metadata or {}).get(JOB) == job:
                runs.append(run)
        offset += len(page.training_runs)
        if not page.training_runs or offset >= page.cursor.total_count:
            return runs


def newest_state(client: tinker.RestClient, runs: list[Any]) -> tuple[int, str] | None:
    """Returns step and path of the newest state, None if there is none."""
    states = []
    for run in runs:
        for checkpoint in client.list_checkpoints(run.training_run_id).result().checkpoints:
            name = STATE_NAME.search(checkpoint.tinker_path)
            if checkpoint.checkpoint_type == "training" and name:
                states.append((int(name[1]), checkpoint.tinker_path))
    return max(states, default=None)


def forget(client: tinker.RestClient, job: str, *, keeps_state: bool = False) -> None:
    """Deletes all checkpoints of the job's runs, or all but the newest state. The runs themselves can't be deleted."""
    runs = runs_of(client, job)
    spared = None
    if keeps_state:
        spared = newest_state(client, runs)
    for run in runs:
        for checkpoint in client.list_checkpoints(run.training_run_id).result().checkpoints:
            if spared is not None and checkpoint.tinker_path == spared[1]:
                continue
            try:
                client.delete_checkpoint_from_tinker_path(checkpoint.tinker_path).result()
            except tinker.NotFoundError:
                continue  # it expired meanwhile
    if spared is None:
        FORGOTTEN.touch()


if __name__ == "__main__":
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    forget(tinker.RestClient(), config["job"])
