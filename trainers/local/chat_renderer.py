"""Renders chats: converts messages and tools from OpenAI's form to that of chat templates, and applies the template.

A template without a place for tools gets them described in words. tool_calls.py reads the calls in a model's answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainers.models.chat_templates import (
    CALLS_IN_WORDS,
    answer_prefix,
    describe_tools,
    in_parts,
    template_variables,
    wants_parts,
    with_fixed_date,
)

Message = dict[str, Any]  # in the form of templates
Tool = Mapping[str, Any]

ROLES = ("system", "user", "assistant", "tool")
CALL = {"id": "000000000", "type": "function"}  # Mistral's templates require an id of 9 characters
BREAK = "\ufdd0"  # a noncharacter of Unicode: where a rendered chat is cut before it is tokenized


def message_for_template(raw: Mapping[str, Any]) -> Message:
    """Converts a message from OpenAI's form to that of templates: 'developer' becomes 'system', text parts are joined,
    missing content becomes "", arguments are parsed. Drops `weight` and fields without a value. Raises ValueError,
    KeyError or TypeError if the message is malformed."""
    message = _without_none(raw)
    message.pop("weight", None)
    role = raw["role"]
    if role == "developer":
        role = "system"
    content = message.get("content", "")
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    message["role"] = role
    message["content"] = content
    if role not in ROLES or not isinstance(content, str):
        raise ValueError(f"a message of role {raw['role']!r} with content {content!r}")
    only_call = message.pop("function_call", None)  # OpenAI's older form
    calls = message.pop("tool_calls", None)
    if not calls and only_call:
        calls = [{**CALL, "function": only_call}]
    if calls:  # left out otherwise: templates only test whether the key exists
        message["tool_calls"] = [_call_for_template(call) for call in calls]
    return message


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _call_for_template(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError(f"a call of {function['name']!r} whose arguments are not a JSON object")
    return {**call, "function": {**function, "arguments": arguments}}


def chat_for_template(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Converts the messages of a chat, and adds the tool's name to messages with a tool's result. Raises what
    `message_for_template` raises."""
    names: dict[object, str] = {}  # of the calls so far, by their ids
    turns = [message_for_template(message) for message in messages]
    for turn in turns:
        for call in turn.get("tool_calls", ()):
            function = call["function"]
            names[call.get("id")] = function["name"]
        answered = turn.get("tool_call_id")
        if turn["role"] == "tool" and answered in names:
            turn["name"] = names[answered]
    return turns


def tools_for_template(values: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Returns the tools of a request or a row, which may use OpenAI's older `functions`, or None if it has none. Drops
    fields without a value. Raises KeyError, TypeError or AttributeError if they are malformed."""
    tools = values.get("tools")
    if not tools:
        functions = values.get("functions") or ()
        tools = [{"type": "function", "function": function} for function in functions]
    filled = []
    for tool in tools:
        function = _without_none(tool["function"])
        filled.append({**tool, "function": function})
    return filled or None


def special_texts(tokenizer: Any) -> re.Pattern[str]:
    """Returns a pattern that matches the text of any special token."""
    added = tokenizer.added_tokens_decoder.values()
    texts = [re.escape(token.content) for token in added if token.special]
    pattern = "|".join(texts)
    return re.compile(pattern or "(?!)")  # an empty pattern would match everywhere


def break_special_tokens(special: re.Pattern[str], value: Any) -> Any:
    """Inserts a BREAK into each special token's text in these messages, so that it is tokenized as plain text.
    Otherwise a person who writes <|im_end|> into a message could end it and begin another one in the system's name. The
    marks around a thought are left alone, since answers contain them."""
    if isinstance(value, str):
        return special.sub(_insert_break, value.replace(BREAK, ""))
    if isinstance(value, Mapping):
        return {key: break_special_tokens(special, each) for key, each in value.items()}
    if isinstance(value, list):
        return [break_special_tokens(special, each) for each in value]
    return value


def _insert_break(match: re.Match[str]) -> str:
    text = match[0]
    if "think" in text.lower():
        return text
    return text[0] + BREAK + text[1:]


def render_chat(tokenizer: Any, messages: Sequence[Message], **options: Any) -> str:
    """Renders a chat with the tokenizer's template. Messages and tools come from `chat_for_template` and
    `tools_for_template`. If the template has no place for tools, they are described in words. Raises jinja2's
    TemplateError, or TypeError if the template can't handle a message's shape."""
    from jinja2 import TemplateError  # imported late: a server that only trains needs no templates

    tools = options.get("tools") or ()
    if tools:
        template = read_chat_template(tokenizer, tools)
        if "tools" not in template:
            messages = _describe_tools(messages, tools, template)
            tools = ()
            options = {**options, "tools": None}
    try:
        return _apply_template(tokenizer, messages, options)
    except (TemplateError, TypeError):
        # Some templates (gpt-oss) read a tool's description and properties without testing whether they exist.
        filled = [_fill_tool(tool) for tool in tools]
        if filled == [*tools]:
            raise
    return _apply_template(tokenizer, messages, {**options, "tools": filled})


def _fill_tool(tool: Tool) -> dict[str, Any]:
    """Adds an empty description and empty parameters where they are missing."""
    function = {"description": "", **tool["function"]}
    described = function.get("parameters") or {}
    parameters = {"type": "object", "properties": {}, **described}
    return {**tool, "function": {**function, "parameters": parameters}}


def _apply_template(
    tokenizer: Any,
    messages: Sequence[Message],
    options: Mapping[str, Any],
) -> str:
    template = str(tokenizer.chat_template)
    options = {**template_variables(template), **options}
    if isinstance(tokenizer.chat_template, str):
        options["chat_template"] = with_fixed_date(template)
        if wants_parts(template):
            messages = [in_parts(message) for message in messages]
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    except TypeError:
        has_calls = any("tool_calls" in message for message in messages)
        if not has_calls:
            raise
        # DeepSeek's template concatenates the arguments with other text, so it needs them as text.
        messages = [_with_text_arguments(message) for message in messages]
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    rendered = str(text)
    if options.get("add_generation_prompt"):
        rendered += answer_prefix(template, options.get("tools"))
    return rendered


def read_chat_template(tokenizer: Any, tools: Sequence[Tool]) -> str:
    """Returns the chat template's text, which shows how the model writes calls, or CALLS_IN_WORDS if it has no
    tools."""
    template = str(tokenizer.get_chat_template(tools=[*tools] or None))
    if "tool" not in template:
        return CALLS_IN_WORDS
    return template


def _describe_tools(
    messages: Sequence[Message],
    tools: Sequence[Tool],
    template: str,
) -> list[Message]:
    """Describes the tools in the system message, for a template that doesn't list them. If it has no calls either,
    these are written as text, and their results become messages of the user."""
    if template == CALLS_IN_WORDS:
        description = describe_tools("", tools)
        messages = [_message_in_words(message) for message in messages]
    else:
        description = describe_tools("tool", tools)  # as for any template that has calls but no list
    if not messages or messages[0]["role"] != "system":
        return [{"role": "system", "content": description}, *messages]
    system, *rest = messages
    content = f"{system['content']}\n\n{description}"
    return [{"role": "system", "content": content}, *rest]


def _message_in_words(message: Message) -> Message:
    content = message["content"]
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    parts = []
    if content:
        parts.append(content)
    for call in message.get("tool_calls", ()):
        function = call["function"]
        # Only these two, in this order: the description of the tools asks the model for just that.
        call_json = {"name": function["name"], "arguments": function["arguments"]}
        written = json.dumps(call_json, ensure_ascii=False)
        parts.append(f"<tool_call>\n{written}\n</tool_call>")
    return {"role": message["role"], "content": "\n".join(parts)}


def _with_text_arguments(message: Message) -> Message:
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        with_text = {**function, "arguments": arguments}
        calls.append({**call, "function": with_text})
    return {**message, "tool_calls": calls}
