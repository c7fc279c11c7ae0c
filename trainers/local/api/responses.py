"""POST /v1/responses: chats in the form of OpenAI's newer API, with text and function calls, streamed or not.

A request is converted to one for a chat completion, so that each rule is written once. Nothing is stored, so clients
send a conversation in full each time, and `previous_response_id`, `conversation` and `background` are refused."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from trainers.http.errors import ApiError, invalid
from trainers.local.api.chat_completions import Body, likelihood_body, new_call_id, submit_chat, usage_body
from trainers.local.api.chat_requests import ChatParams, check_parameter, parse_chat
from trainers.local.api.inbox import Answer, Inbox
from trainers.local.serving.values import (
    AnswerCalls,
    AnswerEnd,
    GenerationEngine,
    Likelihood,
    Outcome,
    Piece,
    Target,
)
from trainers.local.tool_calls import ToolCall

SAME_IN_CHATS = (
    *("model", "temperature", "top_p", "stream", "parallel_tool_calls"),
    *("user", "metadata", "service_tier"),
)
CONVERSATION_FIELDS = ("previous_response_id", "conversation")
KNOWN = frozenset(
    {
        *SAME_IN_CHATS,
        *CONVERSATION_FIELDS,
        *("input", "instructions", "max_output_tokens", "tools", "tool_choice", "text", "top_logprobs"),
        *("reasoning", "include", "store", "stream_options", "safety_identifier", "prompt_cache_key"),
    }
)
NEUTRAL: Mapping[str, tuple[object, ...]] = {"background": (False,), "truncation": ("disabled",)}
LOGPROBS = "message.output_text.logprobs"
# A chat completion's field → the field of this API that it comes from, which a refusal has to name.
NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
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
    """Returns the body of a chat completion that asks for the same."""
    form = _object(body, "text").get("format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        form = {"type": "json_schema", "json_schema": {key: form[key] for key in form if key != "type"}}
    include = body.get("include") or []
    if not isinstance(include, list):
        raise invalid("'include' must be a list of texts.", "include", "invalid_type")
    tools = body.get("tools")
    if isinstance(tools, list):
        tools = [_tool_of_chat(tool) for tool in tools]
    choice = body.get("tool_choice")
    match choice:
        case {"type": "function", "name": name}:
            choice = {"type": "function", "function": {"name": name}}
    same = {name: body.get(name) for name in SAME_IN_CHATS}
    chat = {
        **same,
        "messages": _messages(body),
        "max_completion_tokens": body.get("max_output_tokens"),
        "response_format": form,
        "reasoning_effort": _object(body, "reasoning").get("effort"),
        "tools": tools,
        "tool_choice": choice,
        "logprobs": LOGPROBS in include or bool(body.get("top_logprobs")) or None,
        "top_logprobs": body.get("top_logprobs"),
    }
    return {name: value for name, value in chat.items() if value is not None}


def _tool_of_chat(tool: object) -> object:
    """Turns {"type": "function", "name": …} into {"type": "function", "function": {"name": …}}."""
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return tool  # the chat's parser refuses it
    function = {key: value for key, value in tool.items() if key != "type"}
    return {"type": "function", "function": function}


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name) or {}
    if not isinstance(value, dict):
        raise invalid(f"'{name}' must be an object.", name, "invalid_type")
    return value


def _messages(body: Mapping[str, Any]) -> list[Body]:
    items = body.get("input")
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    if not isinstance(items, list) or not items:
        raise invalid("'input' must be text, or a list with at least one item.", "input")
    messages: list[Body] = []
    instructions = body.get("instructions")
    if instructions is not None:
        if not isinstance(instructions, str):
            raise invalid("'instructions' must be text.", "instructions", "invalid_type")
        messages.append({"role": "system", "content": instructions})
    for number, item in enumerate(items):
        _append(item, f"input[{number}]", messages)
    return messages


def _append(item: object, path: str, messages: list[Body]) -> None:
    """Appends an item of the input. A call is added to the assistant's message before it, since a chat completion has
    both in one message."""
    match item:
        case {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}:
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            function = {"name": name, "arguments": arguments}
            calls = messages[-1].setdefault("tool_calls", [])
            calls.append({"id": call_id, "type": "function", "function": function})
        case {"type": "function_call_output", "call_id": call_id, "output": output}:
            messages.append({"role": "tool", "tool_call_id": call_id, "content": _content(output)})
        case {"type": "reasoning"}:
            pass  # another model's thoughts, which clients send back with its answer
        case {"role": role, "content": content}:
            messages.append({"role": role, "content": _content(content)})
        case _:
            text = f"'{path}' must be a message, a function_call or a function_call_output."
            raise invalid(text, path)


def _content(content: object) -> object:
    """Renames text parts as chat completions name them."""
    if not isinstance(content, list):
        return content
    parts = []
    for part in content:
        if isinstance(part, dict) and part.get("type") in ("input_text", "output_text"):
            part = {**part, "type": "text"}
        parts.append(part)
    return parts


def _echo(body: Mapping[str, Any], chat: ChatParams) -> Body:
    return {
        "instructions": body.get("instructions"),
        "max_output_tokens": chat.sampling.max_tokens,
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": "none", "summary": None},  # models don't reason here
        "store": False,
        "temperature": chat.sampling.temperature,
        "text": {"format": {"type": "text"}, **_object(body, "text")},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_logprobs": chat.sampling.top_logprobs or 0,
        "top_p": chat.sampling.top_p,
        "truncation": "disabled",
    }


async def respond(
    request: Request, engine: GenerationEngine, target: Target, params: ResponseParams
) -> Response:
    """Answers a request. Raises ApiError before the first byte is sent; a later error is the stream's last event."""
    inbox = submit_chat(request, engine, target, params)
    head = {
        "id": _new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "model": params.model,
        "error": None,
        "incomplete_details": None,
        "usage": None,
        **params.echo,
    }
    if not params.streams:
        (answer,) = await inbox.answers(1)
        return JSONResponse(_final_body(head, _output(answer, _new_id("msg")), answer.end))
    first = await inbox.next_outcome()
    return StreamingResponse(_stream(first, inbox, head), media_type="text/event-stream")


def _final_body(head: Body, output: Sequence[Body], end: AnswerEnd) -> Body:
    usage = usage_body([end])
    ended: Body = {"status": "completed", "completed_at": int(time.time()), "incomplete_details": None}
    if end.reason == "length":
        reason = {"reason": "max_output_tokens"}
        ended = {"status": "incomplete", "completed_at": None, "incomplete_details": reason}
    return {
        **head,
        **ended,
        "output": output,
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        },
    }


def _output(answer: Answer, message_id: str) -> list[Body]:
    """Returns the answer's message, unless it only calls, followed by its calls."""
    calls: list[Body] = [
        {
            "id": _new_id("fc"),
            "type": "function_call",
            "status": "completed",
            "call_id": new_call_id(),
            "name": call.name,
            "arguments": call.arguments,
        }
        for call in answer.calls
    ]
    if calls and not answer.text:
        return calls
    status = "incomplete" if answer.end.reason == "length" else "completed"
    return [_message(message_id, status, [_part(answer.text, answer.tokens)]), *calls]


def _message(item_id: str, status: str, parts: Sequence[Body]) -> Body:
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": parts}


def _part(text: str, tokens: Sequence[Likelihood] = ()) -> Body:
    logprobs = [likelihood_body(token) for token in tokens]
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(16)}"


async def _stream(first: Outcome, inbox: Inbox, head: Body) -> AsyncIterator[bytes]:
    number = 0
    try:
        async for kind, body in _events(first, inbox, head):
            yield _event(kind, number, body)
            number += 1
    except ApiError as problem:
        yield _event("error", number, problem.body())
    finally:
        inbox.abandon()


def _event(kind: str, number: int, body: Mapping[str, Any]) -> bytes:
    data = orjson.dumps({**body, "type": kind, "sequence_number": number})
    return f"event: {kind}\ndata: ".encode() + data + b"\n\n"


async def _events(first: Outcome, inbox: Inbox, head: Body) -> AsyncIterator[tuple[str, Body]]:
    """Yields events in OpenAI's order: each item and each part is added, streamed and done before the next."""
    begun = {**head, "status": "in_progress", "output": []}
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    message_id = _new_id("msg")
    place: Body = {"item_id": message_id, "output_index": 0, "content_index": 0}
    pieces: list[Piece] = []
    calls: Sequence[ToolCall] = ()
    async for outcome in inbox.parts(first, 1):
        if isinstance(outcome, Piece):
            if not pieces:
                for event in _message_start_events(message_id, place):
                    yield event
            pieces.append(outcome)
            logprobs = [likelihood_body(token) for token in outcome.tokens]
            yield "response.output_text.delta", {**place, "delta": outcome.text, "logprobs": logprobs}
        elif isinstance(outcome, AnswerCalls):
            calls = outcome.calls
        elif isinstance(outcome, AnswerEnd):
            end = outcome

    text = "".join(piece.text for piece in pieces)
    tokens = [token for piece in pieces for token in piece.tokens]
    items = _output(Answer(text, tokens, calls, end), message_id)
    if not pieces and items[0]["type"] == "message":  # an empty answer
        for event in _message_start_events(message_id, place):
            yield event
    for number, item in enumerate(items):
        if item["type"] == "message":
            (part,) = item["content"]
            yield "response.output_text.done", {**place, "text": part["text"], "logprobs": part["logprobs"]}
            yield "response.content_part.done", {**place, "part": part}
        else:
            for event in _call_events(item, number):
                yield event
        yield "response.output_item.done", {"output_index": number, "item": item}
    final = _final_body(head, items, end)
    yield f"response.{final['status']}", {"response": final}


def _message_start_events(item_id: str, place: Body) -> Iterator[tuple[str, Body]]:
    item = _message(item_id, "in_progress", [])
    yield "response.output_item.added", {"output_index": 0, "item": item}
    yield "response.content_part.added", {**place, "part": _part("")}


def _call_events(item: Body, number: int) -> Iterator[tuple[str, Body]]:
    """Calls arrive complete, so the arguments are a single delta."""
    place = {"item_id": item["id"], "output_index": number}
    begun = {**item, "status": "in_progress", "arguments": ""}
    yield "response.output_item.added", {"output_index": number, "item": begun}
    yield "response.function_call_arguments.delta", {**place, "delta": item["arguments"]}
    values = {"name": item["name"], "arguments": item["arguments"]}
    yield "response.function_call_arguments.done", {**place, **values}
