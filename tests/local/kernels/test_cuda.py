"""Calls of CUDA, whose initialization and driver are stubbed; PyTorch's own checks of arguments stay on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.local.reference import TICKETS, load_reference
from tests.local.serving.test_batches import ask
from trainers.local.serving import memory, model_cache
from trainers.local.serving.generator import Generator
from trainers.local.serving.values import Target
from trainers.local.training.devices import best_device

GB = 10**9
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@dataclass
class Gpu:
    """A GPU with 20 of 24 GB free. `fractions` are the limits set for this process, with the device's number."""

    fractions: list[tuple[float, int]] = field(default_factory=list)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    card = Gpu()
    for module in (torch.cuda, torch.cuda.memory):
        monkeypatch.setattr(module, "_lazy_init", lambda: None)
    runtime = SimpleNamespace(cudaMemGetInfo=lambda device: (20 * GB, 24 * GB))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=24 * GB)
    )
    monkeypatch.setattr(torch.cuda.memory, "memory_stats", lambda device: {"reserved_bytes.all.current": GB})
    monkeypatch.setattr(
        torch._C, "_cuda_setMemoryFraction", lambda *limit: card.fractions.append(limit), raising=False
    )
    monkeypatch.setattr(
        torch._C, "_cuda_getMemoryFraction", lambda device: card.fractions[-1][0], raising=False
    )
    return card


def test_a_share_of_a_gpu_is_requested_by_its_number(gpu: Gpu) -> None:
    device = best_device()
    assert memory.limit_to_share(device, is_training=False)
    assert memory.limit_to_share(device, is_training=True)
    assert gpu.fractions == [(0.9, 0), (0.3, 0)]
    assert memory.free_bytes(device) == 7_200_000_000


def test_a_server_with_a_gpu_answers(
    gpu: Gpu, babbling_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model itself is on the CPU."""
    monkeypatch.setenv("FINETUNE_DTYPE", "fp32")
    load = model_cache._load
    monkeypatch.setattr(model_cache, "_load", lambda name, device: load(name, torch.device("cpu")))
    generator = Generator()
    try:
        answer = ask(generator, Target(str(babbling_model_dir), None), TICKETS[0]).answer()
    finally:
        generator.stop()
    assert answer == load_reference(babbling_model_dir, None).answer(TICKETS[0])
    assert (0.9, 0) in gpu.fractions
