"""The few blocks that our cards are made of, built so that data can never become Slack markup.

Text from people, data, models and errors goes through `escape` or into plain text; everything that is
longer than Slack allows is cut with an ellipsis here, at one place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Block = dict[str, Any]

UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Message:
    """`text` is what notifications and screen readers get: the headline and its numbers."""

    text: str
    blocks: tuple[Block, ...] = ()

    def body(self) -> dict[str, Any]:
        """The arguments of chat.postMessage and chat.update, less channel and ts."""
        return {
            "text": cut(self.text, 3000),
            "blocks": list(self.blocks),
            "unfurl_links": False,
            "unfurl_media": False,
        }


def escape(text: str) -> str:
    """Any text, made safe inside mrkdwn: no mentions, links, control or direction characters."""
    clean = UNSEEN.sub("", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([*_~`])", "\u200b\\1", clean)


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plain(text: str, limit: int) -> Block:
    return {"type": "plain_text", "text": cut(UNSEEN.sub("", text), limit), "emoji": False}


def header(text: str) -> Block:
    return {"type": "header", "text": plain(text, 150)}


def section(mrkdwn: str) -> Block:
    return {"type": "section", "text": {"type": "mrkdwn", "text": cut(mrkdwn, 3000), "verbatim": True}}


def fields(pairs: Sequence[tuple[str, str]]) -> Block:
    """Up to ten label/value pairs; the values are mrkdwn and must be escaped by whoever made them."""
    cells = [
        {"type": "mrkdwn", "text": cut(f"*{label}*\n{value}", 2000), "verbatim": True}
        for label, value in pairs[:10]
    ]
    return {"type": "section", "fields": cells}


def context(mrkdwn: str) -> Block:
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": cut(mrkdwn, 2000), "verbatim": True}]}


def divider() -> Block:
    return {"type": "divider"}


def button(
    text: str, action: str, value: str, *, style: str | None = None, confirm: Block | None = None
) -> Block:
    """`value` is an id and nothing else."""
    made: Block = {"type": "button", "text": plain(text, 75), "action_id": action, "value": value}
    if style:
        made["style"] = style
    if confirm:
        made["confirm"] = confirm
    return made


def confirm(title: str, text: str, yes: str, no: str) -> Block:
    return {
        "title": plain(title, 100),
        "text": plain(text, 300),
        "confirm": plain(yes, 30),
        "deny": plain(no, 30),
    }


def actions(*buttons: Block) -> Block:
    return {"type": "actions", "elements": list(buttons)}


def table(rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> Block:
    """A `table` block: the first row is the heading; columns in `numbers` align right."""
    width = len(rows[0])
    return {
        "type": "table",
        "column_settings": [{"align": "right" if column in numbers else "left"} for column in range(width)],
        "rows": [[{"type": "raw_text", "text": cut(cell, 200) or "–"} for cell in row] for row in rows[:100]],
    }


def modal(title: str, callback: str, blocks: Sequence[Block], *, submit: str, private: str = "") -> Block:
    return {
        "type": "modal",
        "callback_id": callback,
        "title": plain(title, 24),
        "submit": plain(submit, 24),
        "close": plain("Cancel", 24),
        "private_metadata": private,
        "blocks": list(blocks),
    }
