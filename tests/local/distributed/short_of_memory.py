"""`python -m tests.local.distributed.short_of_memory JOB_DIR`: one process of a distributed training.

Process 1 has little memory: for $ROWS rows at a time, and for none before activations are recomputed. Nothing tells the
others.
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

OUT_OF_MEMORY = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
measure_rows = sft.measure_rows


def measure_few(model: Any, rows: Sequence[Row], *more: Any) -> Loss:
    recomputes = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    if len(rows) > int(os.environ["ROWS"]) or not recomputes:
        raise RuntimeError(OUT_OF_MEMORY)
    return measure_rows(model, rows, *more)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if os.environ["RANK"] == "1":
        sft.measure_rows = measure_few
    sys.exit(train.main())
