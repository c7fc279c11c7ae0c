"""Chat completions: parses the request, waits for the generator, answers whole or as server-sent events.

A parameter that would change the answer and isn't supported is refused; one that is given at its neutral
value, or that only labels the request, is accepted.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from trainers.local.problems import Problem, invalid
from trainers.local.serving.serve import (
    Answered,
    ChatMessage,
    Generator,
    Outcome,
    Piece,
    Sampling,
    Target,
    Ticket,
)

ROLES = ("system", "developer", "user", "assistant", "tool")
LABELS = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
OWN = frozenset(
    {
        *("model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens"),
        *("stop", "seed", "stream", "stream_options"),
    }
)
DISCONNECT_POLL_S = 1.0


@dataclass(frozen=True)
class ChatOrder:
    model: str
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    streams: bool
    includes_usage: bool


def parse_chat(body: Mapping[str, Any]) -> ChatOrder:
    """Raises Problem (400) that names the field."""
    for name, value in body.items():
        _check_known(name, value)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("Missing required parameter 'model'.", "model", "missing_required_parameter")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise invalid("'stream_options' must be an object.", "stream_options", "invalid_type")
    return ChatOrder(
        model=model,
        messages=_messages(body.get("messages")),
        sampling=_sampling(body),
        streams=_flag(body, "stream"),
        includes_usage=_flag(options, "include_usage"),
    )


def _check_known(name: str, value: object) -> None:
    if name in OWN or name in LABELS or value is None:
        return
    if name not in NEUTRAL:
        raise invalid(f"This trainer does not know the parameter '{name}'.", name, "unknown_parameter")
    if value not in NEUTRAL[name]:
        text = f"This trainer does not support '{name}' at {value!r}. Leave it out."
        raise invalid(text, name, "unsupported_value")


def _messages(messages: object) -> tuple[ChatMessage, ...]:
    if not isinstance(messages, list) or not messages:
        raise invalid("'messages' must be a list with at least one message.", "messages")
    return tuple(_message(message, f"messages[{number}]") for number, message in enumerate(messages))


def _message(message: object, path: str) -> ChatMessage:
    if not isinstance(message, dict):
        raise invalid(f"'{path}' must be an object.", path, "invalid_type")
    role = message.get("role")
    if role not in ROLES:
        raise invalid(f"'{path}.role' is {role!r}; allowed are {', '.join(ROLES)}.", f"{path}.role")
    return ChatMessage(str(role), _content(message.get("content"), f"{path}.content"))


def _content(content: object, path: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(_is_text_part(part) for part in content):
        return "".join(part["text"] for part in content)
    raise invalid(f"'{path}' must be text, or a list of parts of type 'text'.", path, "invalid_type")


def _is_text_part(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(f"'{name}' must be true or false.", name, "invalid_type")
    return bool(value)


def _sampling(body: Mapping[str, Any]) -> Sampling:
    most = _number(body, "max_completion_tokens", 1, 1_000_000, whole=True)
    older = _number(body, "max_tokens", 1, 1_000_000, whole=True)
    temperature = _number(body, "temperature", 0, 2)
    top_p = _number(body, "top_p", 0, 1)
    seed = _number(body, "seed", -(2**63), 2**63 - 1, whole=True)
    limit = most if most is not None else older
    return Sampling(
        temperature=1.0 if temperature is None else float(temperature),
        top_p=1.0 if top_p is None else float(top_p),
        max_tokens=None if limit is None else int(limit),
        stop=_stop(body.get("stop")),
        seed=None if seed is None else int(seed),
    )


def _number(
    body: Mapping[str, Any], name: str, low: int, high: int, *, whole: bool = False
) -> int | float | None:
    value = body.get(name)
    if value is None:
        return None
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not fits or not low <= value <= high:
        kind = "whole number" if whole else "number"
        raise invalid(f"'{name}' must be a {kind} from {low} to {high}.", name)
    return value  # type: ignore[no-any-return]


def _stop(stop: object) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(s, str) and s for s in stops):
        raise invalid("'stop' must be text or a list of at most 4 texts, none of them empty.", "stop")
    return tuple(stops)


async def complete(request: Request, generator: Generator, target: Target, order: ChatOrder) -> Response:
    """Raises Problem before the first byte is sent; after it a problem is a last event of the stream."""
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[Outcome] = asyncio.Queue()
    ticket = generator.submit(
        target,
        order.messages,
        order.sampling,
        streams=order.streams,
        emit=lambda outcome: loop.call_soon_threadsafe(inbox.put_nowait, outcome),
    )
    try:
        first = await _first(request, inbox)
    except BaseException:
        ticket.abandon()
        raise
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": order.model}
    if order.streams:
        return StreamingResponse(_events(first, inbox, ticket, head, order), media_type="text/event-stream")
    return JSONResponse(await _whole(first, inbox, head))


async def _first(request: Request, inbox: asyncio.Queue[Outcome]) -> Outcome:
    """The first outcome. A client that hung up in the meantime raises Problem, which nobody will read."""
    while True:
        try:
            outcome = await asyncio.wait_for(inbox.get(), DISCONNECT_POLL_S)
        except TimeoutError:
            if await request.is_disconnected():
                raise Problem(499, "The client hung up.") from None
            continue
        if isinstance(outcome, Problem):
            raise outcome
        return outcome


async def _whole(first: Outcome, inbox: asyncio.Queue[Outcome], head: dict[str, Any]) -> dict[str, Any]:
    text, outcome = "", first
    while not isinstance(outcome, Answered):
        if isinstance(outcome, Problem):
            raise outcome
        text += outcome.text
        outcome = await inbox.get()
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": outcome.reason}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(outcome)}


async def _events(
    first: Outcome, inbox: asyncio.Queue[Outcome], ticket: Ticket, head: dict[str, Any], order: ChatOrder
) -> AsyncIterator[bytes]:
    usage = {"usage": None} if order.includes_usage else {}
    chunk = {**head, "object": "chat.completion.chunk", **usage}
    try:
        yield _event({**chunk, "choices": [_delta({"role": "assistant", "content": "", "refusal": None})]})
        outcome = first
        while isinstance(outcome, Piece):
            yield _event({**chunk, "choices": [_delta({"content": outcome.text})]})
            outcome = await inbox.get()
        if isinstance(outcome, Problem):
            yield _event({"error": outcome.body()})
            return
        yield _event({**chunk, "choices": [_delta({}, outcome.reason)]})
        if order.includes_usage:
            yield _event({**chunk, "choices": [], "usage": _usage(outcome)})
        yield b"data: [DONE]\n\n"
    finally:
        ticket.abandon()


def _event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _delta(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _usage(answered: Answered) -> dict[str, int]:
    return {
        "prompt_tokens": answered.prompt_tokens,
        "completion_tokens": answered.completion_tokens,
        "total_tokens": answered.prompt_tokens + answered.completion_tokens,
    }
