"""Activations are recomputed in the backward pass where memory is too small for one row; on a model made in
process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.local.runs import make_job
from tests.local.test_run_lifecycle import SETTINGS, losses, warnings
from tests.local.test_run_lifecycle import _exact_numbers as _exact_numbers
from tests.local.test_run_lifecycle import rows_file as rows_file
from trainers.local.train import run_training
from trainers.local.training.base_model import add_lora, load_model, recompute_activations
from trainers.local.training.data import Row
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.memory import MicroBatcher, is_out_of_memory
from trainers.local.training.packing import fill_packs, width


def test_a_row_that_alone_is_too_much_is_computed_twice_instead_of_kept(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, n_epochs=1, lora_dropout=0.0)
    roomy = make_job(tmp_path / "roomy", tiny_model_dir, rows_file, settings, validation=rows_file)
    assert run_training(roomy) == 0
    narrow = make_job(tmp_path / "narrow", tiny_model_dir, rows_file, settings, validation=rows_file)
    with limit_memory_of_kept_layers():
        assert run_training(narrow) == 0
    (told,) = [said for said in warnings(narrow) if said.startswith("Memory was full at step 1")]
    assert "recomputed in the backward pass" in told
    assert losses(narrow) == pytest.approx(losses(roomy), rel=1e-3)


@pytest.mark.parametrize(
    ("length", "tried"),
    [
        (64, [128, 64, 32, "again", 32, 16, 8, 4, 2, 1]),  # a quarter keeps a GPU as busy
        (1024, [8, 4, 2, "again", 2, 1]),
        (3000, [2, "again", 2, 1]),
        (9000, [1, "again", 1]),
    ],
)
def test_activations_are_computed_again_before_parts_are_single_rows(length: int, tried: list[Any]) -> None:
    """Rows of the largest part, in a memory in which nothing fits."""
    rows = [Row(line, [line] * length, [False] + [True] * (length - 1)) for line in range(128)]
    found: list[Any] = []

    def again() -> bool:
        found.append("again")
        return True

    def compute(parts: list[list[Row]]) -> None:
        found.append(max(len(part) for part in parts))
        raise RuntimeError("CUDA error: out of memory")

    room = MicroBatcher(8192, None, packs=True, fill=fill_packs, width=width, tell=str, recompute=again)
    with pytest.raises(TrainingFailed, match=f"a single row of {length} tokens"):
        room.compute_in_parts(rows, compute, "in a test")
    assert found == tried


@pytest.mark.parametrize(
    ("said", "is_memory"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`", False),
        ("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)", False),
    ],
)
def test_what_cudas_libraries_say_of_full_memory_is_understood(said: str, is_memory: bool) -> None:
    assert is_out_of_memory(RuntimeError(said)) is is_memory


def test_a_model_that_computes_activations_again_keeps_far_less_and_has_the_same_gradients(
    tiny_model_dir: Path,
) -> None:
    model = add_lora(
        load_model(str(tiny_model_dir), torch.device("cpu"), torch.float32),
        replace(SETTINGS, lora_dropout=0.0),
    ).train()
    kept, gradients = kept_and_gradients(model)
    assert recompute_activations(model)
    kept_now, gradients_now = kept_and_gradients(model)
    assert kept_now < kept / 2
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_now, strict=True))


def kept_and_gradients(model: Any) -> tuple[int, list[torch.Tensor]]:
    """Numbers that autograd holds on to until the way back, and what it finds there."""
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += 0 if isinstance(tensor, torch.nn.Parameter) else tensor.numel()
        return tensor

    learnt = [one for one in model.parameters() if one.requires_grad]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=torch.arange(4, 60)[None], labels=torch.arange(4, 60)[None]).loss
    found = torch.autograd.grad(loss, learnt)
    return kept, list(found)


@contextmanager
def limit_memory_of_kept_layers() -> Iterator[None]:
    def weigh(module: torch.nn.Module, inputs: Any) -> None:
        if module.training and getattr(module, "gradient_checkpointing", None) is False:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = register_module_forward_pre_hook(weigh)
    try:
        yield
    finally:
        hook.remove()
