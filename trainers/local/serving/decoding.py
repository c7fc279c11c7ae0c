"""The decoding loop: a batch of rows, token by token. Imports torch; knows neither HTTP nor the queue.

Rows leave as they finish, so that the rest goes faster; others join while it runs, so that a short answer need not wait
for a long one to end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from trainers.local.serving.model_cache import Base
from trainers.local.serving.prefill import BatchState, join, pad_right, prefill_rows
from trainers.local.serving.sequences import Row, count_agreeing

# Reading newcomers costs the running rows a pass. Labels, which are short, are through before the first look.
STEPS_BETWEEN_LOOKS = 16

Newcomers = Callable[[Sequence[Row]], Sequence[Row]]


@torch.inference_mode()
def decode(base: Base, rows: Sequence[Row], newcomers: Newcomers) -> None:
    """Answers all rows; returns when the last is done. `newcomers` gets the running rows and returns those that join.

    After a fault the rows keep what they have written, and another call goes on from there.
    """
    running = [row for row in rows if not row.is_done]
    if base.keeps_state and len(running) > 1:
        for row in running:
            decode(base, [row], newcomers)
        return
    # Neighbours with one adapter are one product.
    running.sort(key=lambda row: str(row.request.target.adapter))
    state = prefill_rows(base, running)
    steps = 0
    while True:
        running, state = _choose_tokens(base, running, state)
        if not running:
            return
        state = _feed(base, running, state)
        steps += 1
        if base.joins and steps % STEPS_BETWEEN_LOOKS == 0 and (added := newcomers(running)):
            state = join([state, prefill_rows(base, added)], range(len(running) + len(added)))
            running = [*running, *added]


def _choose_tokens(base: Base, running: Sequence[Row], state: BatchState) -> tuple[list[Row], BatchState]:
    """Each row takes its next token. Returns the rows that go on, and their state."""
    for row, logits, likeliest in zip(running, state.logits, state.logits.argmax(-1).tolist(), strict=True):
        if not row.is_done:  # guessed tokens may have ended it
            row.take(logits, likeliest)
        if row.is_done and row.is_plain:
            base.drafts(row.request.target.adapter).remember(row.tokens)
    staying = [place for place, row in enumerate(running) if not row.is_done]
    if staying and len(staying) < len(running):
        rows = torch.tensor(staying, device=state.mask.device)
        state.cache.batch_select_indices(rows)
        state = BatchState(state.cache, state.mask[rows], state.positions[rows], state.logits[rows])
    return [running[place] for place in staying], state


def _feed(base: Base, running: Sequence[Row], state: BatchState) -> BatchState:
    """One pass over the newest token of each row and a guess at what follows; rows take the tokens guessed right."""
    guesses: list[Sequence[int]] = []
    for row in running:
        # A guess is checked against the likeliest tokens, and leaves gaps in the cache where it was wrong.
        can_guess = row.is_plain and base.joins
        guess = base.drafts(row.request.target.adapter).guess(row.tokens) if can_guess else ()
        guesses.append(guess[: row.limit - len(row.tokens)])
    ids, own = pad_right(
        [[row.tokens[-1], *guess] for row, guess in zip(running, guesses, strict=True)], state.mask.device
    )
    model = base.with_adapters([row.request.target.adapter for row in running])
    logits = model(
        input_ids=ids,
        attention_mask=torch.cat([state.mask, own], -1),
        position_ids=state.positions + torch.arange(ids.shape[1], device=ids.device),
        cache=state.cache,
        use_cache=True,
    ).logits

    counts = _take_guessed(running, guesses, logits) if ids.shape[1] > 1 else [0] * len(running)
    right = torch.tensor(counts, device=ids.device)
    # From here on as if each row had read only its newest token and the right ones of its guess: the wrong ones are
    # masked, and the places that no row needs are dropped.
    used = max(counts) + 1
    if used < ids.shape[1]:
        state.cache.crop(used - ids.shape[1])
    own = (torch.arange(used, device=ids.device) <= right[:, None]).to(state.mask.dtype)
    return BatchState(
        state.cache,
        mask=torch.cat([state.mask, own], -1),
        positions=state.positions + 1 + right[:, None],
        logits=logits[torch.arange(len(running), device=ids.device), right],
    )


def _take_guessed(
    running: Sequence[Row], guesses: Sequence[Sequence[int]], logits: torch.Tensor
) -> list[int]:
    """Each row takes the beginning of its guess that the model agrees with. Returns how many tokens that were."""
    counts = []
    likeliest_tokens = logits.argmax(-1).tolist()
    for row, guess, row_logits, likeliest in zip(running, guesses, logits, likeliest_tokens, strict=True):
        count = count_agreeing(guess, likeliest)
        for place in range(count):
            if not row.is_done:
                row.take(row_logits[place], likeliest[place])
        counts.append(count)
    return counts
