"""Which rows are answered together. Pure: rows in, rows out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainers.local.serving.rows import Row

# CPU seconds an answer (135M, bf16, labels of 2 to 4 tokens): 0.34 alone, 0.12 of 16, 0.11 of 32, 0.10 of 64
MAX_BATCH_ROWS = 32
MAX_BATCH_TOKENS = 16_384  # rows times longest prompt: bounds the pass that reads them
MAX_ADAPTERS = 8  # in memory, and so in one batch


@dataclass(frozen=True)
class Room:
    """For one batch. `tokens`: of prompts and answers together, all rows as long as the longest."""

    rows: int
    tokens: int


def choose_batch(waiting: Sequence[Row], room: Room, *, mixes: bool) -> list[Row]:
    """The row that waited longest, and those over the same base with prompts nearest to its length. Where adapters
    can't be mixed, only those with the same one. Empty where not even the first fits."""
    if not waiting or waiting[0].size > room.tokens:
        return []
    oldest = waiting[0]
    same = [row for row in waiting if _go_together(oldest, row, mixes)]
    same.sort(key=lambda row: abs(len(row.prompt) - len(oldest.prompt)))
    return fill([], [oldest, *(row for row in same if row is not oldest)], room)


def fill(present: Sequence[Row], candidates: Sequence[Row], room: Room) -> list[Row]:
    """Of `candidates`, over the same base, those that still fit beside `present`, in their order."""
    batch, added = list(present), []
    for row in candidates:
        if len(batch) >= room.rows or not _fits([*batch, row], room):
            break
        batch.append(row)
        added.append(row)
    return added


def _go_together(one: Row, other: Row, mixes: bool) -> bool:
    mine, theirs = one.request.target, other.request.target
    return mine.weights == theirs.weights and (mixes or mine.adapter == theirs.adapter)


def _fits(batch: Sequence[Row], room: Room) -> bool:
    if len(batch) == 1:
        return batch[0].size <= room.tokens
    return (
        len(batch) * max(len(row.prompt) for row in batch) <= MAX_BATCH_TOKENS
        and len(batch) * max(row.size for row in batch) <= room.tokens
        and len({row.request.target.adapter for row in batch}) <= MAX_ADAPTERS
    )
