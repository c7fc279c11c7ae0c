"""How much memory an answer takes, how much is free, and how serving and training share one GPU. Imports torch.

The server's process and a job's don't know each other's memory, so they divide a GPU beforehand: serving is limited to
`gpu_share`, which PyTorch enforces, and models that take more are unloaded. On a CPU the system's free memory counts.
"""

from __future__ import annotations

import gc
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from trainers.host import free_memory
from trainers.local.serving.values import gpu_share

# The cache briefly exists twice when rows leave or join, and attention needs room too.
CACHE_COPIES = 3
# DeepSeek V4 compresses neighbouring tokens into one, and transformers counts padding among them.
COUNTS_PADDING = ("deepseek_v4", "deepseek_v4_text")


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Returns the size of one token's keys and values in all layers that keep them. The state of linear attention and
    state-space layers isn't counted, since it doesn't grow. Layers may differ (Gemma 4)."""
    text = config.get_text_config()
    numbers = 0
    caches = DynamicCache(config=text).layers
    for layer, cache in zip(text.per_layer_config, caches, strict=True):
        if not isinstance(cache, DynamicLayer):
            continue
        heads = layer.num_attention_heads
        groups = getattr(layer, "num_key_value_heads", None) or heads
        size = getattr(layer, "head_dim", None) or layer.hidden_size // heads
        numbers += int(2 * groups * size)  # keys and values
    return max(1, numbers * dtype.itemsize)


def tokens_that_fit(free: int, token_size: int) -> int:
    """Returns how many tokens the rows of a batch may have together. `free` and `token_size` are in bytes."""
    return max(0, free) // (CACHE_COPIES * token_size)


def free_bytes(device: torch.device) -> int | None:
    """Returns the bytes that a batch may take now, or None if the machine doesn't tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        allocated = torch.cuda.memory_allocated(device)
        unused = torch.cuda.memory_reserved(device) - allocated
        total = torch.cuda.get_device_properties(device).total_memory
        allowed = torch.cuda.get_per_process_memory_fraction(device) * total
        left_to_allowed = allowed - allocated
        return int(min(free + unused, left_to_allowed))
    if device.type != "cpu":
        return None
    memory = free_memory()
    if memory is None:
        return None
    free, _ = memory
    return free


def limit_to_share(device: torch.device, is_training: bool) -> bool:
    """Limits this process to its share of a GPU. Returns False if it has more already, so that the caller has to unload
    models and release their memory."""
    if device.type != "cuda":
        return True
    share = gpu_share(is_training)
    torch.cuda.set_per_process_memory_fraction(share, device)
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.memory_reserved(device) <= share * total


def release_memory(device: torch.device) -> None:
    """Returns freed memory to the system, so that other processes can use it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def can_join_caches(model: Any) -> bool:
    """Returns True if caches of rows that were read separately can be joined. Every layer has to keep every token."""
    layers = DynamicCache(config=model.config).layers
    return all(
        type(layer) is DynamicLayer for layer in layers
    )  # a subclass may drop tokens, as a sliding window does


def can_keep_prefixes(model: Any) -> bool:
    """Returns True if a prompt that is read in two passes gets the same answer as in one."""
    return model.config.get_text_config().model_type not in COUNTS_PADDING


def keeps_state(model: Any) -> bool:
    """Returns True if the model has layers of linear attention, convolutions or state spaces, or another state that
    padding changes."""
    if model.config.get_text_config().model_type in COUNTS_PADDING:
        return True
    layers = DynamicCache(config=model.config).layers
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)
