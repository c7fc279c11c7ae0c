"""Faults in the middle of a training in this process: somebody pauses, or memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB"


@contextmanager
def before_each_forward(act: Callable[[torch.nn.Module, Any], None]) -> Iterator[None]:
    hook = register_module_forward_pre_hook(act)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def pause_in_forward(folder: Path, number: int, *, is_training: bool) -> Iterator[None]:
    """Pauses the job while the model computes its `number`-th part of training or of validation."""
    seen = 0

    def pause(module: torch.nn.Module, inputs: Any) -> None:
        nonlocal seen
        if type(module).__name__ == "LlamaForCausalLM" and module.training == is_training:
            seen += 1
            if seen == number:
                (folder / "PAUSED").write_text("{}")

    with before_each_forward(pause):
        yield


@contextmanager
def limit_memory(tokens: int) -> Iterator[None]:
    """Raises torch's own error in the forward pass where more tokens come in at once."""

    def check_size(module: torch.nn.Module, inputs: Any) -> None:
        if type(module).__name__ == "Embedding" and inputs[0].numel() > tokens:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    with before_each_forward(check_size):
        yield


@contextmanager
def limit_memory_of_kept_layers() -> Iterator[None]:
    """Memory suffices only if layers are recomputed in the backward pass. DPO's reference keeps nothing anyway."""

    def check_layer(module: torch.nn.Module, inputs: Any) -> None:
        keeps = torch.is_grad_enabled() and getattr(module, "gradient_checkpointing", None) is False
        if module.training and keeps:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    with before_each_forward(check_layer):
        yield
