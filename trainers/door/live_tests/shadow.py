"""Asks a candidate in a live test what it would have answered to calls that were sampled, and stores its answers beside
them (trainers/recipes/shadow_answers.py). Nobody waits for it, and no program sees it.

It is asked what is stored, which a deletion removes and which has no secrets, and only if nothing in it was masked: so
its provider gets no personal data, and both have read the same text. What goes along of the request beside its messages
is searched likewise. Calls with results of tools are left out, as no provider accepts them in the form in which they
are stored.

What doesn't fit into the queue is not asked, and a restart loses it: which calls are asked depends on chance alone, not
on who answers them well.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from trainers.door.call_texts import MOST_LETTERS, Turn, read_answer
from trainers.door.calls import Call, Calls, candidate_of
from trainers.door.chat import answer_chat
from trainers.door.counts import usage_of
from trainers.door.sampler import StoredCall
from trainers.door.upstreams import UpstreamDown, VendorError
from trainers.http import responses
from trainers.http.errors import ApiError
from trainers.recipes import samples, shadow_answers
from trainers.recipes.placeholders import Masked, mask
from trainers.recipes.samples import SampledCall
from trainers.recipes.shadow_answers import ShadowAnswer
from trainers.recipes.usage import Usage
from trainers.recipes.values import Published, PublishedTest, Sampling

AT_ONCE = 2
MOST_WAITING = 200
# What a request says beside its messages that decides what a right answer looks like.
SETTINGS = (
    *("tools", "tool_choice", "response_format", "temperature", "top_p", "reasoning_effort"),
    *("max_tokens", "max_completion_tokens", "stop"),
)
ROLES_OF_TOOLS = frozenset({"tool", "function"})
# Of an account, a key or a limit. They say nothing about how the candidate answers.
NO_ANSWERS = frozenset({402, 403, 429})
OUR_FAULTS = frozenset({"no_upstream", "no_upstream_key", "upstream_key_refused", "recipe_unusable"})

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """A stored call under `name`, to put to the candidate of `live_test`. `settings` goes along with its messages.
    Programs wait longer for the end of a stream, so `is_stream` sets no limit but the usual one."""

    call: str
    name: str
    live_test: int
    settings: Mapping[str, Any]
    is_stream: bool


@dataclass(frozen=True)
class Answered:
    """What the candidate has answered; `turn` is None if it failed."""

    turn: Turn | None
    usage: Usage


@dataclass
class Shadow:
    """`clock` gives the time in unix seconds."""

    calls: Calls
    folder: Path
    clock: Callable[[], float] = time.time
    _waiting: asyncio.Queue[Question] = field(default_factory=lambda: asyncio.Queue(MOST_WAITING))

    def add(self, stored: Sequence[StoredCall]) -> None:
        """Takes the calls that the candidate can be asked, as long as there is room."""
        for each in stored:
            question = _question_of(each)
            if question is not None and not self._waiting.full():
                self._waiting.put_nowait(question)

    async def keep_asking(self) -> None:
        """Asks AT_ONCE questions at a time, until it is cancelled."""
        await asyncio.gather(*(self._ask_each() for _ in range(AT_ONCE)))

    async def _ask_each(self) -> None:
        while True:
            question = await self._waiting.get()
            try:
                await self._ask(question)
            except (sqlite3.Error, OSError) as error:
                log.error("storing an answer of a candidate in a live test, which is lost: %s", error)
            except Exception as error:
                # Without its text or traceback, which may quote the call.
                log.error("asking a candidate in a live test: %s", type(error).__name__)

    async def _ask(self, question: Question) -> None:
        published = self._find(question)
        call = await asyncio.to_thread(samples.get, self.folder, question.call)
        if published is None or call is None or call.recipe != published.recipe:
            return
        sampling, live_test = _terms(published)
        if not await asyncio.to_thread(_is_clean, question.settings, sampling):
            return
        answered = await self._answer(question, call, published, live_test)
        # It may have been withdrawn meanwhile, as before a deletion.
        if answered is None or self._find(question) is None:
            return
        await asyncio.to_thread(_store, self.folder, question, answered, sampling, self.clock())

    def _find(self, question: Question) -> Published | None:
        """Returns what is published now, None if calls are no longer stored or this live test is over."""
        published = self.calls.names.find(question.name)
        if published is None or published.sampling is None or published.live_test is None:
            return None
        live_test = published.live_test
        if live_test.number != question.live_test or not live_test.asks_sampled:
            return None
        return published

    async def _answer(
        self, question: Question, call: SampledCall, published: Published, live_test: PublishedTest
    ) -> Answered | None:
        """Returns the candidate's answer, None if it says nothing about the candidate that there is none."""
        limit_s = None
        if not question.is_stream:
            limit_s = live_test.slow_s
        unknown = Usage(unknown=1)
        try:
            candidate = await self._open(question, call, published, live_test)
            if candidate.recipe.is_free:
                unknown = Usage()
            async with asyncio.timeout(limit_s):
                response = await answer_chat(candidate)
        except TimeoutError:
            return Answered(None, unknown)
        except (ApiError, VendorError) as error:
            if not _is_about_candidate(error):
                return None
            return Answered(None, unknown)
        return _read(bytes(response.body))

    async def _open(
        self, question: Question, call: SampledCall, published: Published, live_test: PublishedTest
    ) -> Call:
        """Returns the call that the candidate will answer. Raises ApiError (503)."""
        messages = json.loads(call.messages)
        body = {**question.settings, "model": published.name, "messages": messages}
        # Without a promotion and a sampling nothing is counted and nothing stored.
        unnoticed = Published(published.name)
        return await self.calls.open(body, unnoticed, candidate_of(live_test), {})


def _question_of(stored: StoredCall) -> Question | None:
    """Returns the question for the candidate, None if it is not asked."""
    call = stored.call
    published = stored.drawn.published
    live_test = published.live_test
    if live_test is None or not live_test.asks_sampled:
        return None
    # Both are compared on calls that what is in use has answered itself.
    if call.recipe != published.recipe or call.fallback_from is not None or call.is_masked:
        return None
    # These were chosen by a failure of the candidate, and would make it look worse than it is.
    if stored.drawn.live_test_problem is not None:
        return None
    roles = {message["role"] for message in json.loads(call.messages)}
    if roles & ROLES_OF_TOOLS:
        return None
    body = stored.drawn.body
    is_stream = body.get("stream") is True
    return Question(call.id, call.name, live_test.number, _settings_of(body), is_stream)


def _settings_of(body: Mapping[str, Any]) -> Mapping[str, Any]:
    if not body.get("messages"):
        body = responses.as_chat(body)  # which was possible when it was stored
    return {name: body[name] for name in SETTINGS if body.get(name) is not None}


def _read(content: bytes) -> Answered:
    """Reads the body of an answered chat. One that nobody can read is a failure too."""
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        return Answered(None, Usage(unknown=1))
    return Answered(read_answer(answer), usage_of(answer.get("usage")))


def _terms(published: Published) -> tuple[Sampling, PublishedTest]:
    assert published.sampling is not None and published.live_test is not None  # noqa: S101  it was looked at
    return published.sampling, published.live_test


def _is_clean(settings: Mapping[str, Any], sampling: Sampling) -> bool:
    if not settings:
        return True
    text = orjson.dumps(settings).decode()
    return isinstance(mask((text,), "drop", presidio=sampling.presidio), Masked)


def _is_about_candidate(error: ApiError | VendorError) -> bool:
    """True for an error that a program would meet if the candidate were in use: it can't do what is asked, or fails.
    Limits, accounts, keys, and a connection that could not be made are no answers of the candidate: its calls come on
    top of those of programs, and to count them would make it look worse than it is."""
    if isinstance(error, VendorError):
        return error.status not in NO_ANSWERS
    if isinstance(error, UpstreamDown):
        return error.has_connected
    return error.code not in OUR_FAULTS


def _store(folder: Path, question: Question, answered: Answered, sampling: Sampling, at: float) -> None:
    """Stores an answer, unless it has what a sampled call must not have. Raises sqlite3.Error."""
    text = None
    if answered.turn is not None:
        if sum(map(len, answered.turn.texts)) > MOST_LETTERS:
            return
        masked = mask(answered.turn.texts, sampling.personal, presidio=sampling.presidio)
        if not isinstance(masked, Masked):
            return
        text = "\n".join(masked.texts)
    usage = answered.usage
    prompt_tokens = None
    completion_tokens = None
    if usage.unknown == 0:
        prompt_tokens = usage.prompt_tokens
        completion_tokens = usage.completion_tokens
    answer = ShadowAnswer(
        live_test=question.live_test,
        call=question.call,
        answer=text,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        at=at,
    )
    shadow_answers.add(folder, answer)
