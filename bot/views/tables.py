"""Tables that every client shows: columns of letters of one width, in a code block. What is in them is never markup."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from bot.views.blocks import MRKDWN, UNSEEN, Block, section

FENCE = "```"
MOST = MRKDWN - 60
GAP = "  "


def monospaced(rows: Sequence[Sequence[str]]) -> Block:
    """The first row is the heading; the first column stands left, the others right. Rows that Slack has no room
    for are counted below."""
    clean = [[_clean(cell) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*clean, strict=True)]
    lines = [_escaped(_line(row, widths)) for row in clean]
    kept: list[str] = []
    for line in lines:
        if sum(len(one) + 1 for one in kept) + len(line) > MOST:
            break
        kept.append(line)
    hidden = len(lines) - len(kept)
    more = [f"… and {hidden:,} more"] if hidden else []
    return section("\n".join([FENCE, *kept, *more, FENCE]))


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = [
        _padded(cell, width, left=at == 0) for at, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return GAP.join([first, *others]).rstrip()


def _padded(cell: str, width: int, *, left: bool) -> str:
    space = " " * (width - _width(cell))
    return cell + space if left else space + cell


def _width(text: str) -> int:
    """Letters of the East and emoji take two places, marks on a letter none."""
    wide = sum(1 for letter in text if unicodedata.east_asian_width(letter) in "WF")
    return len(text) + wide - sum(1 for letter in text if unicodedata.combining(letter))


def _clean(cell: str) -> str:
    return " ".join(UNSEEN.sub("", cell).replace("`", "ˋ").split())


def _escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
