"""A fused layer computes the same as peft's own, forward and backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from trainers.local.kernels.fused_layers import FusedLinear, compute_fused

X = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(5))


class TwoLayers(nn.Module):
    """Two linear layers, the first with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 40), nn.Linear(40, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))  # type: ignore[no-any-return]


def adapted(*, fused: bool, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> PeftModel:
    """Has the same weights each time. Matrix B is not 0, so that A has a gradient."""
    torch.manual_seed(11)
    config = LoraConfig(r=4, lora_alpha=12, lora_dropout=dropout, target_modules=["first", "second"])
    if fused:
        compute_fused(config)
    model: Any = get_peft_model(TwoLayers().to(dtype), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model  # type: ignore[no-any-return]


def output_and_gradients(model: PeftModel, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The gradients are those of x and of all matrices."""
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    matrices = [p.grad for p in model.parameters() if p.requires_grad]
    return y.detach(), [grad for grad in (x.grad, *matrices) if grad is not None]


def test_output_and_gradients_are_those_of_peft() -> None:
    fused, plain = adapted(fused=True), adapted(fused=False)
    assert all(isinstance(getattr(fused.base_model.model, name), FusedLinear) for name in ("first", "second"))
    (y, gradients), (expected_y, expected) = output_and_gradients(fused, X), output_and_gradients(plain, X)
    torch.testing.assert_close(y, expected_y, rtol=1e-5, atol=1e-6)
    assert len(gradients) == 5
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_in_bfloat16_matrices_stay_float32_with_nearly_the_same_gradients() -> None:
    fused, plain = adapted(fused=True, dtype=torch.bfloat16), adapted(fused=False, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        _, gradients = output_and_gradients(fused, X.bfloat16())
        _, expected = output_and_gradients(plain, X.bfloat16())
    assert {p.dtype for p in fused.parameters() if p.requires_grad} == {torch.float32}
    for ours, theirs in zip(gradients, expected, strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_no_gradient_is_computed_for_frozen_weights_or_inputs() -> None:
    model = adapted(fused=True)
    model(X).sum().backward()
    assert X.grad is None
    assert model.base_model.model.first.base_layer.weight.grad is None


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_with_its_adapter_disabled_the_model_is_the_base(dropout: float) -> None:
    model = adapted(fused=True, dropout=dropout)
    base: Any = model.base_model.model
    with model.disable_adapter():
        torch.testing.assert_close(model(X), base.second.base_layer(torch.tanh(base.first.base_layer(X))))


def test_saved_files_are_those_of_peft(tmp_path: Path) -> None:
    adapted(fused=True).save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(adapted(fused=False).unload(), str(tmp_path))
    torch.testing.assert_close(loaded(X), adapted(fused=False)(X))
