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
    body = [draw(block, names) for block in message.blocks] or [mrkdwn(message.text, names)]
    parts += [_indented(part, 2) for part in body if message.blocks or message.text]
    parts += [_indented(_file(file), 2) for file in message.files]
    drawn = Group(*parts)
    return _indented(drawn, 4) if message.thread_ts else drawn


def render_modal(modal: Modal, answers: Answers, names: Names) -> RenderableType:
    """Returns a form as somebody submits it, one line per field. Untouched fields show their initial value."""
    rows: list[RenderableType] = [Text(f"┌ {modal.title}", style="bold")]
    for block in modal.blocks:
        if block["type"] == "input":
            rows.append(_answer(block, answers.get(block.get("block_id", "")), names))
        else:
            rows.append(_indented(draw(block, names), 2))
    rows.append(Text(f"└ [{modal.submit or 'Close'}]", style="bold"))
    return Group(*rows)


def draw(block: Block, names: Names) -> RenderableType:
    """Returns one block."""
    match block["type"]:
        case "header":
            return Text(block["text"]["text"], style="bold")
        case "section":
            return _section(block, names)
        case "context":
            return Text("  ", style="dim").join([_text(element, names) for element in block["elements"]])
        case "actions":
            return _buttons(block["elements"])
        case "divider":
            return Rule(style="dim")
        case unknown:
            return Text(f"[{unknown}]", style="dim")


def mrkdwn(text: str, names: Names, style: str | Style = "") -> Text:
    """Returns Slack's markup as styled text, with the names of mentions and links."""
    drawn, at = Text(style=style), 0
    for mark in _MARKS.finditer(text):
        drawn.append(_unescaped(text[at : mark.start()]))
        drawn.append(_marked(mark, names))
        at = mark.end()
    drawn.append(_unescaped(text[at:]))
    return drawn


def headline(message: PostedMessage, names: Names) -> str:
    """Returns the text of the header, or else the first line of the text."""
    headers = (block["text"]["text"] for block in message.blocks if block["type"] == "header")
    return next(headers, "") or mrkdwn(message.text, names).plain.partition("\n")[0]


def texts(message: PostedMessage, names: Names) -> Iterator[Text]:
    """Yields every text of the message's sections, and fields as 'label value'."""
    for block in message.blocks:
        if block["type"] == "section":
            if block.get("text"):
                yield mrkdwn(block["text"]["text"], names)
            for field in block.get("fields", ()):
                yield Text(" ").join(mrkdwn(field["text"], names).split("\n"))


def _indented(what: RenderableType, by: int) -> Padding:
    """Indents without padding to the full width, which would fill a log with blanks."""
    return Padding(what, (0, 0, 0, by), expand=isinstance(what, Rule))


def _head(message: PostedMessage, names: Names, *, edited: bool) -> Text:
    head = Text(names.get(message.user, message.user), style="bold")
    head.append(f"  {datetime.fromtimestamp(float(message.ts)):%H:%M}", style="not bold dim")
    if message.only_for:
        head.append(
            f"  only visible to {names.get(message.only_for, message.only_for)}", style="not bold yellow"
        )
    if message.thread_ts:
        head.append("  in the thread", style="not bold dim")
    if edited:
        head.append("  edited", style="not bold dim")
    return head


def _file(file: SharedFile) -> Text:
    size = f"{file.size / 1024:,.0f} KB" if file.size >= 1024 else f"{file.size} bytes"
    return Text(f"({file.name}, {size})", style="magenta")


def _section(block: Block, names: Names) -> RenderableType:
    parts: list[RenderableType] = []
    if block.get("text"):
        parts.append(_text(block["text"], names))
    if block.get("fields"):
        grid = Table.grid(padding=(0, 4))
        drawn = [_text(field, names) for field in block["fields"]]
        for at in range(0, len(drawn), 2):
            grid.add_row(*drawn[at : at + 2])
        parts.append(grid)
    if block.get("accessory"):
        parts.append(_buttons([block["accessory"]]))
    return parts[0] if len(parts) == 1 else Group(*parts)


def _text(element: Block, names: Names) -> Text:
    return mrkdwn(element["text"], names) if element["type"] == "mrkdwn" else Text(element["text"])


def _buttons(elements: Sequence[Block]) -> Text:
    looks = {"primary": "bold green", "danger": "bold red"}
    drawn = []
    for element in elements:
        is_button = element["type"] == "button"
        label = element["text"]["text"] if is_button else f"{element['placeholder']['text']} ▾"
        drawn.append(Text(f"[{label}]", style=looks.get(element.get("style", ""), "bold")))
    return Text(" ").join(drawn)


def _answer(block: Block, answer: str | Sequence[str] | None, names: Names) -> Text:
    line = Text("│ ") + Text(block["label"]["text"], style="bold") + Text(": ")
    element = block["element"]
    if answer is None:
        option = element.get("initial_option")
        initial = option["text"]["text"] if option else element.get("initial_value")
        return line + Text(initial or "left empty", style="dim")
    options = {option["value"]: option["text"]["text"] for option in element.get("options", ())}
    texts = [answer] if isinstance(answer, str) else list(answer)
    return line + Text(", ".join(options.get(name, names.get(name, name)) for name in texts))


def _marked(mark: re.Match[str], names: Names) -> Text:
    kind, inside = mark.lastgroup or "", mark.group(mark.lastgroup or 0)
    if kind == "link":
        return _link(inside, names)
    if kind in ("fenced", "code"):
        return Text(_unescaped(inside.strip("\n")), style=_STYLES[kind])
    return mrkdwn(inside, names, _STYLES[kind])


def _link(inside: str, names: Names) -> Text:
    target, _, shown = inside.partition("|")
    if target[:1] in "@#":
        return Text(target[0] + names.get(target[1:], shown or target[1:]).lstrip("#"), style="blue")
    if target[:1] == "!":
        return Text(shown or f"@{target[1:]}", style="blue")
    return Text(_unescaped(shown or target), style="underline blue")


def _unescaped(text: str) -> str:
    return html.unescape(_INVISIBLE.sub("", text))
