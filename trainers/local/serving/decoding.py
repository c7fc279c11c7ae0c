"""The decoding loop: a batch of rows, token by token. Imports torch; knows neither HTTP nor the queue.

Rows leave as they finish, so that the rest goes faster; others come in while it runs, so that nobody waits for a
stranger's long answer to end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from trainers.local.serving.reading import Prompts, join, read_rows
from trainers.local.serving.rows import Row
from trainers.local.serving.weights import Base

# Reading newcomers costs those who are there a pass of their own. Labels are through before the first look.
STEPS_BETWEEN_LOOKS = 16

Newcomers = Callable[[Sequence[Row]], Sequence[Row]]


@torch.inference_mode()
def decode(base: Base, rows: Sequence[Row], newcomers: Newcomers) -> None:
    """Answers all rows; returns when the last is done. `newcomers` is asked who joins those that are alive.

    After a fault rows know what they have written, and another call goes on where this one broke off.
    """
    alive = [row for row in rows if not row.is_done]
    alive.sort(key=lambda row: str(row.request.target.adapter))  # neighbours with one adapter are one product
    read = read_rows(base, alive)
    steps = 0
    while True:
        alive, read = _choose(alive, read)
        if not alive:
            return
        read = _feed(base, alive, read)
        steps += 1
        if base.joins and steps % STEPS_BETWEEN_LOOKS == 0:
            alive, read = _let_in(base, alive, read, newcomers(alive))


def _choose(alive: Sequence[Row], read: Prompts) -> tuple[list[Row], Prompts]:
    """Each row takes its next token; those that are done leave."""
    for row, logits, likeliest in zip(alive, read.logits, read.logits.argmax(-1).tolist(), strict=True):
        row.take(logits, likeliest)
    staying = [place for place, row in enumerate(alive) if not row.is_done]
    if staying and len(staying) < len(alive):
        kept = torch.tensor(staying, device=read.mask.device)
        read.cache.batch_select_indices(kept)
        read = Prompts(read.cache, read.mask[kept], read.positions[kept], read.logits[kept])
    return [alive[place] for place in staying], read


def _feed(base: Base, alive: Sequence[Row], read: Prompts) -> Prompts:
    """One pass over the newest token of each row."""
    mask = torch.cat([read.mask, read.mask.new_ones(len(alive), 1)], -1)
    model = base.wearing([row.request.target.adapter for row in alive])
    logits = model(
        input_ids=torch.tensor([[row.newest] for row in alive], device=mask.device),
        attention_mask=mask,
        position_ids=read.positions,
        cache=read.cache,
        use_cache=True,
    ).logits[:, -1]
    return Prompts(read.cache, mask, read.positions + 1, logits)


def _let_in(base: Base, alive: list[Row], read: Prompts, added: Sequence[Row]) -> tuple[list[Row], Prompts]:
    if not added:
        return alive, read
    together = join([read, read_rows(base, added)], range(len(alive) + len(added)))
    return [*alive, *added], together
