"""OpenAI's Responses in terms of chat completions: the request as one for a chat, the answer's body and events from the
parts of a chat's answer. Sends and stores nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from trainers.http.errors import as_object, invalid

Body = dict[str, Any]
Event = tuple[str, Body]

SAME_IN_CHATS = (
    *("model", "temperature", "top_p", "stream", "parallel_tool_calls"),
    *("user", "metadata", "service_tier"),
)
LOGPROBS = "message.output_text.logprobs"
ENDS = ("response.completed", "response.incomplete")


@dataclass(frozen=True)
class Text:
    """A piece of the answer's text, with the likelihoods of its tokens in OpenAI's form."""

    text: str
    logprobs: Sequence[Body] = ()


@dataclass(frozen=True)
class FunctionCall:
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class End:
    """The end of an answer. `is_cut`: it reached its cap. `usage` is in the names of chat completions, None if it is
    unknown."""

    is_cut: bool
    usage: Mapping[str, Any] | None


Part = Text | FunctionCall | End


def as_chat(body: Mapping[str, Any], before: Sequence[object] = ()) -> Body:
    """Returns the body of a chat completion that asks for the same. `before` are the items of the conversation so far,
    which the request's input continues. Raises ApiError (400)."""
    form = as_object(body.get("text"), "text").get("format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        schema = {key: value for key, value in form.items() if key != "type"}
        form = {"type": "json_schema", "json_schema": schema}
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
    reasoning = as_object(body.get("reasoning"), "reasoning")
    wants_logprobs = LOGPROBS in include or bool(body.get("top_logprobs"))
    chat = {
        **same,
        "messages": _messages(body, before),
        "max_completion_tokens": body.get("max_output_tokens"),
        "response_format": form,
        "reasoning_effort": reasoning.get("effort"),
        "tools": tools,
        "tool_choice": choice,
        "logprobs": wants_logprobs or None,
        "top_logprobs": body.get("top_logprobs"),
    }
    return {name: value for name, value in chat.items() if value is not None}


def read_items(body: Mapping[str, Any]) -> list[Any]:
    """Returns the items of a request's input, after its instructions. Raises ApiError (400)."""
    items = body.get("input")
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    if not isinstance(items, list) or not items:
        raise invalid("'input' must be text, or a list with at least one item.", "input")
    instructions = body.get("instructions")
    if instructions is None:
        return items
    if not isinstance(instructions, str):
        raise invalid("'instructions' must be text.", "instructions", "invalid_type")
    return [{"role": "system", "content": instructions}, *items]


def _tool_of_chat(tool: object) -> object:
    """Turns {"type": "function", "name": …} into {"type": "function", "function": {"name": …}}."""
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return tool  # what reads the chat refuses it
    function = {key: value for key, value in tool.items() if key != "type"}
    return {"type": "function", "function": function}


def _messages(body: Mapping[str, Any], before: Sequence[object]) -> list[Body]:
    items = read_items(body)
    messages: list[Body] = []
    # A client counts the items that it has sent, without the instructions, which read_items puts first.
    first = 0
    if body.get("instructions") is not None:
        first = 1
    for item in [*items[:first], *before]:
        _append(item, "input", messages)
    for number, item in enumerate(items[first:]):
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
    """Names parts as chat completions name them."""
    if not isinstance(content, list):
        return content
    return [_part_of_chat(part) for part in content]


def _part_of_chat(part: object) -> object:
    match part:
        case {"type": "input_text" | "output_text", "text": text, **more}:
            return {**more, "type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url), **more}:
            image: Body = {"url": url}
            if "detail" in more:
                image["detail"] = more["detail"]
            return {"type": "image_url", "image_url": image}
        case _:
            return part


def echo(body: Mapping[str, Any], **values: object) -> Body:
    """Returns the fields of a request that its answer repeats. `values` are those that the server has filled in."""
    return {
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None, **as_object(body.get("reasoning"), "reasoning")},
        "store": False,
        "temperature": body.get("temperature"),
        "text": {"format": {"type": "text"}, **as_object(body.get("text"), "text")},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_logprobs": body.get("top_logprobs") or 0,
        "top_p": body.get("top_p"),
        "truncation": "disabled",
        **values,
    }


def new_head(model: str, repeated: Body) -> Body:
    """Returns what an answer's body has from its beginning. `repeated` are the fields of `echo`."""
    return {
        "id": _new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "model": model,
        "error": None,
        "incomplete_details": None,
        "usage": None,
        **repeated,
    }


def complete_body(head: Body, parts: Sequence[Part]) -> Body:
    """Returns the body of an answer from all its parts."""
    end = next(part for part in parts if isinstance(part, End))
    return _final_body(head, _output(parts, end, _new_id("msg")), end)


async def encode_events(
    head: Body, parts: AsyncIterator[Part], on_end: Callable[[Body], None] | None = None
) -> AsyncIterator[bytes]:
    """Yields an answer's events as they are sent. `on_end` gets the complete body before its event is sent."""
    number = 0
    async for kind, body in _events(head, parts):
        if on_end is not None and kind in ENDS:
            on_end(body["response"])
        yield encode_event(kind, number, body)
        number += 1


def encode_event(kind: str, number: int, body: Mapping[str, Any]) -> bytes:
    data = orjson.dumps({**body, "type": kind, "sequence_number": number})
    line = f"event: {kind}\ndata: "
    return line.encode() + data + b"\n\n"


def _final_body(head: Body, output: Sequence[Body], end: End) -> Body:
    ended: Body = {"status": "completed", "completed_at": int(time.time()), "incomplete_details": None}
    if end.is_cut:
        reason = {"reason": "max_output_tokens"}
        ended = {"status": "incomplete", "completed_at": None, "incomplete_details": reason}
    return {**head, **ended, "output": output, "usage": _usage(end.usage)}


def _usage(usage: Mapping[str, Any] | None) -> Body | None:
    if usage is None:
        return None
    of_prompt = usage.get("prompt_tokens_details") or {}
    of_completion = usage.get("completion_tokens_details") or {}
    cached = of_prompt.get("cached_tokens") or 0
    reasoning = of_completion.get("reasoning_tokens") or 0
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": usage["total_tokens"],
    }


def _output(parts: Iterable[Part], end: End, message_id: str) -> list[Body]:
    """Returns the answer's message, unless it only calls, followed by its calls."""
    calls: list[Body] = []
    text = ""
    logprobs: list[Body] = []
    for part in parts:
        if isinstance(part, FunctionCall):
            calls.append(_call_item(part))
        elif isinstance(part, Text):
            text += part.text
            logprobs += part.logprobs
    if calls and not text:
        return calls
    status = "completed"
    if end.is_cut:
        status = "incomplete"
    content = _text_part(text, logprobs)
    return [_message(message_id, status, [content]), *calls]


def _call_item(call: FunctionCall) -> Body:
    return {
        "id": _new_id("fc"),
        "type": "function_call",
        "status": "completed",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    }


def _message(item_id: str, status: str, parts: Sequence[Body]) -> Body:
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": parts}


def _text_part(text: str, logprobs: Sequence[Body] = ()) -> Body:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(16)}"


async def _events(head: Body, parts: AsyncIterator[Part]) -> AsyncIterator[Event]:
    """Yields events in OpenAI's order: each item and each part is added, streamed and done before the next."""
    begun = {**head, "status": "in_progress", "output": []}
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    message_id = _new_id("msg")
    address: Body = {"item_id": message_id, "output_index": 0, "content_index": 0}
    seen: list[Part] = []
    has_text = False
    end = End(is_cut=False, usage=None)
    async for part in parts:
        seen.append(part)
        if isinstance(part, End):
            end = part
        if not isinstance(part, Text):
            continue
        if not has_text:
            for event in _message_start_events(message_id, address):
                yield event
        has_text = True
        yield "response.output_text.delta", {**address, "delta": part.text, "logprobs": list(part.logprobs)}

    items = _output(seen, end, message_id)
    if not has_text and items[0]["type"] == "message":  # an empty answer
        for event in _message_start_events(message_id, address):
            yield event
    for number, item in enumerate(items):
        if item["type"] == "message":
            [content] = item["content"]
            done = {**address, "text": content["text"], "logprobs": content["logprobs"]}
            yield "response.output_text.done", done
            yield "response.content_part.done", {**address, "part": content}
        else:
            for event in _call_events(item, number):
                yield event
        yield "response.output_item.done", {"output_index": number, "item": item}
    final = _final_body(head, items, end)
    yield f"response.{final['status']}", {"response": final}


def _message_start_events(item_id: str, address: Body) -> Iterator[Event]:
    item = _message(item_id, "in_progress", [])
    yield "response.output_item.added", {"output_index": 0, "item": item}
    yield "response.content_part.added", {**address, "part": _text_part("")}


def _call_events(item: Body, number: int) -> Iterator[Event]:
    """Calls arrive complete, so the arguments are a single delta."""
    address = {"item_id": item["id"], "output_index": number}
    begun = {**item, "status": "in_progress", "arguments": ""}
    yield "response.output_item.added", {"output_index": number, "item": begun}
    yield "response.function_call_arguments.delta", {**address, "delta": item["arguments"]}
    values = {"name": item["name"], "arguments": item["arguments"]}
    yield "response.function_call_arguments.done", {**address, **values}
