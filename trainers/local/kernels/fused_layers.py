"""Layers of a loaded model computed in fewer steps: a linear layer with its LoRA matrices, an RMS norm, and
the last layer's MLP only where the head looks."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainers.local.peft import Linear, LoraConfig

# A linear layer and its LoRA matrices as one step of autograd, in the weights' own number format.
#
# peft adds scale · B(A(x)) to the layer's answer by five operations, each with a copy of the tokens'
# activations, and turns those into float32 and back where the matrices are kept in it. Here the product
# is added in place:
#
#     y  = x Wᵀ + s · (x Aᵀ) Bᵀ        x: (tokens, in)   W: (out, in)   A: (r, in)   B: (out, r)
#     ∂x = g W + s · (g B) A           g: (tokens, out)
#     ∂A = s · (g B)ᵀ x                ∂B = s · gᵀ (x Aᵀ)
#
# The same gradients as LoRA's paper (arXiv 2106.09685, section 4.1), with W frozen. Knows no model.


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


# A layer's RMS norm as one step of autograd.
#
# transformers turns a bfloat16 input into float32 and back in seven operations, each with a copy of the
# tokens' states, and keeps three of them for the way back. Here the states themselves and a number a
# token are kept:
#
#     y  = w · (x / rms)        rms = √(mean(x²) + ε)        x: (…, width)   w: (width,), frozen
#     ∂x = (g w - x · mean(g w x) / rms²) / rms
#
# Zhang and Sennrich 2019, "Root mean square layer normalization". Only the frozen norm of Llama and its
# kin: where a module computes something else, as Gemma's does with 1 + w, it keeps its own way.


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


# The last layer's feed-forward part, at the places only where the head looks: nothing else sees what it
# gives.
#
# Of 30 layers that is two thirds of the last, a fiftieth of all that is computed, forwards and backwards.


KEPT_PLACES = "_kept_places"


@dataclass
class KeptPlaces:
    """`places`: (K,) of a sequence of `tokens`; None: all. They hold until others are named, as activations that are
    computed again on the way back need them once more."""

    places: Tensor | None = None
    tokens: int = 0

    def name(self, places: Tensor, tokens: int) -> None:
        self.places, self.tokens = places, tokens


def trim_last_mlp(model: Any) -> KeptPlaces | None:
    """From now on the last feed-forward part computes at the places that are named. None where the model has no such
    part under its usual name."""
    layers = getattr(model.get_decoder(), "layers", None)
    part = getattr(layers[-1], "mlp", None) if isinstance(layers, nn.ModuleList) else None
    if part is None:
        return None
    kept_places: KeptPlaces | None = getattr(part, KEPT_PLACES, None)
    if kept_places is not None:
        return kept_places
    places = KeptPlaces()
    setattr(part, KEPT_PLACES, places)
    part.register_forward_pre_hook(lambda _, states: _selected(places, states))
    part.register_forward_hook(lambda _, __, result: _spread(places, result))
    return places


def _selected(places: KeptPlaces, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """(1, T, hidden) to (1, K, hidden)."""
    return states if places.places is None else (states[0].index_select(1, places.places), *states[1:])


def _spread(places: KeptPlaces, result: Tensor) -> Tensor:
    """(1, K, hidden) to (1, T, hidden), zeros elsewhere."""
    if places.places is None:
        return result
    everywhere = result.new_zeros(1, places.tokens, result.shape[-1])
    return torch.index_add(everywhere, 1, places.places, result)
