"""`python -m tests.local.short_of_memory JOB_DIR`: a training process of a team in which one has little memory.

Process 1 holds $ROWS rows at a time, and none before activations are recomputed. The others learn of it by nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

from trainers.local import train
from trainers.local.training.data import Row
from trainers.local.training.methods import sft
from trainers.local.training.packing import Loss

STATE_TEXTS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
measure_rows = sft.measure_rows


def measure_few(model: Any, rows: Sequence[Row], able: Any) -> Loss:
    layers = [one for one in model.modules() if hasattr(one, "gradient_checkpointing")]
    again = any(one.gradient_checkpointing for one in layers)
    if len(rows) > int(os.environ["ROWS"]) or not again:
        raise RuntimeError(STATE_TEXTS)
    return measure_rows(model, rows, able)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if os.environ["RANK"] == "1":
        sft.measure_rows = measure_few
    sys.exit(train.main())
