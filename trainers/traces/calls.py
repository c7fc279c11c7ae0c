"""A call of a model that another tool recorded, and what all formats have in common: messages, tokens and times.

Formats differ in how much they record. What a file doesn't say is None here, never zero.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, cast

import orjson

from trainers.dataset.checks import Rule
from trainers.dataset.rows import INSTRUCTION_ROLES, is_blank
from trainers.types import Message, Role

Record: TypeAlias = Mapping[str, Any]

NO_MODEL = Rule(
    "no_model", "warns", "Record the model's name with each call; without it the call belongs to no price."
)
NOT_A_CALL = Rule("not_a_call", "tells", "Nothing to do: only calls of models that write texts are counted.")

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
}
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_SHORT_HASH = 12  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class TracedCall:
    """A recorded call.

    - `line` is where its record begins in the file, from 1. `id` is the tool's own, `parent_id` that of the record
      around it.
    - `at` is when it began, in seconds since 1970 (UTC), and `seconds` how long it took.
    - `messages` are the request's, empty if they were not recorded. `answer` is the text of the first choice.
    - `prompt_tokens` include those that were read from a cache, which are `cached_tokens`.
    - `has_only_text` is False if a message or the answer holds something else: a picture, a call of a tool.
    """

    line: int
    id: str | None
    parent_id: str | None
    at: float | None
    model: str
    messages: tuple[Message, ...]
    answer: str | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    seconds: float | None
    is_error: bool
    has_only_text: bool

    @property
    def instructions(self) -> str:
        """The system message, or several joined by newlines; "" if there is none."""
        return "\n".join(message.content for message in self.messages if message.role in INSTRUCTION_ROLES)

    @property
    def prompt_hash(self) -> str:
        """The first digits of the sha256 of the instructions, by which equal ones are recognised."""
        return _short_hash(self.instructions)

    @property
    def question(self) -> str | None:
        """The text that was asked, or None if it was not recorded, is no text, or follows other turns."""
        turns = [message for message in self.messages if message.role not in INSTRUCTION_ROLES]
        if not self.has_only_text or [turn.role for turn in turns] != ["user"]:
            return None
        if is_blank(turns[0].content):
            return None
        return turns[0].content


# Most calls have the instructions of another one.
@lru_cache(256)
def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_SHORT_HASH]


class Conversation(NamedTuple):
    """Messages as they were recorded. `has_only_text` is False if a part of them is something else."""

    messages: tuple[Message, ...]
    has_only_text: bool = True


NOTHING_RECORDED = Conversation(())


class Reply(NamedTuple):
    """An answer as it was recorded. `text` is None if there is none, or if it is something else than text."""

    text: str | None
    has_only_text: bool = True


NO_REPLY = Reply(None)


class Usage(NamedTuple):
    """The tokens of a call; None is what was not recorded."""

    prompt: int | None = None
    cached: int | None = None
    completion: int | None = None


NO_USAGE = Usage()


def read_conversation(value: object) -> Conversation:
    """Reads the messages of a request: a list of them, an object that holds one as `messages` or `input`, or a text,
    which is a question of the user."""
    value = parsed_json(value)
    if isinstance(value, str):
        return Conversation((Message("user", value),))
    if isinstance(value, Mapping):
        return _conversation_of_object(value)
    if not isinstance(value, list) or not value:
        return NOTHING_RECORDED
    if all(isinstance(item, str) for item in value):
        return Conversation(tuple(Message("user", item) for item in value))
    messages = []
    has_only_text = True
    for item in value:
        message = read_message(item)
        if message is None or _calls_tools(item):
            has_only_text = False
        if message is not None:
            messages.append(message)
    return Conversation(tuple(messages), has_only_text)


def _conversation_of_object(value: Record) -> Conversation:
    for key in ("messages", "input", "prompt", "data"):
        inner = value.get(key)
        if isinstance(inner, str | list) and inner:
            conversation = read_conversation(inner)
            return with_instructions(conversation, value.get("instructions") or value.get("system"))
    if "content" in value or "parts" in value:
        return read_conversation([value])
    return NOTHING_RECORDED


def with_instructions(conversation: Conversation, instructions: object) -> Conversation:
    """Puts instructions that were recorded apart from the messages before them."""
    instructions = parsed_json(instructions)
    if not instructions:
        return conversation
    text = text_of(instructions)
    if not text:
        return conversation
    messages = (Message("system", text), *conversation.messages)
    return conversation._replace(messages=messages)


def read_message(value: object) -> Message | None:
    """Reads one message, with `content` or with `parts`. Returns None if it is none, or holds something else than
    text."""
    if not isinstance(value, Mapping):
        return None
    role = _ROLES.get(str(value.get("role", "user")).lower())
    content = value.get("content")
    if content is None:
        content = value.get("parts")
    text = text_of(content)
    if role is None or text is None:
        return None
    return Message(role, text)


def text_of(content: object) -> str | None:
    """Returns the text of a content, joined by newlines if it has several parts, or None if a part is not text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        text = part
        if not isinstance(part, str):
            text = _text_of_part(part)
        if text is None:
            return None
        texts.append(text)
    return "\n".join(texts)


def _text_of_part(part: object) -> str | None:
    if not isinstance(part, Mapping) or part.get("type", "text") not in _TEXT_PARTS:
        return None
    text = part.get("text")
    if text is None:
        text = part.get("content")
    if not isinstance(text, str):
        return None
    return text


def _calls_tools(message: object) -> bool:
    return isinstance(message, Mapping) and bool(message.get("tool_calls") or message.get("function_call"))


def read_reply(value: object) -> Reply:
    """Reads an answer: OpenAI's completion or response, a list of choices or messages, a message, or a text."""
    value = parsed_json(value)
    if isinstance(value, str):
        return Reply(value)
    if isinstance(value, list):
        if not value:
            return NO_REPLY
        return read_reply(value[0])
    if not isinstance(value, Mapping):
        return NO_REPLY
    if _calls_tools(value):
        return Reply(None, has_only_text=False)
    for key in ("choices", "message", "output"):
        if value.get(key):
            return _reply_inside(value[key])
    if isinstance(value.get("text"), str):
        return Reply(value["text"])
    if "content" not in value and "parts" not in value:
        return NO_REPLY
    message = read_message({"role": "assistant", **value})
    if message is None:
        return Reply(None, has_only_text=False)
    return Reply(message.content)


def _reply_inside(value: object) -> Reply:
    """Reads choices, a message, or the items of a response, of which only those with type `message` are texts."""
    if isinstance(value, list):
        items = [item for item in value if not isinstance(item, Mapping) or item.get("type") != "reasoning"]
        if any(isinstance(item, Mapping) and item.get("type") == "function_call" for item in items):
            return Reply(None, has_only_text=False)
        return read_reply(items)
    return read_reply(value)


def read_usage(value: object) -> Usage:
    """Reads tokens as OpenAI's APIs name them, in completions and in responses."""
    value = parsed_json(value)
    if not isinstance(value, Mapping):
        return NO_USAGE
    details = value.get("prompt_tokens_details") or value.get("input_tokens_details") or {}
    cached = None
    if isinstance(details, Mapping):
        cached = details.get("cached_tokens")
    return Usage(
        first_count(value, "prompt_tokens", "input_tokens"),
        count(cached),
        first_count(value, "completion_tokens", "output_tokens"),
    )


def first_count(record: Record, *keys: str) -> int | None:
    """Returns the first of these values that is a number of tokens."""
    for key in keys:
        value = count(record.get(key))
        if value is not None:
            return value
    return None


def count(value: object) -> int | None:
    """Reads a whole number of at least 0, which JSON may have as a text."""
    number = finite(value)
    if number is None or number < 0 or number != int(number):
        return None
    return int(number)


def finite(value: object) -> float | None:
    """Reads a finite number, which JSON may have as a text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return number


def first_text(record: Record, *keys: str) -> str | None:
    """Returns the first of these values that is a text with anything in it."""
    for key in keys:
        value = record.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def read_time(value: object) -> float | None:
    """Reads a time as seconds since 1970: ISO 8601, where a time without a zone is UTC, or a number of seconds, milli-,
    micro- or nanoseconds, told apart by its size."""
    number = finite(value)
    if number is not None:
        for scale in (1e9, 1e6, 1e3):
            if number / scale > 1e8:  # 1973; no trace is older
                return number / scale
        if number <= 0:
            return None
        return number
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def duration(begin: float | None, end: float | None) -> float | None:
    """Returns the seconds between two times, None if one is missing or they are in the wrong order."""
    if begin is None or end is None or end < begin:
        return None
    return end - begin


def parsed_json(value: object) -> object:
    """Returns the value, or what it says if it is a text of JSON with an object, a list or a text."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "[", '"'):
        return value
    try:
        return cast(object, orjson.loads(value))
    except orjson.JSONDecodeError:
        return value  # a text that only begins like JSON


def shared_texts(messages: Sequence[Message], texts: dict[str, str]) -> tuple[Message, ...]:
    """Returns the messages with each text that occurred before as the same object, so that instructions take their
    memory once."""
    return tuple(Message(each.role, texts.setdefault(each.content, each.content)) for each in messages)
