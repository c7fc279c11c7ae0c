"""What the machine lacks, as an end that a job knows: a full disk pauses it, a full accelerator fails it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from trainers.local.spool import is_disk_full
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.pauses import TrainingPaused, pause_for_disk


@contextmanager
def known_endings(folder: Path) -> Iterator[None]:
    """Raises TrainingPaused, TrainingFailed."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        pause_for_disk(folder, error)
        raise TrainingPaused from error
    except torch.OutOfMemoryError as error:
        text = f"The accelerator's memory is full: {error}. Set max_length or lora_r lower, or take a smaller model."
        raise TrainingFailed("out_of_memory", text, "max_length") from error
