"""One call of a program: which recipe answers it, whether another may answer instead, and what is counted.

During a canary (live_tests/canary.py) the candidate in a live test answers some conversations. No program suffers from
it: what it doesn't answer well and in time is answered by what is in use, as if there were no candidate.

How a chat, Responses or a classification is asked and answered is in modules of their own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from trainers.door.call_ids import AnsweredCall, CallIds
from trainers.door.call_texts import StreamedText, Turn
from trainers.door.counts import FAILED, LOST, UsageCounts
from trainers.door.live_tests.canary import Canaries, CanaryCall, CanarySide
from trainers.door.names import LoadedRecipe, Names
from trainers.door.sampler import DrawnCall, ReadAnswer, Sampler
from trainers.door.streams import EventStream, read_object, while_connected
from trainers.door.upstreams import UpstreamClient, VendorError
from trainers.http.errors import ApiError, as_object, invalid
from trainers.recipes import prompts
from trainers.recipes.canary_events import EventReason
from trainers.recipes.usage import Usage
from trainers.recipes.values import Published, PublishedTest, Recipe, Unavailable, Upstream

CALL_HEADER = "x-finetune-call"
RECIPE_HEADER = "x-finetune-recipe"
FALLBACK_HEADER = "x-finetune-fallback"
CANARY_HEADER = "x-finetune-canary"
TOO_SLOW = "too_slow"
SHORT_HASH = 12
SIZE_OF_PARTS = 100_000  # bytes, assumed for a request without a length
STREAM_OPTIONS = "stream_options"
Body = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """The recipe that answers a call, by its hash, under which it is published.

    `model`, `address` and `provider` are those of `Published` for it. `fallback_from` says in a word why that is the
    fallback, and `live_test_problem` why it isn't the candidate in a live test, whose turn it was. `canary` is the side
    of a canary for which the answer speaks, None if for neither.
    """

    sha256: str
    model: str | None = None
    address: str | None = None
    provider: str | None = None
    fallback_from: str | None = None
    live_test_problem: str | None = None
    canary: CanarySide | None = None


@dataclass(frozen=True)
class Call:
    """A program's request, `body`, and the recipe that answers it."""

    body: Body
    published: Published
    choice: Choice
    loaded: LoadedRecipe
    client: UpstreamClient
    names: Names
    counts: UsageCounts
    ids: CallIds
    sampler: Sampler
    canaries: Canaries
    headers: Mapping[str, str]

    @cached_property
    def id(self) -> str:
        """The id by which a program can say how good the answer was, "" for what nobody promoted."""
        promotion = self.published.promotion
        if promotion is None:
            return ""
        at = int(self.counts.clock())
        return self.ids.new(AnsweredCall(self.name, promotion, self.sha256, at, self.choice.canary))

    @property
    def name(self) -> str:
        """What the program has called, such as 'team/tickets'."""
        return self.published.name

    @property
    def recipe(self) -> Recipe:
        return self.loaded.recipe

    @property
    def answer_headers(self) -> dict[str, str]:
        headers = {RECIPE_HEADER: self.sha256[:SHORT_HASH]}
        if self.choice.fallback_from is not None:
            headers[FALLBACK_HEADER] = self.choice.fallback_from
        if self.choice.live_test_problem is not None:
            headers[CANARY_HEADER] = self.choice.live_test_problem
        return headers

    @property
    def sha256(self) -> str:
        return self.choice.sha256

    @cached_property
    def upstream(self) -> Upstream:
        """The provider that is asked. Raises ApiError (503)."""
        provider = self.choice.provider or self.recipe.provider or ""
        upstream = self.names.upstream(provider)
        if upstream is None:
            text = (
                f"{provider}, which answers as {self.name}, has no address here: it is missing in finetune.toml, or "
                "finetune run has not started it yet."
            )
            raise ApiError(503, text, "no_upstream", kind="server_error")
        return upstream

    @property
    def base_url(self) -> str:
        url = self.choice.address or self.upstream.base_url
        return url.rstrip("/")

    def count(self, counted: Usage) -> None:
        self.counts.add(self.published.promotion, self.sha256, counted)

    def note_own_id(self, answer: Mapping[str, Any]) -> None:
        """Lets the program name the call by the id in its answer too. `answer` is one of a chat or of Responses."""
        own_id = answer.get("id")
        if self.id and isinstance(own_id, str):
            self.ids.note(own_id, self.id)

    def is_drawn(self) -> bool:
        """Decides by chance whether the call is stored once it is answered. Ask once for each answer."""
        return self.published.sampling is not None and self.sampler.draws(self.published)

    def sample(self, read_answer: ReadAnswer, usage: Usage, size: int) -> None:
        """Has the answered call stored, as it was drawn. `size` is the answer's, in bytes."""
        self.sampler.add(self._drawn(read_answer, usage, size))

    def sample_label(self, text: str, label: str, usage: Usage, number: int | None) -> None:
        """Has the classification of one text stored, as it was drawn. `number` is its number among several."""
        drawn = self._drawn(lambda: Turn("assistant", (label,)), usage, 0)
        question = {**self.body, "messages": [{"role": "user", "content": text}]}
        own_id = self.id
        if number is not None:
            own_id = f"{self.id}.{number}"
        self.sampler.add(replace(drawn, id=own_id, body=question, size=len(text)))

    def begin_stream(self) -> StreamedText | None:
        """Returns what collects the answer's text, None if the call was not drawn."""
        if not self.is_drawn():
            return None
        return StreamedText()

    def end_stream(self, text: StreamedText | None, usage: Usage) -> None:
        """Has the call stored if it was drawn and its answer is complete."""
        if text is not None and text.is_complete:
            drawn = self._drawn(text.read, usage, text.letters)
            self.sampler.add(replace(drawn, is_too_long=text.is_too_long))

    def report_break(self) -> None:
        """Reports that a stream broke off to the canary, if there is one."""
        if self.choice.canary is not None:
            self.canaries.report(self.choice.canary, "error")

    def _drawn(self, read_answer: ReadAnswer, usage: Usage, size: int) -> DrawnCall:
        return DrawnCall(
            id=self.id,
            published=self.published,
            recipe=self.sha256,
            fallback_from=self.choice.fallback_from,
            at=self.counts.clock(),
            body=self.body,
            headers=self.headers,
            read_answer=read_answer,
            usage=usage,
            size=size + self._request_bytes,
            live_test_problem=self.choice.live_test_problem,
        )

    @property
    def _request_bytes(self) -> int:
        """The size of the request; a middling one if the program sent it in parts."""
        length = self.headers.get("content-length", "")
        return int(length) if length.isdigit() else SIZE_OF_PARTS


Answerer = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class Requested:
    """What a program has requested under a name, and how that is answered."""

    body: Body
    headers: Mapping[str, str]
    published: Published
    answerer: Answerer


@dataclass(frozen=True)
class Calls:
    """Answers calls for all names."""

    names: Names
    client: UpstreamClient
    counts: UsageCounts
    ids: CallIds
    sampler: Sampler
    canaries: Canaries

    async def answer(self, request: Request, answerer: Answerer) -> Response:
        """Has `answerer` answer with what is in use, with the fallback that somebody chose for it, or with a candidate
        in a live test. Raises ApiError, and ClientDisconnect."""
        body = await read_object(request)
        if body is None:
            raise invalid("The request's body must be a JSON object.", None, "invalid_json")
        requested = Requested(body, request.headers, self._find(body), answerer)
        return await while_connected(request.receive, self._answer(requested))

    async def open(
        self, body: Body, published: Published, choice: Choice, headers: Mapping[str, str]
    ) -> Call:
        """Returns a call that the chosen recipe will answer. Raises ApiError (503)."""
        return Call(
            body,
            published,
            choice,
            await self.names.load(choice.sha256),
            self.client,
            self.names,
            self.counts,
            self.ids,
            self.sampler,
            self.canaries,
            headers,
        )

    def _find(self, body: Body) -> Published:
        name = body.get("model")
        if not isinstance(name, str) or not name:
            raise invalid("'model' must name what to call, such as 'team/tickets'.", "model", "invalid_type")
        published = self.names.find(name)
        if published is not None:
            return published
        names = [each.name for each in self.names.all() if each.recipe is not None]
        in_use = ", ".join(names) or "nothing yet"
        raise ApiError(404, f"Nothing is in use as '{name}'. In use: {in_use}.", "model_not_found", "model")

    async def _answer(self, requested: Requested) -> Response:
        published = requested.published
        gone = published.unavailable
        if gone is not None or published.recipe is None:
            if gone is None:
                gone = Unavailable(503, "unavailable", f"{published.name} is not in use now.")
            problem = ApiError(gone.status, gone.message, gone.code, kind=_kind_of(gone.status))
            return await self._fall_back(requested, problem, "unavailable")
        in_use = Choice(published.recipe, published.model, published.address, published.provider)
        canary = self.canaries.watch(published, requested.body, requested.headers)
        if canary is None:
            return await self._answer_in_use(requested, in_use)
        if not canary.side.is_candidate:
            return await self._answer_in_use(requested, replace(in_use, canary=canary.side), canary.limit_s)
        return await self._answer_by_candidate(requested, in_use, canary)

    async def _answer_in_use(
        self, requested: Requested, in_use: Choice, slow_s: float | None = None
    ) -> Response:
        """Answers with what is in use, or with its fallback. During a canary, `slow_s` is after how many seconds an
        answer is slow; it is not cut off then."""
        answering = self._try_in_time(requested, in_use)
        if in_use.canary is not None and slow_s is not None:
            answering = self._watch(answering, in_use.canary, slow_s)
        try:
            return await answering
        except (ApiError, VendorError) as error:
            problem = error
        why = reason_to_fall_back(problem)
        if why is None:
            return failure(problem, {})
        return await self._fall_back(requested, problem, why, in_use.live_test_problem)

    async def _fall_back(
        self,
        requested: Requested,
        problem: ApiError | VendorError,
        why: str,
        live_test_problem: str | None = None,
    ) -> Response:
        sha256 = requested.published.fallback
        if sha256 is None:
            return failure(problem, {})
        try:
            return await self._try(
                requested, Choice(sha256, fallback_from=why, live_test_problem=live_test_problem)
            )
        except (ApiError, VendorError) as error:
            return failure(error, {FALLBACK_HEADER: why})

    async def _watch(self, answering: Awaitable[Response], side: CanarySide, slow_s: float) -> Response:
        """Waits for an answer of what is in use, and reports if it errs or is slow."""
        began = time.monotonic()
        try:
            response = await answering
            if not await _has_begun(response):
                self.canaries.report(side, "error")
            return response
        except Exception as error:
            reason = event_of(error)
            if reason is not None:
                self.canaries.report(side, reason)
            raise
        finally:
            if time.monotonic() - began > slow_s:
                self.canaries.report(side, "slow")

    async def _answer_by_candidate(
        self, requested: Requested, in_use: Choice, canary: CanaryCall
    ) -> Response:
        """Answers with the candidate in a live test or, if it fails in whatever way, with what is in use."""
        try:
            return await self._try_candidate(requested, canary)
        except (ApiError, VendorError) as error:
            problem: Exception = error
            word = word_of(error)
        except Exception as error:
            log.error("answering with the candidate of live test %s", canary.side.live_test, exc_info=error)
            problem = error
            word = "internal_error"
        reason = event_of(problem)
        if reason is not None:
            self.canaries.report(canary.side, reason)
        response = await self._answer_in_use(requested, replace(in_use, live_test_problem=word))
        # What only the candidate refuses is its error too: programs would read it if the candidate were in use.
        if reason is None and response.status_code < 400:
            self.canaries.report(canary.side, "error")
        return response

    async def _try_candidate(self, requested: Requested, canary: CanaryCall) -> Response:
        """Raises ApiError and VendorError, also for a stream that doesn't begin."""
        choice = replace(candidate_of(canary.candidate), canary=canary.side)
        try:
            async with asyncio.timeout(canary.limit_s):
                response = await self._try(requested, choice)
                has_begun = await _has_begun(response)
        except TimeoutError:
            raise _too_slow("The candidate that is tried", canary.limit_s) from None
        if not has_begun:
            assert isinstance(response, EventStream)  # noqa: S101  others have begun
            await response.end()
            text = "The candidate that is tried broke off its answer."
            raise ApiError(502, text, "upstream_unreachable", kind="server_error")
        return response

    async def _try_in_time(self, requested: Requested, in_use: Choice) -> Response:
        """Has what is in use answer, for as long as the team wants to wait before its fallback does. A stream has
        answered once it begins."""
        answering = self._try(requested, in_use)
        published = requested.published
        seconds = published.fallback_after_s
        if published.fallback is None or seconds is None:
            return await answering
        try:
            async with asyncio.timeout(seconds):
                return await answering
        except TimeoutError:
            raise _too_slow(published.name, seconds) from None

    async def _try(self, requested: Requested, choice: Choice) -> Response:
        call = await self.open(requested.body, requested.published, choice, requested.headers)
        try:
            response = await requested.answerer(call)
        except asyncio.CancelledError:  # nobody waits any more, and the provider may bill the call
            call.count(LOST)
            raise
        except ApiError as problem:
            problem.headers = {**problem.headers, **call.answer_headers}
            call.count(FAILED)
            raise
        except VendorError as error:
            error.headers = {**error.headers, **call.answer_headers}
            call.count(FAILED)
            raise
        response.headers.update(call.answer_headers)
        if call.id:
            response.headers[CALL_HEADER] = call.id
        return response


def candidate_of(live_test: PublishedTest) -> Choice:
    """Returns the choice of a candidate in a live test."""
    return Choice(live_test.recipe, live_test.model, live_test.address, live_test.provider)


async def _has_begun(response: Response) -> bool:
    """Waits until a stream begins. Returns False if it broke off before that."""
    if isinstance(response, EventStream):
        return await response.begin()
    return True


def _too_slow(who: str, seconds: float) -> ApiError:
    text = f"{who} gave no answer within {seconds:g} s."
    return ApiError(504, text, TOO_SLOW, kind="server_error")


def read_messages(body: Body) -> Sequence[Mapping[str, Any]]:
    """Raises ApiError (400)."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("'messages' must be a list with at least one message.", "messages", "invalid_type")
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in prompts.ROLES:
            roles = ", ".join(sorted(prompts.ROLES))
            text = f"'messages[{number}]' must be an object with a role: {roles}."
            raise invalid(text, f"messages[{number}]")
    return messages


def read_stream_options(body: Body) -> Mapping[str, Any]:
    """Raises ApiError (400)."""
    return as_object(body.get(STREAM_OPTIONS), STREAM_OPTIONS)


def reason_to_fall_back(error: ApiError | VendorError) -> str | None:
    """Returns the reason in a word, None if another model would get the same request in vain, or be asked in place of
    an answer that the program should read."""
    if error.status < 500 and error.status != 429:
        return None
    return word_of(error)


def word_of(error: ApiError | VendorError) -> str:
    """Returns what went wrong, in a word for a header."""
    if isinstance(error, ApiError):
        return error.code or "error"
    return f"upstream_{error.status}"


def event_of(error: Exception) -> EventReason | None:
    """Returns what an error is during a canary, None if it may be the request's fault."""
    if not isinstance(error, ApiError | VendorError):
        return "error"
    why = reason_to_fall_back(error)
    if why is None:
        return None
    if why == TOO_SLOW:
        return "slow"
    return "error"


def failure(error: ApiError | VendorError, headers: Mapping[str, str]) -> Response:
    """Returns the answer for an error, a provider's own as it came."""
    if isinstance(error, VendorError):
        return Response(error.content, error.status, {**error.headers, **headers})
    response = error.response()
    response.headers.update(headers)
    return response


def _kind_of(status: int) -> str:
    if status >= 500:
        return "server_error"
    return "invalid_request_error"
