"""Slack's messages and modals drawn for a terminal with rich. Pure: a value in, a renderable out.

It draws what a reader needs to follow a story, not all of Block Kit; an unknown block shows its name.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.style import Style
from rich.table import Table
from rich.text import Text

from demo.workspace import Answers, Block, Modal, PostedMessage, SharedFile

Names = Mapping[str, str]
"""What people and channels are called, by their ids."""

_MARKS = re.compile(
    r"```(?P<fenced>.+?)```|`(?P<code>[^`\n]+)`|<(?P<link>[^<>\n]+)>"
    r"|(?<![\w*])\*(?P<bold>[^*\n]+)\*(?![\w*])|(?<!\w)_(?P<italic>[^_\n]+)_(?!\w)|~(?P<gone>[^~\n]+)~",
    re.DOTALL,
)
_STYLES = {"fenced": "cyan", "code": "cyan", "bold": "bold", "italic": "italic", "gone": "strike"}
_INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_TASKS = {"complete": "✓", "in_progress": "▸", "error": "✗", "pending": "·"}
_SPARKS = "▁▂▃▄▅▆▇█"


def render(message: PostedMessage, names: Names, *, edited: bool = False) -> RenderableType:
    """A head (who, when, for whom) and the message's body below it; a reply is indented."""
    parts: list[RenderableType] = [_head(message, names, edited=edited)]
    body = [draw(block, names) for block in message.blocks] or [mrkdwn(message.text, names)]
    parts += [_indented(part, 2) for part in body if message.blocks or message.text]
    parts += [_indented(_file(file), 2) for file in message.files]
    drawn = Group(*parts)
    return _indented(drawn, 4) if message.thread_ts else drawn


def render_modal(modal: Modal, answers: Answers, names: Names) -> RenderableType:
    """The form as somebody sends it: a line a field; what was left alone keeps its value."""
    rows: list[RenderableType] = [Text(f"┌ {modal.title}", style="bold")]
    for block in modal.blocks:
        if block["type"] == "input":
            rows.append(_answer(block, answers.get(block.get("block_id", "")), names))
        else:
            rows.append(_indented(draw(block, names), 2))
    rows.append(Text(f"└ [{modal.submit or 'Close'}]", style="bold"))
    return Group(*rows)


def draw(block: Block, names: Names) -> RenderableType:
    """One block."""
    match block["type"]:
        case "header":
            return Text(block["text"]["text"], style="bold")
        case "section":
            return _section(block, names)
        case "context":
            texts = [_element(element, names) for element in block["elements"]]
            return Text("  ", style="dim").join(texts)
        case "actions" | "context_actions":
            return _buttons(block["elements"])
        case "divider":
            return Rule(style="dim")
        case "image":
            return Text(f"(image: {block['alt_text']})", style="magenta")
        case "table" | "data_table":
            return _table(block, names)
        case "plan":
            tasks = Text("\n").join([_task(task) for task in block.get("tasks", ())])
            return Text("\n").join([Text(block["title"], style="bold"), tasks])
        case "task_card":
            return _task(block)
        case "rich_text":
            return Text("\n").join([_rich(part, names) for part in block["elements"]])
        case "markdown":
            return Text(block["text"])
        case "alert":
            return Text("! ", style="bold yellow") + mrkdwn(block["text"]["text"], names)
        case "card":
            return _card(block, names)
        case "data_visualization":
            return _chart(block)
        case unknown:
            return Text(f"[{unknown}]", style="dim")


def mrkdwn(text: str, names: Names, style: str | Style = "") -> Text:
    """Slack's markup as styled text, mentions and links by their names."""
    drawn, at = Text(style=style), 0
    for mark in _MARKS.finditer(text):
        drawn.append(_said(text[at : mark.start()]))
        drawn.append(_marked(mark, names))
        at = mark.end()
    drawn.append(_said(text[at:]))
    return drawn


def headline(message: PostedMessage, names: Names) -> str:
    """The header's text, else the first line of the text."""
    headers = (block["text"]["text"] for block in message.blocks if block["type"] == "header")
    return next(headers, "") or mrkdwn(message.text, names).plain.partition("\n")[0]


def texts(message: PostedMessage, names: Names) -> Iterator[Text]:
    """Every text of the message's sections, one by one, fields as 'label value'."""
    for block in message.blocks:
        if block["type"] == "section":
            if block.get("text"):
                yield mrkdwn(block["text"]["text"], names)
            for field in block.get("fields", ()):
                yield Text(" ").join(mrkdwn(field["text"], names).split("\n"))


def _indented(what: RenderableType, by: int) -> Padding:
    """Text is not filled up to the full width: a log would be full of blanks."""
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
        parts.append(_element(block["text"], names))
    if block.get("fields"):
        grid = Table.grid(padding=(0, 4))
        drawn = [_element(field, names) for field in block["fields"]]
        for at in range(0, len(drawn), 2):
            grid.add_row(*drawn[at : at + 2])
        parts.append(grid)
    if block.get("accessory"):
        parts.append(_buttons([block["accessory"]]))
    return parts[0] if len(parts) == 1 else Group(*parts)


def _element(element: Block, names: Names) -> Text:
    if element["type"] == "image":
        return Text(f"({element['alt_text']})", style="magenta")
    return mrkdwn(element["text"], names) if element["type"] == "mrkdwn" else Text(element["text"])


def _buttons(elements: Sequence[Block]) -> Text:
    looks = {"primary": "bold green", "danger": "bold red"}
    drawn = [
        Text(f"[{_label(element)}]", style=looks.get(element.get("style", ""), "bold"))
        for element in elements
    ]
    return Text(" ").join(drawn)


def _label(element: Block) -> str:
    if element["type"] == "button":
        return str(element["text"]["text"])
    if element["type"] == "image":
        return str(element["alt_text"])
    return f"{(element.get('placeholder') or {}).get('text', 'Choose')} ▾"


def _table(block: Block, names: Names) -> Table:
    head, *rows = [[_cell(cell, names) for cell in row] for row in block["rows"]]
    table = Table(
        box=box.SIMPLE_HEAD, title=block.get("caption"), title_justify="left", show_edge=False, pad_edge=False
    )
    settings = [*block.get("column_settings", ()), *([{}] * len(head))]
    numeric = [
        all(row[at].get("type") == "raw_number" for row in block["rows"][1:]) for at in range(len(head))
    ]
    for at, cell in enumerate(head):
        is_right = (settings[at] or {}).get("align") == "right" or (numeric[at] and bool(rows))
        table.add_column(cell, justify="right" if is_right else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _cell(cell: Block, names: Names) -> Text:
    if cell["type"] == "rich_text":
        return Text(" ").join([_rich(part, names) for part in cell["elements"]])
    return Text(str(cell.get("text") or cell.get("value", "")))


def _task(task: Block) -> Text:
    sign = _TASKS.get(task.get("status", "pending"), "·")
    line = Text(f"{sign} {task['title']}", style="bold" if task.get("status") == "in_progress" else "")
    for name in ("details", "output"):
        for part in (task.get(name) or {}).get("elements", ()):
            line.append(" · ").append(_rich(part, {}))
    return line


def _card(block: Block, names: Names) -> RenderableType:
    parts = [_element(block[name], names) for name in ("title", "subtitle", "body") if block.get(name)]
    return Group(*parts, *([_buttons(block["actions"])] if block.get("actions") else []))


def _chart(block: Block) -> Text:
    lines = [Text(block["title"], style="bold")]
    chart = block["chart"]
    for item in chart.get("series", ()):
        values = [float(point["value"]) for point in item["data"]]
        lines.append(Text(f"{item['name']}  {_spark(values)}  {values[0]:g} → {values[-1]:g}"))
    lines += [Text(f"{segment['label']}  {segment['value']:g}") for segment in chart.get("segments", ())]
    return Text("\n").join(lines)


def _spark(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    steps = [
        0 if high == low else round((value - low) / (high - low) * (len(_SPARKS) - 1)) for value in values
    ]
    return "".join(_SPARKS[step] for step in steps)


def _rich(part: Block, names: Names) -> Text:
    inner = part.get("elements", ())
    match part["type"]:
        case "rich_text_list":
            return Text("\n").join([Text("• ") + _rich(item, names) for item in inner])
        case "rich_text_quote":
            return Text("│ ") + Text().join([_rich(item, names) for item in inner])
        case "user":
            return Text("@" + names.get(part["user_id"], part["user_id"]), style="blue")
        case "link":
            return Text(part.get("text") or part["url"], style="underline blue")
        case "emoji":
            return Text(f":{part['name']}:")
        case _ if inner:
            return Text().join([_rich(item, names) for item in inner])
    marks = [
        name for name, is_set in (part.get("style") or {}).items() if is_set and name in ("bold", "italic")
    ]
    return Text(str(part.get("text", "")), style=" ".join(marks))


def _answer(block: Block, answer: str | Sequence[str] | None, names: Names) -> Text:
    line = Text("│ ") + Text(block["label"]["text"], style="bold") + Text(": ")
    element = block["element"]
    if answer is None:
        initial = element.get("initial_value") or (element.get("initial_option") or {}).get("text", {}).get(
            "text"
        )
        return line + Text(initial or "left empty", style="dim")
    options = {option["value"]: option["text"]["text"] for option in element.get("options", ())}
    texts = [answer] if isinstance(answer, str) else list(answer)
    return line + Text(", ".join(options.get(name, names.get(name, name)) for name in texts))


def _marked(mark: re.Match[str], names: Names) -> Text:
    kind, inside = mark.lastgroup or "", mark.group(mark.lastgroup or 0)
    if kind == "link":
        return _link(inside, names)
    if kind in ("fenced", "code"):
        return Text(_said(inside.strip("\n")), style=_STYLES[kind])
    return mrkdwn(inside, names, _STYLES[kind])


def _link(inside: str, names: Names) -> Text:
    target, _, shown = inside.partition("|")
    if target[:1] in "@#":
        return Text(target[0] + names.get(target[1:], shown or target[1:]).lstrip("#"), style="blue")
    if target[:1] == "!":
        return Text(shown or f"@{target[1:]}", style="blue")
    return Text(_said(shown or target), style="underline blue")


def _said(text: Any) -> str:
    return html.unescape(_INVISIBLE.sub("", str(text)))
