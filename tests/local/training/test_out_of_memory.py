"""Where memory is too small, a batch is computed in smaller parts and activations are recomputed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.local.faults import limit_memory, limit_memory_of_kept_layers, pause_in_forward
from tests.local.runs import event_messages, make_job, read_failure, train_losses, write_ticket_rows
from trainers.local.job_directory import read_json, replace_json
from trainers.local.launch import PAUSED
from trainers.local.train import run_training
from trainers.local.training import setup
from trainers.local.training.base_model import add_lora, load_model, recompute_activations
from trainers.local.training.checkpoints import read_position
from trainers.local.training.data import Row, Rows
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.memory import (
    MicroBatcher,
    choose_first_room,
    is_out_of_memory,
    usable_memory,
    work_of_step,
)
from trainers.local.training.methods.sft import Sft
from trainers.local.training.new_adapter import TOKENS
from trainers.local.training.packing import Abilities, fill_packs, width
from trainers.local.training.schedule import FIRST_PATIENCE, UNREDUCED, Room
from trainers.methods import Parameters, Quantization
from trainers.models.base_models import find_preset
from trainers.sizing.memory import Device

pytestmark = pytest.mark.usefixtures("exact_numbers")
SETTINGS = Parameters(n_epochs=1, batch_size=4, learning_rate=1e-2, lora_r=4, lora_alpha=8, lora_dropout=0.0)
MEMORY_WAS_FULL = "Memory was full at step 1 with "

GB = 10**9
GPU = Device("gpu", 2)
PACKS = Abilities(packs=True, selects=True)
LONG_ROWS = Rows([Row(line, [1] * 1024, [False] * 768 + [True] * 256) for line in range(8)], 0, 0)


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
    room = checkpoint["room"]
    assert (room["tokens"] < 60, room["recomputes"], room["patience"]) == (True, True, 2 * FIRST_PATIENCE)
    with limit_memory(60):
        assert run_training(same_job) == 0
    recomputes, smaller = memory_warnings(same_job)  # once: the resumed run remembers
    assert "activations are recomputed" in recomputes
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
        (64, [128, "recompute", 128, 64, 32, 16, 8, 4, 2, 1]),
        (1024, [8, "recompute", 8, 4, 2, 1]),
        (3000, [2, "recompute", 2, 1]),
        (9000, [1, "recompute", 1]),
    ],
)
def test_activations_are_recomputed_before_parts_shrink(length: int, attempts: list[Any]) -> None:
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
        8192,
        UNREDUCED,
        packs=True,
        fill=fill_packs,
        width=width,
        tell=lambda message: None,
        recompute=recompute,
    )
    with pytest.raises(TrainingFailed, match=f"a single row of {length} tokens"):
        batcher.compute_in_parts(rows, compute, "in a test")
    assert tried == attempts


def narrow_batcher(room: Room, messages: list[str]) -> MicroBatcher[Row]:
    return MicroBatcher(1024, room, packs=True, fill=fill_packs, width=width, tell=messages.append)


def test_more_tokens_are_tried_after_steps_without_a_shortage() -> None:
    messages: list[str] = []
    batcher = narrow_batcher(Room(300, patience=2), messages)
    sizes = []
    for _ in range(6):
        batcher.finish_step()
        sizes.append(batcher.tokens)
    assert sizes == [300, 600, 600, 1024, 1024, 1024]
    assert messages == [
        "Memory sufficed for 2 steps: from now on up to 600 tokens are computed at a time again.",
        "Memory sufficed for 2 steps: from now on up to 1,024 tokens are computed at a time again.",
    ]


def test_each_shortage_doubles_the_steps_until_more_tokens_are_tried() -> None:
    messages: list[str] = []
    batcher = narrow_batcher(Room(512, recomputes=True, calm_steps=4, patience=5), messages)
    batcher.finish_step()
    assert batcher.room == Room(None, recomputes=True, calm_steps=0, patience=5)
    rows = [Row(line, [line] * 128, [False] + [True] * 127) for line in range(8)]

    def compute(parts: list[list[Row]]) -> None:
        if width(parts[0]) > 512:
            raise MemoryError("out of memory")

    batcher.compute_in_parts(rows, compute, "in a test")
    assert batcher.room.patience == 10
    assert batcher.room.tokens == 512


def test_a_validation_that_lacks_memory_does_not_make_the_training_recompute() -> None:
    batcher = MicroBatcher(
        1024, UNREDUCED, packs=True, fill=fill_packs, width=width, tell=lambda _: None, recompute=lambda: True
    )
    rows = [Row(line, [line] * 128, [False] + [True] * 127) for line in range(8)]

    def compute(parts: list[list[Row]]) -> None:
        if width(parts[0]) > 512:
            raise MemoryError("out of memory")

    batcher.compute_in_parts(rows, compute, "while validating", keeps_activations=False)
    assert (batcher.room.tokens, batcher.room.recomputes) == (512, False)


@pytest.mark.deep
def test_a_run_that_is_paused_before_more_tokens_are_tried_ends_with_the_same_bytes(
    same_job: Path, tiny_model_dir: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is short in the first step only, and more tokens are tried after the fourth."""
    undisturbed = make_job(tmp_path / "other", tiny_model_dir, rows_file, SETTINGS, validation=rows_file)
    room = Room(60, recomputes=True, patience=4)
    monkeypatch.setattr(Sft, "first_room", property(lambda self: room, lambda self, value: None))
    assert run_training(undisturbed) == 0
    assert "Memory sufficed for 4 steps" in "".join(event_messages(undisturbed, "warn"))
    with pause_in_forward(same_job, 8, is_training=True):
        assert run_training(same_job) == PAUSED
    (same_job / "PAUSED").unlink()
    assert run_training(same_job) == 0
    adapters = [each / "adapter" / "adapter_model.safetensors" for each in (same_job, undisturbed)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_a_job_begins_with_the_room_that_the_estimate_leaves(
    roomy: Path, same_job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that is smaller than what CUDA itself takes by the estimate."""
    monkeypatch.setattr(setup, "usable_memory", lambda device: 1_200_000_000)
    assert run_training(same_job) == 0
    (sentence,) = [text for text in event_messages(same_job) if "by the estimate of plan-memory" in text]
    assert "the GPU has 1.2 GB: from the start activations are recomputed" in sentence
    assert not memory_warnings(same_job)
    assert train_losses(same_job) == pytest.approx(train_losses(roomy), rel=1e-3)


def test_checkpoints_of_release_0_2_keep_their_room(tmp_path: Path) -> None:
    old = {"step": 3, "trained_tokens": 9, "seconds": 1.5, "validations": [], "room": 96, "recomputes": True}
    replace_json(tmp_path / "checkpoint.json", old)
    assert read_position(tmp_path).room == Room(96, recomputes=True)
    replace_json(tmp_path / "checkpoint.json", {**old, "room": None, "recomputes": False})
    assert read_position(tmp_path).room == UNREDUCED


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


@dataclass
class Config:
    values: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return self.values


def mistral() -> Any:
    preset = find_preset("mistral-7b")
    assert preset is not None
    return SimpleNamespace(config=Config(dict(preset.config)), dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("quantization", "memory", "room"),
    [
        ("none", 80 * GB, UNREDUCED),
        ("none", 40 * GB, Room(None, recomputes=True)),
        ("none", 22 * GB, Room(1024 * 4, recomputes=True)),
        ("none", 18 * GB, Room(1024, recomputes=True)),
        ("nf4", 24 * GB, Room(None, recomputes=True)),
    ],
)
def test_activations_are_recomputed_before_fewer_tokens_are_computed_at_a_time(
    quantization: Quantization, memory: int, room: Room
) -> None:
    settings = Parameters(batch_size=8, quantization=quantization)
    work = work_of_step(LONG_ROWS, settings, PACKS, 8192)
    chosen, sentence = choose_first_room(mistral(), work, quantization, GPU, memory)
    assert chosen == room
    assert bool(sentence) is (room != UNREDUCED)
    if sentence:
        assert f"the GPU has {memory / GB:.1f} GB: from the start" in sentence


def test_a_step_has_as_many_of_the_longest_rows_as_are_computed_at_a_time() -> None:
    settings = Parameters(batch_size=32, lora_r=4)
    work = work_of_step(LONG_ROWS, settings, PACKS, 8192)
    assert (work.length, work.batch, work.answer, work.rank) == (1024, 8, 256, 4)
    alone = work_of_step(LONG_ROWS, settings, replace(PACKS, packs=False), 8192)
    assert alone.batch == 1
    padded = work_of_step(LONG_ROWS, settings, replace(PACKS, packs=False, pads=True), 8192)
    assert padded.batch == 8


def test_a_family_without_a_formula_begins_unreduced() -> None:
    base = SimpleNamespace(config=Config({"model_type": "mamba2"}), dtype=torch.bfloat16)
    work = work_of_step(LONG_ROWS, Parameters(), PACKS, 8192)
    assert choose_first_room(base, work, "none", GPU, GB) == (UNREDUCED, "")


def test_a_cpu_has_no_limit_of_its_own() -> None:
    assert usable_memory(torch.device("cpu")) is None
