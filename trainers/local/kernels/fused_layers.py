"""Computes layers of a loaded model faster: a linear layer together with its LoRA matrices, RMS norms in one step, and
the last layer's MLP only at the tokens that the head reads."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainers.local.peft import Linear, LoraConfig

KEPT_POSITIONS = "_kept_positions"
# Thousands of squares are added up in another order. In narrower formats two roundings count for more.
FLOAT32_TOLERANCE = 1e-5


def compute_fused(config: LoraConfig) -> None:
    """Makes peft create fused layers for `config`. Parameters, names and files are the same as peft's."""
    config._register_custom_module({nn.Linear: FusedLinear})


class FusedLinear(Linear):
    """A linear layer and its LoRA matrices as one autograd function, in the number format of the layer's weights.

    peft adds scale · B(A(x)) to the layer's result in five operations, each with a copy of the activations, and
    converts them to float32 and back if the matrices are in float32. Here the product is added in place:

        y  = x Wᵀ + s · (x Aᵀ) Bᵀ        x: (tokens, in)   W: (out, in)   A: (r, in)   B: (out, r)
        ∂x = g W + s · (g B) A           g: (tokens, out)
        ∂A = s · (g B)ᵀ x                ∂B = s · gᵀ (x Aᵀ)

    The gradients are those of LoRA's paper (arXiv 2106.09685, section 4.1), with W frozen. With several adapters, none,
    or dropout, peft's own code is used.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = self._only_plain_adapter()
        if args or kwargs or name is None:
            return super().forward(x, *args, **kwargs)
        base: Any = self.get_base_layer()
        kind = base.weight.dtype
        a = self.lora_A[name].weight.to(kind)
        b = self.lora_B[name].weight.to(kind)
        tokens = x.to(kind).reshape(-1, x.shape[-1])
        product: Tensor = _Product.apply(tokens, base.weight, a, b, self.scaling[name])  # type: ignore[no-untyped-call]
        # The view is made here because one made inside _Product can't be changed in place, which Llama 4 does.
        product = product.view(*x.shape[:-1], -1)
        if base.bias is not None:
            product = product + base.bias
        return product

    def _only_plain_adapter(self) -> str | None:
        """Returns the adapter's name if it is the only one, in use, and without dropout."""
        names = self.active_adapters
        if self.disable_adapters or self.merged:
            return None
        if len(names) != 1:
            return None
        name: str = names[0]
        if name not in self.lora_A:
            return None
        has_dropout = not isinstance(self.lora_dropout[name], nn.Identity)
        if has_dropout:
            return None
        return name


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        weight: Tensor,
        a: Tensor,
        b: Tensor,
        scale: float,
    ) -> Tensor:
        narrow = tokens @ a.T
        y = tokens @ weight.T
        y.addmm_(narrow, b.T, alpha=scale)
        ctx.save_for_backward(tokens, weight, a, b, narrow)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None]:
        tokens, weight, a, b, narrow = ctx.saved_tensors
        (gradient,) = gradients
        narrow_gradient = gradient @ b
        narrow_gradient.mul_(ctx.scale)
        input_gradient = None
        if ctx.needs_input_grad[0]:  # not if nothing before this layer is trained
            input_gradient = gradient @ weight
            input_gradient.addmm_(narrow_gradient, a)
        a_gradient = narrow_gradient.T @ tokens
        b_gradient = gradient.T @ narrow
        b_gradient.mul_(ctx.scale)
        return input_gradient, None, a_gradient, b_gradient, None


def fuse_norms(model: nn.Module) -> None:
    """Makes RMS norms compute in one step, if a trial shows that they are plain RMS norms or those of Gemma and
    Qwen 3.5. Their weights are not touched."""
    for module in model.modules():
        if hasattr(module, "variance_epsilon") and is_plain_norm(module):
            module.forward = partial(apply_norm, module)
            continue
        shift = find_shift(module)
        if shift is not None:
            module.forward = WideNorm(module, shift)


@contextmanager
def unfuse_norms(model: nn.Module) -> Iterator[None]:
    """Makes the norms that fuse_norms has changed compute as transformers wrote them, as long as the context lasts."""
    fused = {}
    for module in model.modules():
        forward = vars(module).get("forward")
        is_plain = isinstance(forward, partial) and forward.func is apply_norm
        if is_plain or isinstance(forward, WideNorm):
            fused[module] = vars(module).pop("forward")
    try:
        yield
    finally:
        for module, forward in fused.items():
            module.forward = forward


def is_plain_norm(module: Any) -> bool:
    """True if the module computes w · (x / rms) for a few made-up tokens. Gemma's norms, for example, use 1 + w, and
    Cohere's subtract the mean."""
    if not _has_one_input(module):
        return False
    tokens = _trial_tokens(module.weight)
    with torch.no_grad():
        own = type(module).forward(module, tokens)
        # Not by apply_norm: as long as the weight may be trained, that would compare the module with itself.
        fused = _Norm.apply(tokens, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return _are_close(fused, own)


def find_shift(module: Any) -> float | None:
    """Returns 1.0 if the module computes (1 + w) · (x / rms) for a few made-up tokens, 0.0 if it computes w · (x / rms)
    as Gemma does, with all of it in float32, and otherwise None."""
    is_norm = type(module).__name__.endswith("RMSNorm") and isinstance(getattr(module, "eps", None), float)
    # In Falcon Mamba it is a buffer that the norm never uses, of another width.
    has_weight = isinstance(getattr(module, "weight", None), nn.Parameter)
    if not is_norm or not has_weight or not _has_one_input(module):
        return None
    tokens = _trial_tokens(module.weight)
    with torch.no_grad():
        own = type(module).forward(module, tokens)
        for shift in (1.0, 0.0):
            if _are_close(WideNorm(module, shift).compute(tokens), own):
                return shift
    return None


def _has_one_input(module: Any) -> bool:
    weight: Tensor = module.weight
    parameters = inspect.signature(type(module).forward).parameters
    takes_gate = len(parameters) > len(("self", "x"))  # in hybrid models
    has_heads = weight.dim() != 1  # Cohere has norms with a weight for each head
    return not (weight.is_meta or takes_gate or has_heads)


def _trial_tokens(weight: Tensor) -> Tensor:
    n_numbers = 3 * weight.numel()
    numbers = torch.linspace(-2, 3, n_numbers, device=weight.device, dtype=weight.dtype)
    tokens = numbers.view(3, -1)
    tokens[-1] *= 1e-3  # so short that ε counts
    return tokens


def _are_close(fused: Tensor, own: Tensor) -> bool:
    if fused.dtype != own.dtype:
        return False
    tolerance = 2 * torch.finfo(own.dtype).eps
    if own.dtype == torch.float32:
        tolerance = FLOAT32_TOLERANCE
    return torch.allclose(own, fused, rtol=tolerance)


@dataclass
class WideNorm:
    """The forward of a norm that computes (w + shift) · (x / rms) in float32 and rounds its result once."""

    module: Any
    shift: float
    _scale: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.module.weight.requires_grad:
            y: Tensor = type(self.module).forward(self.module, x)
            return y
        return self.compute(x)

    def compute(self, x: Tensor) -> Tensor:
        if self._scale is None or self._scale.device != x.device:
            self._scale = self._make_scale()
        y: Tensor = _WideNorm.apply(x, self._scale, self.module.eps)  # type: ignore[no-untyped-call]
        return y

    def _make_scale(self) -> Tensor:
        """The weight is frozen, so this is computed once and not in each pass."""
        weight = self.module.weight.detach()
        with torch.inference_mode(False):  # a tensor of inference mode could never be used in training
            scale: Tensor = (weight.float() + self.shift) * math.sqrt(weight.numel())
        return scale


def apply_norm(module: Any, x: Tensor) -> Tensor:
    if module.weight.requires_grad or module.weight.dtype != x.dtype:
        y: Tensor = type(module).forward(module, x)
        return y
    y = _Norm.apply(x, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return y


class _Norm(torch.autograd.Function):
    """An RMS norm as one autograd function.

    transformers converts a bfloat16 input to float32 and back in seven operations, each with a copy of the states, and
    keeps three of the copies for the backward pass. Here only the states and one number per token are kept:

        y  = w · (x / rms)        rms = √(mean(x²) + ε)        x: (…, width)   w: (width,), frozen
        ∂x = (g w - x · mean(g w x) / rms²) / rms

    Zhang and Sennrich 2019, "Root mean square layer normalization".
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = _float32(x)
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        mean_square = length.square_().div_(x.shape[-1])
        inverse = torch.rsqrt(mean_square.add_(epsilon))  # 1 / rms, the number that is kept for each token
        ctx.save_for_backward(x, weight, inverse)
        # Narrowed before the weight is applied, in transformers' order, so that both round alike.
        normal = wide.mul_(inverse).to(x.dtype)
        return normal.mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        wide = _float32(x)
        (gradient,) = gradients
        weighed = _float32(gradient * weight)
        # mean(g w x) / rms³, (…, 1): how far the gradient lies along x
        sum_along = (weighed * wide).sum(-1, keepdim=True)
        along = sum_along * inverse.pow(3) / x.shape[-1]
        x_gradient = weighed.mul_(inverse)
        x_gradient.addcmul_(wide, along, value=-1)
        return x_gradient.to(x.dtype), None, None


class _WideNorm(torch.autograd.Function):
    """An RMS norm in float32 as one autograd function. Only the states and one number per token are kept for the
    backward pass, instead of three float32 copies of the states:

        y  = c · x · r            r = 1 / √(|x|² + nε)        x: (…, n)   c: √n · weight (n,), in float32
        ∂x = r (g c) - r³ x Σ(g c x)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = length.square_().add_(x.shape[-1] * epsilon).rsqrt_()
        ctx.save_for_backward(x, scale, inverse)
        scaled: Tensor = (wide * inverse).mul_(scale)
        return scaled.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, scale, inverse = ctx.saved_tensors
        wide = x.float()
        (gradient,) = gradients
        weighed = gradient.float() * scale
        along = (weighed * wide).sum(-1, keepdim=True)
        along.mul_(inverse.pow(3))
        x_gradient = weighed.mul_(inverse).addcmul_(wide, along, value=-1)
        return x_gradient.to(x.dtype), None, None


def _float32(x: Tensor) -> Tensor:
    """Returns a float32 copy. Products of bfloat16 with float32 would take ten times as long as those of float32."""
    return x.to(torch.float32, copy=True)


@dataclass
class KeptPositions:
    """The positions (K,) in a sequence of `tokens` that are computed; None means all. They are kept until the next call
    of `keep`, since activations that are recomputed in the backward pass need them again."""

    positions: Tensor | None = None
    tokens: int = 0

    def keep(self, positions: Tensor, tokens: int) -> None:
        self.positions = positions
        self.tokens = tokens


def trim_last_mlp(model: Any) -> KeptPositions | None:
    """Makes the last layer's feed-forward part compute only at the positions that the head reads, since nothing else
    uses its output. With 30 layers this saves a fiftieth of all computation.

    The caller sets the positions in the result, which is None if the model has no such part under its usual name.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        return None
    part = getattr(layers[-1], "mlp", None)
    if part is None:
        return None
    earlier: KeptPositions | None = getattr(part, KEPT_POSITIONS, None)
    if earlier is not None:
        return earlier
    kept_positions = KeptPositions()

    def select(_: nn.Module, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(1, T, hidden) to (1, K, hidden)."""
        if kept_positions.positions is None:
            return states
        hidden, *others = states
        return hidden.index_select(1, kept_positions.positions), *others

    def spread(_: nn.Module, __: tuple[Tensor, ...], result: Tensor) -> Tensor:
        """(1, K, hidden) to (1, T, hidden), with zeros elsewhere."""
        if kept_positions.positions is None:
            return result
        everywhere = result.new_zeros(1, kept_positions.tokens, result.shape[-1])
        return torch.index_add(everywhere, 1, kept_positions.positions, result)

    setattr(part, KEPT_POSITIONS, kept_positions)
    part.register_forward_pre_hook(select)
    part.register_forward_hook(spread)
    return kept_positions


@contextmanager
def without_kept_positions(model: nn.Module) -> Iterator[None]:
    """Makes the last layer's feed-forward part compute at all positions, as long as the context lasts."""
    parts = [getattr(module, KEPT_POSITIONS, None) for module in model.modules()]
    trimmed = [part for part in parts if isinstance(part, KeptPositions)]
    positions = [part.positions for part in trimmed]
    for part in trimmed:
        part.positions = None
    try:
        yield
    finally:
        for part, earlier in zip(trimmed, positions, strict=True):
            part.positions = earlier
