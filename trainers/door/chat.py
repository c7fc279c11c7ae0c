"""POST /v1/chat/completions: forwarded with the prompt and the parameters that were measured, or answered by a free
candidate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import orjson
from starlette.responses import Response

from trainers.door import free_chat, relay
from trainers.door.calls import STREAM_OPTIONS, Body, Call, read_messages, read_stream_options
from trainers.door.streams import encode_event
from trainers.door.upstreams import UpstreamAnswer, VendorError
from trainers.errors import Refused
from trainers.http.errors import ApiError
from trainers.models import chat_parameters
from trainers.models.chat_parameters import ChatParameters
from trainers.recipes import prompts

PATH = "/chat/completions"
# By address and model: parameters that it has refused, which are not sent to it again. A restart asks once more.
_refused: dict[tuple[str, str], frozenset[str]] = {}


class WriteRequest(Protocol):
    def __call__(self, ours: ChatParameters, *, counts_stream: bool) -> Body:
        """Returns the request with these parameters."""


async def answer_chat(call: Call) -> Response:
    """Answers a chat completion. Raises ApiError and VendorError."""
    if call.recipe.is_free:
        return await free_chat.answer_chat(call)
    answer, has_our_usage = await ask(call, call.body)
    if call.body.get("stream") is not True:
        return relay.pass_on(call, answer)

    def is_ours(event: Mapping[str, Any]) -> bool:
        return has_our_usage and event.get("choices") == []

    def usage_of(event: Mapping[str, Any]) -> object:
        return event.get("usage")

    return relay.pass_on_events(call, answer, usage_of, is_ours, encode_error)


def encode_error(problem: ApiError) -> bytes:
    return encode_event({"error": problem.body()})


async def ask(call: Call, body: Body) -> tuple[UpstreamAnswer, bool]:
    """Asks the model for a chat completion. Returns its answer, and whether a stream of it names its usage for us
    alone. Raises ApiError and VendorError."""
    messages = read_messages(body)
    options = read_stream_options(body)
    shown = await call.loaded.show(messages)
    prompt = prompts.write_prompt(call.recipe, messages, shown)
    extra = orjson.loads(call.upstream.chat_extra or "{}")

    def write(ours: ChatParameters, *, counts_stream: bool) -> Body:
        request = {**extra, **prompts.fill(body, ours), "model": model_of(call), "messages": prompt}
        if counts_stream:
            request[STREAM_OPTIONS] = {**options, "include_usage": True}
        return request

    wants_count = _leaves_usage_open(body, options)
    return await ask_without_refused(call, PATH, body, write, wants_count=wants_count)


async def ask_without_refused(
    call: Call, path: str, body: Body, write: WriteRequest, *, wants_count: bool
) -> tuple[UpstreamAnswer, bool]:
    """Asks the model what `write` returns. A parameter that the model refuses, and the program did not set, is left out
    from then on; a refusal costs nothing. Returns the answer, and whether its stream was asked to name its usage."""
    key = (call.base_url, model_of(call))
    while True:
        refused = _refused.get(key, frozenset())
        measured = prompts.measured_parameters(call.recipe, refused)
        ours = prompts.open_parameters(measured, body)
        counts_stream = wants_count and STREAM_OPTIONS not in refused
        try:
            request = write(ours, counts_stream=counts_stream)
            answer = await relay.send(call, path, request)
            return answer, counts_stream
        except VendorError as error:
            more = _newly_refused(ours, body, refused, error, counts_stream=counts_stream)
            if more is None:
                raise
            # Another call may have learnt of another refused parameter in the meantime.
            known_by_now = _refused.get(key, frozenset())
            _refused[key] = known_by_now | more


def model_of(call: Call) -> str:
    """Returns the name by which the provider knows the model. One on a machine by the hour changes it."""
    if call.choice.model is not None:
        return call.choice.model
    model, _ = chat_parameters.split_effort(call.recipe.model or "")
    return model


def _leaves_usage_open(body: Body, options: Mapping[str, Any]) -> bool:
    """True for a stream of which the program doesn't say whether it should name its usage. Other answers always do."""
    return body.get("stream") is True and options.get("include_usage") is None


def _newly_refused(
    ours: ChatParameters, body: Body, refused: frozenset[str], error: VendorError, *, counts_stream: bool
) -> frozenset[str] | None:
    """Returns `refused` plus the parameter that this refusal is about; None if the program set it."""
    raw = error.error
    message = str(raw.get("message") or "")
    refusal = Refused(
        message,
        code=_text_or_none(raw.get("code")),
        status=error.status,
        param=_text_or_none(raw.get("param")),
    )
    is_about_stream = STREAM_OPTIONS in (refusal.param or message)
    if counts_stream and error.status in (400, 422) and is_about_stream:
        return refused | {STREAM_OPTIONS}
    more = chat_parameters.refused_parameters(ours, refused, refusal)
    if more is None:
        return None
    chosen = {name for name in more - refused if body.get(name) is not None}
    if chosen - chat_parameters.TOKEN_LIMITS:
        return None
    return more


def _text_or_none(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    return value
