"""float16, for GPUs that multiply it and no bfloat16: chosen there, and trained with a scaled loss; on the
CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from tests.local.preferences import write_pairs
from tests.local.runs import make_job
from tests.local.test_run_lifecycle import SETTINGS, losses
from tests.local.test_run_lifecycle import rows_file as rows_file
from trainers.local.job_directory import read_events
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
from trainers.local.training.schedule import Position
from trainers.local.training.setup import TrainingSetup

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
ROWS = [Row(line, [5, 6, 7, 8 + line, 20, 21 + line], [False] * 4 + [True] * 2) for line in range(4)]
PLAIN = replace(SETTINGS, n_epochs=1, lora_dropout=0.0)


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
def test_a_gpu_that_emulates_bfloat16_computes_in_float16(
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


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_a_training_in_float16_learns_what_one_in_float32_learns(
    method: Any, tiny_model_dir: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_file if method == "supervised" else write_pairs(tmp_path / "pairs.jsonl", 24)
    found = {}
    for number in ("fp32", "fp16"):
        monkeypatch.setenv("FINETUNE_DTYPE", number)
        folder = make_job(tmp_path / number, tiny_model_dir, rows, PLAIN, method=method)
        assert run_training(folder) == 0
        found[number] = losses(folder)
    assert any("in float16" in event["message"] for event in read_events(tmp_path / "fp16"))
    assert found["fp16"] == pytest.approx(found["fp32"], rel=0.02)
    assert found["fp16"] != found["fp32"]


def trainee_of(base: Path, scaler: GradScaler) -> TrainState[Row, Scores]:
    torch.manual_seed(0)
    model = add_lora(load_model(str(base), CPU, torch.float16), PLAIN)
    learnt = [one for one in model.parameters() if one.requires_grad]
    room = MicroBatcher(768, None, packs=True, fill=fill_packs, width=width, tell=str)
    able = Abilities(packs=True, selects=True)
    method = Sft(model, TrainingSetup(model, Rows(ROWS, 0, 0), None, able, CPU, torch.float16))
    return TrainState(method, new_optimizer(learnt, PLAIN), room, check_pause=lambda: None, scaler=scaler)


def learnt_matrices(trainee: TrainState[Row, Scores]) -> list[torch.Tensor]:
    return [one.detach().clone() for one in trainee.model.parameters() if one.requires_grad]


def test_a_step_whose_gradients_overflow_is_computed_again_and_not_left_out(tiny_model_dir: Path) -> None:
    plain, large = new_scaler(CPU, torch.float16), GradScaler("cpu", init_scale=2.0**60)
    large.scale(torch.zeros(1))
    assert plain.get_scale() == 2.0**16
    one, other = trainee_of(tiny_model_dir, plain), trainee_of(tiny_model_dir, large)
    for trainee in (one, other):
        train_step(trainee, ROWS, 1e-2, 1)
    assert plain.get_scale() == 2.0**16
    assert 1 < large.get_scale() < 2.0**60
    for mine, theirs in zip(learnt_matrices(one), learnt_matrices(other), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.02, atol=1e-4)


def test_a_checkpoint_keeps_the_scale(tiny_model_dir: Path, tmp_path: Path) -> None:
    scaler = new_scaler(CPU, torch.float16)
    trainee = trainee_of(tiny_model_dir, scaler)
    train_step(trainee, ROWS, 1e-2, 1)
    scaler.update(2.0**9)
    save_checkpoint(tmp_path, trainee.model, trainee.optimizer, Position(1, 24, 0.1), scaler)
    assert (checkpoint_folder(tmp_path, 1) / "state.pt").exists()
    fresh = new_scaler(CPU, torch.float16)
    other = trainee_of(tiny_model_dir, fresh)
    assert restore_checkpoint(tmp_path, other.model, other.optimizer, fresh).step == 1
    assert fresh.state_dict() == scaler.state_dict()
