"""float16, for GPUs without bfloat16: when it is chosen, and training with a scaled loss, here on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from tests.local.preferences import write_pairs
from tests.local.runs import event_messages, make_job, train_losses, write_ticket_rows
from trainers.local.train import run_training
from trainers.local.training.base_model import add_lora, load_model
from trainers.local.training.checkpoints import checkpoint_folder, restore_checkpoint, save_checkpoint
from trainers.local.training.data import Row, Rows
from trainers.local.training.devices import best_dtype, new_scaler
from trainers.local.training.loop import TrainState, new_optimizer, train_step
from trainers.local.training.memory import MicroBatcher
from trainers.local.training.methods.sft import Sft
from trainers.local.training.metrics_logger import Scores
from trainers.local.training.packing import Abilities, fill_packs, width
from trainers.local.training.schedule import UNREDUCED, Position
from trainers.local.training.setup import TrainingSetup
from trainers.methods import Parameters

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
ROWS = [Row(line, [5, 6, 7, 8 + line, 20, 21 + line], [False] * 4 + [True] * 2) for line in range(4)]
SETTINGS = Parameters(n_epochs=1, batch_size=4, learning_rate=1e-2, lora_r=4, lora_alpha=8, lora_dropout=0.0)


@pytest.mark.parametrize(
    ("card", "capability", "family", "expected"),
    [
        ("H100", (9, 0), "llama", torch.bfloat16),
        ("A10", (8, 6), "gemma3_text", torch.bfloat16),
        ("T4", (7, 5), "llama", torch.float16),
        ("V100", (7, 0), "qwen3", torch.float16),
        ("T4", (7, 5), "gemma3_text", torch.float32),
        ("P100", (6, 0), "llama", torch.float32),
    ],
)
def test_a_gpu_without_bfloat16_computes_in_float16_if_the_family_allows(
    card: str,
    capability: tuple[int, int],
    family: str,
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FINETUNE_DTYPE", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert best_dtype(CUDA, family) == expected
    monkeypatch.setenv("FINETUNE_DTYPE", "fp16")
    assert best_dtype(CUDA, family) == torch.float16


@pytest.mark.deep
@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_training_in_float16_has_nearly_the_losses_of_float32(
    method: Any, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = write_ticket_rows if method == "supervised" else write_pairs
    rows = write(tmp_path / "rows.jsonl", 12)
    losses = {}
    for dtype in ("fp32", "fp16"):
        monkeypatch.setenv("FINETUNE_DTYPE", dtype)
        folder = make_job(tmp_path / dtype, tiny_model_dir, rows, SETTINGS, method=method)
        assert run_training(folder) == 0
        losses[dtype] = train_losses(folder)
    assert any("in float16" in message for message in event_messages(tmp_path / "fp16"))
    assert losses["fp16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["fp16"] != losses["fp32"]


def train_state(base: Path, scaler: GradScaler) -> TrainState[Row, Scores]:
    torch.manual_seed(0)
    model = add_lora(load_model(str(base), CPU, torch.float16), SETTINGS)
    matrices = [parameter for parameter in model.parameters() if parameter.requires_grad]
    batcher = MicroBatcher(
        768, UNREDUCED, packs=True, fill=fill_packs, width=width, tell=lambda message: None
    )
    able = Abilities(packs=True, selects=True)
    method = Sft(model, TrainingSetup(model, Rows(ROWS, 0, 0), None, able, CPU, torch.float16))
    return TrainState(
        method, new_optimizer(matrices, SETTINGS), batcher, check_pause=lambda: None, scaler=scaler
    )


def copy_matrices(state: TrainState[Row, Scores]) -> list[torch.Tensor]:
    return [each.detach().clone() for each in state.model.parameters() if each.requires_grad]


def test_a_step_whose_gradients_overflow_is_repeated_and_not_skipped(tiny_model_dir: Path) -> None:
    usual, large = new_scaler(CPU, torch.float16), GradScaler("cpu", init_scale=2.0**60)
    large.scale(torch.zeros(1))
    assert usual.get_scale() == 2.0**16
    state, overflowing = train_state(tiny_model_dir, usual), train_state(tiny_model_dir, large)
    for each in (state, overflowing):
        train_step(each, ROWS, 1e-2, 1)
    assert usual.get_scale() == 2.0**16
    assert 1 < large.get_scale() < 2.0**60
    for matrix, other in zip(copy_matrices(state), copy_matrices(overflowing), strict=True):
        torch.testing.assert_close(matrix, other, rtol=0.02, atol=1e-4)


def test_a_checkpoint_stores_the_scale(tiny_model_dir: Path, tmp_path: Path) -> None:
    scaler = new_scaler(CPU, torch.float16)
    state = train_state(tiny_model_dir, scaler)
    train_step(state, ROWS, 1e-2, 1)
    scaler.update(2.0**9)
    save_checkpoint(tmp_path, state.model, state.optimizer, Position(1, 24, 0.1), scaler)
    assert (checkpoint_folder(tmp_path, 1) / "state.pt").exists()
    fresh = new_scaler(CPU, torch.float16)
    restored = train_state(tiny_model_dir, fresh)
    assert restore_checkpoint(tmp_path, restored.model, restored.optimizer, fresh).step == 1
    assert fresh.state_dict() == scaler.state_dict()
