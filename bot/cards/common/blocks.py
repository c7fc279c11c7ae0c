"""The semantic blocks that cards are made of, and their JSON for Slack: one form that every client shows, and one in
Slack's newest block types.

Data can never become Slack markup: text from people, data, models and errors goes through `escape` or `code`, or into
plain text. Text longer than Slack allows is cut with an ellipsis here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Generic, Literal, TypeVar, assert_never

from bot.cards.common.words import more_line, shorten

Block = dict[str, Any]  # as Slack's JSON has it
TaskStatus = Literal["pending", "in_progress", "complete", "error"]

# Slack refuses a message in which anything is longer than these.
MRKDWN = 3000  # characters of a section
SMALL_MRKDWN = 2000  # of a field of a section, and of a context
TABLE_ROWS = 100  # below the heading
PHONE_WIDTH = 40  # letters of a code block that a phone shows on a line
TABLE_CELL = 200
CHART_POINTS = 20
MOST_FACTS = 10  # in a section
NOTHING = "–"

# Control characters, and those that nobody sees: zero-width ones would split a word that somebody searches for, and
# those that turn the direction of writing can make a text read differently from what it is.
INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
# Slack has no escape for its markers and doesn't promise that a zero-width space disarms them, so each is replaced by
# a lookalike. An underscore within a word is no marker, so `card_arrival` stays as it is.
_LOOKS_LIKE = str.maketrans({"*": "∗", "~": "∼", "`": "ˋ"})
_LOOSE_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_QUOTE = re.compile(r"^([^\S\n]*)&gt;", re.MULTILINE)
# Our own commands within a sentence, which stay code.
_COMMAND = re.compile(r"`(/?finetune [^`\n]{0,200})`")
# A mention or an entity whose end was cut off.
_HALF = re.compile(r"(<[^<>]*|&[a-z]*)$")

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Headline:
    """Plain text, unescaped."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph. The `button` beside it, as Slack's JSON, is for what the paragraph is about."""

    mrkdwn: str
    button: Block | None = None


@dataclass(frozen=True)
class Lines:
    """As many whole lines as fit into Slack's limit, then a line that counts the rest. The list has `left_out` more
    entries, for which no line was made."""

    lines: Sequence[str]
    left_out: int = 0

    @property
    def with_rest(self) -> list[str]:
        """All lines, for a page or a terminal, which have room for them, then one that counts those left out."""
        if not self.left_out:
            return list(self.lines)
        return [*self.lines, more_line(self.left_out)]


@dataclass(frozen=True)
class Listing(Generic[Entry]):
    """The first `entries` of a list that has `total` of them. The others were never loaded: a list has thousands after
    a few years, and a card shows a few dozen. What belongs to datasets of `unchecked` channels is not even counted, as
    Slack did not say whether the person may know about it."""

    entries: Sequence[Entry] = ()
    total: int = 0
    unchecked: int = 0

    @property
    def left_out(self) -> int:
        return self.total - len(self.entries)


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and a value, both mrkdwn."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Note:
    """Small grey text, for sources and methods."""

    mrkdwn: str


@dataclass(frozen=True)
class Divider:
    pass


@dataclass(frozen=True)
class Table:
    """Plain-text cells. The first row is the heading; the first column names the rows.

    A table with a caption uses Slack's newest table block; `otherwise` replaces it on clients without that block.
    There a table that is too wide for a phone becomes a line for each row, unless `is_sheet`: cells of a person's
    file, which are recognised by their columns.
    """

    rows: Sequence[Sequence[str]]
    caption: str = ""
    otherwise: tuple[CardBlock, ...] = ()
    is_sheet: bool = False


@dataclass(frozen=True)
class Chart:
    """One line through at most twenty points, each with its own label. `below` holds what the chart has no room for;
    `otherwise` replaces both on clients without charts."""

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
    """The steps of a long job, as Slack's `plan` block. `otherwise` replaces it on clients without that block."""

    title: str
    tasks: Sequence[Task]
    otherwise: tuple[CardBlock, ...] = ()


@dataclass(frozen=True)
class Actions:
    """Buttons, as Slack's JSON, since only Slack shows them."""

    buttons: Sequence[Block]


CardBlock = Headline | Text | Lines | Facts | Note | Divider | Table | Chart | Steps | Actions


@dataclass(frozen=True)
class Elsewhere:
    """What a card shows outside the channel `home`, where its rows may not be read."""

    home: str
    parts: tuple[CardBlock, ...]


@dataclass(frozen=True)
class Message:
    """A card. `text` goes to notifications and screen readers: the headline and its numbers, as mrkdwn. A card with
    rows says what to show `elsewhere`, since a message may have to go to the fallback channel."""

    text: str
    parts: tuple[CardBlock, ...] = ()
    elsewhere: Elsewhere | None = None

    @classmethod
    def titled(cls, headline: str, *parts: CardBlock | None, notice: str = "") -> Message:
        """A card with a plain-text headline; parts that are None are left out. `notice` is mrkdwn that a notification
        shows after the headline."""
        text = escape(headline)
        if notice and not headline.endswith("?"):
            text += "."
        if notice:
            text += f" {notice}"
        return cls(text, (Headline(headline), *(part for part in parts if part)))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Blocks that every client shows."""
        return tuple(slack_blocks(self.parts))

    @property
    def newest(self) -> tuple[Block, ...]:
        """The same in Slack's newest block types; empty if that makes no difference. The sender chooses."""
        newest = tuple(slack_blocks(self.parts, is_newest=True))
        if newest == self.blocks:
            return ()
        return newest

    def body(self) -> Block:
        """The arguments of chat.postMessage and chat.update, without channel and ts."""
        return {
            "text": cut_mrkdwn(self.text, MRKDWN),
            "blocks": list(self.blocks),
            "unfurl_links": False,
            "unfurl_media": False,
        }

    def letter(self) -> Block:
        """The body for the outbox, with the newest form and the form for other channels under keys of their own, which
        the sender uses or drops."""
        letter = self.body()
        if self.newest:
            letter["newest"] = list(self.newest)
        if self.elsewhere:
            blocks = slack_blocks(self.elsewhere.parts)
            letter["elsewhere"] = {"channel": self.elsewhere.home, "blocks": blocks}
        return letter


def escape(text: str) -> str:
    """Makes any text inert inside mrkdwn: no mentions, links, styles, quotes, control or direction characters."""
    clean = _escape_entities(INVISIBLE.sub("", text))
    unstyled = _LOOSE_UNDERSCORE.sub("ˍ", clean.translate(_LOOKS_LIKE))
    return _QUOTE.sub(r"\1＞", unstyled)


def escaped_name(name: str) -> str:
    """A label's or column's name from somebody's data, shortened and escaped."""
    return escape(shorten(name, 60)).strip() or "(empty)"


def sentence(text: str) -> str:
    """Escapes a sentence that may hold data, except that our own commands in backticks stay code."""
    escaped = []
    for at, part in enumerate(_COMMAND.split(text)):
        is_command = at % 2 == 1
        escaped.append(code(part) if is_command else escape(part))
    return "".join(escaped)


def code(text: str) -> str:
    """A name shown as code on one line, so that it can be copied unchanged."""
    return f"`{_escape_entities(_one_line(text))}`"


def code_block(text: str) -> str:
    """Text in a code block, so that it can be copied unchanged."""
    visible = _escape_entities(INVISIBLE.sub("", text))
    inert = visible.replace("```", "ˋˋˋ")
    return f"```\n{inert}\n```"


def quote(text: str, limit: int) -> str:
    """Any text as a quotation, escaped and cut to `limit` characters."""
    shown = cut(text.strip(), limit) or "(nothing)"
    # Slack quotes a single line, so each line gets a mark of its own.
    return f">{escape(shown)}".replace("\n", "\n>")


def cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return text[: limit - 1] + "…"


def cut_mrkdwn(text: str, limit: int) -> str:
    """Cuts without leaving half a mention, entity or code span. Empty text becomes a dash, since Slack refuses it."""
    if not text.strip():
        return NOTHING
    if len(text) <= limit:
        return text
    beginning = _HALF.sub("", text[: limit - 2])
    is_code_open = beginning.count("`") % 2 == 1
    if is_code_open:
        beginning += "`"
    return f"{beginning}…"


def _escape_entities(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _one_line(text: str) -> str:
    return " ".join(INVISIBLE.sub("", text).replace("`", "ˋ").split())


class Figure(str):
    """A table cell that shows `text` and by whose `value` Slack sorts the column."""

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
    """A button. `value` holds ids only, never data."""
    block: Block = {"type": "button", "text": plain(text, 75), "action_id": action, "value": value}
    if style:
        block["style"] = style
    if confirm:
        block["confirm"] = confirm
    return block


def confirm(title: str, text: str, yes: str, no: str) -> Block:
    # Slack allows no longer texts.
    return {
        "title": plain(title, 100),
        "text": plain(text, 300),
        "confirm": plain(yes, 30),
        "deny": plain(no, 30),
    }


def plain(text: str, limit: int) -> Block:
    return {
        "type": "plain_text",
        "text": cut(INVISIBLE.sub("", text), limit).strip() or NOTHING,
        "emoji": False,
    }


def slack_blocks(parts: Iterable[CardBlock | Block], *, is_newest: bool = False) -> list[Block]:
    """Slack's JSON for the parts. `is_newest` selects Slack's newest block types. Form fields are JSON already."""
    return [block for part in parts for block in _slack_blocks(part, is_newest)]


def _slack_blocks(part: CardBlock | Block, is_newest: bool) -> list[Block]:
    match part:
        case dict():
            return [part]
        case Headline():
            return [{"type": "header", "text": plain(part.text, 150)}]
        case Text():
            section = _section(part.mrkdwn)
            if part.button:
                section["accessory"] = part.button
            return [section]
        case Lines():
            return [_section("\n".join(_lines_that_fit(part.lines, MRKDWN - 40, part.left_out)))]
        case Facts():
            return _fields(part)
        case Note():
            return [{"type": "context", "elements": [_mrkdwn(part.mrkdwn, SMALL_MRKDWN)]}]
        case Divider():
            return [{"type": "divider"}]
        case Actions():
            return [{"type": "actions", "elements": list(part.buttons)}]
        case Table():
            if part.caption and is_newest:
                return [_data_table(part)]
            if part.otherwise:
                return slack_blocks(part.otherwise)
            return [_classic_table(part)]
        case Chart() if is_newest:
            return [_line_chart(part), *slack_blocks(part.below)]
        case Steps() if is_newest:
            return [_plan(part)]
        case Chart() | Steps():
            return slack_blocks(part.otherwise)
    assert_never(part)


def _section(mrkdwn: str) -> Block:
    return {"type": "section", "text": _mrkdwn(mrkdwn, MRKDWN)}


def _fields(facts: Facts) -> list[Block]:
    """One section, or several if there are more facts than a section holds."""
    fields = [_mrkdwn(f"*{name}*\n{value}", SMALL_MRKDWN) for name, value in facts.pairs]
    starts = range(0, len(fields), MOST_FACTS)
    return [{"type": "section", "fields": fields[start : start + MOST_FACTS]} for start in starts]


def _classic_table(table: Table) -> Block:
    lines = aligned_lines(table.rows)
    is_wide = max(map(display_width, lines), default=0) > PHONE_WIDTH
    if is_wide and not table.is_sheet:
        return _section("\n".join(_lines_that_fit(_row_lines(table), MRKDWN - 40)))
    # Every client shows a code block in a monospaced font, and never reads markup inside it.
    shown = _lines_that_fit([_escape_entities(line) for line in lines], MRKDWN - 60)
    return _section("\n".join(["```", *shown, "```"]))


def _row_lines(table: Table) -> list[str]:
    """'• *gpt-4o*: input $2.50, output $10.00': each row with its headings, without the cells that have nothing."""
    (_, *headings), *rows = table.rows
    lines = []
    for name, *cells in rows:
        named = []
        for heading, cell in zip(headings, cells, strict=True):
            if cell not in ("", NOTHING):
                named.append(f"{_small(heading)} {cell}".strip())
        title = escape(_one_line(name))
        values = escape(_one_line(", ".join(named)))
        lines.append(f"• *{title}*: {values}")
    return lines


def _small(heading: str) -> str:
    """A heading within a sentence: its first letter small, unless the second one shows an abbreviation."""
    if heading[1:2].isupper():
        return heading
    return heading[:1].lower() + heading[1:]


def _lines_that_fit(lines: Sequence[str], most: int, left_out: int = 0) -> list[str]:
    """The first lines that have at most `most` characters together, then a line that counts the rest, the lines that
    were `left_out` before included."""
    shown: list[str] = []
    for line in lines:
        if sum(len(earlier) + 1 for earlier in shown) + len(line) > most:
            break
        shown.append(line)
    hidden = len(lines) - len(shown) + left_out
    if hidden:
        shown.append(more_line(hidden))
    return shown


def _mrkdwn(text: str, limit: int) -> Block:
    """`verbatim` keeps Slack from turning plain words into links and mentions."""
    return {"type": "mrkdwn", "text": cut_mrkdwn(text, limit), "verbatim": True}


def _data_table(table: Table) -> Block:
    rows = [[_cell(cell) for cell in row] for row in table.rows[: TABLE_ROWS + 1]]
    return {
        "type": "data_table",
        "caption": plain(table.caption, 150)["text"],
        "rows": rows,
        # By default Slack shows five rows, which would hide a total in the sixth.
        "page_size": max(len(rows) - 1, 1),
    }


def _cell(cell: str) -> Block:
    text = plain(cell, TABLE_CELL)["text"]
    if isinstance(cell, Figure):
        return {"type": "raw_number", "value": cell.value, "text": text}
    return {"type": "raw_text", "text": text}


def _line_chart(chart: Chart) -> Block:
    shown = [{"label": cut(label, 20), "value": value} for label, value in chart.points[:CHART_POINTS]]
    categories = [point["label"] for point in shown]
    line = {
        "type": "line",
        "series": [{"name": cut(chart.name, 20), "data": shown}],
        "axis_config": {"categories": categories, "x_label": chart.x, "y_label": chart.y},
    }
    return {"type": "data_visualization", "title": plain(chart.title, 50)["text"], "chart": line}


def _plan(steps: Steps) -> Block:
    tasks = [
        {"task_id": task.name, "title": plain(task.title, 150)["text"], "status": task.status}
        for task in steps.tasks
    ]
    return {"type": "plan", "title": plain(steps.title, 150)["text"], "tasks": tasks}


def aligned_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines of equal width: the first column aligned left, the others right."""
    clean = [[_one_line(cell) for cell in row] for row in rows]
    widths = [max(map(display_width, column)) for column in zip(*clean, strict=True)]
    lines = []
    for row in clean:
        name, *others = row
        cells = [_padding(name, widths[0], after=True)]
        cells += [_padding(cell, width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _padding(cell: str, width: int, *, after: bool = False) -> str:
    """The cell with spaces in front of it or `after` it. str.ljust and rjust count letters, not columns."""
    spaces = " " * (width - display_width(cell))
    if after:
        return cell + spaces
    return spaces + cell


def display_width(text: str) -> int:
    """How many monospaced columns a text takes: East Asian letters and emoji take two, combining marks none."""
    n_wide = sum(1 for letter in text if unicodedata.east_asian_width(letter) in "WF")
    n_combining = sum(1 for letter in text if unicodedata.combining(letter))
    return len(text) + n_wide - n_combining
