"""POST /v1/responses: chats in the form of OpenAI's newer API, with text and function calls, streamed or not.

A request is converted to one for a chat completion, so that each rule is written once. Nothing is stored, so clients
send a conversation in full each time, and `previous_response_id`, `conversation` and `background` are refused."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
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
CONVERSATION_FIELDS = ("previous_response_id", "conversation")
KNOWN = frozenset(
    {
        *SAME_IN_CHATS,
        *CONVERSATION_FIELDS,
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
    """`echo` has the fields of the request that its answer repeats."""

    echo: Body


def parse_response(body: Mapping[str, Any]) -> ResponseParams:
    """Raises ApiError (400), which names the field."""
    for name, value in body.items():
        check_parameter(name, value, KNOWN, NEUTRAL)
        if name in CONVERSATION_FIELDS and value is not None:
            text = f"'{name}' names a conversation, and this trainer stores none. Send it in full as 'input'."
            raise invalid(text, name, "unsupported_parameter")
    try:
        chat = parse_chat(_as_chat(body))
    except ApiError as problem:
        param = problem.param or ""
        field = next((name for name in NAMES if param.startswith(name)), None)
        if field is None:
            raise
        message = re.sub(rf"'{re.escape(field)}\b", f"'{NAMES[field]}", problem.message)
        raise replace(problem, message=message, param=NAMES[field] + param.removeprefix(field)) from problem
    return ResponseParams(**vars(chat), echo=_echo(body, chat))


def _as_chat(body: Mapping[str, Any]) -> Body:
    chat = responses.as_chat(body)
    more = {name: body.get(name) for name in SENT_TO_CHATS}
    more["verbosity"] = as_object(body.get("text"), "text").get("verbosity")
    return chat | {name: value for name, value in more.items() if value is not None}


def _echo(body: Mapping[str, Any], chat: ChatParams) -> Body:
    return responses.echo(
        body,
        max_output_tokens=chat.sampling.max_tokens,
        reasoning={"effort": "none", "summary": None},  # models don't reason here
        temperature=chat.sampling.temperature,
        top_logprobs=chat.sampling.top_logprobs or 0,
        top_p=chat.sampling.top_p,
    )


async def respond(
    request: Request, engine: GenerationEngine, target: Target, params: ResponseParams
) -> Response:
    """Answers a request. Raises ApiError before the first byte is sent; a later error is the stream's last event."""
    inbox = submit_chat(request, engine, target, params)
    head = responses.new_head(params.model, params.echo)
    if not params.streams:
        (answer,) = await inbox.answers(1)
        parts: list[Part] = [
            Text(answer.text, _logprobs(answer.tokens)),
            *_calls(AnswerCalls(0, answer.calls)),
            _end(answer.end),
        ]
        return JSONResponse(responses.complete_body(head, parts))
    first = await inbox.next_outcome()
    return StreamingResponse(_stream(first, inbox, head), media_type="text/event-stream")


async def _stream(first: Outcome, inbox: Inbox, head: Body) -> AsyncIterator[bytes]:
    number = 0
    try:
        async for event in responses.encode_events(head, _parts(first, inbox)):
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
