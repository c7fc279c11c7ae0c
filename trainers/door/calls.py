"""One call of a program: which recipe answers it, whether another may answer instead, and what is counted.

How a chat, Responses or a classification is asked and answered is in modules of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from trainers.door.call_ids import AnsweredCall, CallIds
from trainers.door.call_texts import StreamedText, Turn
from trainers.door.counts import FAILED, LOST, UsageCounts
from trainers.door.names import LoadedRecipe, Names
from trainers.door.sampler import DrawnCall, ReadAnswer, Sampler
from trainers.door.streams import read_object, while_connected
from trainers.door.upstreams import UpstreamClient, VendorError
from trainers.http.errors import ApiError, as_object, invalid
from trainers.recipes import prompts
from trainers.recipes.usage import Usage
from trainers.recipes.values import Published, Recipe, Unavailable, Upstream

CALL_HEADER = "x-finetune-call"
RECIPE_HEADER = "x-finetune-recipe"
FALLBACK_HEADER = "x-finetune-fallback"
SHORT_HASH = 12
SIZE_OF_PARTS = 100_000  # bytes, assumed for a request without a length
STREAM_OPTIONS = "stream_options"
Body = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A program's request, `body`, and the recipe that answers it. `fallback_from` says in a word why that is the
    fallback, None if it is what is in use."""

    body: Body
    published: Published
    loaded: LoadedRecipe
    client: UpstreamClient
    names: Names
    counts: UsageCounts
    ids: CallIds
    sampler: Sampler
    headers: Mapping[str, str]
    fallback_from: str | None = None

    @cached_property
    def id(self) -> str:
        """The id by which a program can say how good the answer was, "" for what nobody promoted."""
        promotion = self.published.promotion
        if promotion is None:
            return ""
        return self.ids.new(AnsweredCall(self.name, promotion, self.sha256, int(self.counts.clock())))

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
        if self.fallback_from is not None:
            headers[FALLBACK_HEADER] = self.fallback_from
        return headers

    @property
    def sha256(self) -> str:
        """The hash of the recipe, under which it is published."""
        sha256 = self.published.recipe
        if self.fallback_from is not None:
            sha256 = self.published.fallback
        assert sha256 is not None  # noqa: S101  it was loaded
        return sha256

    @cached_property
    def upstream(self) -> Upstream:
        """The provider that is asked. Raises ApiError (503)."""
        provider = self.recipe.provider or ""
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
        url = self.upstream.base_url
        if self.fallback_from is None and self.published.address is not None:
            url = self.published.address
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

    def sample_label(self, text: str, label: str, usage: Usage, place: int | None) -> None:
        """Has the classification of one text stored, as it was drawn. `place` is its place among several."""
        drawn = self._drawn(lambda: Turn("assistant", (label,)), usage, 0)
        question = {**self.body, "messages": [{"role": "user", "content": text}]}
        own_id = self.id if place is None else f"{self.id}.{place}"
        self.sampler.add(replace(drawn, id=own_id, body=question, size=len(text)))

    def begin_stream(self) -> StreamedText | None:
        """Returns what collects the answer's text, None if the call was not drawn."""
        return StreamedText() if self.is_drawn() else None

    def end_stream(self, text: StreamedText | None, usage: Usage) -> None:
        """Has the call stored if it was drawn and its answer is complete."""
        if text is not None and text.is_complete:
            drawn = self._drawn(text.read, usage, text.letters)
            self.sampler.add(replace(drawn, is_too_long=text.is_too_long))

    def _drawn(self, read_answer: ReadAnswer, usage: Usage, size: int) -> DrawnCall:
        return DrawnCall(
            id=self.id,
            published=self.published,
            recipe=self.sha256,
            fallback_from=self.fallback_from,
            at=self.counts.clock(),
            body=self.body,
            headers=self.headers,
            read_answer=read_answer,
            usage=usage,
            size=size + self._request_bytes,
        )

    @property
    def _request_bytes(self) -> int:
        """The size of the request; a middling one if the program sent it in parts."""
        length = self.headers.get("content-length", "")
        return int(length) if length.isdigit() else SIZE_OF_PARTS


Answerer = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class Calls:
    """Answers calls for all names."""

    names: Names
    client: UpstreamClient
    counts: UsageCounts
    ids: CallIds
    sampler: Sampler

    async def answer(self, request: Request, answerer: Answerer) -> Response:
        """Has `answerer` answer with what is in use, or with the fallback that somebody chose for it. Raises ApiError,
        and ClientDisconnect."""
        body = await read_object(request)
        if body is None:
            raise invalid("The request's body must be a JSON object.", None, "invalid_json")
        published = self._find(body)
        return await while_connected(request.receive, self._answer(request, body, published, answerer))

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

    async def _answer(
        self, request: Request, body: Body, published: Published, answerer: Answerer
    ) -> Response:
        gone = published.unavailable
        problem: ApiError | VendorError
        if gone is not None or published.recipe is None:
            if gone is None:
                gone = Unavailable(503, "unavailable", f"{published.name} is not in use now.")
            problem = ApiError(gone.status, gone.message, gone.code, kind=_kind_of(gone.status))
            why: str | None = "unavailable"
        else:
            try:
                return await self._try_in_time(request, body, published, published.recipe, answerer)
            except (ApiError, VendorError) as error:
                problem = error
                why = reason_to_fall_back(error)
        if why is None or published.fallback is None:
            return failure(problem, {})
        try:
            return await self._try(request, body, published, published.fallback, why, answerer)
        except (ApiError, VendorError) as error:
            return failure(error, {FALLBACK_HEADER: why})

    async def _try_in_time(
        self, request: Request, body: Body, published: Published, sha256: str, answerer: Answerer
    ) -> Response:
        """Has what is in use answer, for as long as the team wants to wait before its fallback does. A stream has
        answered once it begins."""
        answering = self._try(request, body, published, sha256, None, answerer)
        seconds = published.fallback_after_s
        if published.fallback is None or seconds is None:
            return await answering
        try:
            async with asyncio.timeout(seconds):
                return await answering
        except TimeoutError:
            text = f"{published.name} gave no answer within {seconds:g} s."
            raise ApiError(504, text, "too_slow", kind="server_error") from None

    async def _try(
        self,
        request: Request,
        body: Body,
        published: Published,
        sha256: str,
        fallback_from: str | None,
        answerer: Answerer,
    ) -> Response:
        call = await self.open(body, published, sha256, request.headers, fallback_from)
        try:
            response = await answerer(call)
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

    async def open(
        self,
        body: Body,
        published: Published,
        sha256: str,
        headers: Mapping[str, str],
        fallback_from: str | None = None,
    ) -> Call:
        """Returns a call that this recipe will answer. Raises ApiError (503)."""
        return Call(
            body,
            published,
            await self.names.load(sha256),
            self.client,
            self.names,
            self.counts,
            self.ids,
            self.sampler,
            headers,
            fallback_from,
        )


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
    if isinstance(error, ApiError):
        return error.code
    return f"upstream_{error.status}"


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
