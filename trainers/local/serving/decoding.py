"""The decoding loop: a batch of rows, token by token. Imports torch; knows neither HTTP nor the queue.

Rows leave as they finish, so that the rest goes faster; others come in while it runs, so that nobody waits for a
stranger's long answer to end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from trainers.local.serving.model_cache import Base
from trainers.local.serving.prefill import BatchState, join, pad_right, prefill_rows
from trainers.local.serving.sequences import Row, count_agreeing

# Reading newcomers costs those who are there a pass of their own. Labels are through before the first look.
STEPS_BETWEEN_LOOKS = 16

Newcomers = Callable[[Sequence[Row]], Sequence[Row]]


@torch.inference_mode()
def decode(base: Base, rows: Sequence[Row], newcomers: Newcomers) -> None:
    """Answers all rows; returns when the last is done. `newcomers` is asked who joins those that are alive.

    After a fault rows know what they have written, and another call goes on where this one broke off.
    """
    alive = [row for row in rows if not row.is_done]
    if base.keeps_state and len(alive) > 1:
        for row in alive:
            decode(base, [row], newcomers)
        return
    alive.sort(key=lambda row: str(row.request.target.adapter))  # neighbours with one adapter are one product
    read = prefill_rows(base, alive)
    steps = 0
    while True:
        alive, read = _choose(base, alive, read)
        if not alive:
            return
        read = _feed(base, alive, read)
        steps += 1
        if base.joins and steps % STEPS_BETWEEN_LOOKS == 0:
            alive, read = _let_in(base, alive, read, newcomers(alive))


def _choose(base: Base, alive: Sequence[Row], read: BatchState) -> tuple[list[Row], BatchState]:
    """Each row takes its next token; those that are done leave."""
    for row, logits, likeliest in zip(alive, read.logits, read.logits.argmax(-1).tolist(), strict=True):
        if not row.is_done:  # by what was guessed
            row.take(logits, likeliest)
        if row.is_done and row.is_plain:
            base.drafts(row.request.target.adapter).remember(row.tokens)
    staying = [place for place, row in enumerate(alive) if not row.is_done]
    if staying and len(staying) < len(alive):
        stored = torch.tensor(staying, device=read.mask.device)
        read.cache.batch_select_indices(stored)
        read = BatchState(read.cache, read.mask[stored], read.positions[stored], read.logits[stored])
    return [alive[place] for place in staying], read


def _feed(base: Base, alive: Sequence[Row], read: BatchState) -> BatchState:
    """One pass over the newest token of each row and what is guessed to follow; rows take what was guessed rightly."""
    guesses = [_guess(base, row) for row in alive]
    ids, own = pad_right(
        [[row.newest, *guess] for row, guess in zip(alive, guesses, strict=True)], read.mask.device
    )
    places = torch.arange(ids.shape[1], device=ids.device)
    model = base.wearing([row.request.target.adapter for row in alive])
    logits = model(
        input_ids=ids,
        attention_mask=torch.cat([read.mask, own], -1),
        position_ids=read.positions + places,
        cache=read.cache,
        use_cache=True,
    ).logits
    right = _take_guessed(alive, guesses, logits) if ids.shape[1] > 1 else [0] * len(alive)
    return _after(read, logits, torch.tensor(right, device=ids.device))


def _guess(base: Base, row: Row) -> tuple[int, ...]:
    """Only where the likeliest token is taken, and where a cache may have gaps."""
    if not (row.is_plain and base.joins):
        return ()
    guess = base.drafts(row.request.target.adapter).guess(row.tokens)
    return guess[: row.limit - len(row.tokens)]


def _take_guessed(alive: Sequence[Row], guesses: Sequence[Sequence[int]], logits: torch.Tensor) -> list[int]:
    """How many tokens of its guess each row has taken."""
    right = []
    for row, guess, own, likeliest in zip(alive, guesses, logits, logits.argmax(-1).tolist(), strict=True):
        count = count_agreeing(guess, likeliest)
        for place in range(count):
            if not row.is_done:
                row.take(own[place], likeliest[place])
        right.append(count)
    return right


def _after(read: BatchState, logits: torch.Tensor, right: torch.Tensor) -> BatchState:
    """As if each row had read only its newest token and the `right` ones of its guess: the others are masked, and
    the places that nobody needs are given back."""
    used, rows = int(right.max()) + 1, torch.arange(len(right), device=right.device)
    if used < logits.shape[1]:
        read.cache.crop(used - logits.shape[1])
    own = (torch.arange(used, device=right.device) <= right[:, None]).to(read.mask.dtype)
    mask = torch.cat([read.mask, own], -1)
    return BatchState(read.cache, mask, read.positions + 1 + right[:, None], logits[rows, right])


def _let_in(
    base: Base, alive: list[Row], read: BatchState, added: Sequence[Row]
) -> tuple[list[Row], BatchState]:
    if not added:
        return alive, read
    together = join([read, prefill_rows(base, added)], range(len(alive) + len(added)))
    return [*alive, *added], together
