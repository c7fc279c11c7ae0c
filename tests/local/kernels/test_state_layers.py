"""A model with linear attention, convolutions or state spaces names the kernels that are missing for them."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.local.families import FAMILIES, HYBRIDS, make_family
from tests.local.preferences import QUESTIONS
from tests.local.runs import event_messages, make_job, read_failure
from trainers.local.kernels.state_layers import describe_slow_layers, install_command, missing_kernels
from trainers.local.train import run_training
from trainers.local.training.model_structure import choose_class
from trainers.methods import Parameters

PACKAGES = ("causal_conv1d", "fla", "mamba_ssm")
INSTALLED = [package for package in PACKAGES if find_spec(package)]
pytestmark = pytest.mark.skipif(bool(INSTALLED), reason=f"installed: {', '.join(INSTALLED)}")
CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def toy(name: str) -> Any:
    choice = choose_class(name, (FAMILIES | HYBRIDS)[name].config())
    return choice.model_class._from_config(choice.config, dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("qwen-3.5", ["causal_conv1d", "fla"]),
        ("lfm-2", ["causal_conv1d"]),
        ("falcon-h1", ["causal_conv1d", "mamba_ssm"]),
        ("granite-4", ["causal_conv1d", "mamba_ssm"]),
        ("nemotron-h", ["causal_conv1d", "mamba_ssm"]),
        ("mamba-2", ["causal_conv1d", "mamba_ssm"]),
        ("llama-3", []),
        ("gpt-oss", []),
        ("gemma-4", []),
    ],
)
def test_the_kernels_that_a_models_layers_would_call_are_named(name: str, packages: list[str]) -> None:
    assert [kernel.package for kernel in missing_kernels(toy(name))] == packages


def test_on_an_nvidia_gpu_the_sentence_has_the_line_that_installs_them() -> None:
    assert describe_slow_layers(toy("qwen-3.5"), CUDA) == (
        "PyTorch alone computes this model's linear attention, convolutions or state spaces, which is slow. Missing: "
        f"causal-conv1d and flash-linear-attention. Install the extra [kernels]: {install_command()}"
    )
    assert "--no-build-isolation" in install_command() and "[kernels]" in install_command()


def test_elsewhere_it_leads_nobody_to_install_them() -> None:
    assert describe_slow_layers(toy("lfm-2"), CPU) == (
        "PyTorch alone computes this model's linear attention, convolutions or state spaces, which is slow: the "
        "kernels for them (causal-conv1d) need an NVIDIA GPU"
    )
    assert describe_slow_layers(toy("llama-3"), CPU) is None


def test_a_package_that_cannot_be_imported_is_named_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "causal_conv1d.py").write_text("raise ImportError('undefined symbol: _ZN3c10')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "causal_conv1d", raising=False)
    (kernel,) = missing_kernels(toy("lfm-2"))
    assert str(kernel) == "causal-conv1d (installed, but ImportError undefined symbol: _ZN3c10)"


def test_a_job_says_which_kernels_it_trains_without(tmp_path: Path) -> None:
    base = make_family(tmp_path / "base", HYBRIDS["lfm-2"])
    rows = []
    for label, question in QUESTIONS.items():
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": label}]
        rows.append(json.dumps({"messages": turns}))
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(rows), encoding="utf-8")
    job = make_job(tmp_path / "job", base, file, Parameters(n_epochs=1, batch_size=2, lora_r=4))
    assert run_training(job) == 0, read_failure(job)
    assert describe_slow_layers(toy("lfm-2"), CPU) in event_messages(job)
