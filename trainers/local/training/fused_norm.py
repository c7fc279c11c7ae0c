"""A layer's RMS norm as one step of autograd.

transformers turns a bfloat16 input into float32 and back in seven operations, each with a copy of the tokens' states,
and keeps three of them for the way back. Here the states themselves and a number a token are kept:

    y  = w · (x / rms)        rms = √(mean(x²) + ε)        x: (…, width)   w: (width,), frozen
    ∂x = (g w - x · mean(g w x) / rms²) / rms

Zhang and Sennrich 2019, "Root mean square layer normalization". Only the frozen norm of Llama and its kin: where a
module computes something else, as Gemma's does with 1 + w, it keeps its own way.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def fuse_norms(model: nn.Module) -> None:
    """Norms that a trial shows to be such ones compute fused from now on; their weights stay theirs."""
    for module in model.modules():
        if hasattr(module, "variance_epsilon") and is_plain_norm(module):
            module.forward = partial(normed, module)


def is_plain_norm(module: Any) -> bool:
    """Whether it gives w · (x / rms) for a few made-up tokens."""
    weight: Tensor = module.weight
    # Hybrids have norms that are gated besides, and take the gate.
    if weight.is_meta or len(inspect.signature(type(module).forward).parameters) > len(("self", "x")):
        return False
    tokens = torch.linspace(-2, 3, 3 * weight.numel(), device=weight.device, dtype=weight.dtype).view(3, -1)
    with torch.no_grad():
        own, fused = module(tokens), normed(module, tokens)
    return torch.allclose(own, fused, rtol=2 * torch.finfo(own.dtype).eps)


def normed(module: Any, x: Tensor) -> Tensor:
    if module.weight.requires_grad or module.weight.dtype != x.dtype:
        y: Tensor = type(module).forward(module, x)
        return y
    y = _Norm.apply(x, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return y


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = _float32(x)
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = torch.rsqrt(length.square_().div_(x.shape[-1]).add_(epsilon))
        ctx.save_for_backward(x, weight, inverse)
        return wide.mul_(inverse).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        wide, weighed = _float32(x), _float32(gradients[0] * weight)
        along = (weighed * wide).sum(-1, keepdim=True) * inverse.pow(3) / x.shape[-1]
        return weighed.mul_(inverse).addcmul_(wide, along, value=-1).to(x.dtype), None, None


def _float32(x: Tensor) -> Tensor:
    """A copy: products of bfloat16 with float32 take ten times as long as those of float32."""
    return x.to(torch.float32, copy=True)
