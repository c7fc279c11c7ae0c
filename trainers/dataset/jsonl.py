"""Parses one line of JSONL into an Example or the first fault in it: chats with or without tools, rows of prompt and
completion, and preference pairs. Reads no files.

orjson parses first. It silently keeps the last of two equal keys, and its error messages change with its version, so
the standard library parses strictly whenever there is any doubt. A tool call is {"id", "type": "function", "function":
{"name", "arguments"}} with a JSON object written as text for its arguments. Each call must be answered by one tool
message with its id before the conversation continues, but a row may end with unanswered calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast, get_args

import orjson

from trainers.dataset.checks import Fault, Findings, Rule
from trainers.dataset.preference_pairs import Pair, is_pair, parse_pair
from trainers.dataset.rows import (
    MESSAGE_KEYS,
    Example,
    Format,
    Limits,
    is_blank,
    is_empty,
    text_of_content,
    to_printable,
    written_message,
)
from trainers.dataset.sensitive_data import faults_in
from trainers.dataset.tables import Progress
from trainers.types import Message, Role

_CHAT = 'Write {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}.'

NOT_JSON = Rule("not_json", "blocks", "Correct the line or delete it; each line must be one JSON object.")
BAD_BYTES = Rule("not_utf8", "blocks", "Save the file as UTF-8 and send it again.")
BAD_NUMBER = Rule("not_a_number", "blocks", "Replace NaN, Infinity or the huge number with text or null.")
LONE_SURROGATE = Rule(
    "lone_surrogate", "blocks", "Replace the broken \\ud… escape: half an emoji is not text."
)
DUPLICATE_KEY = Rule(
    "duplicate_key", "blocks", "Keep one of the two, because programs disagree on which one counts."
)
TOO_DEEP = Rule("nested_too_deep", "blocks", "Flatten the row.")
NOT_A_ROW = Rule(
    "not_a_row", "blocks", 'Give each line a text and a label: {"text": "…", "label": "…"}; or chat messages.'
)
MIXED = Rule("mixed_formats", "blocks", "Use one format in the whole file.")
BAD_MESSAGES = Rule("bad_messages", "blocks", _CHAT)
UNKNOWN_ROLE = Rule("unknown_role", "blocks", "Use system, developer, user, assistant or tool.")
NO_ANSWER = Rule(
    "no_answer", "blocks", "End the row with the assistant's answer, from which the model learns."
)
NO_QUESTION = Rule("no_question", "blocks", "Put at least one user message before the answer.")
EMPTY_CONTENT = Rule("empty_content", "blocks", "Fill it in, or delete the line.")
NOT_TEXT = Rule("content_not_text", "blocks", "Use text; pictures and sound can't be trained on here.")
BAD_WEIGHT = Rule("bad_weight", "blocks", "Use weight 0 or 1, on assistant messages only.")
DROPPED_KEYS = Rule(
    "dropped_keys",
    "tells",
    "Nothing to do. Put anything that the model should learn from into the text of a message.",
)
NOTHING_TO_LEARN = Rule(
    "nothing_to_learn", "blocks", "Give one assistant message weight 1, or delete the line."
)
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
    "After a message with calls, add one tool message for each call, with the call's id as tool_call_id.",
)

_LISTS = ("tools", "functions")
_EXTRA = ("tool_calls", "function_call", "tool_call_id", "name")
_ROLES = frozenset(get_args(Role))
_PLAIN_ROLES = _ROLES - {"tool"}
_KEY = re.compile(rb'"[ \t\r\n]*:')
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89abAB]")
ROW_KEYS = ("messages", "tools", "functions", "parallel_tool_calls")


def parse_line(
    line: int, row: bytes, findings: Findings, limits: Limits, progress: Progress
) -> Example | None:
    """Parses one line of JSONL, without surrounding white space. Returns None if it is blank or faulty; faults go to
    `findings`."""
    if not row:
        progress.blank += 1
        return None
    parsed = parse_row(line, row, limits)
    if isinstance(parsed, Fault):
        findings.add_for_line(line, parsed)
        return None
    row_format, example = parsed
    progress.format = progress.format or row_format
    if row_format != progress.format:
        findings.add_for_line(line, Fault(MIXED, "has a different format than the rows before it"))
        return None
    progress.pairs += row_format == "preference"
    if example.dropped:
        findings.add_for_line(line, dropped_fault(example.dropped))
    return example


def parse_row(line: int, raw: bytes, limits: Limits) -> tuple[Format, Example] | Fault:
    """Parses one line without its ending, at most `limits.max_line_bytes` long. The example of a preference pair has
    the preferred answer."""
    try:
        row = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return _syntax_fault(raw, error, limits)
    # The number of brackets is counted fast, and rules out nearly every row.
    brackets = raw.count(b"{") + raw.count(b"[")
    if brackets > limits.max_depth and _depth(row) > limits.max_depth:
        return Fault(TOO_DEEP, f"nests deeper than {limits.max_depth} levels")
    if type(row) is not dict:
        return Fault(NOT_A_ROW, "is JSON, but not an object")
    if "messages" in row:
        parsed = chat_example(line, row, limits)
    elif "prompt" in row and "completion" in row:
        parsed = _parse_completion(line, row)
    elif is_pair(row):
        parsed = _parse_preference(line, row, limits)
    else:
        parsed = Fault(NOT_A_ROW, "has neither messages nor prompt and completion")

    # Every key in the line ends with `":`. If the row has fewer keys, one was lost or a text contains `":`.
    is_plain = type(parsed) is tuple and parsed[0] == "chat" and parsed[1].row is None
    if is_plain:
        # The key `messages`, and two in each message. Counted here, since most rows are such and the rest is slow.
        keys = 1 + 2 * len(row["messages"])
    else:
        keys = _key_count(row)
    return _twice_fault(raw, keys) or parsed


def parse_object(raw: bytes, limits: Limits) -> dict[str, Any] | Fault:
    """Parses one line that is a row of a table."""
    try:
        row = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return _syntax_fault(raw, error, limits)
    if type(row) is not dict:
        return Fault(NOT_A_ROW, "is JSON, but not an object")
    return _twice_fault(raw, _key_count(row)) or row


def _twice_fault(raw: bytes, keys: int) -> Fault | None:
    """Returns a fault if an object has a key twice. `keys` is the number of keys that the parser has kept."""
    if len(_KEY.findall(raw)) == keys:
        return None
    equal: list[bool] = []

    def note(items: list[tuple[str, Any]]) -> None:
        equal.append(len(dict(items)) != len(items))

    json.loads(raw, object_pairs_hook=note)
    if not any(equal):
        return None
    return Fault(DUPLICATE_KEY, "has the same key twice in one object")


def _syntax_fault(raw: bytes, error: orjson.JSONDecodeError, limits: Limits) -> Fault:
    """Returns why orjson refused the line, in words that don't depend on its version."""

    def finite(digits: str) -> float:
        number = float(digits)
        if abs(number) == float("inf"):
            raise ValueError
        return number

    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as bad:
        return Fault(BAD_BYTES, f"is not UTF-8 at byte {bad.start + 1:,}; {guessed_encoding(raw)}")
    try:
        json.loads(text, parse_constant=lambda name: finite("inf"), parse_float=finite)
    except RecursionError:
        return Fault(TOO_DEEP, f"nests deeper than {limits.max_depth} levels")
    except json.JSONDecodeError:
        return Fault(NOT_JSON, f"is not valid JSON at character {error.pos + 1:,}")
    except ValueError:
        return Fault(BAD_NUMBER, "has NaN, Infinity or a number that is too large")
    if _ESCAPED_SURROGATE.search(text):
        return Fault(LONE_SURROGATE, "has half of a character (a lone surrogate)")
    brackets = text.count("[") + text.count("{")
    if brackets > limits.max_depth:
        return Fault(TOO_DEEP, f"nests deeper than {limits.max_depth} levels")
    return Fault(NOT_JSON, f"is not JSON that all programs can read, at character {error.pos + 1:,}")


def guessed_encoding(raw: bytes) -> str:
    """Returns a guess, phrased as one, of the encoding of bytes that aren't UTF-8."""
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return "it may be Latin-1, or no text at all"
    return "it seems to be Windows-1252 or Latin-1"


def _depth(value: object) -> int:
    depth = 0
    # Level by level, since recursion would fail on the very rows that are looked for.
    level = [value]
    while level:
        depth += 1
        children: list[object] = []
        for parent in level:
            if isinstance(parent, dict):
                children += parent.values()
            elif isinstance(parent, list):
                children += parent
        level = children
    return depth - 1


def _key_count(value: object) -> int:
    """Counts the keys at all levels."""
    if type(value) is dict:
        inner = [_key_count(child) for child in value.values() if type(child) in (dict, list)]
        return len(value) + sum(inner)
    if type(value) is list:
        return sum([_key_count(child) for child in value])
    return 0


def _parse_completion(line: int, row: dict[str, Any]) -> tuple[Format, Example] | Fault:
    prompt = row["prompt"]
    completion = row["completion"]
    for name, text in (("prompt", prompt), ("completion", completion)):
        if type(text) is not str:
            return Fault(NOT_TEXT, f"has a {name} that is not text")
        if is_blank(text):
            return Fault(EMPTY_CONTENT, f"has an empty {name}")
    # Older files pad completions with a space and end both texts with separators of their own.
    messages = (Message("user", prompt.strip()), Message("assistant", completion.strip()))
    dropped = tuple(row.keys() - {"prompt", "completion"})
    return "completion", Example(line, messages, dropped=dropped)


def _parse_preference(line: int, row: dict[str, Any], limits: Limits) -> tuple[Format, Example] | Fault:
    """Parses a pair. Its conversation with either answer must be valid for training."""
    pair = parse_pair(row)
    if not isinstance(pair, Pair):
        return pair
    with_preferred = {"messages": [*pair.prompt, *pair.preferred], **pair.tools}
    preferred = chat_example(line, with_preferred, limits)
    if isinstance(preferred, Fault):
        return preferred
    with_other = {"messages": [*pair.prompt, *pair.other], **pair.tools}
    other = chat_example(line, with_other, limits)
    if isinstance(other, Fault):
        return other
    _, example = preferred
    _, other_example = other
    dropped = pair.dropped.union(example.dropped, other_example.dropped)
    return "preference", replace(example, dropped=tuple(dropped))


@lru_cache(1024)
def dropped_fault(names: tuple[str, ...]) -> Fault:
    """Reports the ignored keys of a usable row. Names that are long or look like somebody's data are not shown."""
    harmless = []
    for name in names:
        if to_printable(name) and len(name) <= 40 and not faults_in(name):
            harmless.append(name)
    shown = sorted(harmless)[:5]
    if len(names) == 1:
        text = "has a key that no trainer reads, so it was dropped"
    else:
        text = "has keys that no trainer reads, so they were dropped"
    if shown:
        text += ": " + ", ".join(map(to_printable, shown))
        more = len(names) - len(shown)
        if more:
            text += f" and {more:,} more"
    return Fault(DROPPED_KEYS, text)


def chat_example(line: int, row: dict[str, Any], limits: Limits) -> tuple[Format, Example] | Fault:
    """Parses a row that has messages."""
    raw_messages = row["messages"]
    if type(raw_messages) is not list or not raw_messages:
        return Fault(BAD_MESSAGES, "has messages that are not a list, or an empty one")
    if len(raw_messages) > limits.max_messages:
        return Fault(BAD_MESSAGES, f"has more than {limits.max_messages} messages")

    is_plain = len(row) == 1
    messages: list[Message] = []
    for number, raw in enumerate(raw_messages, 1):
        message = _plain_message(raw)
        if message is None:
            is_plain = False
            parsed = _parse_message(number, raw)
            if isinstance(parsed, Fault):
                return parsed
            message = parsed
        messages.append(message)

    last = messages[-1]
    if last.role != "assistant":
        return Fault(NO_ANSWER, f"ends with a {last.role} message, not with the assistant's answer")
    if not any(message.role == "user" for message in messages):
        return Fault(NO_QUESTION, "has no user message")
    weights = [message.weight for message in messages if message.role == "assistant"]
    if all(weight == 0 for weight in weights):
        return Fault(NOTHING_TO_LEARN, "gives every answer weight 0")
    if is_plain:
        return "chat", Example(line, tuple(messages))

    fault = _tools_fault(row) or _order_fault(raw_messages)
    if fault:
        return fault
    written = _written_row(row, raw_messages)
    dropped = _dropped_keys(row, ROW_KEYS)
    for raw in raw_messages:
        dropped |= _dropped_keys(raw, MESSAGE_KEYS)
    example = Example(
        line,
        tuple(messages),
        row=orjson.dumps(written),
        dropped=tuple(dropped),
        uses_tools=_uses_tools(written),
    )
    return "chat", example


def _written_row(row: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns a valid row as trainers get it, without keys that are empty or that no trainer reads."""
    written = {key: row[key] for key in ROW_KEYS if not is_empty(row.get(key))}
    if not _definitions(row):
        written.pop("parallel_tool_calls", None)  # vendors refuse it where no tools are offered
    written["messages"] = [written_message(message) for message in messages]
    return written


def _dropped_keys(value: dict[str, Any], written: Sequence[str]) -> set[str]:
    """Returns the keys that hold something and are not written."""
    return {key for key in value.keys() - written if not is_empty(value[key])}


def _uses_tools(written: dict[str, Any]) -> bool:
    """True for a row that offers functions or calls one. Answers of tools follow calls."""
    if _definitions(written):
        return True
    messages = written["messages"]
    return any("tool_calls" in message or "function_call" in message for message in messages)


def _plain_message(raw: Any) -> Message | None:
    """Parses the common case quickly: a known role other than tool, some text, and nothing else. Returns None for any
    other message."""
    if type(raw) is not dict or len(raw) != 2:
        return None
    role = raw.get("role")
    content = raw.get("content")
    if type(role) is not str or role not in _PLAIN_ROLES:
        return None
    if type(content) is not str or is_blank(content):
        return None
    return Message(cast(Role, role), content)


def _parse_message(number: int, raw: Any) -> Message | Fault:
    """Parses any message, including one with parts, a weight, tool calls or a name."""
    if type(raw) is not dict:
        return Fault(BAD_MESSAGES, f"has a message that is not an object, number {number}")
    role = raw.get("role")
    weight = raw.get("weight")
    if type(role) is not str or role not in _ROLES:
        return Fault(UNKNOWN_ROLE, f"has an unknown role in message {number}")
    if weight is not None:
        is_valid = type(weight) is int and weight in (0, 1)  # by type, since true equals 1 in Python
        if not is_valid or role != "assistant":
            return Fault(BAD_WEIGHT, f"has a weight that is not allowed, in message {number}")
    content = text_of_content(raw.get("content"))
    if content is None:
        return Fault(NOT_TEXT, f"has content that is not text, in message {number}")
    fault = _call_fault(number, raw)
    if fault:
        return fault
    calls = raw.get("tool_calls") or raw.get("function_call")
    if calls:
        written = orjson.dumps(calls).decode()
        content = f"{content}\n{written}".lstrip("\n")
    if is_blank(content):
        return Fault(EMPTY_CONTENT, f"has an empty {role} message, number {number}")
    return Message(cast(Role, role), content, weight)


def definitions_text(row: bytes) -> str:
    """Returns the tools that a row defines, as JSON, or "" if there are none. Vendors show them to the model in a form
    of their own, of about the same length."""
    # Parsing is slow, so that rows without either word are ruled out first.
    if not any(b'"%b"' % name.encode() in row for name in _LISTS):
        return ""
    tools = _definitions(orjson.loads(row))
    if not tools:
        return ""
    return orjson.dumps(tools).decode()


def tools_of(row: bytes) -> str:
    """Returns the tools that a row defines, as JSON for a chat request, or "" if there are none."""
    text = definitions_text(row)
    if not text:
        return ""
    row_lists = orjson.loads(text)
    older = [{"type": "function", "function": function} for function in row_lists.get("functions", ())]
    tools = row_lists.get("tools") or older
    return orjson.dumps(tools).decode()


def called_functions(row: bytes) -> tuple[str, ...]:
    """Returns the names of the functions that the answer of a stored row calls."""
    *_, answer = orjson.loads(row)["messages"]
    calls = [call["function"] for call in answer.get("tool_calls") or ()]
    older = answer.get("function_call")
    if older:
        calls.append(older)
    return tuple(call["name"] for call in calls)


def asked_messages(row: bytes) -> tuple[Message, ...]:
    """Returns the messages of a stored row as a chat request needs them, with tool calls apart from texts.
    `Example.messages` has both in one text."""
    messages = []
    for raw in orjson.loads(row)["messages"]:
        extra = {name: raw[name] for name in _EXTRA if raw.get(name)}
        text = ""
        if extra:
            text = orjson.dumps(extra).decode()
        content = text_of_content(raw.get("content")) or ""
        messages.append(Message(raw["role"], content, extra=text))
    return tuple(messages)


def _definitions(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _LISTS if row.get(name)}


def _tools_fault(row: dict[str, Any]) -> Fault | None:
    """Returns a fault if the tools that a row defines are malformed."""
    for name, tools in _definitions(row).items():
        if type(tools) is not list:
            is_sound = False
        elif name == "tools":
            is_sound = all(map(_is_tool, tools))
        else:
            is_sound = all(map(_is_named, tools))
        if not is_sound:
            return Fault(BAD_TOOLS, f"has {name} in a form that trainers don't accept")
    return None


def _call_fault(number: int, message: dict[str, Any]) -> Fault | None:
    """Returns a fault if the tool calls in a message are malformed."""
    calls = message.get("tool_calls")
    function_call = message.get("function_call")
    if not calls and not function_call:
        return None
    if message.get("role") != "assistant":
        return Fault(BAD_CALL, f"calls a tool in message {number}, which is not from the assistant")
    if not calls:
        is_sound = _has_arguments(function_call)
    elif type(calls) is list:
        is_sound = all(map(_is_call, calls))
    else:
        is_sound = False
    if is_sound:
        return None
    return Fault(BAD_CALL, f"has a malformed tool call, in message {number}")


def _order_fault(messages: list[Any]) -> Fault | None:
    """Returns a fault if calls and tool messages don't match. Each message by itself has been checked before."""
    waiting: set[str] = set()
    for number, message in enumerate(messages, 1):
        if message["role"] == "tool":
            call_id = message.get("tool_call_id")
            if type(call_id) is not str or call_id not in waiting:
                return Fault(UNMATCHED, f"has a tool message that answers no earlier call, number {number}")
            waiting.remove(call_id)
        elif waiting:
            return Fault(UNMATCHED, f"has a tool call that was not answered before message {number}")
        else:
            waiting = {call["id"] for call in message.get("tool_calls") or ()}
    return None


def _is_call(call: Any) -> bool:
    if not _is_tool(call) or not _is_filled(call.get("id")):
        return False
    return _has_arguments(call["function"])


def _is_tool(tool: Any) -> bool:
    if type(tool) is not dict or tool.get("type") != "function":
        return False
    return _is_named(tool.get("function"))


def _has_arguments(function: Any) -> bool:
    """True for a named function whose arguments are a JSON object written as text."""
    if not _is_named(function):
        return False
    arguments = function.get("arguments")
    if type(arguments) is not str:
        return False
    try:
        return type(orjson.loads(arguments)) is dict
    except orjson.JSONDecodeError:
        return False


def _is_named(function: Any) -> bool:
    return type(function) is dict and _is_filled(function.get("name"))


def _is_filled(text: Any) -> bool:
    return type(text) is str and bool(text.strip())
