"""How a card must read: plain words, no empty place, no raw number, few buttons, short. Limits: slack_limits.py."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

Json = Mapping[str, Any]

NEVER = {
    "an exclamation mark": re.compile(r"(?<!<)!"),
    # What a vendor bills has four decimals, so that it can be found in its console.
    "a raw float": re.compile(r"(?<![\d$,.])\d+\.\d{4,}|\d\.\d{5,}"),
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
MOST_WORDS_OF_A_NOTE = 25
# The most lines that a card of each kind may take, by the beginning of its name. Details may take more.
MOST_LINES = {
    "estimate-": 14,
    "plan-asked-retraining": 16,  # everything that a plan can say at once
    "plan-": 15,
    "result-": 15,
    "comparison-": 15,
    "compared-": 19,
    "curve": 15,
    "measure-": 15,
    "agreement": 12,
    "help": 15,
    "dataset-": 15,
    "home-empty": 15,
}
# Letters on a line, as Slack's desktop draws them.
LINE = 90
FIELD_LINE = 44
NOTE_LINE = 120


def style_faults(payload: Json) -> list[str]:
    """The faults of a view, or of both forms of a message."""
    faults = []
    for text in [payload["text"]] if "text" in payload else []:
        faults += list(_text_faults(text))
    for form in ("blocks", "newest"):
        blocks = payload.get(form, [])
        faults += [fault for text in texts(blocks) for fault in _text_faults(text)]
        buttons = [button for block in blocks if block["type"] == "actions" for button in block["elements"]]
        if len(buttons) > MOST_BUTTONS and payload.get("type") != "home":  # which shows several cards
            faults.append(f"{len(buttons)} buttons")
    return faults


def length_faults(name: str, payload: Json) -> list[str]:
    """What is longer than allowed for this kind of card. `name` is that of its golden file."""
    if payload.get("type") == "modal" or name.endswith("-details"):
        return []
    complaints = []
    most = next((most for kind, most in MOST_LINES.items() if name.startswith(kind)), None)
    if most is not None and drawn_lines(payload) > most:
        complaints.append(f"{drawn_lines(payload)} lines, {most} at most")
    counts = [len(note.split()) for note in notes(payload)]
    return [*complaints, *(f"a note of {count} words" for count in counts if count > MOST_WORDS_OF_A_NOTE)]


def notes(payload: Json) -> list[str]:
    """The small grey texts of a message's classic form."""
    blocks = payload.get("blocks", [])
    return [
        _as_drawn(element["text"])
        for block in blocks
        if block["type"] == "context"
        for element in block["elements"]
    ]


def drawn_lines(payload: Json) -> int:
    """The lines that a message takes on Slack's desktop, in the blocks that every client shows."""
    return sum(map(_block_lines, payload.get("blocks", [])))


def _block_lines(block: Json) -> int:
    match block["type"]:
        case "header" | "actions":
            return 1
        case "section" if "fields" in block:
            heights = [_text_lines(field["text"], FIELD_LINE) for field in block["fields"]]
            return sum(max(heights[at : at + 2]) for at in range(0, len(heights), 2))
        case "section":
            return _text_lines(block["text"]["text"], LINE)
        case "context":
            return sum(_text_lines(element["text"], NOTE_LINE) for element in block["elements"])
        case "data_table":
            return len(block["rows"])
    return 0


def _text_lines(text: str, width: int) -> int:
    """Slack wraps text, and scrolls a table in a fence sideways."""
    lines = [line for line in _as_drawn(text).splitlines() if line.strip()]
    return len(lines) if text.startswith("```") else sum(ceil(len(line) / width) for line in lines)


def _as_drawn(text: str) -> str:
    """Without markers, with a link's label and a mention's name."""
    shown = re.sub(r"<[@#][^>]*>", "@somebody", text.replace("```", ""))
    shown = re.sub(r"<[^|>]*\|([^>]*)>", r"\1", shown)
    return html.unescape(re.sub(r"(?<!\w)[*_~]|[*_~](?!\w)|`", "", shown))


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
    """All texts that Slack parses for markup, including the fallback text."""
    fallback = [payload["text"]] if isinstance(payload.get("text"), str) else []
    return [*fallback, *_mrkdwn([payload.get("blocks", []), payload.get("newest", [])])]


def _mrkdwn(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if node.get("type") == "mrkdwn":
            yield node["text"]
        for value in node.values():
            yield from _mrkdwn(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from _mrkdwn(item)


def _text_faults(text: str) -> Iterator[str]:
    if re.fullmatch(r"\*[^*]+\*\n\s*", text):
        yield f"an empty field: {text!r}"
    prose = re.sub(r"`[^`]*`", "code", text)
    for name, pattern in NEVER.items():
        if pattern.search(prose):
            yield f"{name}: {text!r}"
