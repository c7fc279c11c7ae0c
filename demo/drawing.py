"""Draws Slack's messages and modals for a terminal with rich. Pure: a value in, a renderable out.

It draws the kinds of blocks that cards use for every client; for any other block it shows the name.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.style import Style
from rich.table import Table
from rich.text import Text

from demo.workspace import Answers, Block, Modal, PostedMessage, SharedFile

Names = Mapping[str, str]
"""The names of people and channels by their ids."""

_MARKS = re.compile(
    r"```(?P<fenced>.+?)```|`(?P<code>[^`\n]+)`|<(?P<link>[^<>\n]+)>"
    r"|(?<![\w*])\*(?P<bold>[^*\n]+)\*(?![\w*])|(?<!\w)_(?P<italic>[^_\n]+)_(?!\w)|~(?P<gone>[^~\n]+)~",
    re.DOTALL,
)
_STYLES = {"fenced": "cyan", "code": "cyan", "bold": "bold", "italic": "italic", "gone": "strike"}
_INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def render(message: PostedMessage, names: Names, *, edited: bool = False) -> RenderableType:
    """Returns a message: a head (author, time, recipient) and the body below it. A reply is indented."""
    parts: list[RenderableType] = [_head(message, names, edited=edited)]
    for block in message.blocks:
        parts.append(_indented(draw(block, names), 2))
    if message.text and not message.blocks:
        # Beside blocks, Slack shows the text in notifications only.
        parts.append(_indented(mrkdwn(message.text, names), 2))
    for file in message.files:
        parts.append(_indented(_file(file), 2))
    drawn = Group(*parts)
    if message.thread_ts:
        return _indented(drawn, 4)
    return drawn


def render_modal(modal: Modal, answers: Answers, names: Names) -> RenderableType:
    """Returns a form as somebody submits it, one line per field. Untouched fields show their initial value."""
    rows: list[RenderableType] = [Text(f"┌ {modal.title}", style="bold")]
    for block in modal.blocks:
        if block["type"] == "input":
            answer = answers.get(block.get("block_id", ""))
            rows.append(_answer(block, answer, names))
        else:
            drawn = draw(block, names)
            rows.append(_indented(drawn, 2))
    button = modal.submit or "Close"
    rows.append(Text(f"└ [{button}]", style="bold"))
    return Group(*rows)


def draw(block: Block, names: Names) -> RenderableType:
    """Returns one block."""
    match block["type"]:
        case "header":
            return Text(block["text"]["text"], style="bold")
        case "section":
            return _section(block, names)
        case "context":
            drawn = [_text(element, names) for element in block["elements"]]
            return Text("  ", style="dim").join(drawn)
        case "actions":
            return _buttons(block["elements"])
        case "divider":
            return Rule(style="dim")
        case unknown:
            return Text(f"[{unknown}]", style="dim")


def mrkdwn(text: str, names: Names, style: str | Style = "") -> Text:
    """Returns Slack's markup as styled text, with the names of mentions and links."""
    drawn = Text(style=style)
    at = 0
    for mark in _MARKS.finditer(text):
        drawn.append(_unescaped(text[at : mark.start()]))
        drawn.append(_marked(mark, names))
        at = mark.end()
    drawn.append(_unescaped(text[at:]))
    return drawn


def headline(message: PostedMessage, names: Names) -> str:
    """Returns the text of the header, or else the first line of the text."""
    for block in message.blocks:
        if block["type"] == "header":
            return str(block["text"]["text"])
    first_line, _, _ = mrkdwn(message.text, names).plain.partition("\n")
    return first_line


def texts(message: PostedMessage, names: Names) -> Iterator[Text]:
    """Yields every text of the message's sections, and fields as 'label value'."""
    for block in message.blocks:
        if block["type"] != "section":
            continue
        if block.get("text"):
            yield mrkdwn(block["text"]["text"], names)
        for field in block.get("fields", ()):
            lines = mrkdwn(field["text"], names).split("\n")
            yield Text(" ").join(lines)


def _indented(what: RenderableType, by: int) -> Padding:
    """Indents without padding to the full width, which would fill a log with blanks."""
    return Padding(what, (0, 0, 0, by), expand=isinstance(what, Rule))


def _head(message: PostedMessage, names: Names, *, edited: bool) -> Text:
    posted_at = datetime.fromtimestamp(float(message.ts))
    head = Text(names.get(message.user, message.user), style="bold")
    head.append(f"  {posted_at:%H:%M}", style="not bold dim")
    if message.only_for:
        reader = names.get(message.only_for, message.only_for)
        head.append(f"  only visible to {reader}", style="not bold yellow")
    if message.thread_ts:
        head.append("  in the thread", style="not bold dim")
    if edited:
        head.append("  edited", style="not bold dim")
    return head


def _file(file: SharedFile) -> Text:
    size = f"{file.size} bytes"
    if file.size >= 1024:
        size = f"{file.size / 1024:,.0f} KB"
    return Text(f"({file.name}, {size})", style="magenta")


def _section(block: Block, names: Names) -> RenderableType:
    parts: list[RenderableType] = []
    if block.get("text"):
        parts.append(_text(block["text"], names))
    if block.get("fields"):
        # Slack shows fields in two columns.
        grid = Table.grid(padding=(0, 4))
        drawn = [_text(field, names) for field in block["fields"]]
        for start in range(0, len(drawn), 2):
            grid.add_row(*drawn[start : start + 2])
        parts.append(grid)
    if block.get("accessory"):
        parts.append(_buttons([block["accessory"]]))
    if len(parts) == 1:
        return parts[0]
    return Group(*parts)


def _text(element: Block, names: Names) -> Text:
    if element["type"] == "mrkdwn":
        return mrkdwn(element["text"], names)
    return Text(element["text"])


def _buttons(elements: Sequence[Block]) -> Text:
    return Text(" ").join([_button(element) for element in elements])


def _button(element: Block) -> Text:
    """A button or a select."""
    if element["type"] == "button":
        label = element["text"]["text"]
    else:
        label = f"{element['placeholder']['text']} ▾"
    styles = {"primary": "bold green", "danger": "bold red"}
    style = styles.get(element.get("style", ""), "bold")
    return Text(f"[{label}]", style=style)


def _answer(block: Block, answer: str | Sequence[str] | None, names: Names) -> Text:
    line = Text("│ ")
    line.append(block["label"]["text"], style="bold")
    line.append(": ")
    element = block["element"]
    if answer is None:
        initial = _initial(element)
        return line.append(initial or "left empty", style="dim")
    values = answer
    if isinstance(answer, str):
        values = [answer]
    options = {}
    for option in element.get("options", ()):
        options[option["value"]] = option["text"]["text"]
    shown = []
    for value in values:
        # A value is an option's, a person's or channel's id, or what somebody typed.
        shown.append(options.get(value) or names.get(value, value))
    return line + Text(", ".join(shown))


def _initial(element: Block) -> str | None:
    """What a field shows before anybody touches it."""
    option = element.get("initial_option")
    if option:
        return str(option["text"]["text"])
    value: str | None = element.get("initial_value")
    return value


def _marked(mark: re.Match[str], names: Names) -> Text:
    kind = mark.lastgroup or ""
    inside = mark[kind]
    if kind == "link":
        return _link(inside, names)
    if kind in ("fenced", "code"):
        return Text(_unescaped(inside.strip("\n")), style=_STYLES[kind])
    return mrkdwn(inside, names, _STYLES[kind])


def _link(inside: str, names: Names) -> Text:
    target, _, shown = inside.partition("|")
    mark = target[:1]
    rest = target[1:]
    if mark in "@#":
        name = names.get(rest, shown or rest)
        return Text(mark + name.lstrip("#"), style="blue")
    if mark == "!":
        return Text(shown or f"@{rest}", style="blue")
    return Text(_unescaped(shown or target), style="underline blue")


def _unescaped(text: str) -> str:
    return html.unescape(_INVISIBLE.sub("", text))
