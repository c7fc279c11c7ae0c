"""What a row says of tools: which there are, what is called, what came back. By the rules that vendors check first.

A call is {"id", "type": "function", "function": {"name", "arguments"}}, its arguments a JSON object written as text.
One tool message answers it by its id before the talk goes on. A row may end with calls that nobody answers.
"""

from __future__ import annotations

from typing import Any

import orjson

from trainers.dataset.findings import Fault, Rule

BAD_TOOLS = Rule(
    "bad_tools",
    "blocks",
    'Write each tool as {"type": "function", "function": {"name": "…", "parameters": {…}}}.',
)
BAD_CALL = Rule(
    "bad_tool_call",
    "blocks",
    'Write {"id": "…", "type": "function", "function": {"name": "…", "arguments": "{…}"}}, arguments as text.',
)
UNMATCHED = Rule(
    "tool_call_unmatched",
    "blocks",
    "After a call put one tool message for each of its ids, with that id as tool_call_id.",
)

_LISTS = ("tools", "functions")


def definitions(row: dict[str, Any]) -> dict[str, Any]:
    """The part of a row that says which tools there are."""
    return {name: row[name] for name in _LISTS if row.get(name)}


def definitions_text(row: bytes) -> str:
    """As JSON, empty where there are none. Vendors put them before a model in a form of their own, about as long."""
    if not any(b'"%b"' % name.encode() in row for name in _LISTS):
        return ""
    told = definitions(orjson.loads(row))
    return orjson.dumps(told).decode() if told else ""


def tools_fault(row: dict[str, Any]) -> Fault | None:
    """Of what the row says of them outside its messages."""
    for name, told in definitions(row).items():
        is_sound = _is_tool if name == "tools" else _is_named
        if type(told) is not list or not all(is_sound(one) for one in told):
            return Fault(BAD_TOOLS, f"has {name} that are not described as trainers take them")
    return None


def call_fault(number: int, message: dict[str, Any]) -> Fault | None:
    """Of the calls in one message."""
    calls, old = message.get("tool_calls"), message.get("function_call")
    if not calls and not old:
        return None
    if message.get("role") != "assistant":
        return Fault(BAD_CALL, f"calls a tool in message {number}, which is not the assistant's")
    well = type(calls) is list and all(_is_call(call) for call in calls) if calls else _is_asked(old)
    return (
        None if well else Fault(BAD_CALL, f"has a tool call that is not written as one, in message {number}")
    )


def order_fault(messages: list[Any]) -> Fault | None:
    """Of calls and answers that don't belong together; each message is known to be sound by itself."""
    waiting: set[str] = set()
    for number, message in enumerate(messages, 1):
        if message["role"] == "tool":
            answered = message.get("tool_call_id")
            if type(answered) is not str or answered not in waiting:
                return Fault(UNMATCHED, f"has a tool message that answers no call before it, number {number}")
            waiting.remove(answered)
        elif waiting:
            return Fault(UNMATCHED, f"has a tool call that nothing answered before message {number}")
        else:
            waiting = {call["id"] for call in message.get("tool_calls") or ()}
    return None


def _is_tool(tool: Any) -> bool:
    return type(tool) is dict and tool.get("type") == "function" and _is_named(tool.get("function"))


def _is_call(call: Any) -> bool:
    return _is_tool(call) and _is_filled(call.get("id")) and _is_asked(call["function"])


def _is_asked(function: Any) -> bool:
    if not _is_named(function) or type(function.get("arguments")) is not str:
        return False
    try:
        return type(orjson.loads(function["arguments"])) is dict
    except orjson.JSONDecodeError:
        return False


def _is_named(function: Any) -> bool:
    return type(function) is dict and _is_filled(function.get("name"))


def _is_filled(text: Any) -> bool:
    return type(text) is str and bool(text.strip())
