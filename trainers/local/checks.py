"""Checks whether a file can be trained on and whether this machine has what a job needs. Each check returns None, or a
sentence that says what is wrong.

Files are chat JSONL or preference pairs, read line by line up to the first bad line. Quality is not judged here:
trainers/dataset checks for duplicates, wrong labels and overlaps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from trainers.methods import METHODS
from trainers.packages import install_line

MAX_LABELS = 500  # up to this many different answers trainers/dataset treats as labels
MAX_LINE_BYTES = 4 * 1024 * 1024
ROLES = ("system", "developer", "user", "assistant", "tool")
CHAT = '{"messages": [...]}'
PAIR = '{"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}'
ANSWERS = ("preferred_output", "non_preferred_output")
UTF8_MARK = b"\xef\xbb\xbf"  # the byte order mark that Excel and PowerShell write
BINARY_FORMATS = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a ZIP",
}


def file_refusal(path: Path, min_examples: int, *, pairs: bool = False) -> str | None:
    """Returns a sentence about the first bad line or about too few examples, or None. With `pairs` the examples have to
    be preference pairs instead of chats."""
    examples = 0
    for number, line in _read_lines(path):
        complaint = line_complaint(line, pairs)
        if complaint is not None:
            return f"Line {number} {complaint}"
        examples += 1
    if examples < min_examples:
        return f"The file has {examples} examples; at least {min_examples} are needed. Add more and upload it again."
    return None


def labels_refusal(path: Path) -> str | None:
    """Returns a sentence that says why an encoder can't learn the last answers of these chats as labels, or None. The
    file has to have passed file_refusal."""
    labels: set[bytes] = set()
    for _, line in _read_lines(path):
        answer = orjson.loads(line)["messages"][-1]
        label = answer.get("content")  # a call of tools may have no content at all
        if answer["role"] != "assistant" or not isinstance(label, str):
            return "An encoder learns labels, but some rows don't end with a plain-text answer. Choose a chat model."
        labels.add(hashlib.blake2b(label.strip().encode(), digest_size=16).digest())
    if len(labels) < 2:
        return "All its answers are the same, so there is nothing to learn. Add rows with another label."
    if len(labels) > MAX_LABELS:
        return f"It has {len(labels):,} different answers; an encoder learns at most {MAX_LABELS}. Choose a chat model."
    return None


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the number and the bytes of each line that isn't blank. A line that is too long is cut just above the
    limit, so that a file without line breaks isn't read into memory as a whole."""
    with path.open("rb") as file:
        lines = iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(UTF8_MARK)
            if line.strip():
                yield number, line


def quantization_refusal(kind: str) -> str | None:
    if kind == "none" or find_spec("bitsandbytes") is not None:
        return None
    return (
        f"quantization '{kind}' needs the package bitsandbytes, which this trainer's environment lacks. "
        f"Install it with: {install_line('quantized')}; or set quantization to none."
    )


def method_refusal(method: str) -> str | None:
    if not METHODS[method].needs_trl or find_spec("trl") is not None:
        return None
    return (
        f"The method {method} needs the package trl, which this trainer's environment lacks. "
        f"Install it with: {install_line('local')}; or send chats and leave method out."
    )


def line_complaint(line: bytes, pairs: bool) -> str | None:
    if len(line) > MAX_LINE_BYTES:
        return "is longer than 4 MB. Shorten the example."
    for magic, name in BINARY_FORMATS.items():
        if line.startswith(magic):
            return f"is not text: the file looks like {name}. Send chat JSONL, one JSON object per line."
    try:
        example = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return f"is not valid JSON from character {error.colno} on. Each line must be one JSON object."
    if not isinstance(example, dict):
        wanted = PAIR if pairs else CHAT
        return f"is not a JSON object. Each line must look like {wanted}."
    if pairs:
        return pair_complaint(example)
    if "preferred_output" in example or "non_preferred_output" in example:
        return (
            "is a preference pair, but the job's method learns from chats. Create the job with method.type dpo, "
            f"or send lines like {CHAT}."
        )
    messages: Any = example.get("messages")
    complaint = _list_complaint(messages, "messages")
    if complaint is not None:
        return complaint
    if not any(message["role"] == "assistant" and message.get("weight") != 0 for message in messages):
        return "has no assistant message to learn from. Add the answer that the model should give."
    return None


def pair_complaint(example: dict[str, Any]) -> str | None:
    """Checks a preference pair in OpenAI's form, which has an input and two different answers."""
    if "messages" in example and "input" not in example:
        return (
            f"is a chat, but the method dpo learns from pairs. Leave method out, or send lines like {PAIR}."
        )
    request = example.get("input")
    if not isinstance(request, dict):
        return f"has no object 'input'. Each line must look like {PAIR}."
    complaint = _list_complaint(request.get("messages"), "input.messages")
    if complaint is not None:
        return complaint
    if request["messages"][-1]["role"] == "assistant":
        return "ends input.messages with the assistant's answer. Move it into preferred_output or non_preferred_output."
    if "tools" in request and not isinstance(request["tools"], list):
        return "has input.tools that is not a list. Send tool definitions as a list, or leave it out."
    for name in ANSWERS:
        answer: Any = example.get(name)
        complaint = _list_complaint(answer, name)
        if complaint is not None:
            return complaint
        if len(answer) > 1 or answer[0]["role"] != "assistant":
            return (
                f"has a {name} that is not a single message of the assistant. Move the messages before it into "
                "input.messages."
            )
    if example[ANSWERS[0]] == example[ANSWERS[1]]:
        return "has the same answer twice. Give two different ones, or delete the line."
    return None


def _list_complaint(messages: object, name: str) -> str | None:
    if not isinstance(messages, list) or not messages:
        return f"has no list '{name}' with at least one message."
    for position, message in enumerate(messages):
        complaint = _message_complaint(message)
        if complaint is not None:
            return f"has a bad message at {name}[{position}]: {complaint}"
    return None


def _message_complaint(message: object) -> str | None:
    if not isinstance(message, dict):
        return "it is not a JSON object."
    role = message.get("role")
    if role not in ROLES:
        return f"its role is {role!r}; allowed are {', '.join(ROLES)}."
    if not _has_content(message):
        return "its content must be text that is not empty."
    weight = message.get("weight")
    # The openai package writes null for a weight that nobody has set.
    if role == "assistant" and (isinstance(weight, bool) or weight not in (None, 0, 1)):
        return f"its weight is {weight!r}; allowed are 0 and 1."
    return None


def _has_content(message: dict[str, Any]) -> bool:
    """True if the content is text or a list of text parts. Only an assistant that calls tools may leave it empty; other
    roles may send an empty text."""
    content = message.get("content")
    is_assistant = message["role"] == "assistant"
    calls = is_assistant and bool(message.get("tool_calls") or message.get("function_call"))
    if content is None or content == []:
        return calls
    if isinstance(content, list):
        if not all(map(_is_text_part, content)):
            return False
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        return False
    return bool(content.strip()) or calls or not is_assistant


def _is_text_part(part: object) -> bool:
    if not isinstance(part, dict) or part.get("type") != "text":
        return False
    return isinstance(part.get("text"), str)
