"""Tool calls: reads the calls in a model's text. Pure. chat_renderer.py writes calls into a chat.

Each model family writes calls in its own form, which is recognised by marks in its chat template, never by the model's
name. Text that looks like a call but can't be parsed as one stays text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Tools = Sequence[Mapping[str, Any]]
# What parsing a model's text as a call may raise: SyntaxError and MemoryError come from Python's parser, RecursionError
# from text that is nested too deeply.
UNREADABLE = (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError)
FENCE = "```"
SEPARATORS = tuple("; \n\t,")  # between the calls of one answer
PARAMETER_END = "</parameter>"
HARMONY_MESSAGE = "<|message|>"
_PARAMETER = re.compile(r"<parameter=([^\n<>]+)>")
_HARMONY_ENDS = re.compile(r"<\|(?:end|call|return)\|>")


@dataclass(frozen=True)
class ToolCall:
    """`arguments` is a JSON object as text, as in OpenAI's API."""

    name: str
    arguments: str


def parse_tool_calls(
    text: str,
    template: str | None,
    tools: Tools = (),
    response_template: Mapping[str, Any] | None = None,
) -> tuple[str | None, tuple[ToolCall, ...]]:
    """Returns an answer's text without its calls, or None if it only calls, and the calls in order.

    `text` is decoded with its special tokens, which mark calls in many families, but without the token that ended it.
    `tools` are the request's: they give the types that some forms don't write, and a call in bare JSON must name one.
    `response_template` is the tokenizer's own, which is tried before the forms in this module.
    """
    if response_template is not None:
        parsed = _parse_by_response_template(text, response_template, tools)
        if parsed is not None:
            return parsed
    form = _find_form(template or "")
    if form is HARMONY:
        return _parse_harmony(text)
    if form is not None:
        rest, calls = _extract_calls(text, form, tools)
        if calls:
            return rest.strip() or None, calls
    bare_calls = tuple(_read_bare_json(text, tools))
    if bare_calls:
        return None, bare_calls
    return text, ()


def _find_form(template: str) -> Form | None:
    for form in FORMS:
        if all(mark in template for mark in form.marks):
            return form
    return None


def _parse_by_response_template(
    text: str, response_template: Mapping[str, Any], tools: Tools
) -> tuple[str | None, tuple[ToolCall, ...]] | None:
    """Returns None if the answer isn't in the template's form."""
    from transformers.utils.chat_parsing import parse_response

    plain_tools: list[Any] = [dict(tool) for tool in tools]
    try:
        message = parse_response(text, dict(response_template), prefix="", tools=plain_tools)
        raw_calls = message.get("tool_calls") or ()
        calls = [_parse_call(call["function"]) for call in raw_calls]
    except UNREADABLE:
        return None
    return message.get("content") or None, tuple(calls)


@dataclass(frozen=True)
class Form:
    """How a family writes calls. Its templates contain all `marks`. `block` matches a stretch of calls, whose first
    group `read` parses. `read` raises one of UNREADABLE if it can't."""

    marks: tuple[str, ...]
    block: re.Pattern[str]
    read: Callable[[str, Tools], Iterator[ToolCall]]


def _extract_calls(text: str, form: Form, tools: Tools) -> tuple[str, tuple[ToolCall, ...]]:
    """Returns the text without its calls, and the calls."""
    calls: list[ToolCall] = []

    def take(match: re.Match[str]) -> str:
        try:
            tool_calls = list(form.read(match[1], tools))
        except UNREADABLE:
            return match[0]
        if not tool_calls:
            return match[0]
        calls.extend(tool_calls)
        return ""

    rest = form.block.sub(take, text)
    return rest, tuple(calls)


def _parse_call(function: Any) -> ToolCall:
    """Parses {"name", "arguments"}, or "parameters" as Llama and Command write it. Raises ValueError, KeyError or
    TypeError."""
    name = function.get("name") or function["tool_name"]
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):  # as OpenAI's API writes them
        arguments = json.loads(arguments)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError(f"not a call: {function!r}")
    return ToolCall(name, _dump_json(arguments))


def _read_json(text: str, tools: Tools) -> Iterator[ToolCall]:
    """Reads calls as consecutive JSON objects or lists of objects. Llama separates them by ';', others by nothing."""
    decoder = json.JSONDecoder()
    text = text.strip()
    position = 0
    while position < len(text):
        value, position = decoder.raw_decode(text, position)
        items = value
        if not isinstance(value, list):
            items = [value]
        for item in items:
            if not isinstance(item, dict):
                raise ValueError("no call")
            yield _parse_call(item)
        while text[position : position + 1] in SEPARATORS:
            position += 1


def _read_bare_json(text: str, tools: Tools) -> Iterator[ToolCall]:
    """Reads calls from an answer that is nothing but JSON calling tools of the request, as small models of any family
    write it. Yields nothing for other answers."""
    stripped = text.strip()
    has_fences = stripped.startswith(FENCE) and stripped.endswith(FENCE)
    if has_fences and len(stripped) >= 2 * len(FENCE):  # one fence alone is both beginning and end
        stripped = stripped.removeprefix(FENCE).removesuffix(FENCE).removeprefix("json")
    try:
        calls = list(_read_json(stripped, tools))
    except UNREADABLE:
        return
    # Without this test an answer that is JSON for another purpose would become a call.
    names = {tool.get("function", tool).get("name") for tool in tools}
    if all(call.name in names for call in calls):
        yield from calls


def _read_llama(text: str, tools: Tools) -> Iterator[ToolCall]:
    """Reads JSON, or name.call(argument="text") for a built-in tool."""
    built_in = re.fullmatch(r"\s*([\w.-]+?)\.call(\(.*\))\s*", text, re.DOTALL)
    if built_in:
        name, arguments = built_in.groups()
        yield from _read_python(name + arguments, tools)
    else:
        yield from _read_json(text, tools)


def _read_mistral(text: str, tools: Tools) -> Iterator[ToolCall]:
    """Reads a JSON list, or name[ARGS]{…} as written since 2025."""
    if "[ARGS]" not in text:
        yield from _read_json(text, tools)
        return
    head, arguments = text.split("[ARGS]", 1)
    name, *_ = head.split("[CALL_ID]")
    yield _parse_call({"name": name.strip(), "arguments": json.loads(arguments)})


def _xml_reader(
    call: str, find_parameters: Callable[[str], Iterator[tuple[str, str]]]
) -> Callable[[str, Tools], Iterator[ToolCall]]:
    """Returns a reader of XML calls, whose values have no types: these come from the tool's schema. `call` is a pattern
    with a group for the name and one for the parameters."""

    def read(text: str, tools: Tools) -> Iterator[ToolCall]:
        match = re.fullmatch(call, text.strip(), re.DOTALL)
        if match is None:
            raise ValueError("no call")
        name = match[1].strip()
        types = _parameter_types(name, tools)
        arguments = {}
        for padded_key, value in find_parameters(match[2]):
            key = padded_key.strip()
            arguments[key] = _parse_value(value, types.get(key))
        yield ToolCall(name, _dump_json(arguments))

    return read


def _parameter_types(name: str, tools: Tools) -> dict[str, object]:
    """Returns the JSON type of each parameter of the tool `name`, by the parameter's name."""
    for tool in tools:
        function = tool.get("function", tool)
        if function.get("name") != name:
            continue
        schema = function.get("parameters") or {}
        properties = schema.get("properties") or {}
        types = {}
        for key, each in properties.items():
            if isinstance(each, dict):
                types[key] = each.get("type")
        return types
    return {}


def _find_parameters(text: str) -> Iterator[tuple[str, str]]:
    """Yields keys and values of <parameter=key>value</parameter>."""
    start = _PARAMETER.search(text)
    while start:
        end = text.find(PARAMETER_END, start.end())
        if end < 0:
            return
        value = text[start.end() : end]
        # One line break on each side belongs to the form, further ones to the value.
        yield start[1], value.removeprefix("\n").removesuffix("\n")
        start = _PARAMETER.search(text, end)


def _find_arguments(text: str) -> Iterator[tuple[str, str]]:
    """Yields keys and values of <arg_key>key</arg_key><arg_value>value</arg_value>."""
    for part in text.split("<arg_key>")[1:]:
        key, _, rest = part.partition("</arg_key>")
        gap, start, rest = rest.partition("<arg_value>")
        value, end, _ = rest.partition("</arg_value>")
        is_complete = start and end
        if is_complete and not gap.strip():
            yield key, value


def _parse_value(value: str, kind: object) -> Any:
    if kind == "string":
        return value
    try:
        return json.loads(value)
    except ValueError:
        # Models also write Python's words.
        python_words = {"True": True, "False": False, "None": None}
        return python_words.get(value, value)


def _read_gemma(text: str, tools: Tools) -> Iterator[ToolCall]:
    """Reads call:name{key:<|"|>text<|"|>,other:3}."""
    match = re.fullmatch(r"\s*call:([\w.-]+)(\{.*\})\s*", text, re.DOTALL)
    if match is None:
        raise ValueError("no call")
    key = re.compile(r"([{,]\s*)([^\s{}\[\],:\"]+)(\s*:)")
    quoted = []
    for number, part in enumerate(match[2].split('<|"|>')):
        # Every second part is a text value. Only in the others a word before a colon is a key.
        is_text = number % 2 == 1
        if is_text:
            quoted.append(_dump_json(part))
        else:
            quoted.append(key.sub(r'\1"\2"\3', part))
    arguments = json.loads("".join(quoted))
    yield _parse_call({"name": match[1], "arguments": arguments})


def _read_python(text: str, tools: Tools) -> Iterator[ToolCall]:
    """Reads [name(key="text"), other()], or one call per line."""
    code = text.strip()
    if not code.startswith("["):
        items = re.sub(r"\)\s*\n\s*", "), ", code)
        code = f"[{items}]"
    calls = ast.parse(code, mode="eval").body
    if not isinstance(calls, ast.List):
        return
    for call in calls.elts:
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("no call with named arguments")
        name = ast.unparse(call.func)  # may have dots
        arguments = {str(word.arg): _evaluate_literal(word.value) for word in call.keywords}
        yield ToolCall(name, _dump_json(arguments))


def _evaluate_literal(node: ast.expr) -> Any:
    """Evaluates a literal that may contain JSON's true, false and null."""
    for part in ast.walk(node):
        if isinstance(part, ast.List):
            part.elts = [_json_constant(item) for item in part.elts]
        elif isinstance(part, ast.Dict):
            part.values = [_json_constant(value) for value in part.values]
    return ast.literal_eval(_json_constant(node))


def _json_constant(node: ast.expr) -> ast.expr:
    values = {"true": True, "false": False, "null": None}
    if isinstance(node, ast.Name) and node.id in values:
        return ast.Constant(values[node.id])
    return node


def _read_deepseek(text: str, tools: Tools) -> Iterator[ToolCall]:
    """Reads a name and JSON, as V3.1 and later write it, or the type, the name and JSON between ```."""
    for block in text.split("<｜tool▁call▁begin｜>")[1:]:
        head, separator, rest = block.partition("<｜tool▁sep｜>")
        body, end, _ = rest.partition("<｜tool▁call▁end｜>")
        if not separator or not end:
            continue
        name, fence, fenced = body.strip().partition(f"{FENCE}json")
        if fence and fenced.endswith(FENCE):
            arguments = json.loads(fenced.removesuffix(FENCE))
        else:
            name = head  # as V3.1 writes it: the whole body is JSON
            arguments = json.loads(body)
        yield _parse_call({"name": name.strip(), "arguments": arguments})


def _parse_harmony(text: str) -> tuple[str | None, tuple[ToolCall, ...]]:
    """Reads gpt-oss's messages, each with a recipient or a channel, and drops those of the channel 'analysis'."""
    if HARMONY_MESSAGE not in text:
        return text, ()
    lines: list[str] = []
    calls: list[ToolCall] = []
    for message in _HARMONY_ENDS.split(text):
        head, mark, body = message.partition(HARMONY_MESSAGE)
        if not mark:
            continue
        recipient = re.search(r"to=(?:functions\.)?([\w.-]+)", head)
        if recipient:
            try:
                arguments = json.loads(body)
                calls.append(_parse_call({"name": recipient[1], "arguments": arguments}))
            except UNREADABLE:
                lines.append(body)
        elif "<|channel|>analysis" not in head:
            lines.append(body)
    return "\n".join(lines).strip() or None, tuple(calls)


def _dump_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _block_pattern(start: str, end: str) -> re.Pattern[str]:
    """Returns a pattern for a block of calls and the space before it. The last block may lack its end mark, if that
    token ended the answer."""
    # The look-behind keeps each position within a long stretch of spaces from being tried as the beginning.
    return re.compile(rf"(?:(?<!\s)\s++)?{start}(.*?)(?:{end}|\Z)", re.DOTALL)


_TOOL_CALL = _block_pattern(r"<tool_call>", "</tool_call>")
HARMONY = Form(("<|channel|>", "commentary"), re.compile(r"(?!)()"), _read_json)
# The order matters: templates of earlier forms also contain the marks of later ones.
FORMS = (
    HARMONY,
    Form(("<|tool_call>call:",), _block_pattern(r"<\|tool_call>", r"<tool_call\|>"), _read_gemma),
    Form(
        ("<tool_call>", "<function="),
        _TOOL_CALL,
        _xml_reader(
            r"<function=([^\n>]+)>(.*?)(?:</function>)?",
            _find_parameters,
        ),
    ),
    Form(
        ("<tool_call>", "<arg_key>"),
        _TOOL_CALL,
        _xml_reader(r"([^\n<]+)(.*)", _find_arguments),
    ),
    Form(("<tool_call>",), _TOOL_CALL, _read_json),
    Form(
        ("<|tool_call_start|>",),
        _block_pattern(r"<\|tool_call_start\|>", r"<\|tool_call_end\|>"),
        _read_python,
    ),
    Form(("<function_calls>",), _block_pattern(r"<function_calls>", "</function_calls>"), _read_python),
    Form(
        ("<｜tool▁calls▁begin｜>",),
        _block_pattern(r"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        _read_deepseek,
    ),
    Form(("[TOOL_CALLS]",), _block_pattern(r"\[TOOL_CALLS\]", r"(?=\[TOOL_CALLS\])"), _read_mistral),
    Form(("<|START_ACTION|>",), _block_pattern(r"<\|START_ACTION\|>", r"<\|END_ACTION\|>"), _read_json),
    Form(("<|tool_call|>",), _block_pattern(r"<\|tool_call\|>", r"<\|/tool_call\|>"), _read_json),
    # Llama marks only calls of its interpreter. Its other calls are bare JSON, which is read for any family.
    Form(("<|python_tag|>",), _block_pattern(r"<\|python_tag\|>", r"<\|eom_id\|>"), _read_llama),
)
