"""The reasons why a training run stops early: it failed (FAILED says why), or a person or a full disk paused it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainers.local.job_directory import append_event, is_disk_full, replace_json

PAUSE_MARK = "PAUSED"  # written into the job's folder by the server


class TrainingFailed(Exception):
    """The training failed for a known reason. `message` says why and what to do; `param` is the parameter to change."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


def write_failure(folder: Path, error: TrainingFailed) -> None:
    append_event(folder, f"The job failed: {error.message}", level="error")
    replace_json(folder / "FAILED", {"code": error.code, "message": error.message, "param": error.param})


class TrainingPaused(Exception):
    """The run was paused, and can be resumed from here."""


@dataclass(frozen=True)
class Pauses:
    """Looks for the pause mark in a job's folder."""

    folder: Path

    def check_pause(self) -> None:
        """Raises TrainingPaused if a pause is requested. Takes 2 microseconds, so it is called before every part of a
        step."""
        if self.is_requested:
            raise TrainingPaused

    @property
    def is_requested(self) -> bool:
        return (self.folder / PAUSE_MARK).exists()


@contextmanager
def pause_on_full_disk(folder: Path) -> Iterator[None]:
    """Pauses the job if the disk is full, so that no work is lost until somebody frees space and resumes it. Raises
    TrainingPaused, or OSError if the disk has no room even for the pause mark."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        replace_json(folder / PAUSE_MARK, {"at": None})
        text = f"The disk is full: {error}. The job is paused. Free some space and resume it from its checkpoint."
        append_event(folder, text, level="error", state="paused")
        raise TrainingPaused from error
