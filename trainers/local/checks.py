"""May this file be trained on, and can this machine do what is asked? Sentences, or None where nothing is wrong.

Reads chat JSONL line by line and says what is wrong with the first bad line. It does not judge quality: duplicates,
labels and overlaps are for who prepares the data.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

MIN_TRAINING_EXAMPLES = 10
MAX_LINE_BYTES = 4 * 1024 * 1024
ROLES = ("system", "developer", "user", "assistant", "tool")
PICTURES = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a ZIP",
}


def refusal(path: Path, least: int) -> str | None:
    """A sentence with the line's number, or None where the file has `least` good examples or more."""
    examples = 0
    with path.open("rb") as file:
        lines = iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            complaint = _line_complaint(line)
            if complaint is not None:
                return f"Line {number} {complaint}"
            examples += 1
    if examples < least:
        return f"The file has {examples} examples; at least {least} are needed. Add more and upload it again."
    return None


def quantization_refusal(kind: str) -> str | None:
    if kind == "none" or find_spec("bitsandbytes") is not None:
        return None
    return (
        f"quantization '{kind}' needs the package bitsandbytes, which is not installed beside this trainer. "
        "Install it with: pip install 'finetune-bot[quantized]', or set quantization to none."
    )


def _line_complaint(line: bytes) -> str | None:
    if len(line) > MAX_LINE_BYTES:
        return "is longer than 4 MB. Shorten the example."
    for magic, name in PICTURES.items():
        if line.startswith(magic):
            return f"is not text: the file looks like {name}. Send chat JSONL, one JSON object a line."
    try:
        example = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return f"is not valid JSON from character {error.colno} on. Each line must be one JSON object."
    if not isinstance(example, dict):
        return 'is not a JSON object. Each line must look like {"messages": [...]}.'
    return _messages_complaint(example.get("messages"))


def _messages_complaint(messages: object) -> str | None:
    if not isinstance(messages, list) or not messages:
        return "has no list 'messages' with at least one message."
    for position, message in enumerate(messages):
        complaint = _message_complaint(message)
        if complaint is not None:
            return f"has a bad message at messages[{position}]: {complaint}"
    if not any(message["role"] == "assistant" and message.get("weight", 1) for message in messages):
        return "has no assistant message to learn from. Add the answer that you want."
    return None


def _message_complaint(message: object) -> str | None:
    if not isinstance(message, dict):
        return "it is not a JSON object."
    role = message.get("role")
    if role not in ROLES:
        return f"its role is {role!r}; allowed are {', '.join(ROLES)}."
    if not _has_content(message):
        return "its content must be text that is not empty."
    weight = message.get("weight", 1)
    if role == "assistant" and (isinstance(weight, bool) or weight not in (0, 1)):
        return f"its weight is {weight!r}; allowed are 0 and 1."
    return None


def _has_content(message: dict[str, Any]) -> bool:
    """Text, or a list of text parts; nothing only where the assistant calls tools instead."""
    content, is_assistant = message.get("content"), message["role"] == "assistant"
    if content is None:
        return is_assistant and bool(message.get("tool_calls"))
    if isinstance(content, list):
        texts = [
            part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"
        ]
        return len(texts) == len(content) > 0 and all(isinstance(text, str) for text in texts)
    return isinstance(content, str) and (bool(content.strip()) or not is_assistant)
