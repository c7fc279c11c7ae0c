"""The decoding loop: writes a batch of rows, token by token. Imports torch; knows neither HTTP nor the queue.

Rows leave when they finish, which speeds up the rest, and new rows join meanwhile, so that a short answer need not wait
for the end of a long one. prefill.py reads their prompts first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainers.local.serving.model_cache import Base
from trainers.local.serving.prefill import BatchState, join, keep_row, prefill_rows
from trainers.local.serving.sampling import Choice, choose
from trainers.local.serving.sequences import Row, count_agreeing, pad_right

# Reading newcomers costs the running rows a pass. Short answers such as labels are done before the first look.
STEPS_BETWEEN_LOOKS = 16

Wait = Callable[[], None]
Newcomers = Callable[[Sequence[Row]], Sequence[Row]]


@torch.inference_mode()
def decode(base: Base, rows: Sequence[Row], newcomers: Newcomers, wait: Wait = lambda: None) -> None:
    """Answers all rows, and returns when the last is done. `newcomers` gets the running rows and returns rows that
    join. `wait` is called before each pass.

    After a fault the rows keep what they have written, and another call continues from there.
    """
    running = [row for row in rows if not row.is_done]
    if base.keeps_state and len(running) > 1:
        for row in running:
            decode(base, [row], newcomers, wait)
        return
    # Neighbouring rows with the same adapter are computed as one product.
    running.sort(key=lambda row: str(row.adapter))
    wait()
    state = prefill_rows(base, running)
    steps = 0
    while True:
        running, state = _choose_tokens(base, running, state)
        if not running:
            return
        wait()
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
    for row, choice in zip(running, _choices(running, state.logits), strict=True):
        if not row.is_done:  # a guessed token may have ended it
            row.take(choice)
        if row.is_done and row.is_plain:
            base.drafts(row.adapter).remember(row.tokens)
    if not base.stretches:  # another row may have stretched the positions of this one's last tokens
        for number, row in enumerate(running):
            if row.is_done:
                keep_row(base, row, state, number)
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


def _choices(running: Sequence[Row], logits: Tensor) -> list[Choice]:
    """Returns the next token of each row. What is returned for a row that is done means nothing."""
    for row in running:
        if not row.is_done:
            row.prepare()
    choices = [
        Choice(token) for token in logits.argmax(-1).tolist()
    ]  # at once, since a GPU is waited for each time
    numbers = [number for number, row in enumerate(running) if not row.is_plain and not row.is_done]
    if numbers:
        index = torch.tensor(numbers, device=logits.device)
        rows = [running[number] for number in numbers]
        for number, choice in zip(numbers, choose(rows, logits[index]), strict=True):
            choices[number] = choice
    return choices


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
                row.take(Choice(likeliest[position]))
        counts.append(count)
    return counts
