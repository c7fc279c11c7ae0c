"""Tools in a request for a chat: which there are, which must be called, what was called before. Pure, but for the
grammar's check of their parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainers.local.problems import Problem, invalid
from trainers.local.serving import constraints
from trainers.local.serving.call_syntax import parameters_of
from trainers.local.serving.values import Tools
from trainers.local.tool_calls import ToolCall, tools_for_template

MAX_TOOLS = 128
NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)


def parse_tools(body: Mapping[str, Any]) -> Tools:
    """Raises Problem (400) that names the field."""
    given, choice = body.get("tools"), body.get("tool_choice")
    if given is not None and not isinstance(given, list):
        raise invalid("'tools' must be a list.", "tools", "invalid_type")
    definitions = [_definition(tool, f"tools[{number}]") for number, tool in enumerate(given or ())]
    if len(definitions) > MAX_TOOLS:
        raise invalid(f"'tools' has {len(definitions)} tools; at most {MAX_TOOLS} are allowed.", "tools")
    names = [definition["function"]["name"] for definition in definitions]
    if len(set(names)) < len(names):
        raise invalid("Two of 'tools' have the same name.", "tools")
    if choice not in (None, "none", "auto") and not definitions:
        raise invalid("'tool_choice' needs 'tools'.", "tool_choice")
    required = _required(choice, names)
    return Tools() if choice == "none" else Tools(tools_for_template({"tools": definitions}) or (), required)


def _definition(tool: object, path: str) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict):
        text = f'\'{path}\' must be {{"type": "function", "function": {{…}}}}; other tools are not run here.'
        raise invalid(text, path)
    name, description = function.get("name"), function.get("description")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        text = f"'{path}.function.name' must be 1 to 64 letters, digits, _, . or -."
        raise invalid(text, f"{path}.function.name")
    if not isinstance(description, str | None):
        raise invalid(f"'{path}.function.description' must be text.", f"{path}.function.description")
    param = f"{path}.function.parameters"
    if not isinstance(function.get("parameters") or {}, dict):
        raise invalid(f"'{param}' must be an object.", param, "invalid_type")
    is_strict = function.get("strict") is True
    constraints.check(f"start: {constraints.json_rule(parameters_of(function), is_strict=is_strict)}", param)
    return {"type": "function", "function": function}


def _required(choice: object, names: Sequence[str]) -> Sequence[str]:
    """The names of which one must be called."""
    if choice in (None, "none", "auto"):
        return ()
    if choice == "required":
        return names
    match choice:
        case {"type": "function", "function": {"name": str(name)}} if name in names:
            return (name,)
        case {"type": "function", "function": {"name": str(name)}}:
            text = f"'tool_choice' names {name!r}, which is none of 'tools'."
            raise invalid(text, "tool_choice")
    text = '\'tool_choice\' must be none, auto, required, or {"type": "function", "function": {"name": …}}.'
    raise invalid(text, "tool_choice")


def parse_calls(calls: object, path: str) -> dict[str, ToolCall]:
    """Of an assistant's message, by their ids. Raises Problem (400)."""
    if calls is None:
        return {}
    if not isinstance(calls, list):
        raise invalid(f"'{path}' must be a list.", path, "invalid_type")
    return dict(_call(call, f"{path}[{number}]") for number, call in enumerate(calls))


def _call(call: object, path: str) -> tuple[str, ToolCall]:
    match call:
        case {"id": str(call_id), "function": {"name": str(name), "arguments": str(arguments)}}:
            if not _is_object(arguments):
                raise _no_arguments(f"{path}.function.arguments")
            return call_id, ToolCall(name, arguments or "{}")
    text = f"'{path}' must be a call with an id, and a function with a name and arguments as text."
    raise invalid(text, path)


def _is_object(arguments: str) -> bool:
    """Some clients send "" for no arguments."""
    try:
        return isinstance(json.loads(arguments or "{}"), dict)
    except (ValueError, RecursionError):
        return False


def _no_arguments(param: str) -> Problem:
    return invalid(f"'{param}' must be a JSON object, written as text.", param)
