"""Why a training run cannot go on: what the user reads in FAILED."""

from __future__ import annotations

from pathlib import Path

from trainers.local.spool import append_event, replace_json


class TrainingFailed(Exception):
    """An expected end without a model. `message` is a sentence with its cure; `param` names what to change."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


def write_failure(folder: Path, error: TrainingFailed) -> None:
    append_event(folder, f"The job failed: {error.message}", level="error")
    replace_json(folder / "FAILED", {"code": error.code, "message": error.message, "param": error.param})
