"""Tool calls: turns messages in OpenAI's form into those that chat templates take, and a model's text into calls. Pure.

Each family writes calls in a form of its own, which its chat template shows: the form is recognised by the template's
text, never by a model's name. What looks like a call and can't be read as one stays text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainers.chat_templates import (
    CALLS_IN_WORDS,
    answer_prefix,
    describe_tools,
    template_variables,
    with_fixed_date,
)

ROLES = ("system", "user", "assistant", "tool")

Tools = Sequence[Mapping[str, Any]]
CALL = {"id": "000000000", "type": "function"}  # Mistral's templates want 9 characters
# What parsing a model's text as a call may raise: SyntaxError and MemoryError come from Python's parser, RecursionError
# from text that is nested too deeply.
UNREADABLE = (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError)
BREAK = "\ufdd0"  # a noncharacter of Unicode: where a rendered chat is cut before it is tokenized


@dataclass(frozen=True)
class ToolCall:
    """`arguments`: a JSON object as text, as OpenAI's API gives it."""

    name: str
    arguments: str


def message_for_template(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A message in OpenAI's form as templates take it: 'developer' becomes 'system', text parts one text, no
    content "", arguments a mapping; fields without a value and `weight` are dropped. Raises ValueError, KeyError,
    TypeError."""
    message = {key: value for key, value in raw.items() if key != "weight" and value is not None}
    message["role"] = "system" if raw["role"] == "developer" else raw["role"]
    content = message.get("content", "")
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    message["content"] = content
    if message["role"] not in ROLES or not isinstance(content, str):
        raise ValueError(f"a message of role {raw['role']!r} with content {content!r}")
    # Templates ask whether the key is there, not whether anything is in it.
    older = message.pop("function_call", None)
    calls = []
    for call in message.pop("tool_calls", None) or (older and [{**CALL, "function": older}]) or ():
        function = call["function"]
        arguments = function.get("arguments") or {}
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if not isinstance(arguments, dict):
            raise ValueError(f"a call of {function['name']!r} whose arguments are no JSON object")
        calls.append({**call, "function": {**function, "arguments": arguments}})
    return {**message, "tool_calls": calls} if calls else message


def chat_for_template(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages of a chat; a tool's message also names the tool called. Raises as `message_for_template`."""
    names: dict[object, str] = {}
    turns = [message_for_template(message) for message in messages]
    for turn in turns:
        names |= {call.get("id"): call["function"]["name"] for call in turn.get("tool_calls", ())}
        if turn["role"] == "tool" and turn.get("tool_call_id") in names:
            turn["name"] = names[turn["tool_call_id"]]
    return turns


def tools_for_template(values: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The tools of a request or a row, which may have OpenAI's older `functions`. Fields without a value are dropped.
    Raises KeyError, TypeError, AttributeError."""
    older = [{"type": "function", "function": function} for function in values.get("functions") or ()]
    return [
        {**tool, "function": {key: value for key, value in tool["function"].items() if value is not None}}
        for tool in values.get("tools") or older
    ] or None


def special_texts(tokenizer: Any) -> re.Pattern[str]:
    """Matches the text of one special token."""
    added = tokenizer.added_tokens_decoder.values()
    return re.compile("|".join(re.escape(token.content) for token in added if token.special) or "(?!)")


def break_special_tokens(special: re.Pattern[str], value: Any) -> Any:
    """Returns messages with a BREAK in each text of a special token. Tokenized by its parts it stays text; else a
    person who writes <|im_end|> into a message could end it and begin another in the system's name. The marks around a
    thought stay whole, since answers are written with them."""
    if isinstance(value, str):
        return special.sub(_broken, value.replace(BREAK, ""))
    if isinstance(value, Mapping):
        return {key: break_special_tokens(special, each) for key, each in value.items()}
    return [break_special_tokens(special, each) for each in value] if isinstance(value, list) else value


def _broken(match: re.Match[str]) -> str:
    text = match[0]
    return text if "think" in text.lower() else text[0] + BREAK + text[1:]


def render_chat(tokenizer: Any, messages: Sequence[dict[str, Any]], **options: Any) -> str:
    """The text of a chat by the tokenizer's template. Messages and tools are those of `chat_for_template` and
    `tools_for_template`; where the template has no place for tools, they are described in words. Raises jinja2's
    TemplateError, and TypeError where the template can't take a message's shape."""
    from jinja2 import TemplateError  # a server that writes no text needs no templates

    tools = options.get("tools") or ()
    template = read_chat_template(tokenizer, tools) if tools else ""
    if tools and "tools" not in template:
        messages, options = _describe_tools(messages, tools, template), {**options, "tools": None}
    try:
        return _apply_template(tokenizer, messages, options)
    except (TemplateError, TypeError):
        # Some (gpt-oss) read a description and properties without asking whether there are any.
        filled = []
        for tool in options.get("tools") or ():
            function = {"description": "", **tool["function"]}
            parameters = {"type": "object", "properties": {}, **(function.get("parameters") or {})}
            filled.append({**tool, "function": {**function, "parameters": parameters}})
        if filled == [*(options.get("tools") or ())]:
            raise
    return _apply_template(tokenizer, messages, {**options, "tools": filled})


def _apply_template(tokenizer: Any, messages: Sequence[dict[str, Any]], options: Mapping[str, Any]) -> str:
    template = str(tokenizer.chat_template)
    options = {**template_variables(template), **options}
    if isinstance(tokenizer.chat_template, str):
        options["chat_template"] = with_fixed_date(template)
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    except TypeError:
        if not any("tool_calls" in message for message in messages):
            raise
        # DeepSeek's template joins the arguments to other text, as they are in OpenAI's form.
        text = tokenizer.apply_chat_template(
            [*map(_with_text_arguments, messages)], tokenize=False, **options
        )
    return str(text) + (
        answer_prefix(template, options.get("tools")) if options.get("add_generation_prompt") else ""
    )


def read_chat_template(tokenizer: Any, tools: Tools) -> str:
    """The chat template's text, which shows how it writes calls; CALLS_IN_WORDS where it has no tools."""
    template = str(tokenizer.get_chat_template(tools=[*tools] or None))
    return template if "tool" in template else CALLS_IN_WORDS


def _describe_tools(messages: Sequence[dict[str, Any]], tools: Tools, template: str) -> list[dict[str, Any]]:
    """For a template that lists no tools: puts them into the system message. Where it knows no calls either, these are
    written as text, and their results are messages of the user."""
    description = describe_tools("" if template == CALLS_IN_WORDS else "tool", tools)
    if template == CALLS_IN_WORDS:
        messages = [*map(_message_in_words, messages)]
    first = messages[0] if messages and messages[0]["role"] == "system" else None
    system = {"role": "system", "content": f"{first['content']}\n\n{description}" if first else description}
    return [system, *(messages[1:] if first else messages)]


def _message_in_words(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    parts = [message["content"]] if message["content"] else []
    for call in message.get("tool_calls", ()):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        parts.append(f"<tool_call>\n{_json({'name': name, 'arguments': arguments})}\n</tool_call>")
    return {"role": message["role"], "content": "\n".join(parts)}


def _with_text_arguments(message: dict[str, Any]) -> dict[str, Any]:
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        calls.append({**call, "function": {**function, "arguments": _json(function["arguments"])}})
    return {**message, "tool_calls": calls}


def parse_tool_calls(
    text: str,
    template: str | None,
    tools: Tools = (),
    response_template: Mapping[str, Any] | None = None,
) -> tuple[str | None, tuple[ToolCall, ...]]:
    """An answer's text without its calls, None where it only calls, and the calls in their order.

    `text`: decoded with its special tokens, which mark the calls in many families, without the one that ended it.
    `tools`, as in the request: their types count where a form writes none, and a call in bare JSON must name one.
    `response_template`: the tokenizer's own, which is tried before the forms here.
    """
    if response_template is not None:
        parsed = _by_own_template(text, response_template, tools)
        if parsed is not None:
            return parsed
    form = next((form for form in FORMS if all(mark in (template or "") for mark in form.marks)), None)
    if form is HARMONY:
        return _harmony(text)
    rest, calls = _take_calls(text, form, tools) if form else (text, ())
    if not calls:
        calls = tuple(_bare(text, tools))
        rest = "" if calls else text
    return (rest.strip() or None if calls else rest), calls


def _by_own_template(
    text: str, response_template: Mapping[str, Any], tools: Tools
) -> tuple[str | None, tuple[ToolCall, ...]] | None:
    """None where the answer isn't in the template's form."""
    from transformers.utils.chat_parsing import parse_response

    try:
        message = parse_response(
            text, dict(response_template), prefix="", tools=[dict(tool) for tool in tools]
        )
        calls = tuple(_call(call["function"]) for call in message.get("tool_calls") or ())
    except UNREADABLE:
        return None
    return message.get("content") or None, calls


@dataclass(frozen=True)
class Form:
    """How a family writes calls. Its templates contain all `marks`. `block` matches a stretch of calls, and `read`
    parses its first group; it raises ValueError where that can't be read."""

    marks: tuple[str, ...]
    block: re.Pattern[str]
    read: Callable[[str, Tools], Iterator[ToolCall]]


def _take_calls(text: str, form: Form, tools: Tools) -> tuple[str, tuple[ToolCall, ...]]:
    """The text without its calls, and the calls."""
    calls: list[ToolCall] = []

    def take(match: re.Match[str]) -> str:
        try:
            tool_calls = list(form.read(match[1], tools))
        except UNREADABLE:
            return match[0]
        calls.extend(tool_calls)
        return "" if tool_calls else match[0]

    return form.block.sub(take, text), tuple(calls)


def _call(function: Any) -> ToolCall:
    """A call of {"name", "arguments"}, or of Llama's and Command's "parameters". Raises ValueError, KeyError,
    TypeError."""
    name = function.get("name") or function["tool_name"]
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError(f"no call: {function!r}")
    return ToolCall(name, _json(arguments))


def _objects(text: str, tools: Tools) -> Iterator[ToolCall]:
    """Calls as JSON objects or lists of them, one after the other: Llama separates them by ';', others by nothing."""
    place, decoder = 0, json.JSONDecoder()
    text = text.strip()
    while place < len(text):
        value, place = decoder.raw_decode(text, place)
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, dict):
                raise ValueError("no call")
            yield _call(item)
        place += len(text[place:]) - len(text[place:].lstrip("; \n\t,"))


def _bare(text: str, tools: Tools) -> Iterator[ToolCall]:
    """Calls where the answer is nothing but JSON that calls tools of the request: small models of any family do
    that."""
    names = {tool.get("function", tool).get("name") for tool in tools}
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    try:
        calls = list(_objects(fenced[1] if fenced else text, tools))
    except UNREADABLE:
        return
    if all(call.name in names for call in calls):
        yield from calls


def _llama(text: str, tools: Tools) -> Iterator[ToolCall]:
    """JSON, or name.call(argument="text") of a built-in tool."""
    built_in = re.fullmatch(r"\s*([\w.-]+?)\.call(\(.*\))\s*", text, re.DOTALL)
    yield from _python(f"{built_in[1]}{built_in[2]}", tools) if built_in else _objects(text, tools)


def _mistral(text: str, tools: Tools) -> Iterator[ToolCall]:
    """A list in JSON, or since 2025 name[ARGS]{…}."""
    if "[ARGS]" not in text:
        yield from _objects(text, tools)
        return
    head, arguments = text.split("[ARGS]", 1)
    yield _call({"name": head.split("[CALL_ID]")[0].strip(), "arguments": json.loads(arguments)})


def _xml(call: str, parameter: str) -> Callable[[str, Tools], Iterator[ToolCall]]:
    """A reader of XML with a tool's name, and values without their types."""

    def read(text: str, tools: Tools) -> Iterator[ToolCall]:
        match = re.fullmatch(call, text.strip(), re.DOTALL)
        if match is None:
            raise ValueError("no call")
        properties: Mapping[str, Any] = {}
        for tool in tools:
            function = tool.get("function", tool)
            if function.get("name") == match[1].strip():
                properties = (function.get("parameters") or {}).get("properties") or {}
                break
        types = {key: schema.get("type") for key, schema in properties.items() if isinstance(schema, dict)}
        entries = re.findall(parameter, match[2], re.DOTALL)
        arguments = {key.strip(): _typed(value, types.get(key.strip())) for key, value in entries}
        yield ToolCall(match[1].strip(), _json(arguments))

    return read


def _typed(value: str, kind: object) -> Any:
    if kind == "string":
        return value
    try:
        return json.loads(value)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(value, value)


def _gemma(text: str, tools: Tools) -> Iterator[ToolCall]:
    """call:name{key:<|"|>text<|"|>,other:3}"""
    match = re.fullmatch(r"\s*call:([\w.-]+)(\{.*\})\s*", text, re.DOTALL)
    if match is None:
        raise ValueError("no call")
    # Odd parts are texts. Only outside of them a word before a colon is a key.
    parts = match[2].split('<|"|>')
    key = re.compile(r"([{,]\s*)([^\s{}\[\],:\"]+)(\s*:)")
    quoted = [_json(part) if number % 2 else key.sub(r'\1"\2"\3', part) for number, part in enumerate(parts)]
    yield _call({"name": match[1], "arguments": json.loads("".join(quoted))})


def _python(text: str, tools: Tools) -> Iterator[ToolCall]:
    """[name(key="text"), other()], or each call on a line of its own."""
    listed = text.strip()
    if not listed.startswith("["):
        listed = "[" + re.sub(r"\)\s*\n\s*", "), ", listed) + "]"
    body = ast.parse(listed, mode="eval").body
    for call in body.elts if isinstance(body, ast.List) else ():
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("no call with named arguments")
        arguments = {str(word.arg): _literal(word.value) for word in call.keywords}
        yield ToolCall(ast.unparse(call.func), _json(arguments))


def _literal(node: ast.expr) -> Any:
    """Python's literals, and JSON's."""
    for part in ast.walk(node):
        if isinstance(part, ast.List):
            part.elts = [_constant(item) for item in part.elts]
        elif isinstance(part, ast.Dict):
            part.values = [_constant(value) for value in part.values]
    return ast.literal_eval(_constant(node))


def _constant(node: ast.expr) -> ast.expr:
    values = {"true": True, "false": False, "null": None}
    return ast.Constant(values[node.id]) if isinstance(node, ast.Name) and node.id in values else node


def _deepseek(text: str, tools: Tools) -> Iterator[ToolCall]:
    """A name and JSON since V3.1; before that the type, the name, and JSON between ```."""
    for head, body in re.findall(
        r"<｜tool▁call▁begin｜>(.*?)<｜tool▁sep｜>(.*?)<｜tool▁call▁end｜>", text, re.DOTALL
    ):
        older = re.fullmatch(r"\s*(\S+)\s*```json\s*(.*?)\s*```\s*", body, re.DOTALL)
        name, arguments = older.groups() if older else (head.strip(), body)
        yield _call({"name": name, "arguments": json.loads(arguments)})


def _harmony(text: str) -> tuple[str | None, tuple[ToolCall, ...]]:
    """Messages, each with a recipient or a channel; those of the channel 'analysis' are left out."""
    messages = re.findall(r"(.*?)<\|message\|>(.*?)(?:<\|(?:end|call|return)\|>|\Z)", text, re.DOTALL)
    if not messages:
        return text, ()
    lines: list[str] = []
    calls: list[ToolCall] = []
    for head, body in messages:
        recipient = re.search(r"to=(?:functions\.)?([\w.-]+)", head)
        if recipient:
            try:
                calls.append(_call({"name": recipient[1], "arguments": json.loads(body)}))
            except UNREADABLE:
                lines.append(body)
        elif "<|channel|>analysis" not in head:
            lines.append(body)
    return "\n".join(lines).strip() or None, tuple(calls)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _between(start: str, end: str) -> re.Pattern[str]:
    """The last block may lack its end, where that token ended the answer."""
    return re.compile(rf"{start}(.*?)(?:{end}|\Z)", re.DOTALL)


_TOOL_CALL = _between(r"\s*<tool_call>", "</tool_call>")
HARMONY = Form(("<|channel|>", "commentary"), re.compile(r"(?!)()"), _objects)
# In this order, since templates of earlier ones contain the marks of later ones too.
FORMS = (
    HARMONY,
    Form(("<|tool_call>call:",), _between(r"\s*<\|tool_call>", r"<tool_call\|>"), _gemma),
    Form(
        ("<tool_call>", "<function="),
        _TOOL_CALL,
        _xml(
            r"<function=([^\n>]+)>(.*?)(?:</function>)?",
            r"<parameter=([^\n>]+)>\n?(.*?)\n?</parameter>",
        ),
    ),
    Form(
        ("<tool_call>", "<arg_key>"),
        _TOOL_CALL,
        _xml(r"([^\n<]+)(.*)", r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>"),
    ),
    Form(("<tool_call>",), _TOOL_CALL, _objects),
    Form(("<|tool_call_start|>",), _between(r"\s*<\|tool_call_start\|>", r"<\|tool_call_end\|>"), _python),
    Form(("<function_calls>",), _between(r"\s*<function_calls>", "</function_calls>"), _python),
    Form(
        ("<｜tool▁calls▁begin｜>",),
        _between(r"\s*<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        _deepseek,
    ),
    Form(("[TOOL_CALLS]",), _between(r"\s*\[TOOL_CALLS\]", r"(?=\[TOOL_CALLS\])"), _mistral),
    Form(("<|START_ACTION|>",), _between(r"\s*<\|START_ACTION\|>", r"<\|END_ACTION\|>"), _objects),
    Form(("<|tool_call|>",), _between(r"\s*<\|tool_call\|>", r"<\|/tool_call\|>"), _objects),
    # Llama marks only what goes to its interpreter; other calls are JSON alone, which is read from any family.
    Form(("<|python_tag|>",), _between(r"\s*<\|python_tag\|>", r"<\|eom_id\|>"), _llama),
)
