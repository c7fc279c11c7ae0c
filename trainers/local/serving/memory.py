"""How much memory an answer takes, how much there is, and how serving and training share one GPU. Imports torch.

A job's process and the server's know nothing of each other's memory, so they divide a GPU beforehand: serving
keeps to `gpu_share`, which PyTorch enforces; models that take more are put away. On a CPU the system's free memory
counts, whatever else runs there.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from trainers.host import free_memory
from trainers.local.serving.values import Ids, gpu_share

# For a moment the cache is there twice, when rows leave or join, and attention needs room beside it.
CACHE_COPIES = 3


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers that keep them. The state of linear attention and of state spaces
    isn't counted, since it does not grow. Layers may differ (Gemma 4)."""
    text = config.get_text_config()
    numbers = 0
    for layer, cache in zip(text.per_layer_config, DynamicCache(config=text).layers, strict=True):
        if isinstance(cache, DynamicLayer):
            heads = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
            size = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
            numbers += int(2 * heads * size)
    return max(1, numbers * dtype.itemsize)


def tokens_that_fit(free: int, a_token: int) -> int:
    """How many tokens of all rows of a batch together, `free` and `a_token` in bytes."""
    return max(0, free) // (CACHE_COPIES * a_token)


def free_bytes(device: torch.device) -> int | None:
    """What a batch may take now. None where the machine doesn't say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        allocated = torch.cuda.memory_allocated(device)
        unused = torch.cuda.memory_reserved(device) - allocated
        total = torch.cuda.get_device_properties(device).total_memory
        allowed = torch.cuda.get_per_process_memory_fraction(device) * total
        return int(min(free + unused, allowed - allocated))
    memory = free_memory() if device.type == "cpu" else None
    return memory[0] if memory else None


def limit_to_share(device: torch.device, is_training: bool) -> bool:
    """Limits this process to its share of a GPU. False where it has taken more already: the caller has to put models
    away and release their memory."""
    if device.type != "cuda":
        return True
    share = gpu_share(is_training)
    torch.cuda.set_per_process_memory_fraction(share, device)
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.memory_reserved(device) <= share * total


def release_memory(device: torch.device) -> None:
    """Gives freed memory back, so that others can have it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class CachedPrefix:
    """Tokens that prompts began with, as the model keeps them in its cache: a batch of one row."""

    ids: Ids
    cache: DynamicCache

    def fits(self, prompts: Sequence[Ids]) -> bool:
        size = len(self.ids)
        return all(len(prompt) > size and prompt[:size] == self.ids for prompt in prompts)


def can_join_caches(model: Any) -> bool:
    """Whether caches of rows that were read apart can be put together: every layer has to keep every token."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def keeps_state(model: Any) -> bool:
    """Whether linear attention, convolutions or state spaces are among its layers."""
    layers = DynamicCache(config=model.config).layers
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)
