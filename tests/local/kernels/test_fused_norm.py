"""A fused norm computes the same as the model's own, forward and backward; other norms are left alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.falcon_mamba.modeling_falcon_mamba import FalconMambaWeightlessRMSNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.gemma4.modeling_gemma4 import Gemma4RMSNorm
from transformers.models.granitemoehybrid.modeling_granitemoehybrid import GraniteMoeHybridRMSNormGated
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5RMSNorm, Qwen3_5RMSNormGated

from trainers.local.kernels.fused_layers import fuse_norms, unfuse_norms

WIDTH = 48
WIDE = [Gemma3RMSNorm, Gemma4RMSNorm, Qwen3_5RMSNorm]  # in float32, and some with 1 + w


def make_norm(kind: type[nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    norm = kind(WIDTH, 1e-5)
    weight = torch.rand(WIDTH, generator=torch.Generator().manual_seed(3)) + 0.5
    norm.weight = nn.Parameter(weight, requires_grad=False)
    return norm.to(dtype)


def output_and_gradient(module: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The gradient is that of the input."""
    x = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(5)).to(dtype).requires_grad_()
    y = module(x)
    y.square().sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm, *WIDE])
def test_output_and_gradient_are_those_of_the_model(kind: type[nn.Module]) -> None:
    own, fused = make_norm(kind), make_norm(kind)
    fuse_norms(fused)
    assert "forward" in vars(fused)
    (output, gradient), expected = (output_and_gradient(each, torch.float32) for each in (fused, own))
    torch.testing.assert_close((output, gradient), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [LlamaRMSNorm, *WIDE])
def test_in_bfloat16_it_is_as_close_to_float32_as_the_models_own(kind: type[nn.Module]) -> None:
    own, fused = make_norm(kind, torch.bfloat16), make_norm(kind, torch.bfloat16)
    exact = output_and_gradient(make_norm(kind).to(torch.bfloat16).to(torch.float32), torch.float32)
    fuse_norms(fused)
    assert "forward" in vars(fused)
    for truth, ours, theirs in zip(
        exact,
        output_and_gradient(fused, torch.bfloat16),
        output_and_gradient(own, torch.bfloat16),
        strict=True,
    ):
        assert (ours.float() - truth).norm() < 1.2 * (theirs.float() - truth).norm()


def test_a_norm_with_another_function_is_not_fused() -> None:
    coheres = make_norm(CohereLayerNorm)
    assert hasattr(coheres, "variance_epsilon")  # as Llama's
    fuse_norms(coheres)
    assert "forward" not in vars(coheres)


class CentredRMSNorm(Gemma3RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(-1, keepdim=True))


def test_a_norm_that_is_only_named_like_an_rms_norm_is_not_fused() -> None:
    centred = make_norm(CentredRMSNorm)
    fuse_norms(centred)
    assert "forward" not in vars(centred)


def test_a_norm_that_never_uses_its_weight_is_not_fused() -> None:
    weightless = FalconMambaWeightlessRMSNorm(WIDTH)
    fuse_norms(weightless)
    assert "forward" not in vars(weightless)


def test_a_norm_that_first_answered_a_question_can_be_trained_through() -> None:
    norm = make_norm(Qwen3_5RMSNorm)
    fuse_norms(norm)
    with torch.inference_mode():
        norm(torch.ones(1, 2, WIDTH))
    _, gradient = output_and_gradient(norm, torch.float32)
    assert gradient.any()


def test_fused_norms_can_be_undone_for_a_comparison() -> None:
    norm = make_norm(Gemma3RMSNorm)
    fuse_norms(norm)
    with unfuse_norms(norm):
        assert "forward" not in vars(norm)
    assert "forward" in vars(norm)


@pytest.mark.parametrize(
    "kind", [Qwen3_5RMSNormGated, partial(GraniteMoeHybridRMSNormGated, group_size=WIDTH)]
)
def test_a_gated_norm_is_not_fused(kind: Any) -> None:
    gated = kind(WIDTH, eps=1e-5)
    fuse_norms(gated)
    assert "forward" not in vars(gated)
    x = torch.ones(1, 2, WIDTH)
    assert gated(x, x).shape == x.shape


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3_5RMSNorm])
def test_a_norm_that_is_trained_is_not_fused(kind: type[nn.Module]) -> None:
    learning = make_norm(kind)
    learning.weight.requires_grad_(True)
    fuse_norms(learning)
    _, gradient = output_and_gradient(learning, torch.float32)
    assert learning.weight.grad is not None
    assert gradient.isfinite().all()
