"""Reads the prompts of a batch, from what is kept of earlier ones, and joins batches. Imports torch; writes no answers.

What prompts have in common is read once, the rest in parts of similar length. On a CPU a pass over a few hundred tokens
keeps every core busy, so more rows per pass only add padding: 16 prompts of 430 to 1,015 tokens took twice as long in
one pass as one by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from trainers.local.serving.growing_cache import new_cache
from trainers.local.serving.model_cache import Base
from trainers.local.serving.prefixes import (
    MIN_TOKENS_KEPT,
    CachedPrefix,
    Start,
    cut_row,
    groups_that_begin_alike,
    join_rows,
    pad_front,
    shared_length,
    stack_starts,
)
from trainers.local.serving.sequences import Row
from trainers.local.serving.values import Ids
from trainers.local.training.memory import fill_parts

# Reading a common beginning separately costs one more pass over the weights. It pays off only if all rows together save
# at least this many tokens.
MIN_TOKENS_SAVED = 64
CPU_TOKENS_AT_ONCE = 512


@dataclass(frozen=True)
class BatchState:
    """What the model has read of a batch of rows, padded on the left. `logits` (rows, vocabulary) and `positions`
    (rows, 1) are those of the next token; `mask` is (rows, positions in the cache)."""

    cache: DynamicCache
    mask: Tensor
    positions: Tensor
    logits: Tensor


def prefill_rows(base: Base, rows: Sequence[Row]) -> BatchState:
    """Reads the prompts of `rows` and returns the state, in their order. Prompts of one adapter are read together, and
    a prompt with several answers is read once. `base` keeps what prompts have in common for those to come."""
    rows_by_adapter: dict[Path | None, list[Row]] = defaultdict(list)
    for row in rows:
        rows_by_adapter[row.adapter].append(row)
    # Padding behind a prefix would count as tokens of a sliding window, and the longest row of a batch stretches the
    # positions of all in some models.
    fits = max(row.size for row in rows) <= base.window
    if not base.can_join:
        return _read_as_one(base, rows, fits=fits)

    may_continue = fits or not base.stretches
    states: list[BatchState] = []
    numbers: dict[tuple[Path | None, Ids], int] = {}
    for adapter, own_rows in rows_by_adapter.items():
        for prompts, state in _read_prompts(base, adapter, own_rows, may_continue=may_continue):
            states.append(state)
            for prompt in prompts:
                numbers[adapter, prompt] = len(numbers)
    order = [numbers[row.adapter, tuple(row.ids)] for row in rows]
    state = join(states, order)
    if base.stretches and fits:
        for number, row in enumerate(rows):
            keep_row(base, row, state, number)
    return state


def _read_prompts(
    base: Base, adapter: Path | None, rows: Sequence[Row], *, may_continue: bool
) -> Iterator[tuple[Sequence[Ids], BatchState]]:
    """Reads the prompts of rows with one adapter, each once. Yields some of them with their state, until all are read.
    With `may_continue` they are read on from what is kept."""
    model = base.with_adapters([adapter])
    prompts = list(dict.fromkeys(tuple(row.ids) for row in rows))
    starts = dict.fromkeys(prompts, Start())
    if may_continue:
        starts = _find_starts(base, model, adapter, rows)
    for part in _parts_of_similar_length(prompts, starts, base):
        of_part = [starts[prompt] for prompt in part]
        cache = stack_starts(new_cache(model.config), of_part)
        yield part, _read_part(model, part, cache, of_part)


def keep_row(base: Base, row: Row, state: BatchState, number: int) -> None:
    """Keeps what the model has read of a row, `number` of the batch, unless most of it is kept already."""
    if row.index or not base.keeps_prefixes:  # the other answers to a prompt are seldom continued
        return
    places = state.mask[number].nonzero()[:, 0]
    ids = tuple(row.ids[: len(places)])  # without tokens that were chosen, but not read
    present = base.prefixes.find(row.adapter, ids)
    if len(ids) - present.size < MIN_TOKENS_KEPT:
        return
    is_alone = len(state.mask) == 1
    has_padding = len(places) < state.mask.shape[1]
    if base.can_join:
        # Less than all places if the answer ended within a guess.
        cache = cut_row(state.cache, number, places[: len(ids)])
    elif is_alone and not has_padding:
        cache = state.cache
    else:
        return  # padding can't be cut out
    prefix = CachedPrefix(ids, cache, base.can_join)
    base.prefixes.keep(row.adapter, prefix)


def _find_starts(base: Base, model: Any, adapter: Path | None, rows: Sequence[Row]) -> dict[Ids, Start]:
    """Returns from where each prompt is read on. Reads what several prompts have in common, if that is not kept."""
    starts = {}
    for row in rows:
        prompt = tuple(row.ids)
        start = base.prefixes.find(adapter, prompt)
        row.count_cached(start.size)
        starts[prompt] = start
    for prompts in groups_that_begin_alike(starts):
        shared = shared_length(prompts)
        common = prompts[0][: shared + 1]  # with one more, since one is always left to be read
        start = base.prefixes.find(adapter, common)
        behind = [prompt for prompt in prompts if starts[prompt].size < shared]
        missing = sum(shared - starts[prompt].size for prompt in behind)
        gained = missing - (shared - start.size)
        if gained < MIN_TOKENS_SAVED:
            continue
        cache = stack_starts(new_cache(model.config), [start])
        prefix = _read_prefix(model, cache, start, common[:shared], base)
        base.prefixes.keep(adapter, prefix)
        for prompt in behind:
            starts[prompt] = Start(prefix, shared)
    return starts


def _read_as_one(base: Base, rows: Sequence[Row], *, fits: bool) -> BatchState:
    """Reads the prompts of rows whose caches can't be joined, all with the same adapter, in one pass. What they have in
    common with each other or, for a single prompt, with an earlier one, is read and kept separately."""
    adapter = rows[0].adapter
    model = base.with_adapters([adapter])
    prompts = [tuple(row.ids) for row in rows]
    is_alone = len(prompts) == 1
    start = Start()
    may_divide = base.keeps_prefixes and (fits or (is_alone and not base.stretches))
    if may_divide:
        shared = shared_length(prompts)
        common = prompts[0][: shared + 1]
        start = base.prefixes.find(adapter, common)
        for row in rows:
            row.count_cached(start.size)
        if is_alone:
            shared = base.prefixes.shared_length(adapter, common)
        gained = (shared - start.size) * max(1, len(prompts) - 1)
        if gained >= MIN_TOKENS_SAVED:
            prefix = _read_prefix(model, _copy_start(model, start), start, common[:shared], base)
            base.prefixes.keep(adapter, prefix)
            start = Start(prefix, shared)
    cache = _copy_start(model, start)
    if start.prefix and not is_alone:
        cache.batch_repeat_interleave(len(prompts))
    return _read_part(model, prompts, cache, [start] * len(prompts))


def _copy_start(model: Any, start: Start) -> DynamicCache:
    if start.prefix is None:
        return new_cache(model.config)
    return start.prefix.copy()


def _read_prefix(model: Any, cache: DynamicCache, start: Start, ids: Ids, base: Base) -> CachedPrefix:
    """Reads `ids`, of which `cache` has those of `start` already."""
    device = base.device
    model(
        input_ids=torch.tensor([ids[start.size :]], device=device),
        cache=cache,
        use_cache=True,
        logits_to_keep=_last_position(device),
    )
    return CachedPrefix(ids, cache, base.can_join)


def _last_position(device: torch.device) -> Tensor:
    """Returns the position where the head is applied. It is an index, since the number 1 would leave a view, for which
    torch copies the frozen head once per row (16 prompts of 49 tokens took 3 times as long)."""
    return torch.tensor([-1], device=device)


def _parts_of_similar_length(
    prompts: Sequence[Ids],
    starts: Mapping[Ids, Start],
    base: Base,
) -> list[list[Ids]]:
    """Groups the prompts that are read in one pass: on a CPU few, with a similar number of tokens to read."""
    if base.device.type != "cpu":
        return [list(prompts)]

    def unread(prompt: Ids) -> int:
        return len(prompt) - starts[prompt].size

    by_length = sorted(prompts, key=unread)

    def width(part: Sequence[Ids]) -> int:
        return unread(part[-1]) * len(part)

    return fill_parts(by_length, CPU_TOKENS_AT_ONCE, width)


def _read_part(
    model: Any,
    prompts: Sequence[Ids],
    cache: DynamicCache,
    starts: Sequence[Start],
) -> BatchState:
    """Reads prompts of which `cache` has the tokens of `starts`, padded in front."""
    device = model.device
    sizes = [start.size for start in starts]
    rests = []
    for prompt, size in zip(prompts, sizes, strict=True):
        rests.append(prompt[size:])
    ids = _pad_left(rests, device)
    own = _mask(list(map(len, rests)), device)
    # Padding is masked, so its position doesn't matter, but it must be a valid one.
    own_positions = (own.cumsum(-1) - 1).clamp(min=0)
    positions = torch.tensor(sizes, device=device)[:, None] + own_positions
    mask = torch.cat([_mask(sizes, device), own], -1)
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        cache=cache,
        use_cache=True,
        logits_to_keep=_last_position(device),
    )
    logits = output.logits[:, -1]  # (rows, vocabulary)
    next_positions = positions[:, -1:] + 1
    return BatchState(cache, mask, next_positions, logits)


def _pad_left(rows: Sequence[Ids], device: torch.device) -> Tensor:
    """Returns ids as (rows, longest)."""
    longest = max(map(len, rows))
    padded = []
    for row in rows:
        padding = [0] * (longest - len(row))
        padded.append([*padding, *row])
    return torch.tensor(padded, device=device)


def _mask(sizes: Sequence[int], device: torch.device) -> Tensor:
    """Returns (rows, longest) with ones at the last `sizes` positions of each row."""
    longest = max(sizes)
    positions = torch.arange(longest, device=device)
    missing = longest - torch.tensor(sizes, device=device)
    return (positions >= missing[:, None]).long()


def join(states: Sequence[BatchState], order: Sequence[int]) -> BatchState:
    """Joins `states` into one batch. Its row i is row `order[i]` of all states' rows in sequence."""
    first = states[0]
    in_order = range(len(first.mask))
    if len(states) == 1 and list(order) == list(in_order):
        return first
    rows = torch.tensor(order, device=first.mask.device)
    longest = max(state.mask.shape[1] for state in states)
    caches = [state.cache.layers for state in states]
    for state_layers in zip(*caches, strict=True):
        layers: Sequence[Any] = state_layers
        target = layers[0]
        if target.get_seq_length():  # a layer may read another's cache and have none
            target.keys = join_rows([layer.keys for layer in layers])[rows]
            target.values = join_rows([layer.values for layer in layers])[rows]
    masks = [pad_front(state.mask, longest, dim=1) for state in states]
    positions = [state.positions for state in states]
    logits = [state.logits for state in states]
    return BatchState(
        first.cache,
        mask=torch.cat(masks)[rows],
        positions=torch.cat(positions)[rows],
        logits=torch.cat(logits)[rows],
    )
