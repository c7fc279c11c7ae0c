"""The blocks, form inputs and tables that cards are made of, built so that data can never become Slack
markup. Text from people, data, models and errors goes through `escape` or `code`."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bot.cards.words import shorten

# The few blocks that our cards are made of, built so that data can never become Slack markup.
#
# Text from people, data, models and errors goes through `escape` or `code`, or into plain text;
# everything that is longer than Slack allows is cut with an ellipsis here, at one place.


Block = dict[str, Any]

MRKDWN = 3000
TABLE_ROWS, TABLE_CELL = 100, 200
CHART_POINTS = 20
NOTHING = "–"

UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
# Slack has no escape for its markers, and whether a zero-width space disarms one is nowhere promised: these
# look the same and are none. An underscore within a word marks nothing, so that `card_arrival` stays itself.
_LOOKS_LIKE = str.maketrans({"*": "∗", "~": "∼", "`": "ˋ"})
_LOOSE_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_QUOTE = re.compile(r"^(\s*)&gt;", re.MULTILINE)
# Our own commands within a sentence.
_COMMAND = re.compile(r"`(/finetune[^`\n]{0,200})`")
_HALF = re.compile(r"(<[^<>]*|&[a-z]*)$")


@dataclass(frozen=True)
class Message:
    """`text` is what notifications and screen readers get: the headline and its numbers, as mrkdwn.

    `blocks` show on every client. `newest` say the same in Slack's newest blocks; the sender chooses.
    """

    text: str
    blocks: tuple[Block, ...] = ()
    newest: tuple[Block, ...] = ()

    def body(self) -> dict[str, Any]:
        """The arguments of chat.postMessage and chat.update, less channel and ts."""
        return {
            "text": cut_mrkdwn(self.text, MRKDWN),
            "blocks": list(self.blocks),
            "unfurl_links": False,
            "unfurl_media": False,
        }

    def letter(self) -> dict[str, Any]:
        """For the outbox: the same, and the newest form beside it, which the sender takes out or puts in."""
        return {**self.body(), "newest": list(self.newest)} if self.newest else self.body()


def escape(text: str) -> str:
    """Any text, made inert inside mrkdwn: no mentions, links, styles, quotes, control or direction characters."""
    clean = UNSEEN.sub("", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    inert = _LOOSE_UNDERSCORE.sub("ˍ", clean.translate(_LOOKS_LIKE))
    return _QUOTE.sub(r"\1＞", inert)


def sentence(text: str) -> str:
    """A sentence of our rules, which may hold data and our commands in backticks: escaped, the commands as code."""
    parts = _COMMAND.split(text)
    return "".join(code(part) if at % 2 else escape(part) for at, part in enumerate(parts))


def code(text: str) -> str:
    """A name, shown as code: it can be copied as it is, on one line."""
    one_line = " ".join(UNSEEN.sub("", text).replace("`", "ˋ").split())
    return "`" + one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") + "`"


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def cut_mrkdwn(text: str, limit: int) -> str:
    """Cut so that no half of a mention, an entity or a code span is left at the end. Slack takes no empty text."""
    if len(text) <= limit:
        return text if text.strip() else NOTHING
    kept = _HALF.sub("", text[: limit - 2])
    return kept + ("`" if kept.count("`") % 2 else "") + "…"


def plain(text: str, limit: int) -> Block:
    return {"type": "plain_text", "text": cut(UNSEEN.sub("", text), limit).strip() or NOTHING, "emoji": False}


def header(text: str) -> Block:
    return {"type": "header", "text": plain(text, 150)}


def section(mrkdwn: str) -> Block:
    return {"type": "section", "text": _mrkdwn(mrkdwn, MRKDWN)}


def lines_section(lines: Sequence[str]) -> Block:
    """A section of as many lines as Slack takes; how many more there are is said, none is cut in half."""
    kept: list[str] = []
    for line in lines:
        if sum(len(one) + 1 for one in kept) + len(line) > MRKDWN - 40:
            break
        kept.append(line)
    hidden = len(lines) - len(kept)
    return section("\n".join([*kept, f"… and {hidden:,} more"] if hidden else kept))


def fields(pairs: Sequence[tuple[str, str]]) -> Block:
    """Up to ten label/value pairs; both are mrkdwn and must be escaped by whoever made them."""
    return {
        "type": "section",
        "fields": [_mrkdwn(f"*{label}*\n{value}", 2000) for label, value in pairs[:10]],
    }


def context(mrkdwn: str) -> Block:
    return {"type": "context", "elements": [_mrkdwn(mrkdwn, 2000)]}


def _mrkdwn(text: str, limit: int) -> Block:
    """`verbatim`: Slack makes no links and mentions of its own out of plain words."""
    return {"type": "mrkdwn", "text": cut_mrkdwn(text, limit), "verbatim": True}


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


class Figure(str):
    """A table's cell that shows a number in words of its own, and by which Slack sorts it."""

    value: float

    def __new__(cls, text: str, value: float | Decimal) -> Figure:
        cell = super().__new__(cls, text)
        cell.value = float(value)
        return cell


def data_table(caption: str, rows: Sequence[Sequence[str]]) -> Block:
    """Slack's newest table: the first row is the heading, the first column names the rows."""
    head, *body = rows[: TABLE_ROWS + 1]
    cells = [[_text_cell(cell) for cell in head], *[[_cell(cell) for cell in row] for row in body]]
    # Slack shows five rows where nothing is said: a total in the sixth would be hidden.
    page = {"page_size": max(len(body), 1)}
    return {"type": "data_table", "caption": plain(caption, 150)["text"], "rows": cells, **page}


def _text_cell(cell: str) -> Block:
    return {"type": "raw_text", "text": plain(cell, TABLE_CELL)["text"]}


def _cell(cell: str) -> Block:
    if not isinstance(cell, Figure):
        return _text_cell(cell)
    return {"type": "raw_number", "value": cell.value, "text": plain(cell, TABLE_CELL)["text"]}


def line_chart(title: str, name: str, points: Sequence[tuple[str, float]], *, x: str, y: str) -> Block:
    """One line through at most twenty points, each with its own label."""
    shown = [{"label": cut(label, 20), "value": value} for label, value in points[:CHART_POINTS]]
    axis = {"categories": [point["label"] for point in shown], "x_label": x, "y_label": y}
    chart = {"type": "line", "series": [{"name": cut(name, 20), "data": shown}], "axis_config": axis}
    return {"type": "data_visualization", "title": plain(title, 50)["text"], "chart": chart}


def tasks(title: str, steps: Sequence[Block]) -> Block:
    """Slack's `plan` block: the steps of a long job, see `task`."""
    return {"type": "plan", "title": plain(title, 150)["text"], "tasks": list(steps)}


def task(name: str, title: str, status: str) -> Block:
    """`status`: pending, in_progress, complete or error."""
    return {"task_id": name, "title": plain(title, 150)["text"], "status": status}


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


# The fields of our forms. A block's id is the field's name, its element's action is always `value`.


MOST_OPTIONS, MOST_BOXES, MOST_BYTES = 100, 10, 70_000
LONGEST_TEXT = 3000


def text_input(
    name: str, label: str, example: str, *, optional: bool = True, hint: str = "", initial: str = ""
) -> Block:
    element = {
        "type": "plain_text_input",
        "action_id": "value",
        "placeholder": plain(example, 75),
        "max_length": 80,
        **({"initial_value": initial[:80]} if initial else {}),
    }
    return _input(name, label, element, optional=optional, hint=hint)


def long_text_input(
    name: str, label: str, example: str, *, optional: bool = True, hint: str = "", most: int = LONGEST_TEXT
) -> Block:
    element = {
        "type": "plain_text_input",
        "action_id": "value",
        "multiline": True,
        "placeholder": plain(example, 150),
        "max_length": most,
    }
    return _input(name, label, element, optional=optional, hint=hint)


def select_input(name: str, label: str, options: Sequence[str], *, initial: str | None = None) -> Block:
    """What can't be an option (a longer name, or none at all) can still be typed."""
    made = _options(options)
    if not made:
        return text_input(name, label, "as it is called", optional=False)
    chosen = next((one for one in made if one["value"] == initial), made[0])
    element = {"type": "static_select", "action_id": "value", "options": made, "initial_option": chosen}
    return _input(name, label, element, optional=False)


def choice_input(
    name: str, label: str, options: Sequence[tuple[str, str]], *, placeholder: str, hint: str = ""
) -> Block:
    """One of (value, words), or none."""
    made = [_option(value, words) for value, words in options[:MOST_OPTIONS]]
    element = {
        "type": "static_select",
        "action_id": "value",
        "options": made,
        "placeholder": plain(placeholder, 150),
    }
    return _input(name, label, element, optional=True, hint=hint)


def multi_select_input(
    name: str, label: str, options: Sequence[str], *, placeholder: str, hint: str = ""
) -> Block:
    """Any number of names; where there is none to choose, they can be typed with commas between them."""
    made = _options(options)
    if not made:
        return text_input(name, label, "openai/gpt-4o-mini, local/smollm2-135m", hint=hint)
    element = {
        "type": "multi_static_select",
        "action_id": "value",
        "options": made,
        "placeholder": plain(placeholder, 150),
    }
    return _input(name, label, element, optional=True, hint=hint)


def checkbox_input(name: str, label: str, options: Sequence[tuple[str, str]], *, hint: str = "") -> Block:
    """Boxes to tick, (value, words), all ticked at first."""
    made = [_option(value, words) for value, words in options[:MOST_BOXES]]
    element = {"type": "checkboxes", "action_id": "value", "options": made, "initial_options": made}
    return _input(name, label, element, optional=True, hint=hint)


def file_input(name: str, label: str, kinds: Sequence[str], *, most: int = 1) -> Block:
    element = {"type": "file_input", "action_id": "value", "filetypes": list(kinds), "max_files": most}
    return _input(name, label, element, optional=False)


def _input(name: str, label: str, element: Block, *, optional: bool, hint: str = "") -> Block:
    made: Block = {"type": "input", "block_id": name, "label": plain(label, 75), "element": element}
    if optional:
        made["optional"] = True
    if hint:
        made["hint"] = plain(hint, 150)
    return made


def _options(names: Sequence[str]) -> list[Block]:
    """As many as a select takes, and as fit into a view beside two other selects."""
    kept = [name for name in dict.fromkeys(names) if 0 < len(name) <= 150]
    made = [_option(name, shorten(name, 75)) for name in kept[:MOST_OPTIONS]]
    while sum(len(json.dumps(option)) for option in made) > MOST_BYTES:
        made.pop()
    return made


def _option(value: str, words: str) -> Block:
    return {"text": plain(words, 75), "value": value}


# Tables that every client shows: columns of letters of one width, in a code block. What is in them is
# never markup.


FENCE = "```"
MOST = MRKDWN - 60
GAP = "  "


def monospace_table(rows: Sequence[Sequence[str]]) -> Block:
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
