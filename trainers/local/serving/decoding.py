"""The decoding loop: writes a batch of rows, token by token. Imports torch; knows neither HTTP nor the queue.

Rows leave when they finish, which speeds up the rest, and new rows join meanwhile, so that a short answer need not wait
for the end of a long one. Prompts are read first: their common prefix once, the rest in parts of similar length. On a
CPU a pass over a few hundred tokens keeps every core busy, so more rows per pass only add padding: 16 prompts of 430 to
1,015 tokens took twice as long in one pass as one by one.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from trainers.local.serving.memory import CachedPrefix
from trainers.local.serving.model_cache import Base
from trainers.local.serving.sequences import Row, count_agreeing, pad_right
from trainers.local.serving.values import Ids
from trainers.local.training.memory import fill_parts

# Reading the common prefix separately costs one more pass over the weights. It pays off only if all rows together save
# at least this many tokens.
MIN_TOKENS_SAVED = 64
CPU_TOKENS_AT_ONCE = 512
# Reading newcomers costs the running rows a pass. Short answers such as labels are done before the first look.
STEPS_BETWEEN_LOOKS = 16

Newcomers = Callable[[Sequence[Row]], Sequence[Row]]


@dataclass(frozen=True)
class BatchState:
    """What the model has read of a batch of rows, padded on the left. `logits` (rows, vocabulary) and `positions`
    (rows, 1) are those of the next token; `mask` is (rows, positions in the cache)."""

    cache: DynamicCache
    mask: Tensor
    positions: Tensor
    logits: Tensor


@torch.inference_mode()
def decode(base: Base, rows: Sequence[Row], newcomers: Newcomers) -> None:
    """Answers all rows, and returns when the last is done. `newcomers` gets the running rows and returns rows that
    join.

    After a fault the rows keep what they have written, and another call continues from there.
    """
    running = [row for row in rows if not row.is_done]
    if base.keeps_state and len(running) > 1:
        for row in running:
            decode(base, [row], newcomers)
        return
    # Neighbouring rows with the same adapter are computed as one product.
    running.sort(key=lambda row: str(row.adapter))
    state = prefill_rows(base, running)
    steps = 0
    while True:
        running, state = _choose_tokens(base, running, state)
        if not running:
            return
        state = _feed(base, running, state)
        steps += 1
        if not base.can_join or steps % STEPS_BETWEEN_LOOKS:
            continue
        added = newcomers(running)
        if added:
            running = [*running, *added]
            joined = prefill_rows(base, added)
            state = join([state, joined], range(len(running)))


def _choose_tokens(
    base: Base,
    running: Sequence[Row],
    state: BatchState,
) -> tuple[list[Row], BatchState]:
    """Lets each row take its next token. Returns the rows that are not done, and their state."""
    likeliest_tokens = state.logits.argmax(-1).tolist()  # at once, since a GPU is waited for each time
    for row, logits, likeliest in zip(running, state.logits, likeliest_tokens, strict=True):
        if not row.is_done:  # a guessed token may have ended it
            row.take(logits, likeliest)
        if row.is_done and row.is_plain:
            base.drafts(row.adapter).remember(row.tokens)
    staying = [index for index, row in enumerate(running) if not row.is_done]
    if staying and len(staying) < len(running):
        rows = torch.tensor(staying, device=state.mask.device)
        state.cache.batch_select_indices(rows)
        state = BatchState(
            state.cache,
            mask=state.mask[rows],
            positions=state.positions[rows],
            logits=state.logits[rows],
        )
    return [running[index] for index in staying], state


def _feed(base: Base, running: Sequence[Row], state: BatchState) -> BatchState:
    """Runs the model over the newest token of each row and a guess of what follows. Rows take the tokens that were
    guessed correctly."""
    guesses: list[Sequence[int]] = []
    to_read: list[list[int]] = []
    for row in running:
        guess = _guess(base, row)
        guesses.append(guess)
        to_read.append([row.tokens[-1], *guess])
    ids, own = pad_right(to_read, state.mask.device)  # both (rows, width)
    width = ids.shape[1]
    model = base.with_adapters([row.adapter for row in running])
    own_positions = torch.arange(width, device=ids.device)
    output = model(
        input_ids=ids,
        attention_mask=torch.cat([state.mask, own], -1),
        position_ids=state.positions + own_positions,
        cache=state.cache,
        use_cache=True,
    )
    logits = output.logits  # (rows, width, vocabulary)

    counts = [0] * len(running)
    if width > 1:
        counts = _take_guessed(running, guesses, logits)
    right = torch.tensor(counts, device=ids.device)  # (rows,)
    right_column = right[:, None]
    # Continue as if each row had read only its newest token and the correct part of its guess: wrong tokens are masked,
    # and positions that no row needs are dropped.
    used = max(counts) + 1
    if used < width:
        state.cache.crop(used - width)
    is_right = torch.arange(used, device=ids.device) <= right_column
    own_mask = is_right.to(state.mask.dtype)
    row_numbers = torch.arange(len(running), device=ids.device)
    return BatchState(
        state.cache,
        mask=torch.cat([state.mask, own_mask], -1),
        positions=state.positions + 1 + right_column,
        logits=logits[row_numbers, right],
    )


def _guess(base: Base, row: Row) -> Sequence[int]:
    """Returns the tokens that probably follow the row's newest one; none if it isn't always the likeliest token that
    is taken, or if wrong guesses would leave gaps that the model's cache can't have."""
    if not row.is_plain or not base.can_join:
        return ()
    left = row.limit - len(row.tokens)
    guess = base.drafts(row.adapter).guess(row.tokens)
    return guess[:left]


def _take_guessed(
    running: Sequence[Row],
    guesses: Sequence[Sequence[int]],
    logits: Tensor,
) -> list[int]:
    """Lets each row take the beginning of its guess that the model agrees with. Returns the number of these tokens for
    each row."""
    counts = []
    likeliest_tokens = logits.argmax(-1).tolist()
    for number, row in enumerate(running):
        likeliest = likeliest_tokens[number]
        count = count_agreeing(guesses[number], likeliest)
        for position in range(count):
            if not row.is_done:
                row.take(logits[number, position], likeliest[position])
        counts.append(count)
    return counts


def prefill_rows(base: Base, rows: Sequence[Row]) -> BatchState:
    """Reads the prompts of `rows` and returns the state, in their order. Prompts of one adapter are read together, and
    a prompt with several answers is read once. `base` keeps the common prefixes for the next batch, whose prompts may
    begin with the same tokens."""
    prompts_by_adapter: dict[Path | None, list[Ids]] = defaultdict(list)
    for row in rows:
        prompts_by_adapter[row.adapter].append(tuple(row.ids))
    # Padding behind a prefix would count as tokens of a sliding window.
    longest = max(row.size for row in rows)
    fits = longest <= base.window

    prefixes: dict[Path | None, CachedPrefix] = {}
    states: list[BatchState] = []
    numbers: dict[tuple[Path | None, Ids], int] = {}
    for adapter, prompts in prompts_by_adapter.items():
        if base.can_join:
            prompts = list(dict.fromkeys(prompts))
        model = base.with_adapters([adapter])
        prefix = None
        if fits:
            earlier = base.prefixes.get(adapter)
            prefix = _read_prefix(model, prompts, earlier, base.device)
        for part in _parts_of_similar_length(prompts, prefix, base):
            for prompt in part:
                numbers[adapter, prompt] = len(numbers)
            state = _read_part(model, part, prefix, base.device)
            states.append(state)
        if prefix:
            prefixes[adapter] = prefix
    base.prefixes = prefixes
    if not base.can_join:
        return states[0]  # all were read in one pass
    order = [numbers[row.adapter, tuple(row.ids)] for row in rows]
    return join(states, order)


def _read_prefix(
    model: Any,
    prompts: Sequence[Ids],
    earlier: CachedPrefix | None,
    device: torch.device,
) -> CachedPrefix | None:
    """Reads the common prefix of all prompts and returns it, or `earlier`, the last batch's, if that is good enough.
    Returns None if reading it separately doesn't pay off."""
    shared = _shared_length(prompts)
    others = len(prompts) - 1
    if earlier and earlier.fits(prompts):
        gained = (shared - len(earlier.ids)) * others
        if gained < MIN_TOKENS_SAVED:
            return earlier
    if shared * others < MIN_TOKENS_SAVED:
        return None
    cache = DynamicCache(config=model.config)
    ids = prompts[0][:shared]
    model(
        input_ids=torch.tensor([ids], device=device),
        cache=cache,
        use_cache=True,
        logits_to_keep=_last_position(device),
    )
    return CachedPrefix(ids, cache)


def _shared_length(prompts: Sequence[Ids]) -> int:
    """Returns with how many tokens all prompts begin. The last token of the shortest doesn't count, since each prompt
    must have a token left that is read by itself."""
    first = prompts[0]
    most = min(map(len, prompts)) - 1
    for position in range(most):
        if any(prompt[position] != first[position] for prompt in prompts):
            return position
    return most


def _last_position(device: torch.device) -> Tensor:
    """Returns the position where the head is applied. It is an index, since the number 1 would leave a view, for which
    torch copies the frozen head once per row (16 prompts of 49 tokens took 3 times as long)."""
    return torch.tensor([-1], device=device)


def _parts_of_similar_length(
    prompts: Sequence[Ids],
    prefix: CachedPrefix | None,
    base: Base,
) -> list[list[Ids]]:
    """Groups the prompts that are read in one pass: on a CPU few, and of similar length."""
    if base.device.type != "cpu" or not base.can_join:
        return [list(prompts)]
    shared = 0
    if prefix:
        shared = len(prefix.ids)
    by_length = sorted(prompts, key=len)

    def width(part: Sequence[Ids]) -> int:
        longest = len(part[-1]) - shared
        return longest * len(part)

    return fill_parts(by_length, CPU_TOKENS_AT_ONCE, width)


def _read_part(
    model: Any,
    prompts: Sequence[Ids],
    prefix: CachedPrefix | None,
    device: torch.device,
) -> BatchState:
    if prefix:
        shared = len(prefix.ids)
        cache = copy.deepcopy(prefix.cache)  # the next batch may begin alike
        cache.batch_repeat_interleave(len(prompts))
    else:
        shared = 0
        cache = DynamicCache(config=model.config)

    longest = max(map(len, prompts)) - shared
    ids = []
    own_rows = []  # 1 for each token of the prompt's own, 0 for padding
    for prompt in prompts:
        rest = prompt[shared:]
        size = len(rest)
        padding = [0] * (longest - size)
        ids.append([*padding, *rest])
        own_rows.append([*padding, *[1] * size])
    own = torch.tensor(own_rows, device=device)
    # Padding is in front and masked, so its position doesn't matter, but it must be a valid one.
    own_positions = (own.cumsum(-1) - 1).clamp(min=0)
    positions = shared + own_positions
    of_prefix = own.new_ones(len(prompts), shared)
    mask = torch.cat([of_prefix, own], -1)
    output = model(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=mask,
        position_ids=positions,
        cache=cache,
        use_cache=True,
        logits_to_keep=_last_position(device),
    )
    logits = output.logits[:, -1]  # (rows, vocabulary)
    next_positions = positions[:, -1:] + 1
    return BatchState(cache, mask, next_positions, logits)


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
            # (rows, heads, positions, D)
            keys = [_pad_front(layer.keys, longest, dim=2) for layer in layers]
            target.keys = torch.cat(keys)[rows]
            values = [_pad_front(layer.values, longest, dim=2) for layer in layers]
            target.values = torch.cat(values)[rows]
    masks = [_pad_front(state.mask, longest, dim=1) for state in states]
    positions = [state.positions for state in states]
    logits = [state.logits for state in states]
    return BatchState(
        first.cache,
        mask=torch.cat(masks)[rows],
        positions=torch.cat(positions)[rows],
        logits=torch.cat(logits)[rows],
    )


def _pad_front(tensor: Tensor, length: int, dim: int) -> Tensor:
    """Adds zeros in front, up to the size `length` along `dim`."""
    missing = length - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    padding = tensor.new_zeros(shape)
    return torch.cat([padding, tensor], dim)
