"""POST /v1/responses: chats in the form of OpenAI's newer API, with text and function calls, streamed or not.

A request is converted to one for a chat completion, so that each rule is written once. A response is stored for a while
unless the request forbids it (stored_responses.py), and `previous_response_id` continues it. `conversation` and
`background` are refused."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from trainers.http import responses
from trainers.http.errors import ApiError, as_object, invalid
from trainers.http.responses import SAME_IN_CHATS, End, FunctionCall, Part, Text
from trainers.local.api.chat_completions import Body, likelihood_body, new_call_id, submit_chat, usage_body
from trainers.local.api.chat_requests import OF_VLLM, ChatParams, check_parameter, parse_chat
from trainers.local.api.inbox import Inbox
from trainers.local.api.stored_responses import StoredResponses, owner_of
from trainers.local.serving.values import (
    AnswerCalls,
    AnswerEnd,
    GenerationEngine,
    Likelihood,
    Outcome,
    Piece,
    Target,
)

SENT_TO_CHATS = (*OF_VLLM, "chat_template_kwargs", "prompt_cache_retention")
KNOWN = frozenset(
    {
        *SAME_IN_CHATS,
        *("previous_response_id", "conversation"),
        *("input", "instructions", "max_output_tokens", "tools", "tool_choice", "text", "top_logprobs"),
        *("reasoning", "include", "store", "stream_options", "safety_identifier", "prompt_cache_key"),
        *SENT_TO_CHATS,
    }
)
NEUTRAL: Mapping[str, tuple[object, ...]] = {"background": (False,), "truncation": ("disabled",)}
# A chat completion's field → the field of this API that it comes from, which a refusal has to name.
NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
}


@dataclass(frozen=True)
class ResponseParams(ChatParams):
    """`echo` has the fields of the request that its answer repeats. `items` are those of the conversation with the
    request's own, without its instructions, which OpenAI doesn't carry over either."""

    echo: Body
    items: Sequence[object]
    is_stored: bool


def parse_response(body: Mapping[str, Any], before: Sequence[object] = ()) -> ResponseParams:
    """`before` are the items of the conversation that the request continues. Raises ApiError (400), which names the
    field."""
    for name, value in body.items():
        check_parameter(name, value, KNOWN, NEUTRAL)
        if name == "conversation" and value is not None:
            text = (
                "This trainer has no conversations, so 'conversation' is refused. Continue a response by "
                "'previous_response_id', or send the conversation in full as 'input'."
            )
            raise invalid(text, name, "unsupported_parameter")
    is_stored = body.get("store")
    if not isinstance(is_stored, bool | None):
        raise invalid("'store' must be true or false.", "store", "invalid_type")
    try:
        chat = parse_chat(_as_chat(body, before))
    except ApiError as problem:
        param = problem.param or ""
        field = next((name for name in NAMES if param.startswith(name)), None)
        if field is None:
            raise
        message = re.sub(rf"'{re.escape(field)}\b", f"'{NAMES[field]}", problem.message)
        raise replace(problem, message=message, param=NAMES[field] + param.removeprefix(field)) from problem
    own_items = responses.read_items({"input": body["input"]})
    return ResponseParams(
        **vars(chat),
        echo=_echo(body, chat),
        items=[*before, *own_items],
        is_stored=is_stored is not False,
    )


def _as_chat(body: Mapping[str, Any], before: Sequence[object]) -> Body:
    chat = responses.as_chat(body, before)
    more = {name: body.get(name) for name in SENT_TO_CHATS}
    more["verbosity"] = as_object(body.get("text"), "text").get("verbosity")
    return chat | {name: value for name, value in more.items() if value is not None}


def _echo(body: Mapping[str, Any], chat: ChatParams) -> Body:
    return responses.echo(
        body,
        max_output_tokens=chat.sampling.max_tokens,
        previous_response_id=body.get("previous_response_id"),
        reasoning={"effort": "none", "summary": None},  # models don't reason here
        store=body.get("store") is not False,
        temperature=chat.sampling.temperature,
        top_logprobs=chat.sampling.top_logprobs or 0,
        top_p=chat.sampling.top_p,
    )


async def respond(
    stored: StoredResponses,
    request: Request,
    engine: GenerationEngine,
    target: Target,
    params: ResponseParams,
) -> Response:
    """Answers a request. Raises ApiError before the first byte is sent; a later error is the stream's last event."""

    def store(body: Body) -> None:
        # The model may have been deleted while it answered.
        is_there = target.adapter is None or target.adapter.is_dir()
        if params.is_stored and is_there:
            stored.add(owner_of(request), body, params.items)

    inbox = submit_chat(request, engine, target, params)
    head = responses.new_head(params.model, params.echo)
    if not params.streams:
        (answer,) = await inbox.answers(1)
        parts: list[Part] = [
            Text(answer.text, _logprobs(answer.tokens)),
            *_calls(AnswerCalls(0, answer.calls)),
            _end(answer.end),
        ]
        body = responses.complete_body(head, parts)
        store(body)
        return JSONResponse(body)
    first = await inbox.next_outcome()
    return StreamingResponse(_stream(first, inbox, head, store), media_type="text/event-stream")


async def _stream(
    first: Outcome, inbox: Inbox, head: Body, store: Callable[[Body], None]
) -> AsyncIterator[bytes]:
    number = 0
    try:
        async for event in responses.encode_events(head, _parts(first, inbox), store):
            yield event
            number += 1
    except ApiError as problem:
        yield responses.encode_event("error", number, problem.body())
    finally:
        inbox.abandon()


async def _parts(first: Outcome, inbox: Inbox) -> AsyncIterator[Part]:
    async for outcome in inbox.parts(first, 1):
        if isinstance(outcome, Piece):
            yield Text(outcome.text, _logprobs(outcome.tokens))
        elif isinstance(outcome, AnswerCalls):
            for call in _calls(outcome):
                yield call
        elif isinstance(outcome, AnswerEnd):
            yield _end(outcome)


def _logprobs(tokens: Sequence[Likelihood]) -> list[Body]:
    return [likelihood_body(token) for token in tokens]


def _calls(outcome: AnswerCalls) -> Iterator[FunctionCall]:
    for call in outcome.calls:
        yield FunctionCall(new_call_id(), call.name, call.arguments)


def _end(end: AnswerEnd) -> End:
    return End(is_cut=end.reason == "length", usage=usage_body([end]))
