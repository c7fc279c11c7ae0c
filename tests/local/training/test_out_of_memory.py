"""Where memory is too small, a batch is computed in smaller parts and activations are recomputed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.local.faults import limit_memory, limit_memory_of_kept_layers, pause_in_forward
from tests.local.runs import event_messages, make_job, read_failure, train_losses, write_ticket_rows
from trainers.local.job_directory import read_json
from trainers.local.train import PAUSED, run_training
from trainers.local.training.base_model import add_lora, load_model, recompute_activations
from trainers.local.training.data import Row
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.memory import MicroBatcher, is_out_of_memory
from trainers.local.training.new_adapter import TOKENS
from trainers.local.training.packing import fill_packs, width
from trainers.methods import Parameters

pytestmark = pytest.mark.usefixtures("exact_numbers")
SETTINGS = Parameters(n_epochs=1, batch_size=4, learning_rate=1e-2, lora_r=4, lora_alpha=8, lora_dropout=0.0)
MEMORY_WAS_FULL = "Memory was full at step 1 with "


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ticket_rows(tmp_path_factory.mktemp("data") / "train.jsonl", 20)


@pytest.fixture(scope="module")
def roomy(
    exact_numbers: None, tiny_model_dir: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A job that had enough memory."""
    folder = tmp_path_factory.mktemp("roomy")
    make_job(folder, tiny_model_dir, rows_file, SETTINGS, validation=rows_file)
    assert run_training(folder) == 0
    return folder


@pytest.fixture
def same_job(tiny_model_dir: Path, rows_file: Path, tmp_path: Path) -> Path:
    """The job of `roomy`, not yet started."""
    return make_job(tmp_path / "job", tiny_model_dir, rows_file, SETTINGS, validation=rows_file)


def memory_warnings(folder: Path) -> list[str]:
    return [message for message in event_messages(folder, "warn") if message.startswith(MEMORY_WAS_FULL)]


@pytest.mark.deep
def test_a_batch_is_computed_in_smaller_parts_also_after_a_pause(roomy: Path, same_job: Path) -> None:
    with limit_memory(60), pause_in_forward(same_job, 10, is_training=True):
        assert run_training(same_job) == PAUSED
    (same_job / "PAUSED").unlink()
    newest = max((same_job / "checkpoints").iterdir())
    checkpoint = read_json(newest / "checkpoint.json") or {}
    assert (checkpoint["room"] < 60, checkpoint["recomputes"]) == (True, True)
    with limit_memory(60):
        assert run_training(same_job) == 0
    recomputes, smaller = memory_warnings(same_job)  # once: the resumed run remembers
    assert "activations are recomputed" in recomputes  # a half would be single rows here and there
    assert "A step still learns from as many rows" in smaller
    assert train_losses(same_job) == pytest.approx(train_losses(roomy), rel=1e-3)


def test_a_row_that_is_too_large_with_its_activations_is_trained_by_recomputing_them(
    roomy: Path, same_job: Path
) -> None:
    with limit_memory_of_kept_layers():
        assert run_training(same_job) == 0
    (warning,) = memory_warnings(same_job)
    assert "recomputed in the backward pass" in warning
    assert train_losses(same_job) == pytest.approx(train_losses(roomy), rel=1e-3)


def test_a_single_row_that_does_not_fit_fails_the_job_with_its_length(same_job: Path) -> None:
    with limit_memory(TOKENS):  # enough for the check of the new adapter
        assert run_training(same_job) == 1
    failure = read_failure(same_job)
    assert failure["code"] == "out_of_memory"
    assert failure["message"].startswith("Memory is too small for a single row of ")


@pytest.mark.deep
@pytest.mark.parametrize(
    ("length", "attempts"),
    [
        (64, [128, 64, 32, "recompute", 32, 16, 8, 4, 2, 1]),  # a quarter keeps a GPU as busy
        (1024, [8, 4, 2, "recompute", 2, 1]),
        (3000, [2, "recompute", 2, 1]),
        (9000, [1, "recompute", 1]),
    ],
)
def test_activations_are_recomputed_before_parts_become_single_rows(length: int, attempts: list[Any]) -> None:
    """The largest part's number of rows at each attempt, where nothing fits."""
    rows = [
        Row(line, [line] * length, [False] + [True] * (length - 1)) for line in range(max(1, 8192 // length))
    ]
    tried: list[Any] = []

    def recompute() -> bool:
        tried.append("recompute")
        return True

    def compute(parts: list[list[Row]]) -> None:
        tried.append(max(len(part) for part in parts))
        raise RuntimeError("CUDA error: out of memory")

    batcher = MicroBatcher(
        8192, None, packs=True, fill=fill_packs, width=width, tell=lambda message: None, recompute=recompute
    )
    with pytest.raises(TrainingFailed, match=f"a single row of {length} tokens"):
        batcher.compute_in_parts(rows, compute, "in a test")
    assert tried == attempts


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`", False),
        ("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)", False),
    ],
)
def test_full_memory_is_recognized_by_the_messages_of_cudas_libraries(message: str, expected: bool) -> None:
    assert is_out_of_memory(RuntimeError(message)) is expected


def test_recomputing_keeps_far_less_for_the_backward_pass_and_gives_the_same_gradients(
    tiny_model_dir: Path,
) -> None:
    model = add_lora(load_model(str(tiny_model_dir), torch.device("cpu"), torch.float32), SETTINGS).train()
    saved, gradients = kept_and_gradients(model)
    assert recompute_activations(model)
    kept_now, gradients_now = kept_and_gradients(model)
    assert kept_now < saved / 2
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_now, strict=True))


def kept_and_gradients(model: Any) -> tuple[int, list[torch.Tensor]]:
    """How many numbers autograd keeps until the backward pass, and the gradients."""
    saved = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += 0 if isinstance(tensor, torch.nn.Parameter) else tensor.numel()
        return tensor

    matrices = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=torch.arange(4, 60)[None], labels=torch.arange(4, 60)[None]).loss
    return saved, list(torch.autograd.grad(loss, matrices))
