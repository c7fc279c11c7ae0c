"""What every attempt at a job with another engine begins and ends with: the checks, the engine's lock and the job's
log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trainers.local.engines.catalog import (
    Engine,
    Installation,
    engines_folder,
    find_installation,
    lock_engine,
)
from trainers.local.engines.compatibility import Refusal, find_refusal
from trainers.local.job_directory import TrainingJob
from trainers.local.training.errors import TrainingFailed, pause_on_full_disk
from trainers.local.training.metrics_logger import MetricsLogger

LAST_LINES = 3  # the lines of a crashed engine's log that an error quotes
LONGEST_LINE = 200  # characters of them
NOTE_INTERVAL_S = 5.0


class EngineCrashed(Exception):
    """The engine ended without a result, for an unknown reason. The job can be resumed from its last checkpoint."""


def crash(engine: Engine, code: int | None, last_lines: Sequence[str]) -> EngineCrashed:
    """Returns the error for an engine that ended with this exit code. `last_lines` are those of its log."""
    lines = [" ".join(line.split())[:LONGEST_LINE] for line in last_lines]
    quoted = " / ".join(lines) or "nothing"
    return EngineCrashed(f"{engine.name} ended with exit code {code}: {quoted}")


def failure(refusal: Refusal) -> TrainingFailed:
    return TrainingFailed(refusal.code, refusal.message, refusal.param)


@contextmanager
def attempt(
    engine: Engine, folder: Path, job: TrainingJob, unfit: Refusal | None = None
) -> Iterator[tuple[Installation, MetricsLogger]]:
    """Yields the installed engine, which nobody removes meanwhile, and the log of the job in `folder`, which ends with
    the block. `unfit` is why the engine can't train this job whatever is installed. Raises TrainingFailed."""
    root = engines_folder(folder)
    refusal = find_refusal(root, job.settings) or unfit
    if refusal:
        raise failure(refusal)
    installation = find_installation(root, engine)
    if installation is None:  # removed after find_refusal
        raise TrainingFailed("engine_not_installed", "The engine is not installed on this trainer.", "engine")

    with lock_engine(installation.home, alone=False) as is_ours:
        if not is_ours:
            text = f"The engine {engine.name} is being installed or removed. Start the job again afterwards."
            raise TrainingFailed("engine_busy", text, "engine")
        logger = MetricsLogger(folder, job.integrations, job.settings.ceiling_s)
        is_done = False
        try:
            with pause_on_full_disk(folder):
                yield installation, logger
            is_done = True
        finally:
            logger.end(is_done=is_done)
