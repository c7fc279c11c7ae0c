"""Files that were uploaded to a trainer and are not needed there any more."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from bot.tuned_curves import TunedCurveProgress
from bot.workflows.desk import Desk
from trainers.client import Trainer
from trainers.errors import TrainerError

log = logging.getLogger(__name__)


def take_back(desk: Desk, trainer: Trainer, file_id: str | None, owner: str) -> str:
    """Delete it, unless another run or curve still needs it; what became of it, as a sentence after a space.
    `owner` is 'run 3' or 'm3'."""
    others = [name for name, file in _needed(desk) if name != owner and file == file_id]
    if not file_id or others:
        return ""
    try:
        trainer.delete_file(file_id)
    except TrainerError as trouble:
        log.warning("%s: the uploaded file stays: %s", owner, trouble)
        return " The uploaded file could not be deleted there: delete it by hand."
    return " The uploaded file was deleted again."


def _needed(desk: Desk) -> Iterator[tuple[str, str | None]]:
    for run in desk.store.runs.open():
        yield f"run {run.id}", run.file_id
    for measurement in desk.store.measurements.open():
        if measurement.kind == "curve":
            for size in TunedCurveProgress.from_json(measurement.progress).sizes:
                if size.state in ("creating", "training"):
                    yield f"m{measurement.id}", size.file_id
