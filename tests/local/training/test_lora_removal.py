"""After a trial its adapter is removed and the base is as before, whether dense, quantized or with experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora.layer import LoraLayer

from tests.local.families import FAMILIES, make_family
from trainers.local.training.base_model import add_lora, load_model, recompute_activations, remove_lora
from trainers.methods import Parameters, Quantization

EXPERTS = "experts.down_proj,experts.gate_up_proj,q_proj"
IDS = torch.tensor([[1, 5, 9, 13]])


@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "targets", "kind"),
    [
        ("llama-3", "all-linear", "none"),
        ("phi-4", "all-linear", "none"),
        ("llama-4-scout", EXPERTS, "none"),
        ("llama-3", "all-linear", "nf4"),
        ("llama-3", "all-linear", "int8"),
    ],
)
def test_removing_lora_restores_the_base(tmp_path: Path, name: str, targets: str, kind: Quantization) -> None:
    folder = make_family(tmp_path, FAMILIES[name])
    cpu = torch.device("cpu")
    base = load_model(str(folder), cpu, torch.float32, kind)
    base.requires_grad_(False)  # as LoRA has it: norms that are frozen compute fused
    before, names = logits_of(base), [name for name, _ in base.named_parameters()]
    for rank in (4, 2):
        model = add_lora(base, Parameters(lora_r=rank, target_modules=targets))
        recompute_activations(model)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(1.0)
        assert not torch.equal(logits_of(model), before)
        remove_lora(base)
        assert [name for name, _ in base.named_parameters()] == names
        assert not base.is_activation_checkpointing
        assert torch.equal(logits_of(base), before)


def test_removing_a_half_added_lora_restores_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out when only some layers have matrices."""
    base = load_model(str(make_family(tmp_path, FAMILIES["llama-3"])), torch.device("cpu"), torch.float32)
    before, started = logits_of(base), []
    reset = LoraLayer.reset_lora_parameters

    def run_out_of_memory(self: LoraLayer, *more: Any) -> None:
        started.append(self)
        if len(started) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        reset(self, *more)

    monkeypatch.setattr(LoraLayer, "reset_lora_parameters", run_out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        add_lora(base, Parameters())
    assert any("lora_A" in name for name, _ in base.named_parameters())
    remove_lora(base)
    assert not any("lora" in name or "base_layer" in name for name, _ in base.named_parameters())
    assert torch.equal(logits_of(base), before)


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS).logits
    model.train()
    return logits
