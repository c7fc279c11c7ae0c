"""Where to train and in which number format. Measures nothing and changes no setting of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from trainers.local.training.failures import TrainingFailed
from trainers.sizing.machines import has_fast_bf16

DTYPE_VARIABLE = "FINETUNE_DTYPE"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WIDE = "gemma"  # families of that beginning have activations beyond float16's range


def best_device() -> torch.device:
    """A GPU by its number: torch asks for one where memory is divided."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def best_dtype(device: torch.device, family: str = "") -> torch.dtype:
    """bfloat16 where the machine multiplies it fast; float16 on GPUs that only do that (V100, T4), if the model's
    `family` keeps within its range; else float32. $FINETUNE_DTYPE overrules."""
    asked = os.environ.get(DTYPE_VARIABLE)
    if asked:
        if asked not in DTYPES:
            text = f"{DTYPE_VARIABLE} is '{asked}'. Set it to {' or '.join(DTYPES)}, or leave it unset."
            raise TrainingFailed("invalid_setting", text)
        return DTYPES[asked]
    if device.type == "cuda":
        return _on_gpu(torch.cuda.get_device_capability(device)[0], family)
    is_fast = device.type == "mps" or has_fast_bf16(Path("/proc/cpuinfo"))
    return torch.bfloat16 if is_fast else torch.float32


def _on_gpu(generation: int, family: str) -> torch.dtype:
    """By NVIDIA's compute capability: torch.cuda.is_bf16_supported says yes where it is emulated, too. AMD's MI200 and
    MI300 are 9."""
    if generation >= 8:
        return torch.bfloat16
    return torch.float16 if generation == 7 and not family.startswith(WIDE) else torch.float32
