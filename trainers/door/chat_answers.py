"""Reads what a provider answers to a chat. A part that is missing or null is empty. One of another type makes the
answer unreadable, which is the provider's fault (502)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from trainers.door.upstreams import UpstreamAnswer
from trainers.http.errors import ApiError


def read_object(answer: UpstreamAnswer) -> dict[str, Any]:
    """Returns the JSON object that a provider has answered. Raises ApiError (502)."""
    try:
        body = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise unreadable()
    return body


def read_choice(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the first choice of a chat, which has a message. Raises ApiError (502)."""
    choices = content.get("choices")
    if not isinstance(choices, list) or not choices:
        raise unreadable()
    choice = choices[0]
    if not isinstance(choice, dict):
        raise unreadable()
    if not isinstance(choice.get("message"), dict):
        raise unreadable()
    return choice


def read_text(message: Mapping[str, Any]) -> str:
    """Returns the text of a message or of a part of one, or its refusal; "" without either. Raises ApiError (502)."""
    return text_in(message, "content") or text_in(message, "refusal")


def text_in(raw: Mapping[str, Any], name: str) -> str:
    """Returns a text, "" for none. Raises ApiError (502)."""
    text = raw.get(name)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise unreadable()
    return text


def object_in(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns an object, {} for none. Raises ApiError (502)."""
    value = raw.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise unreadable()
    return value


def objects_in(raw: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    """Returns a list of objects, empty for none. Raises ApiError (502)."""
    values = raw.get(name)
    if values is None:
        return ()
    if not isinstance(values, list):
        raise unreadable()
    if not all(isinstance(value, dict) for value in values):
        raise unreadable()
    return values


def add_calls(calls: dict[int, dict[str, str]], deltas: Sequence[Mapping[str, Any]]) -> None:
    """Adds the parts of calls, which arrive by the index of their call. Raises ApiError (502)."""
    for delta in deltas:
        index = delta.get("index", 0)
        if type(index) is not int:  # true would be 1
            raise unreadable()
        function = object_in(delta, "function")
        call = calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        call["id"] = text_in(delta, "id") or call["id"]
        call["name"] += text_in(function, "name")
        call["arguments"] += text_in(function, "arguments")


def unreadable() -> ApiError:
    text = "The model's answer is not what a chat completion looks like."
    return ApiError(502, text, "upstream_unreadable", kind="server_error")
