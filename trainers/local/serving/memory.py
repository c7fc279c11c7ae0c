"""How much memory an answer takes, how much there is, and how serving and training share one GPU. Imports torch.

A job's process and the server's know nothing of each other's memory, so they divide a GPU beforehand: while a job
trains, serving keeps to SHARE_WHILE_TRAINING of it, which PyTorch enforces; models that take more are put away.
On a CPU the system's free memory counts, anyone who uses the rest.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from trainers.local.serving.values import Ids

SHARE_ALONE = 0.9
SHARE_WHILE_TRAINING = 0.3
# The cache is there twice for a moment, when rows leave or come in, and attention needs room beside it.
CACHE_COPIES = 3
MEMINFO = Path("/proc/meminfo")


def bytes_a_token(config: Any, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers that keep them: what linear attention and state spaces keep does not
    grow. Layers may differ (Gemma 4)."""
    text = config.get_text_config()
    entries = zip(text.per_layer_config, DynamicCache(config=text).layers, strict=True)
    numbers = (_numbers_a_token(layer) for layer, cache in entries if isinstance(cache, DynamicLayer))
    return max(1, sum(numbers) * dtype.itemsize)


def _numbers_a_token(layer: Any) -> int:
    heads = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
    size = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    return int(2 * heads * size)


def tokens_that_fit(free: int, a_token: int) -> int:
    """Of all rows of a batch together."""
    return max(0, free) // (CACHE_COPIES * a_token)


def free_bytes(device: torch.device) -> int | None:
    """What a batch may take now. None where the machine doesn't say."""
    if device.type == "cuda":
        return _free_on_gpu(device)
    return _available(MEMINFO) if device.type == "cpu" else None


def limit_to_share(device: torch.device, is_training: bool) -> bool:
    """Of a GPU. False where more is taken already: the caller puts models away, and lets go of their memory."""
    if device.type != "cuda":
        return True
    share = share_of(is_training)
    torch.cuda.set_per_process_memory_fraction(share, device)
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.memory_reserved(device) <= share * total


def share_of(is_training: bool) -> float:
    return SHARE_WHILE_TRAINING if is_training else SHARE_ALONE


def release_memory(device: torch.device) -> None:
    """Give freed memory back, so that others can have it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _free_on_gpu(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    stored = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    total = torch.cuda.get_device_properties(device).total_memory
    allowed = torch.cuda.get_per_process_memory_fraction(device) * total
    return int(min(free + stored, allowed - torch.cuda.memory_allocated(device)))


def _available(meminfo: Path) -> int | None:
    """Linux's own estimate of what can be had without swapping."""
    if not meminfo.exists():
        return None
    lines = meminfo.read_text(encoding="ascii").splitlines()
    result = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return int(result.split()[1]) * 1024 if result else None


@dataclass(frozen=True)
class CachedPrefix:
    """Tokens that prompts began with, as the model keeps them in its cache: a batch of one row."""

    ids: Ids
    cache: DynamicCache

    def fits(self, prompts: Sequence[Ids]) -> bool:
        size = len(self.ids)
        return all(len(prompt) > size and prompt[:size] == self.ids for prompt in prompts)


CachedPrefixes = Mapping[Path | None, CachedPrefix]


def can_be_joined(model: Any) -> bool:
    """Caches of parts can be joined where every layer keeps every token."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def keeps_state(model: Any) -> bool:
    """Linear attention, convolutions and state spaces among its layers."""
    layers = DynamicCache(config=model.config).layers
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)
