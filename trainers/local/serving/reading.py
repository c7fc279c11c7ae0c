"""Prompts on their way into the model's cache: what all begin with is read once, the rest in parts of like length.

On a CPU a pass over a few hundred tokens keeps every core busy, so that more rows in one pass only add padding:
16 prompts of 430 to 1,015 tokens took twice as long in one pass as one by one. Imports torch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Reading the common beginning by itself costs one more pass over the weights; under so many tokens saved
# over all rows it does not pay.
MIN_TOKENS_SAVED = 64
CPU_TOKENS_AT_ONCE = 512


@dataclass(frozen=True)
class Beginning:
    """Tokens that prompts began with, as the model keeps them in its cache: a batch of one row."""

    ids: list[int]
    cache: DynamicCache

    def fits(self, prompts: Sequence[list[int]]) -> bool:
        size = len(self.ids)
        return all(len(prompt) > size and prompt[:size] == self.ids for prompt in prompts)


@dataclass(frozen=True)
class Prompts:
    """Prompts that were read, in their order: `logits` (rows, vocabulary) of what comes next, `mask` (rows, places in
    the cache), and `positions` (rows, 1) of what comes next."""

    cache: DynamicCache
    mask: Tensor
    positions: Tensor
    logits: Tensor


def read_prompts(
    model: Any, prompts: Sequence[list[int]], beginning: Beginning | None, device: torch.device
) -> Prompts:
    """All that follows the beginning, which every prompt has."""
    shared = len(beginning.ids) if beginning else 0
    rests = [prompt[shared:] for prompt in prompts]
    parts = _parts(list(map(len, rests)), device) if _can_be_joined(model) else [range(len(rests))]
    read = [_read_part(model, [rests[row] for row in part], beginning, device) for part in parts]
    if len(read) == 1 and list(parts[0]) == list(range(len(rests))):
        return read[0]
    return _joined(read, torch.tensor([row for part in parts for row in part], device=device), shared)


def read_beginning(
    model: Any, prompts: Sequence[list[int]], earlier: Beginning | None, device: torch.device
) -> Beginning | None:
    """What all prompts begin with; None where reading it by itself doesn't pay."""
    shortest = min(map(len, prompts)) - 1
    differing = (place for place in range(shortest) if any(p[place] != prompts[0][place] for p in prompts))
    shared = next(differing, shortest)
    known = len(earlier.ids) if earlier and earlier.fits(prompts) else 0
    if earlier and known and (shared - known) * (len(prompts) - 1) < MIN_TOKENS_SAVED:
        return earlier
    if shared * (len(prompts) - 1) < MIN_TOKENS_SAVED:
        return None
    cache = DynamicCache(config=model.config)
    ids = prompts[0][:shared]
    model(input_ids=torch.tensor([ids], device=device), cache=cache, use_cache=True, logits_to_keep=1)
    return Beginning(ids, cache)


def _can_be_joined(model: Any) -> bool:
    """Caches of parts can be joined where every layer keeps every token."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def _parts(lengths: Sequence[int], device: torch.device) -> list[list[int]]:
    """Rows that are read together: on a CPU few, and of like length."""
    if device.type != "cpu":
        return [list(range(len(lengths)))]
    parts: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if parts and lengths[row] * (len(parts[-1]) + 1) <= CPU_TOKENS_AT_ONCE:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def _read_part(
    model: Any, rests: Sequence[Sequence[int]], beginning: Beginning | None, device: torch.device
) -> Prompts:
    cache = copy.deepcopy(beginning.cache) if beginning else DynamicCache(config=model.config)
    shared = len(beginning.ids) if beginning else 0
    if beginning:
        cache.batch_repeat_interleave(len(rests))
    ids, own = _pad_left(rests, device)
    positions = (own.cumsum(-1) - 1).clamp(min=0) + shared
    mask = torch.cat([own.new_ones(len(rests), shared), own], -1)
    # As an index, not as the number 1: that leaves a view, for which torch copies the frozen head once for each row
    # (a batch of 16 prompts of 49 tokens took 3 times as long).
    last = torch.tensor([-1], device=device)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        cache=cache,
        use_cache=True,
        logits_to_keep=last,
    ).logits[:, -1]
    return Prompts(cache, mask, positions[:, -1:] + 1, logits)


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, (rows, longest). What stands at a padded place is never looked at."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _joined(parts: Sequence[Prompts], rows: Tensor, shared: int) -> Prompts:
    """One batch of all parts, padded between the common beginning and the rest. `rows`: whose place each has."""
    order = rows.argsort()
    longest = max(part.mask.shape[1] for part in parts)
    cache = parts[0].cache
    for layers in zip(*(part.cache.layers for part in parts), strict=True):
        theirs: Sequence[Any] = layers
        layer = theirs[0]
        if layer.get_seq_length():  # a layer may look into another's cache and keep none
            layer.keys = torch.cat([_widened(one.keys, longest, shared) for one in theirs])[order]
            layer.values = torch.cat([_widened(one.values, longest, shared) for one in theirs])[order]
    masks = [_widened(part.mask[:, None, :, None], longest, shared)[:, 0, :, 0] for part in parts]
    positions = torch.cat([part.positions for part in parts])
    logits = torch.cat([part.logits for part in parts])
    return Prompts(cache, torch.cat(masks)[order], positions[order], logits[order])


def _widened(kept: Tensor, longest: int, shared: int) -> Tensor:
    """(rows, heads, places, size), with zeros after the first `shared` places."""
    rows, heads, places, size = kept.shape
    wide = kept.new_zeros(rows, heads, longest, size)
    wide[:, :, :shared] = kept[:, :, :shared]
    wide[:, :, longest - (places - shared) :] = kept[:, :, shared:]
    return wide
