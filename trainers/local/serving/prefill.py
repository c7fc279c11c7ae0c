"""Prompts on their way into the model's cache: what all begin with is read once, the rest in parts of like length.

On a CPU a pass over a few hundred tokens keeps every core busy, so that more rows in one pass only add padding:
16 prompts of 430 to 1,015 tokens took twice as long in one pass as one by one. Imports torch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from trainers.local.serving.memory import CachedPrefix
from trainers.local.serving.values import Ids

if TYPE_CHECKING:
    from trainers.local.serving.model_cache import Base
    from trainers.local.serving.sequences import Row

# Reading the common beginning by itself costs one more pass over the weights; under so many tokens saved
# over all rows it does not pay.
MIN_TOKENS_SAVED = 64
CPU_TOKENS_AT_ONCE = 512


@dataclass(frozen=True)
class BatchState:
    """Prompts that were read, in their order: `logits` (rows, vocabulary) of what comes next, `mask` (rows, places in
    the cache), and `positions` (rows, 1) of what comes next. Padded on the left."""

    cache: DynamicCache
    mask: Tensor
    positions: Tensor
    logits: Tensor


def prefill_rows(base: Base, rows: Sequence[Row]) -> BatchState:
    """In the order of `rows`. Each adapter's prompts are read by themselves; several answers to one prompt read it
    once. `base` keeps the beginnings for the next batch: one with the same long beginning finds it read."""
    prefixes_by_path: dict[Path | None, CachedPrefix] = {}
    read: list[BatchState] = []
    places: dict[tuple[Path | None, Ids], int] = {}
    for adapter in dict.fromkeys(row.request.target.adapter for row in rows):
        prompts = [tuple(row.ids) for row in rows if row.request.target.adapter == adapter]
        prompts = list(dict.fromkeys(prompts)) if base.joins else prompts
        model = base.wearing([adapter])
        beginning = read_prefix(model, prompts, base.beginnings.get(adapter), base.device)
        for part in _parts(prompts, beginning, base):
            places |= {(adapter, prompt): len(places) + n for n, prompt in enumerate(part)}
            read.append(_read_part(model, part, beginning, base.device))
        if beginning:
            prefixes_by_path[adapter] = beginning
    base.beginnings = prefixes_by_path
    if not base.joins:
        return read[0]
    return join(read, [places[row.request.target.adapter, tuple(row.ids)] for row in rows])


def join(parts: Sequence[BatchState], order: Sequence[int]) -> BatchState:
    """One batch of all parts; its row number i is row `order[i]` of them all, one after the other."""
    rows = torch.tensor(order, device=parts[0].mask.device)
    if len(parts) == 1 and list(order) == list(range(len(parts[0].mask))):
        return parts[0]
    longest = max(part.mask.shape[1] for part in parts)
    cache = parts[0].cache
    for layers in zip(*(part.cache.layers for part in parts), strict=True):
        theirs: Sequence[Any] = layers
        layer = theirs[0]
        if layer.get_seq_length():  # a layer may look into another's cache and keep none
            layer.keys = torch.cat([_widened(their.keys, longest, dim=2) for their in theirs])[rows]
            layer.values = torch.cat([_widened(their.values, longest, dim=2) for their in theirs])[rows]
    mask = torch.cat([_widened(part.mask, longest, dim=1) for part in parts])[rows]
    positions = torch.cat([part.positions for part in parts])[rows]
    return BatchState(cache, mask, positions, torch.cat([part.logits for part in parts])[rows])


def read_prefix(
    model: Any, prompts: Sequence[Ids], earlier: CachedPrefix | None, device: torch.device
) -> CachedPrefix | None:
    """What all prompts begin with; None where reading it by itself doesn't pay."""
    shortest = min(map(len, prompts)) - 1
    differing = (place for place in range(shortest) if any(p[place] != prompts[0][place] for p in prompts))
    shared = next(differing, shortest)
    value = len(earlier.ids) if earlier and earlier.fits(prompts) else 0
    if earlier and value and (shared - value) * (len(prompts) - 1) < MIN_TOKENS_SAVED:
        return earlier
    if shared * (len(prompts) - 1) < MIN_TOKENS_SAVED:
        return None
    cache = DynamicCache(config=model.config)
    ids = prompts[0][:shared]
    model(
        input_ids=torch.tensor([ids], device=device),
        cache=cache,
        use_cache=True,
        logits_to_keep=_last(device),
    )
    return CachedPrefix(ids, cache)


def _last(device: torch.device) -> Tensor:
    """Where the head is applied. As an index, not as the number 1: that leaves a view, for which torch copies the
    frozen head once for each row (16 prompts of 49 tokens took 3 times as long)."""
    return torch.tensor([-1], device=device)


def _parts(prompts: Sequence[Ids], beginning: CachedPrefix | None, base: Base) -> list[list[Ids]]:
    """Prompts that are read together: on a CPU few, and of like length."""
    if base.device.type != "cpu" or not base.joins:
        return [list(prompts)]
    shared = len(beginning.ids) if beginning else 0
    parts: list[list[Ids]] = []
    for prompt in sorted(prompts, key=len):
        if parts and (len(prompt) - shared) * (len(parts[-1]) + 1) <= CPU_TOKENS_AT_ONCE:
            parts[-1].append(prompt)
        else:
            parts.append([prompt])
    return parts


def _read_part(
    model: Any, prompts: Sequence[Ids], beginning: CachedPrefix | None, device: torch.device
) -> BatchState:
    cache = copy.deepcopy(beginning.cache) if beginning else DynamicCache(config=model.config)
    shared = len(beginning.ids) if beginning else 0
    if beginning:
        cache.batch_repeat_interleave(len(prompts))
    ids, own = pad_left([prompt[shared:] for prompt in prompts], device)
    positions = (own.cumsum(-1) - 1).clamp(min=0) + shared
    mask = torch.cat([own.new_ones(len(prompts), shared), own], -1)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        cache=cache,
        use_cache=True,
        logits_to_keep=_last(device),
    ).logits[:, -1]
    return BatchState(cache, mask, positions[:, -1:] + 1, logits)


def pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, (rows, longest). What stands at a padded place is never looked at."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, (rows, longest), on from a cache."""
    longest = max(map(len, rows))
    ids = [list(row) + [0] * (longest - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _widened(stored: Tensor, longest: int, dim: int) -> Tensor:
    """With zeros in front along `dim`."""
    missing = longest - stored.shape[dim]
    if not missing:
        return stored
    shape = list(stored.shape)
    shape[dim] = missing
    return torch.cat([stored.new_zeros(shape), stored], dim)
