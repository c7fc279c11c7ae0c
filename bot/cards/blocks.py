"""What cards are made of: semantic blocks, and how Slack shows them, in its newest blocks and on every client.

Data can never become Slack markup: text from people, data, models and errors goes through `escape` or `code`, or
into plain text. What is longer than Slack allows is cut with an ellipsis here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, assert_never

Block = dict[str, Any]  # as Slack's JSON has it
TaskStatus = Literal["pending", "in_progress", "complete", "error"]

MRKDWN = 3000
TABLE_ROWS, TABLE_CELL = 100, 200
CHART_POINTS = 20
MOST_FACTS = 10  # in a section
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
_COMMAND = re.compile(r"`(/?finetune [^`\n]{0,200})`")
_HALF = re.compile(r"(<[^<>]*|&[a-z]*)$")


@dataclass(frozen=True)
class Headline:
    """Plain text, unescaped."""

    text: str


@dataclass(frozen=True)
class Text:
    mrkdwn: str


@dataclass(frozen=True)
class Lines:
    """As many lines as Slack takes, and how many more there are; none is cut in half."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Names and values, both mrkdwn."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Note:
    """Smaller text below: sources, method."""

    mrkdwn: str


@dataclass(frozen=True)
class Divider:
    pass


@dataclass(frozen=True)
class Table:
    """Plain cells; the first row is the heading, the first column names the rows.

    One with a caption is shown as Slack's newest table; `otherwise` stands in for it on clients that have none.
    """

    rows: Sequence[Sequence[str]]
    caption: str = ""
    otherwise: tuple[CardBlock, ...] = ()


@dataclass(frozen=True)
class Chart:
    """One line through at most twenty points, each with its own label. `below` is what it has no room for; `otherwise`
    stands in for both."""

    title: str
    name: str
    points: Sequence[tuple[str, float]]
    x: str
    y: str
    below: tuple[CardBlock, ...] = ()
    otherwise: tuple[CardBlock, ...] = ()


@dataclass(frozen=True)
class Task:
    name: str
    title: str
    status: TaskStatus


@dataclass(frozen=True)
class Steps:
    """The steps of a long job, Slack's `plan` block. `otherwise` stands in for it."""

    title: str
    tasks: Sequence[Task]
    otherwise: tuple[CardBlock, ...] = ()


@dataclass(frozen=True)
class Actions:
    """Buttons, as Slack's JSON: no other place shows them."""

    buttons: Sequence[Block]


CardBlock = Headline | Text | Lines | Facts | Note | Divider | Table | Chart | Steps | Actions


@dataclass(frozen=True)
class Message:
    """A card. `text` is what notifications and screen readers get: the headline and its numbers, as mrkdwn."""

    text: str
    parts: tuple[CardBlock, ...] = ()

    @classmethod
    def titled(cls, headline: str, *parts: CardBlock | None, notice: str = "") -> Message:
        """A card with a headline, which is plain text; None among the parts is left out. `notice`: what a notification
        says after the headline, as mrkdwn."""
        stop = "" if headline.endswith("?") else "."
        text = f"{escape(headline)}{stop} {notice}" if notice else escape(headline)
        return cls(text, (Headline(headline), *(part for part in parts if part)))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Blocks that every client shows."""
        return tuple(slack_blocks(self.parts))

    @property
    def newest(self) -> tuple[Block, ...]:
        """The same in Slack's newest blocks, empty where there is no difference; the sender chooses."""
        newest = tuple(slack_blocks(self.parts, is_newest=True))
        return newest if newest != self.blocks else ()

    def body(self) -> Block:
        """The arguments of chat.postMessage and chat.update, less channel and ts."""
        return {
            "text": cut_mrkdwn(self.text, MRKDWN),
            "blocks": list(self.blocks),
            "unfurl_links": False,
            "unfurl_media": False,
        }

    def letter(self) -> Block:
        """For the outbox: the same, and the newest form beside it, which the sender takes out or puts in."""
        newest = self.newest
        return {**self.body(), "newest": list(newest)} if newest else self.body()


def escape(text: str) -> str:
    """Any text, made inert inside mrkdwn: no mentions, links, styles, quotes, control or direction characters."""
    clean = _escape_entities(UNSEEN.sub("", text))
    inert = _LOOSE_UNDERSCORE.sub("ˍ", clean.translate(_LOOKS_LIKE))
    return _QUOTE.sub(r"\1＞", inert)


def sentence(text: str) -> str:
    """A sentence of our rules, which may hold data and our commands in backticks: escaped, the commands as code."""
    parts = _COMMAND.split(text)
    return "".join(code(part) if at % 2 else escape(part) for at, part in enumerate(parts))


def code(text: str) -> str:
    """A name, shown as code: it can be copied as it is, on one line."""
    return f"`{_escape_entities(_one_line(text))}`"


def code_block(text: str) -> str:
    """Text shown as it is, line by line, so that it can be copied."""
    return f"```\n{_escape_entities(UNSEEN.sub('', text)).replace('```', 'ˋˋˋ')}\n```"


def quote(text: str, limit: int) -> str:
    """Any text, cut and inert, as a quotation."""
    return f">{escape(cut(text.strip(), limit) or '(nothing)')}".replace("\n", "\n>")


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def cut_mrkdwn(text: str, limit: int) -> str:
    """Cut so that no half of a mention, an entity or a code span is left at the end. Slack takes no empty text."""
    if len(text) <= limit:
        return text if text.strip() else NOTHING
    beginning = _HALF.sub("", text[: limit - 2])
    return beginning + ("`" if beginning.count("`") % 2 else "") + "…"


def _escape_entities(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _one_line(text: str) -> str:
    return " ".join(UNSEEN.sub("", text).replace("`", "ˋ").split())


class Figure(str):
    """A table's cell that shows a number in words of its own, and by which Slack sorts it."""

    value: float

    def __new__(cls, text: str, value: float | Decimal) -> Figure:
        cell = super().__new__(cls, text)
        cell.value = float(value)
        return cell


def actions(*buttons: Block) -> Actions:
    return Actions(buttons)


def button(
    text: str, action: str, value: str, *, style: str | None = None, confirm: Block | None = None
) -> Block:
    """`value` is an id and nothing else."""
    block: Block = {"type": "button", "text": plain(text, 75), "action_id": action, "value": value}
    if style:
        block["style"] = style
    if confirm:
        block["confirm"] = confirm
    return block


def confirm(title: str, text: str, yes: str, no: str) -> Block:
    return {
        "title": plain(title, 100),
        "text": plain(text, 300),
        "confirm": plain(yes, 30),
        "deny": plain(no, 30),
    }


def plain(text: str, limit: int) -> Block:
    return {"type": "plain_text", "text": cut(UNSEEN.sub("", text), limit).strip() or NOTHING, "emoji": False}


def slack_blocks(parts: Iterable[CardBlock | Block], *, is_newest: bool = False) -> list[Block]:
    """`is_newest`: in Slack's newest blocks. A form's fields are Slack's JSON already."""
    return [block for part in parts for block in _slack_blocks(part, is_newest)]


def _slack_blocks(part: CardBlock | Block, is_newest: bool) -> list[Block]:
    match part:
        case dict():
            return [part]
        case Headline():
            return [{"type": "header", "text": plain(part.text, 150)}]
        case Text():
            return [_section(part.mrkdwn)]
        case Lines():
            return [_section("\n".join(as_many_as_fit(part.lines, MRKDWN - 40)))]
        case Facts():
            fields = [_mrkdwn(f"*{name}*\n{value}", 2000) for name, value in part.pairs]
            starts = range(0, len(fields), MOST_FACTS)
            return [{"type": "section", "fields": fields[start : start + MOST_FACTS]} for start in starts]
        case Note():
            return [{"type": "context", "elements": [_mrkdwn(part.mrkdwn, 2000)]}]
        case Divider():
            return [{"type": "divider"}]
        case Actions():
            return [{"type": "actions", "elements": list(part.buttons)}]
        case Table():
            if part.caption and is_newest:
                return [_data_table(part)]
            if part.otherwise:
                return slack_blocks(part.otherwise)
            # On every client: a code block with letters of one width. What is in it is never markup.
            lines = [_escape_entities(line) for line in aligned_lines(part.rows)]
            return [_section("\n".join(["```", *as_many_as_fit(lines, MRKDWN - 60), "```"]))]
        case Chart():
            return (
                [_line_chart(part), *slack_blocks(part.below)] if is_newest else slack_blocks(part.otherwise)
            )
        case Steps():
            return [_plan(part)] if is_newest else slack_blocks(part.otherwise)
    assert_never(part)


def _section(mrkdwn: str) -> Block:
    return {"type": "section", "text": _mrkdwn(mrkdwn, MRKDWN)}


def as_many_as_fit(lines: Sequence[str], most: int) -> list[str]:
    """The first lines, of `most` characters together, and how many more there are."""
    shown: list[str] = []
    for line in lines:
        if sum(len(earlier) + 1 for earlier in shown) + len(line) > most:
            break
        shown.append(line)
    hidden = len(lines) - len(shown)
    return [*shown, f"… and {hidden:,} more"] if hidden else shown


def _mrkdwn(text: str, limit: int) -> Block:
    """`verbatim`: Slack makes no links and mentions of its own out of plain words."""
    return {"type": "mrkdwn", "text": cut_mrkdwn(text, limit), "verbatim": True}


def _data_table(table: Table) -> Block:
    rows = [[_cell(cell) for cell in row] for row in table.rows[: TABLE_ROWS + 1]]
    # Slack shows five rows where nothing is said: a total in the sixth would be hidden.
    page = {"page_size": max(len(rows) - 1, 1)}
    return {"type": "data_table", "caption": plain(table.caption, 150)["text"], "rows": rows, **page}


def _cell(cell: str) -> Block:
    text = plain(cell, TABLE_CELL)["text"]
    if isinstance(cell, Figure):
        return {"type": "raw_number", "value": cell.value, "text": text}
    return {"type": "raw_text", "text": text}


def _line_chart(chart: Chart) -> Block:
    shown = [{"label": cut(label, 20), "value": value} for label, value in chart.points[:CHART_POINTS]]
    axis = {"categories": [point["label"] for point in shown], "x_label": chart.x, "y_label": chart.y}
    line = {"type": "line", "series": [{"name": cut(chart.name, 20), "data": shown}], "axis_config": axis}
    return {"type": "data_visualization", "title": plain(chart.title, 50)["text"], "chart": line}


def _plan(steps: Steps) -> Block:
    tasks = [
        {"task_id": task.name, "title": plain(task.title, 150)["text"], "status": task.status}
        for task in steps.tasks
    ]
    return {"type": "plan", "title": plain(steps.title, 150)["text"], "tasks": tasks}


def aligned_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column stands left, the others right."""
    clean = [[_one_line(cell) for cell in row] for row in rows]
    widths = [max(map(display_width, column)) for column in zip(*clean, strict=True)]
    lines = []
    for row in clean:
        spaces = [" " * (width - display_width(cell)) for cell, width in zip(row, widths, strict=True)]
        others = [space + cell for cell, space in zip(row[1:], spaces[1:], strict=True)]
        lines.append("  ".join([row[0] + spaces[0], *others]).rstrip())
    return lines


def display_width(text: str) -> int:
    """Columns that a text takes: letters of the East and emoji take two, marks on a letter none."""
    wide = sum(1 for letter in text if unicodedata.east_asian_width(letter) in "WF")
    return len(text) + wide - sum(1 for letter in text if unicodedata.combining(letter))
