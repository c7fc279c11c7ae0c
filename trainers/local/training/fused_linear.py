"""A linear layer and its LoRA matrices as one step of autograd, in the weights' own number format.

peft adds scale · B(A(x)) to the layer's answer by five operations, each with a copy of the tokens' activations, and
turns those into float32 and back where the matrices are kept in it. Here the product is added in place:

    y  = x Wᵀ + s · (x Aᵀ) Bᵀ        x: (tokens, in)   W: (out, in)   A: (r, in)   B: (out, r)
    ∂x = g W + s · (g B) A           g: (tokens, out)
    ∂A = s · (g B)ᵀ x                ∂B = s · gᵀ (x Aᵀ)

The same gradients as LoRA's paper (arXiv 2106.09685, section 4.1), with W frozen. Knows no model.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn


def compute_fused(config: LoraConfig) -> None:
    """Layers that peft makes for `config` are fused ones. Their parameters, names and files stay peft's."""
    config._register_custom_module({nn.Linear: FusedLinear})


class FusedLinear(Linear):
    """Falls back to peft's own way for what isn't plain training: several adapters, none, or dropout."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self._is_plain:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        base: Any = self.get_base_layer()
        kind = base.weight.dtype
        a, b = (matrices[name].weight.to(kind) for matrices in (self.lora_A, self.lora_B))
        tokens = x.to(kind).reshape(-1, x.shape[-1])
        product: Tensor = _Product.apply(tokens, base.weight, a, b, self.scaling[name])  # type: ignore[no-untyped-call]
        product = product.view(
            *x.shape[:-1], -1
        )  # not in there: Llama 4 adds to it in place, and torch forbids that
        return product if base.bias is None else product + base.bias

    @property
    def _is_plain(self) -> bool:
        names = self.active_adapters
        return (
            len(names) == 1
            and names[0] in self.lora_A
            and not (self.disable_adapters or self.merged)
            and isinstance(self.lora_dropout[names[0]], nn.Identity)
        )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        narrow = tokens @ a.T
        y = (tokens @ weight.T).addmm_(narrow, b.T, alpha=scale)
        ctx.save_for_backward(tokens, weight, a, b, narrow)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None]:
        tokens, weight, a, b, narrow = ctx.saved_tensors
        gradient = gradients[0]
        narrowed = (gradient @ b).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (gradient @ weight).addmm_(narrowed, a)
        return of_x, None, narrowed.T @ tokens, (gradient.T @ narrow).mul_(ctx.scale), None
