"""What Slack would refuse, or silently change, in a message, modal or App Home made of the blocks that we use.

Written from Slack's reference, not from our own emulator, so that the two can disagree. Whether a card reads well is
checked by style_rules.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from slack_sdk.errors import SlackObjectFormationError
from slack_sdk.models.blocks import Block as SdkBlock

Json = Mapping[str, Any]

MESSAGE_BLOCKS, VIEW_BLOCKS = 50, 100
MESSAGE_CHARACTERS, VIEW_BYTES = 12_000, 250_000
MESSAGE_KEYS = {
    "text", "blocks", "newest", "elsewhere", "unfurl_links", "unfurl_media", "channel", "ts", "thread_ts", "user",
    "response_type", "replace_original", "metadata",
}  # fmt: skip
VIEW_KEYS = {
    "type", "title", "submit", "close", "blocks", "private_metadata", "callback_id", "clear_on_close",
    "notify_on_close", "external_id",
}  # fmt: skip
# Keys beside `type` and `block_id`: the required ones and the optional ones.
BLOCKS: Mapping[str, tuple[set[str], set[str]]] = {
    "section": (set(), {"text", "fields", "accessory", "expand"}),
    "header": ({"text"}, {"level"}),
    "context": ({"elements"}, set()),
    "actions": ({"elements"}, set()),
    "divider": (set(), set()),
    "input": ({"label", "element"}, {"hint", "optional", "dispatch_action"}),
    "data_table": ({"caption", "rows"}, {"page_size", "row_header_column_index"}),
    "data_visualization": ({"title", "chart"}, set()),
    "plan": ({"title"}, {"tasks"}),
}
ONLY_IN_MESSAGES = {"data_table", "data_visualization", "plan"}
STATUSES = {"pending", "in_progress", "complete", "error"}
BUTTON_KEYS = {"type", "text", "action_id", "value", "url", "style", "confirm", "accessibility_label"}
SDK_DROPS = {"data_table", "data_visualization"}


def limit_violations(message: Any) -> list[str]:
    """`message` is one of our messages, the arguments of chat.postMessage with a `newest` form, or a view."""
    body = message.letter() if hasattr(message, "letter") else message
    return list(_view(body) if body.get("type") in ("modal", "home") else _message(body))


def _message(body: Json) -> Iterator[str]:
    yield from _keys(body, set(), MESSAGE_KEYS, "message", typed=False)
    yield from _length(body.get("text"), "text", 1, 3_000)
    elsewhere = body.get("elsewhere", {}).get("blocks", [])
    for form, blocks in (
        ("blocks", body.get("blocks", [])),
        ("newest", body.get("newest", [])),
        ("elsewhere", elsewhere),
    ):
        yield from _blocks(blocks, MESSAGE_BLOCKS, "message", form)
        kinds = Counter(block.get("type") for block in blocks)
        if kinds["data_visualization"] > 2:
            yield f"{form}: more than 2 charts"
        if (read := _characters(blocks)) > MESSAGE_CHARACTERS:
            yield f"{form}: {read:,} characters to read, {MESSAGE_CHARACTERS:,} are allowed"


def _view(view: Json) -> Iterator[str]:
    yield from _keys(view, {"blocks"}, VIEW_KEYS - {"type"}, "view")
    yield from _blocks(view.get("blocks", []), VIEW_BLOCKS, view["type"], "blocks")
    if (size := len(json.dumps(view).encode())) > VIEW_BYTES:
        yield f"view: {size:,} bytes, {VIEW_BYTES:,} are allowed"
    yield from _length(view.get("private_metadata", ""), "private_metadata", 0, 3_000)
    yield from _length(view.get("callback_id", ""), "callback_id", 0, 255)
    if view["type"] == "home":
        return
    yield from _plain(view.get("title"), "title", 24)
    for name in ("submit", "close"):
        if name in view:
            yield from _plain(view[name], name, 24)
    if "submit" not in view and any(block.get("type") == "input" for block in view.get("blocks", [])):
        yield "view: an input needs a submit button"


def _blocks(blocks: Sequence[Json], most: int, surface: str, at: str) -> Iterator[str]:
    if len(blocks) > most:
        yield f"{at}: {len(blocks)} blocks, {most} are allowed in a {surface}"
    for number, block in enumerate(blocks):
        yield from _block(block, surface, f"{at}[{number}]")
    yield from _unique(_values(blocks, "block_id"), "block_id", at)


def _block(block: Json, surface: str, at: str) -> Iterator[str]:
    kind = str(block.get("type"))
    if kind not in BLOCKS:
        yield f"{at}: unknown block type {kind!r}"
        return
    at = f"{at} {kind}"
    if kind in ONLY_IN_MESSAGES and surface != "message":
        yield f"{at}: in messages only"
    required, optional = BLOCKS[kind]
    yield from _keys(block, required, optional | {"block_id"}, at)
    yield from _length(block.get("block_id", "-"), f"{at}: block_id", 1, 255)
    if required <= block.keys():
        yield from _content(kind, block, surface, at)
        yield from _second_opinion(kind, block, at)


def _content(kind: str, block: Json, surface: str, at: str) -> Iterator[str]:
    match kind:
        case "section":
            yield from _section(block, surface, at)
        case "header":
            yield from _plain(block["text"], f"{at}: text", 150)
        case "context":
            yield from _count(block["elements"], f"{at}: elements", 1, 10)
            for element in block["elements"]:
                yield from _text(element, at, 2_000)
        case "actions":
            yield from _count(block["elements"], f"{at}: elements", 1, 25)
            for element in block["elements"]:
                yield from _element(element, surface, at)
            yield from _unique(_values(block["elements"], "action_id"), "action_id", at)
        case "input":
            yield from _input(block, surface, at)
        case "data_table":
            yield from _length(block["caption"], f"{at}: caption", 1, 255)
            yield from _table(block, at)
        case "data_visualization":
            yield from _length(block["title"], f"{at}: title", 1, 50)
            yield from _chart(block["chart"], at)
        case "plan":
            yield from _length(block["title"], f"{at}: title", 1, 3_000)
            yield from _count(block.get("tasks", []), f"{at}: tasks", 0, 50)
            for task in block.get("tasks", []):
                yield from _task(task, at)
            yield from _unique(_values(block.get("tasks", []), "task_id"), "task_id", at)


def _section(block: Json, surface: str, at: str) -> Iterator[str]:
    if "text" not in block and not block.get("fields"):
        yield f"{at}: neither text nor fields"
    if "text" in block:
        yield from _text(block["text"], at, 3_000)
    yield from _count(block.get("fields", []), f"{at}: fields", 0, 10)
    for field in block.get("fields", []):
        yield from _text(field, f"{at}: field", 2_000)
    if "accessory" in block:
        yield from _element(block["accessory"], surface, at)


def _input(block: Json, surface: str, at: str) -> Iterator[str]:
    yield from _plain(block["label"], f"{at}: label", 2_000)
    if "hint" in block:
        yield from _plain(block["hint"], f"{at}: hint", 2_000)
    element = block["element"]
    if element.get("type") == "button":
        yield f"{at}: a button is no input"
    if element.get("type") == "file_input" and surface != "modal":
        yield f"{at}: file_input in modals only"
    yield from _element(element, surface, at, is_input=True)


def _element(element: Json, surface: str, at: str, *, is_input: bool = False) -> Iterator[str]:
    kind = element.get("type")
    at = f"{at}: {kind}"
    yield from _length(element.get("action_id", "-"), f"{at}: action_id", 1, 255)
    if kind == "file_input" and not is_input:
        yield f"{at}: inside an input only"
    if kind == "button":
        yield from _keys(element, {"text"}, BUTTON_KEYS - {"type"}, at)
        yield from _plain(element.get("text"), f"{at}: text", 75)
        yield from _length(element.get("value", "-"), f"{at}: value", 1, 2_000)
        if element.get("style", "primary") not in ("primary", "danger"):
            yield f"{at}: style {element['style']!r}"
    if "placeholder" in element:
        yield from _plain(element["placeholder"], f"{at}: placeholder", 150)
    if "options" in element:
        yield from _options(element, at)
    if "confirm" in element:
        yield from _confirm(element["confirm"], f"{at}: confirm")


def _options(element: Json, at: str) -> Iterator[str]:
    yield from _count(element["options"], f"{at}: options", 1, 100)
    for option in element["options"]:
        yield from _text(option.get("text"), f"{at}: option text", 75)
        yield from _length(option.get("value"), f"{at}: option value", 1, 150)
        if "description" in option:
            yield from _text(option["description"], f"{at}: option description", 75)
    yield from _unique(_values(element["options"], "value"), "option value", at)
    if "initial_option" in element and element["initial_option"] not in element["options"]:
        yield f"{at}: the initial option is none of the options"


def _confirm(confirm: Json, at: str) -> Iterator[str]:
    for name, most in (("title", 100), ("confirm", 30), ("deny", 30)):
        yield from _plain(confirm.get(name), f"{at} {name}", most)
    yield from _text(confirm.get("text"), f"{at} text", 300)


def _table(block: Json, at: str) -> Iterator[str]:
    rows = block["rows"]
    yield from _count(rows, f"{at}: rows", 2, 101)
    if len({len(row) for row in rows}) > 1:
        yield f"{at}: rows of different lengths"
    yield from _count(rows[0] if rows else [], f"{at}: columns", 1, 20)
    for cell in (cell for row in rows for cell in row):
        if cell.get("type") not in ("raw_text", "raw_number", "rich_text"):
            yield f"{at}: a cell of type {cell.get('type')!r}"
        elif cell["type"] != "rich_text":
            yield from _length(cell.get("text"), f"{at}: cell", 1, 3_000)
    if any(cell.get("type") == "rich_text" for cell in rows[0]):
        yield f"{at}: rich_text in the heading"


def _chart(chart: Json, at: str) -> Iterator[str]:
    if chart.get("type") not in ("line", "bar", "area", "pie"):
        yield f"{at}: a chart of type {chart.get('type')!r}"
        return
    if chart["type"] == "pie":
        return
    series, axis = chart.get("series", []), chart.get("axis_config", {})
    yield from _count(series, f"{at}: series", 1, 6)
    yield from _unique(_values(series, "name"), "series", at)
    for line in series:
        yield from _length(line.get("name"), f"{at}: series name", 1, 20)
        yield from _count(line["data"], f"{at}: points", 1, 20)
        labels = [point["label"] for point in line["data"]]
        for label in labels:
            yield from _length(label, f"{at}: label", 1, 20)
        if labels != axis.get("categories"):
            yield f"{at}: the labels of {line.get('name')!r} are not the axis's categories"
        yield from _unique(labels, "label", at)


def _task(task: Json, at: str) -> Iterator[str]:
    yield from _length(task.get("task_id"), f"{at}: task_id", 1, 255)
    yield from _length(task.get("title"), f"{at}: task title", 1, 3_000)
    if task.get("status", "pending") not in STATUSES:
        yield f"{at}: status {task['status']!r}"


def _second_opinion(kind: str, block: Json, at: str) -> Iterator[str]:
    """What slack_sdk's own models say, if they know the block."""
    if kind in SDK_DROPS:
        return
    try:
        parsed = SdkBlock.parse(dict(block))
        if parsed is None:
            yield f"{at}: slack_sdk does not know it"
        else:
            parsed.validate_json()
    except (SlackObjectFormationError, TypeError) as refused:
        yield f"{at}: slack_sdk says: {refused}"


def _plain(text: Any, at: str, most: int) -> Iterator[str]:
    if isinstance(text, Mapping) and text.get("type") != "plain_text":
        yield f"{at}: must be plain_text"
    yield from _text(text, at, most)


def _text(text: Any, at: str, most: int) -> Iterator[str]:
    if not isinstance(text, Mapping) or text.get("type") not in ("plain_text", "mrkdwn"):
        yield f"{at}: no text object"
        return
    optional = {"text", "emoji"} if text["type"] == "plain_text" else {"text", "verbatim"}
    yield from _keys(text, {"text"}, optional, at)
    yield from _length(text.get("text"), at, 1, most)


def _length(text: Any, at: str, least: int, most: int) -> Iterator[str]:
    if not isinstance(text, str):
        yield f"{at}: no text"
    elif not least <= len(text) <= most or (least and not text.strip()):
        yield f"{at}: {len(text):,} characters, {least:,} to {most:,} are allowed"


def _count(items: Sequence[Any], at: str, least: int, most: int) -> Iterator[str]:
    if not least <= len(items) <= most:
        yield f"{at}: {len(items)}, {least} to {most} are allowed"


def _keys(
    holder: Json, required: set[str], optional: set[str], at: str, *, typed: bool = True
) -> Iterator[str]:
    allowed = required | optional | ({"type"} if typed else set())
    yield from (f"{at}: unknown key {key!r}" for key in sorted(holder.keys() - allowed))
    yield from (f"{at}: {key!r} is missing" for key in sorted(required - holder.keys()))


def _values(holders: Sequence[Json], key: str) -> list[str]:
    return [holder[key] for holder in holders if holder.get(key)]


def _unique(names: Sequence[str], what: str, at: str) -> Iterator[str]:
    yield from (f"{at}: {what} {name!r} twice" for name, count in Counter(names).items() if count > 1)


def _characters(node: Any) -> int:
    """The characters that a person can read."""
    if isinstance(node, Mapping):
        read = ("text", "title", "caption", "alt_text", "label", "name")
        own = sum(len(node[key]) for key in read if isinstance(node.get(key), str))
        return own + sum(_characters(value) for value in node.values() if not isinstance(value, str))
    if isinstance(node, (list, tuple)):
        return sum(_characters(item) for item in node)
    return 0
