"""A cache of keys and values with spare places behind the tokens. Imports torch; runs no model.

transformers' own cache joins the kept tokens and the new one into new tensors at each step, so each token of an answer
copies everything that was read before. With 8 rows of 900 tokens that was two fifths of a step's time on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Places that are added when the last spare one is used. A pass of more tokens reads a prompt, which is seldom followed
# by another such pass.
SPARE_TOKENS = 64


class GrowingLayer(DynamicLayer):
    """Keys and values (rows, heads, positions, D) of one layer, each the beginning of a longer tensor, into which only
    this layer writes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)  # type: ignore[no-untyped-call]
        self.key_places: Tensor | None = None
        self.value_places: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Writes the new tokens behind the others, and returns the keys and values of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.key_places, self.keys = _append(self.key_places, self.keys, key_states)
        self.value_places, self.values = _append(self.value_places, self.values, value_states)
        return self.keys, self.values


def _append(places: Tensor | None, present: Tensor | None, new: Tensor) -> tuple[Tensor | None, Tensor]:
    """Returns the longer tensor, if there is one, and its beginning with the present tokens and the new ones. `present`
    may have been replaced by other rows or fewer tokens since the last call."""
    new_tokens = new.shape[-2]
    if present is None or not present.numel():
        return None, new.contiguous()
    is_prompt = new_tokens >= SPARE_TOKENS
    if is_prompt:
        return None, torch.cat([present, new], dim=-2)
    before = present.shape[-2]
    after = before + new_tokens
    if places is None or not _begins_with(places, present) or places.shape[-2] < after:
        rows, heads, _, width = present.shape
        places = present.new_empty((rows, heads, after + SPARE_TOKENS, width))
        places[:, :, :before] = present
    places[:, :, before:after] = new
    return places, places[:, :, :after]


def _begins_with(places: Tensor, present: Tensor) -> bool:
    """True if `present` is the beginning of `places`, in the same memory."""
    same_rows = places.shape[:2] == present.shape[:2]
    return same_rows and places.data_ptr() == present.data_ptr() and places.stride() == present.stride()


def new_cache(config: Any) -> DynamicCache:
    """Returns an empty cache for a model with `config`. Layers that keep every token get spare places; those with a
    window or a state stay transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [_with_places(layer) for layer in cache.layers]
    return cache


def _with_places(layer: Any) -> Any:
    if type(layer) is not DynamicLayer:  # a subclass may drop tokens
        return layer
    return GrowingLayer()
