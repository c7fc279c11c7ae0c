"""A card as plain text for a terminal or a file: the same sentences, without markup and buttons."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Literal, assert_never

from bot.cards.common.blocks import (
    Actions,
    CardBlock,
    Chart,
    Divider,
    Facts,
    Headline,
    Lines,
    Note,
    Steps,
    Table,
    Text,
    aligned_lines,
    sentence,
)

Tone = Literal["good", "warning", "bad", "plain"]
_DATE = re.compile(r"<!date\^[^<|>]*\|([^<>]*)>")
_LINK = re.compile(r"<([^@<|>][^<|>]*)\|([^<>]*)>")
_MENTION = re.compile(r"<([@#][^<>]*)>")
_MARK = re.compile(r"[*`]|(?<![^\W_])_|_(?![^\W_])")
# Undoes the lookalikes of `escape`; backticks are dropped, since only Slack needs them.
_ORIGINAL = str.maketrans({"∗": "*", "∼": "~", "ˋ": None, "ˍ": "_", "＞": ">"})


def terminal_text(parts: Iterable[CardBlock]) -> str:
    """One paragraph for each block that a terminal can show."""
    paragraphs = ("\n".join(_lines(part)) for part in parts)
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _lines(part: CardBlock) -> Sequence[str]:
    match part:
        case Headline():
            return [part.text]
        case Text() | Note():
            return [plain_text(part.mrkdwn)]
        case Lines():
            return [plain_text(line) for line in part.with_rest]
        case Facts():
            pairs = [(plain_text(name), plain_text(value)) for name, value in part.pairs]
            width = max((len(name) for name, _ in pairs), default=0) + 1
            return [f"  {name + ':':<{width}} {value}" for name, value in pairs]
        case Table():
            return aligned_lines(part.rows)
        case Chart() | Steps():
            return [terminal_text(part.otherwise)]
        case Divider() | Actions():
            return []
    assert_never(part)


def terminal_sentence(text: str) -> str:
    """A sentence that may hold data, as a card would show it, in plain text."""
    return plain_text(sentence(text))


def plain_text(mrkdwn: str) -> str:
    """The text without Slack's markup."""
    text = _DATE.sub(r"\1", mrkdwn)
    text = _LINK.sub(r"\2 (\1)", text)
    text = _MENTION.sub(r"\1", text)
    text = _MARK.sub("", text)
    # Last, so that what stood in somebody's text is never read as markup.
    return html.unescape(text).translate(_ORIGINAL)
