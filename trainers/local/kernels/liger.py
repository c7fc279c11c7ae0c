"""Liger's Triton kernels for a model's rotary embedding, gated feed-forward parts and RMS norms, on CUDA.

If the extra [liger] is installed, Liger's own functions put the kernels into the loaded base. Its fused linear cross
entropy is not used: chunked_loss.py and TRL's head keep no logits either, and support every family. A few tokens pass
through the model before and after, forward and backward. If the results differ or a kernel doesn't compile, the model
is restored and the reason is reported. On a CPU, fused_layers.py and shared_prefix_attention.py are used instead.
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

# Families of dense models; each is compared with transformers' own modules in tests/local/kernels/test_liger.py.
LIGER_FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma"),
    *("gemma3_text", "gemma3", "smollm3", "olmo2"),
)
TOKENS = 12
TOLERANCE = {torch.float32: 1e-4}
TOLERANCE_NARROW = 0.05  # for bfloat16 and float16, after all layers


@dataclass(frozen=True)
class Kernels:
    """`name` is, for example, "liger 0.8.0" or "PyTorch". `why` is the reason why Liger is not used."""

    name: str
    why: str | None = None

    def __str__(self) -> str:
        if self.why:
            return f"Kernels: {self.name}, since {self.why}"
        return f"Kernels: {self.name}"


def choose_kernels(model: Any, device: torch.device, *, is_sharded: bool = False) -> Kernels | None:
    """Puts Liger's kernels into `model` if they give the same results. Returns None if the device is not CUDA."""
    if device.type != "cuda":
        return None
    if is_sharded:
        return Kernels("PyTorch", "Liger's are not supported on a base that is divided among GPUs")
    return replace_by_liger(model)


def replace_by_liger(model: Any) -> Kernels:
    family = str(model.config.model_type)
    if importlib.util.find_spec("liger_kernel") is None:
        return Kernels("PyTorch", "liger-kernel is not installed (the extra [liger])")
    if family not in LIGER_FAMILIES:
        return Kernels("PyTorch", f"Liger's were not tested with the family {family}")
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
    except Exception as error:  # importing Liger or Triton may raise anything
        return Kernels("PyTorch", f"importing liger_kernel: {_first_line(error)}")

    expected = _pass_through(model)
    restore = _save_attributes(model)
    try:
        _apply_liger_kernel_to_instance(
            model=model,
            rope=True,
            rms_norm=True,
            swiglu=True,
            geglu=True,
            cross_entropy=False,
            fused_linear_cross_entropy=False,
        )
        pairs = zip(_pass_through(model), expected, strict=True)
        differences = [
            float((result - other).norm() / other.norm().clamp_min(1e-12)) for result, other in pairs
        ]
    except Exception as raised:  # Triton's compiler raises many kinds of errors
        restore()
        return Kernels("PyTorch", f"Liger's did not run here: {_first_line(raised)}")
    limit = TOLERANCE.get(model.dtype, TOLERANCE_NARROW)
    if not all(difference <= limit for difference in differences):  # "not <=", so that nan fails too
        restore()
        why = f"Liger's results differ for this model (by {max(differences):.1g})"
        return Kernels("PyTorch", why)
    return Kernels(f"liger {importlib.metadata.version('liger-kernel')}")


def _pass_through(model: Any) -> tuple[Tensor, Tensor]:
    """Returns the hidden states that the text part computes for a few tokens, and the gradient of its inputs."""
    embeddings = model.get_input_embeddings()
    ids = torch.arange(TOKENS, device=embeddings.weight.device)[None]
    states = embeddings(ids).detach().requires_grad_()
    with torch.enable_grad():
        result = model.get_decoder()(
            inputs_embeds=states, position_ids=ids + TOKENS, use_cache=False
        ).last_hidden_state
        # A sum of squares would be constant after a norm.
        slopes = torch.linspace(-1, 1, result.numel(), device=result.device).view_as(result)
        (gradient,) = torch.autograd.grad((result.float() * slopes).sum(), states)
    return result.detach().float(), gradient.float()


def _save_attributes(model: Any) -> Callable[[], None]:
    """Returns a function that undoes Liger's changes to the attributes of the modules, and of the Python module that
    defines the model's class."""
    source = sys.modules[type(model).__module__]
    names = dict(vars(source))
    own = [(module, dict(vars(module))) for module in model.modules()]

    def restore() -> None:
        vars(source).update(names)
        for module, attributes in own:
            vars(module).clear()
            vars(module).update(attributes)

    return restore


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__} {line[:200]}".strip()
