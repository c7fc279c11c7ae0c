"""Makes folders of sweeps, and kills them at a step counted over all trials."""

from __future__ import annotations

import csv
import time
from dataclasses import replace
from pathlib import Path

from tests.local.runs import SIGKILLED, count_steps, make_job, start_run
from trainers.hyperparameters import Sweep, combinations
from trainers.local.job_directory import read_job, write_job
from trainers.methods import Parameters


def make_sweep(
    folder: Path, base: Path, training: Path, validation: Path, settings: Parameters, sweep: Sweep
) -> Path:
    make_job(folder, base, training, replace(settings, sweep=sweep), validation=validation)
    trials = tuple(replace(settings, **chosen) for chosen in combinations(sweep))  # type: ignore[arg-type]
    write_job(folder, replace(read_job(folder), trials=trials))
    return folder


def kill_after_steps(folder: Path, steps: int) -> None:
    """Kills the sweep once its trials have logged so many steps together."""
    process = start_run(folder, checkpoint_s=0.0)
    deadline = time.monotonic() + 60
    while count_trial_steps(folder) < steps:
        assert process.is_alive(), f"ended with {process.exitcode} at step {count_trial_steps(folder)}"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.join(20)
    assert process.exitcode == SIGKILLED


def count_trial_steps(folder: Path) -> int:
    return sum(count_steps(trial) for trial in folder.glob("arms/*"))


def read_table(folder: Path) -> list[dict[str, str]]:
    """sweep.csv without the seconds, which are never the same."""
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as file:
        return [
            {name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)
        ]
