"""Activations are computed again on the way back where memory is too small for one row; on a model made in process."""

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
from tests.local.test_life import SETTINGS, losses, warnings
from tests.local.test_life import _exact_numbers as _exact_numbers
from tests.local.test_life import rows_file as rows_file
from trainers.local.train import work
from trainers.local.training.base import add_lora, load_model, recompute_activations


def test_a_row_that_alone_is_too_much_is_computed_twice_instead_of_kept(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, n_epochs=1, lora_dropout=0.0)
    roomy = make_job(tmp_path / "roomy", tiny_model_dir, rows_file, settings, validation=rows_file)
    assert work(roomy) == 0
    narrow = make_job(tmp_path / "narrow", tiny_model_dir, rows_file, settings, validation=rows_file)
    with memory_for_layers_that_keep_nothing():
        assert work(narrow) == 0
    (told,) = [said for said in warnings(narrow) if said.startswith("Memory was full at step 1 with one row")]
    assert "computed again on the way back" in told
    assert losses(narrow) == pytest.approx(losses(roomy), rel=1e-3)


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
def memory_for_layers_that_keep_nothing() -> Iterator[None]:
    def weigh(module: torch.nn.Module, inputs: Any) -> None:
        if module.training and getattr(module, "gradient_checkpointing", None) is False:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = register_module_forward_pre_hook(weigh)
    try:
        yield
    finally:
        hook.remove()
