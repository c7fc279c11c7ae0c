"""Stores a random share of the calls under names whose team wants a sample (trainers/recipes/samples.py). Which of them
are drawn depends on chance alone, so that the sample says how all calls are answered.

A call that was drawn waits in memory, at most a second. Secrets and personal data are then looked for in a thread, so
that no call waits for it, and only what is left is written. A kill loses the calls of the last second; a full disk or a
locked file loses what could not be written, with a line in the log, and never a call's answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from trainers.door.call_texts import MOST_LETTERS, Turn, read_question
from trainers.door.conversations import hash_conversation
from trainers.recipes import samples
from trainers.recipes.placeholders import Masked, mask
from trainers.recipes.samples import CountKey, SampleCounts, SampledCall
from trainers.recipes.usage import Usage, day_of
from trainers.recipes.values import Published

OPT_OUT_HEADER = "x-finetune-sample"
OPT_OUT = "no"
FLUSH_S = 1.0
MOST_BYTES = 10 * MOST_LETTERS  # of a request and its answer: those with more are not even read
MOST_WAITING_BYTES = 16_000_000
TOO_LONG = SampleCounts(too_long=1)
NOT_TEXT = SampleCounts(not_text=1)
LOST = SampleCounts(lost=1)

ReadAnswer = Callable[[], Turn | None]
"""Returns an answer's texts, None for an answer without text."""
OnStored = Callable[[Sequence["StoredCall"]], None]
"""Takes calls that were stored just now. It must not wait for anything."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DrawnCall:
    """An answered call that was drawn, as it passed. `body` is its request; `size` is about that of request and answer,
    in bytes. `live_test_problem` says in a word why a candidate in a live test, which was to answer, did not."""

    id: str
    published: Published
    recipe: str
    fallback_from: str | None
    at: float
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    read_answer: ReadAnswer
    usage: Usage
    size: int
    is_too_long: bool = False
    live_test_problem: str | None = None

    @property
    def key(self) -> CountKey:
        return CountKey(self.published.name, day_of(self.at))


@dataclass(frozen=True)
class StoredCall:
    """A call as it passed, and as it is stored."""

    drawn: DrawnCall
    call: SampledCall


def ignore(stored: Sequence[StoredCall]) -> None:
    pass


@dataclass
class Sampler:
    """`is_sampled` says whether a name's calls are stored at this moment, and `key` returns the key for hashes of
    conversations. `draw` returns a random number from 0 to 1. `on_stored` hears of calls that were stored, unless there
    was no room for them."""

    folder: Path
    is_sampled: Callable[[str], bool]
    key: Callable[[], str]
    draw: Callable[[], float] = secrets.SystemRandom().random
    on_stored: OnStored = ignore
    _waiting: list[DrawnCall] = field(default_factory=list)
    _counts: dict[CountKey, SampleCounts] = field(default_factory=dict)
    _bytes: int = 0
    _storing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def draws(self, published: Published) -> bool:
        """Decides by chance whether a call is stored. Calls of what nobody promoted are not."""
        sampling = published.sampling
        if sampling is None or published.promotion is None:
            return False
        return self.draw() < sampling.share

    def add(self, drawn: DrawnCall) -> None:
        """Takes an answered call that was drawn, or counts why it is left out."""
        if drawn.headers.get(OPT_OUT_HEADER, "").strip().lower() == OPT_OUT:
            self.count(drawn.key, SampleCounts(opted_out=1))
        elif drawn.is_too_long or drawn.size > MOST_BYTES:
            self.count(drawn.key, TOO_LONG)
        elif self._bytes + drawn.size > MOST_WAITING_BYTES:
            self.count(drawn.key, LOST)
        else:
            self._waiting.append(drawn)
            self._bytes += drawn.size

    def count(self, key: CountKey, counted: SampleCounts) -> None:
        self._counts[key] = self._counts.get(key, SampleCounts()) + counted

    async def keep_storing(self) -> None:
        """Stores what was drawn each second, until it is cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await asyncio.shield(self.store())  # what was taken out of memory would be lost

    async def store(self) -> None:
        """Stores what was drawn since the last time. Counts that can't be stored wait for the next."""
        async with self._storing:
            drawn = [each for each in self._waiting if self.is_sampled(each.published.name)]
            counts = {key: value for key, value in self._counts.items() if self.is_sampled(key.name)}
            self._waiting = []
            self._counts = {}
            self._bytes = 0
            if drawn or counts:
                await self._store(drawn, counts)

    async def _store(self, drawn: Sequence[DrawnCall], counts: dict[CountKey, SampleCounts]) -> None:
        prepared = await asyncio.to_thread(_prepare_all, drawn, self.key(), counts)
        calls = [each.call for each in prepared]
        try:
            await asyncio.to_thread(samples.add, self.folder, calls, counts)
        except (sqlite3.Error, OSError) as error:
            log.error("storing a sample of %s calls, which are lost: %s", len(calls), error)
            for key, counted in counts.items():
                self.count(key, counted)
            for call in calls:
                self.count(CountKey(call.name, day_of(call.at)), LOST)
        else:
            self.on_stored(prepared)


def _prepare_all(
    drawn: Sequence[DrawnCall], key: str, counts: dict[CountKey, SampleCounts]
) -> Sequence[StoredCall]:
    """Returns the calls that may be stored, and adds the others to `counts`."""
    calls = []
    for each in drawn:
        prepared = _try_to_prepare(each, key)
        if isinstance(prepared, SampledCall):
            calls.append(StoredCall(each, prepared))
        else:
            counts[each.key] = counts.get(each.key, SampleCounts()) + prepared
        time.sleep(0)  # lets the loop's thread have Python's lock, for which it would wait up to 5 ms
    return calls


def _try_to_prepare(drawn: DrawnCall, key: str) -> SampledCall | SampleCounts:
    try:
        return _prepare(drawn, key)
    except Exception as error:
        # Without its text or traceback, which may quote the call.
        log.error("reading a sampled call, which is lost: %s", type(error).__name__)
        return LOST


def _prepare(drawn: DrawnCall, key: str) -> SampledCall | SampleCounts:
    """Returns the call as it may be stored, or what counts instead."""
    question = read_question(drawn.body)
    answer = drawn.read_answer()
    if question is None or answer is None:
        return NOT_TEXT
    turns = [*question, answer]
    if sum(len(text) for turn in turns for text in turn.texts) > MOST_LETTERS:
        return TOO_LONG
    sampling = drawn.published.sampling
    promotion = drawn.published.promotion
    assert sampling is not None and promotion is not None  # noqa: S101  it was drawn
    texts = [text for turn in turns for text in turn.texts]
    masked = mask(texts, sampling.personal, presidio=sampling.presidio)
    if not isinstance(masked, Masked):
        return SampleCounts(**{masked: 1})
    *messages, answered = _join(turns, masked)
    prompt_tokens = None
    completion_tokens = None
    if drawn.usage.unknown == 0:
        prompt_tokens = drawn.usage.prompt_tokens
        completion_tokens = drawn.usage.completion_tokens
    return SampledCall(
        id=drawn.id,
        name=drawn.published.name,
        promotion=promotion,
        recipe=drawn.recipe,
        at=drawn.at,
        messages=json.dumps(messages, ensure_ascii=False),
        answer=answered["content"],
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        is_masked=masked.is_masked,
        fallback_from=drawn.fallback_from,
        conversation=hash_conversation(key, drawn.body, drawn.headers),
    )


def _join(turns: Sequence[Turn], masked: Masked) -> list[dict[str, str]]:
    """Returns the messages with their masked texts."""
    texts = iter(masked.texts)
    messages = []
    for turn in turns:
        lines = islice(texts, len(turn.texts))
        messages.append({"role": turn.role, "content": "\n".join(lines)})
    return messages
