"""Counts calls in memory and stores the sums each second, so that no answer waits for a disk. A kill loses the counts
of the last second."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainers.recipes import usage
from trainers.recipes.usage import Usage, UsageKey

FLUSH_S = 1.0
FAILED = Usage(calls=1, failed=1)
LOST = Usage(calls=1, failed=1, unknown=1)

# Of one answer. A larger number is a fault, and SQLite could not add it up.
MOST_TOKENS = 1_000_000_000

log = logging.getLogger(__name__)


def usage_of(raw: object) -> Usage:
    """Returns the usage of one answered call from its answer's `usage`, in the names of chats or of Responses."""
    if isinstance(raw, dict):
        prompt = _count(raw, "prompt_tokens", "input_tokens")
        completion = _count(raw, "completion_tokens", "output_tokens")
        details = raw.get("prompt_tokens_details") or raw.get("input_tokens_details") or {}
        if prompt is not None and completion is not None:
            cached = 0
            if isinstance(details, dict):
                cached = _count(details, "cached_tokens") or 0
            return Usage(1, 0, prompt, cached, completion)
    return Usage(calls=1, unknown=1)


def usage_of_stream(raw: object, *, is_complete: bool) -> Usage:
    """Returns the usage of one streamed call from the last `usage` that it named. One that broke off has failed."""
    counted = usage_of(raw)
    if not is_complete:
        counted += Usage(failed=1)
    return counted


def tokens_of(raw: object) -> Mapping[str, Any] | None:
    """Returns an answer's `usage` in the form of chats, None if it names none that can be read."""
    counted = usage_of(raw)
    if not isinstance(raw, dict) or counted.unknown:
        return None
    details = raw.get("completion_tokens_details")
    reasoning = None
    if isinstance(details, dict):
        reasoning = _count(details, "reasoning_tokens")
    return {
        "prompt_tokens": counted.prompt_tokens,
        "completion_tokens": counted.completion_tokens,
        "total_tokens": counted.prompt_tokens + counted.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": counted.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning or 0},
    }


def _count(raw: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = raw.get(name)
        if type(value) is int and 0 <= value <= MOST_TOKENS:
            return value
    return None


@dataclass
class UsageCounts:
    """`clock` gives the time in unix seconds, by which calls are counted and dated."""

    folder: Path
    clock: Callable[[], float] = time.time
    _waiting: dict[UsageKey, Usage] = field(default_factory=dict)
    _storing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def add(self, promotion: int | None, recipe: str, counted: Usage) -> None:
        """Counts for a promotion. What nobody promoted is not counted."""
        if promotion is None:
            return
        key = UsageKey(promotion, recipe, usage.day_of(self.clock()))
        self._waiting[key] = self._waiting.get(key, Usage()) + counted

    async def keep_storing(self) -> None:
        """Stores the counts each second, until it is cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await asyncio.shield(self.store())  # what was taken out would be lost

    async def store(self) -> None:
        """Stores what was counted since the last time. What can't be stored, on a full disk, waits for the next."""
        async with self._storing:
            waiting = self._waiting
            if not waiting:
                return
            self._waiting = {}
            try:
                await asyncio.to_thread(usage.add, self.folder, waiting)
            except (sqlite3.Error, OSError) as error:
                log.error("storing the counts of calls: %s", error)
                for key, counted in waiting.items():
                    self._waiting[key] = self._waiting.get(key, Usage()) + counted
