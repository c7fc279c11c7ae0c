"""Liger's Triton kernels for a model's rotary embedding, gated feed-forward parts and RMS norms, on CUDA.

Where the extra [liger] is installed, Liger's own functions put them into the loaded base. Its fused linear cross
entropy stays out: our head and TRL's compute what is learnt only. A few tokens go through the model before and after,
forwards and back; where they come out otherwise, or a kernel does not compile, all is put back and the reason is said.
On a CPU fused_layers.py and shared_prefix_attention.py serve instead. Trains nothing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Dense ones; each was compared with transformers' own modules in tests/local/test_liger.py
LIGER_FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma"),
    *("gemma3_text", "gemma3", "smollm3", "olmo2"),
)
TOKENS = 12
WITHIN = {torch.float32: 1e-4}
WITHIN_NARROW = 0.05  # of bfloat16 and float16, after all layers


@dataclass(frozen=True)
class Kernels:
    """`name` as in "liger 0.8.0" or "PyTorch"; `why` it is not Liger."""

    name: str
    why: str | None = None

    def __str__(self) -> str:
        return f"Kernels: {self.name}, since {self.why}" if self.why else f"Kernels: {self.name}"


def choose_kernels(model: Any, device: torch.device, *, is_sharded: bool = False) -> Kernels | None:
    """Puts Liger's into `model` where they compute the same. None where there is no choice: not on CUDA."""
    if device.type != "cuda":
        return None
    if is_sharded:
        return _own("Liger's are not tried out on a base that is divided among GPUs")
    return replace_by_liger(model)


def replace_by_liger(model: Any) -> Kernels:
    family = str(model.config.model_type)
    if importlib.util.find_spec("liger_kernel") is None:
        return _own("liger-kernel is not installed (the extra [liger])")
    if family not in LIGER_FAMILIES:
        return _own(f"Liger's were not compared for the family {family}")
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance as put_in
    except Exception as error:  # whatever its or Triton's import raises
        return _own(f"importing liger_kernel: {_first_line(error)}")
    return _put_in_and_compared(model, put_in)


def _put_in_and_compared(model: Any, put_in: Callable[..., None]) -> Kernels:
    expected, put_back = _passed(model), _restorer(model)
    try:
        put_in(
            model=model,
            rope=True,
            rms_norm=True,
            swiglu=True,
            geglu=True,
            cross_entropy=False,
            fused_linear_cross_entropy=False,
        )
        apart = [_apart(item, other) for item, other in zip(_passed(model), expected, strict=True)]
    except Exception as raised:  # Triton's compiler has errors of many kinds
        put_back()
        return _own(f"Liger's did not run here: {_first_line(raised)}")
    if not all(value <= WITHIN.get(model.dtype, WITHIN_NARROW) for value in apart):  # one may be no number
        put_back()
        return _own(f"Liger's gave other numbers for this model ({max(apart):.1g} apart)")
    return Kernels(f"liger {importlib.metadata.version('liger-kernel')}")


def _passed(model: Any) -> tuple[Tensor, Tensor]:
    """What the text part gives for a few tokens, and the gradient of what went in."""
    embeddings = model.get_input_embeddings()
    ids = torch.arange(TOKENS, device=embeddings.weight.device)[None]
    states = embeddings(ids).detach().requires_grad_()
    with torch.enable_grad():
        result = model.get_decoder()(
            inputs_embeds=states, position_ids=ids + TOKENS, use_cache=False
        ).last_hidden_state
        slopes = torch.linspace(-1, 1, result.numel(), device=result.device).view_as(result)
        (gradient,) = torch.autograd.grad(
            (result.float() * slopes).sum(), states
        )  # squares are 1 after a norm
    return result.detach().float(), gradient.float()


def _apart(item: Tensor, other: Tensor) -> float:
    return float((item - other).norm() / other.norm().clamp_min(1e-12))


def _restorer(model: Any) -> Callable[[], None]:
    """Liger writes into the modules, and into the file of transformers that the model's class is from."""
    source = sys.modules[type(model).__module__]
    names = dict(vars(source))
    own = [(module, dict(vars(module))) for module in model.modules()]

    def put_back() -> None:
        vars(source).update(names)
        for module, attributes in own:
            vars(module).clear()
            vars(module).update(attributes)

    return put_back


def _own(why: str) -> Kernels:
    return Kernels("PyTorch", why)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__} {str(error).strip().partition(chr(10))[0][:200]}".strip()
