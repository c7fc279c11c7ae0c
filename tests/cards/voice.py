"""How a card must read: plain words, no empty place, no raw number, few buttons. Slack's limits: walker.py."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]

NEVER = {
    "an exclamation mark": re.compile(r"(?<!<)!"),
    "a raw float": re.compile(r"\d\.\d{4,}"),
    "a Python value": re.compile(r"\b(None(?! of\b)|nan|inf|True|False)\b|Decimal\("),
    "a double space or a space before a stop": re.compile(r"[a-z]  [a-z]| [,.](\s|$)"),
    "a doubled stop": re.compile(r"\.\.|[?]\."),
    "nothing costs": re.compile(r"up to (\$0\.00|no charge)|in 0 |from 0 "),
    "a long id": re.compile(r"\b[0-9a-f]{16,}\b"),
    "one of many": re.compile(r"(?<![\d.,])\b1 (rows|labels|runs|datasets|tokens|minutes|hours|seconds)\b"),
    "words that say nothing": re.compile(
        r"error occurred|something went wrong|failed to|please", re.IGNORECASE
    ),
}
MOST_BUTTONS = 3


def faults(payload: Json) -> list[str]:
    """Of a message or view, in both of its forms."""
    found = []
    for text in [payload["text"]] if "text" in payload else []:
        found += list(_of_text(text))
    for form in ("blocks", "newest"):
        blocks = payload.get(form, [])
        found += [fault for text in texts(blocks) for fault in _of_text(text)]
        buttons = [one for block in blocks if block["type"] == "actions" for one in block["elements"]]
        if len(buttons) > MOST_BUTTONS:
            found.append(f"{len(buttons)} buttons")
    return found


def texts(node: Any) -> Iterator[str]:
    """Everything that a person reads in these blocks."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if isinstance(value, str) and key in ("text", "title", "caption", "label", "name"):
                yield value
            elif not isinstance(value, str):
                yield from texts(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from texts(item)


def mrkdwn(payload: Json) -> list[str]:
    """Everything that Slack reads for markup, the fallback text among it."""
    found = [payload["text"]] if isinstance(payload.get("text"), str) else []
    return [*found, *_mrkdwn([payload.get("blocks", []), payload.get("newest", [])])]


def _mrkdwn(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if node.get("type") == "mrkdwn":
            yield node["text"]
        for value in node.values():
            yield from _mrkdwn(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from _mrkdwn(item)


def _of_text(text: str) -> Iterator[str]:
    if re.fullmatch(r"\*[^*]+\*\n\s*", text):
        yield f"an empty field: {text!r}"
    said = re.sub(r"`[^`]*`", "code", text)
    for name, pattern in NEVER.items():
        if pattern.search(said):
            yield f"{name}: {text!r}"
