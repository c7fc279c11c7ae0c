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
from trainers.local.training.memory import fill_parts

if TYPE_CHECKING:
    from trainers.local.serving.model_cache import Base
    from trainers.local.serving.sequences import Row

# Reading the common prefix alone costs one more pass over the weights, which pays only from so many tokens saved over
# all rows.
MIN_TOKENS_SAVED = 64
CPU_TOKENS_AT_ONCE = 512


@dataclass(frozen=True)
class BatchState:
    """What the model has read of a batch of rows: `logits` (rows, vocabulary) and `positions` (rows, 1) of what comes
    next, `mask` (rows, places in the cache). Padded on the left."""

    cache: DynamicCache
    mask: Tensor
    positions: Tensor
    logits: Tensor


def prefill_rows(base: Base, rows: Sequence[Row]) -> BatchState:
    """The state of `rows`, in their order. Prompts of one adapter are read together; several answers to one prompt
    read it once. `base` keeps the common prefixes for the next batch, whose prompts may begin with the same."""
    prefixes: dict[Path | None, CachedPrefix] = {}
    states: list[BatchState] = []
    places: dict[tuple[Path | None, Ids], int] = {}
    for adapter in dict.fromkeys(row.request.target.adapter for row in rows):
        prompts = [tuple(row.ids) for row in rows if row.request.target.adapter == adapter]
        prompts = list(dict.fromkeys(prompts)) if base.joins else prompts
        model = base.with_adapters([adapter])
        # Padding behind a prefix would count as tokens of a sliding window.
        fits = max(row.size for row in rows) <= base.window
        prefix = _read_prefix(model, prompts, base.prefixes.get(adapter), base.device) if fits else None
        for part in _parts_of_like_length(prompts, prefix, base):
            places |= {(adapter, prompt): len(places) + number for number, prompt in enumerate(part)}
            states.append(_read_part(model, part, prefix, base.device))
        if prefix:
            prefixes[adapter] = prefix
    base.prefixes = prefixes
    if not base.joins:
        return states[0]
    return join(states, [places[row.request.target.adapter, tuple(row.ids)] for row in rows])


def _read_prefix(
    model: Any, prompts: Sequence[Ids], earlier: CachedPrefix | None, device: torch.device
) -> CachedPrefix | None:
    """What all prompts begin with; None where reading it alone doesn't pay. `earlier`: that of the last batch."""
    shortest = min(map(len, prompts)) - 1
    differing = (
        place for place in range(shortest) if any(prompt[place] != prompts[0][place] for prompt in prompts)
    )
    shared = next(differing, shortest)
    others = len(prompts) - 1
    if earlier and earlier.fits(prompts) and (shared - len(earlier.ids)) * others < MIN_TOKENS_SAVED:
        return earlier
    if shared * others < MIN_TOKENS_SAVED:
        return None
    cache = DynamicCache(config=model.config)
    ids = prompts[0][:shared]
    model(
        input_ids=torch.tensor([ids], device=device),
        cache=cache,
        use_cache=True,
        logits_to_keep=_last_place(device),
    )
    return CachedPrefix(ids, cache)


def _last_place(device: torch.device) -> Tensor:
    """Where the head is applied. An index and not the number 1, which leaves a view for which torch copies the frozen
    head once for each row (16 prompts of 49 tokens took 3 times as long)."""
    return torch.tensor([-1], device=device)


def _parts_of_like_length(prompts: Sequence[Ids], prefix: CachedPrefix | None, base: Base) -> list[list[Ids]]:
    """Prompts that are read in one pass: on a CPU few, and of like length."""
    if base.device.type != "cpu" or not base.joins:
        return [list(prompts)]
    shared = len(prefix.ids) if prefix else 0
    by_length = sorted(prompts, key=len)
    return fill_parts(by_length, CPU_TOKENS_AT_ONCE, lambda part: (len(part[-1]) - shared) * len(part))


def _read_part(
    model: Any, prompts: Sequence[Ids], prefix: CachedPrefix | None, device: torch.device
) -> BatchState:
    shared = len(prefix.ids) if prefix else 0
    cache = copy.deepcopy(prefix.cache) if prefix else DynamicCache(config=model.config)
    if prefix:
        cache.batch_repeat_interleave(len(prompts))
    longest = max(map(len, prompts)) - shared
    padding = [longest - (len(prompt) - shared) for prompt in prompts]
    ids = [[0] * pad + list(prompt[shared:]) for pad, prompt in zip(padding, prompts, strict=True)]
    own = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding], device=device)
    positions = (own.cumsum(-1) - 1).clamp(min=0) + shared
    mask = torch.cat([own.new_ones(len(prompts), shared), own], -1)
    logits = model(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=mask,
        position_ids=positions,
        cache=cache,
        use_cache=True,
        logits_to_keep=_last_place(device),
    ).logits[:, -1]
    return BatchState(cache, mask, positions[:, -1:] + 1, logits)


def join(states: Sequence[BatchState], order: Sequence[int]) -> BatchState:
    """One batch of all `states`; its row number i is row `order[i]` of them all, one after the other."""
    rows = torch.tensor(order, device=states[0].mask.device)
    if len(states) == 1 and list(order) == list(range(len(states[0].mask))):
        return states[0]
    longest = max(state.mask.shape[1] for state in states)
    cache = states[0].cache
    for state_layers in zip(*(state.cache.layers for state in states), strict=True):
        layers: Sequence[Any] = state_layers
        if layers[0].get_seq_length():  # a layer may read another's cache and have none
            keys = torch.cat([_pad_front(layer.keys, longest, dim=2) for layer in layers])[rows]
            values = torch.cat([_pad_front(layer.values, longest, dim=2) for layer in layers])[rows]
            layers[0].keys, layers[0].values = keys, values
    return BatchState(
        cache,
        mask=torch.cat([_pad_front(state.mask, longest, dim=1) for state in states])[rows],
        positions=torch.cat([state.positions for state in states])[rows],
        logits=torch.cat([state.logits for state in states])[rows],
    )


def _pad_front(tensor: Tensor, length: int, dim: int) -> Tensor:
    """With zeros in front, so that its size along `dim` is `length`."""
    missing = length - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim)


def pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, (rows, longest), of tokens that follow what is in a cache."""
    longest = max(map(len, rows))
    ids = [list(row) + [0] * (longest - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
