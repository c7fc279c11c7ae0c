"""Slack's limits as a judge: what Slack would refuse, or silently change, in a message, modal or App Home.

Written from Slack's reference, not from our own emulator, so that the two can disagree. It does not say
whether a card reads well (tests/cards/style_rules.py).
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
MESSAGE_CHARACTERS, MARKDOWN_CHARACTERS, VIEW_BYTES = 12_000, 12_000, 250_000
MESSAGE_KEYS = {
    "text", "blocks", "newest", "unfurl_links", "unfurl_media", "channel", "ts", "thread_ts", "user",
    "response_type", "replace_original", "metadata",
}  # fmt: skip
VIEW_KEYS = {
    "type", "title", "submit", "close", "blocks", "private_metadata", "callback_id", "clear_on_close",
    "notify_on_close", "external_id",
}  # fmt: skip
# Keys beside `type` and `block_id`: those that must be there, those that may.
BLOCKS: Mapping[str, tuple[set[str], set[str]]] = {
    "section": (set(), {"text", "fields", "accessory", "expand"}),
    "header": ({"text"}, {"level"}),
    "context": ({"elements"}, set()),
    "actions": ({"elements"}, set()),
    "divider": (set(), set()),
    "image": ({"alt_text"}, {"image_url", "slack_file", "title"}),
    "input": ({"label", "element"}, {"hint", "optional", "dispatch_action"}),
    "table": ({"rows"}, {"column_settings"}),
    "data_table": ({"caption", "rows"}, {"page_size", "row_header_column_index"}),
    "data_visualization": ({"title", "chart"}, set()),
    "plan": ({"title"}, {"tasks"}),
    "task_card": ({"task_id", "title"}, {"status", "details", "output", "sources"}),
    "markdown": ({"text"}, set()),
    "alert": ({"text"}, {"level"}),
    "card": (set(), {"title", "subtitle", "body", "subtext", "hero_image", "icon", "actions"}),
}
ONLY_IN_MESSAGES = {"table", "data_table", "data_visualization", "plan", "task_card", "markdown", "card"}
STATUSES = {"pending", "in_progress", "complete", "error"}
BUTTON_KEYS = {"type", "text", "action_id", "value", "url", "style", "confirm", "accessibility_label"}
SDK_DROPS = {"data_table", "data_visualization"}


def limit_violations(message: Any) -> list[str]:
    """Of a message (ours, or the arguments of chat.postMessage, its `newest` form among them), or of a view."""
    body = message.letter() if hasattr(message, "letter") else message
    if body.get("type") in ("modal", "home"):
        return list(_view(body))
    return list(_message(body))


def _message(body: Json) -> Iterator[str]:
    yield from _keys(body, set(), MESSAGE_KEYS, "message", typed=False)
    yield from _length(body.get("text"), "text", 1, 3_000)
    for form in ("blocks", "newest"):
        blocks = body.get(form, [])
        yield from _blocks(blocks, MESSAGE_BLOCKS, "message", form)
        kinds = Counter(block.get("type") for block in blocks)
        if kinds["data_visualization"] > 2:
            yield f"{form}: more than 2 charts"
        if kinds["plan"] and kinds["task_card"]:
            yield f"{form}: plan and task_card exclude each other"
        if (read := _characters(blocks)) > MESSAGE_CHARACTERS:
            yield f"{form}: {read:,} characters to read, {MESSAGE_CHARACTERS:,} are allowed"
        markdown = sum(len(block.get("text", "")) for block in blocks if block.get("type") == "markdown")
        if markdown > MARKDOWN_CHARACTERS:
            yield f"{form}: {markdown:,} characters of markdown"


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
    yield from _unique(_found(blocks, "block_id"), "block_id", at)


def _block(block: Json, surface: str, at: str) -> Iterator[str]:
    kind = str(block.get("type"))
    if kind not in BLOCKS:
        yield f"{at}: unknown block type {kind!r}"
        return
    at = f"{at} {kind}"
    if kind in ONLY_IN_MESSAGES and surface != "message":
        yield f"{at}: in messages only"
    if kind == "alert" and surface != "modal":
        yield f"{at}: in modals only"
    must, may = BLOCKS[kind]
    yield from _keys(block, must, may | {"block_id"}, at)
    yield from _length(block.get("block_id", "-"), f"{at}: block_id", 1, 255)
    if must <= block.keys():
        yield from _inside(kind, block, surface, at)
        yield from _second_opinion(kind, block, at)


def _inside(kind: str, block: Json, surface: str, at: str) -> Iterator[str]:
    match kind:
        case "section":
            yield from _section(block, surface, at)
        case "header":
            yield from _plain(block["text"], f"{at}: text", 150)
        case "context":
            yield from _count(block["elements"], f"{at}: elements", 1, 10)
            for element in block["elements"]:
                yield from (
                    _image(element, at) if element.get("type") == "image" else _text(element, at, 2_000)
                )
        case "actions":
            yield from _count(block["elements"], f"{at}: elements", 1, 25)
            for element in block["elements"]:
                yield from _element(element, surface, at)
            yield from _unique(_found(block["elements"], "action_id"), "action_id", at)
        case "input":
            yield from _input(block, surface, at)
        case "image":
            yield from _image(block, at)
        case "markdown":
            yield from _length(block["text"], f"{at}: text", 1, MARKDOWN_CHARACTERS)
        case "alert":
            yield from _text(block["text"], at, 3_000)
        case "table":
            yield from _table(block, at, 1, 100)
            yield from _count(block.get("column_settings", []), f"{at}: column_settings", 0, 20)
        case "data_table":
            yield from _length(block["caption"], f"{at}: caption", 1, 255)
            yield from _table(block, at, 2, 101)
        case "data_visualization":
            yield from _length(block["title"], f"{at}: title", 1, 50)
            yield from _chart(block["chart"], at)
        case "plan":
            yield from _length(block["title"], f"{at}: title", 1, 3_000)
            yield from _count(block.get("tasks", []), f"{at}: tasks", 0, 50)
            for task in block.get("tasks", []):
                yield from _task(task, at)
            yield from _unique(_found(block.get("tasks", []), "task_id"), "task_id", at)
        case "task_card":
            yield from _task(block, at)
        case "card":
            yield from _card(block, at)


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
    yield from _unique(_found(element["options"], "value"), "option value", at)
    if "initial_option" in element and element["initial_option"] not in element["options"]:
        yield f"{at}: the initial option is none of the options"


def _confirm(confirm: Json, at: str) -> Iterator[str]:
    for name, most in (("title", 100), ("confirm", 30), ("deny", 30)):
        yield from _plain(confirm.get(name), f"{at} {name}", most)
    yield from _text(confirm.get("text"), f"{at} text", 300)


def _image(block: Json, at: str) -> Iterator[str]:
    yield from _length(block.get("alt_text"), f"{at}: alt_text", 1, 2_000)
    if not block.get("image_url") and not block.get("slack_file"):
        yield f"{at}: neither image_url nor slack_file"


def _table(block: Json, at: str, least: int, most: int) -> Iterator[str]:
    rows = block["rows"]
    yield from _count(rows, f"{at}: rows", least, most)
    if len({len(row) for row in rows}) > 1:
        yield f"{at}: rows of different lengths"
    yield from _count(rows[0] if rows else [], f"{at}: columns", 1, 20)
    for cell in (cell for row in rows for cell in row):
        if cell.get("type") not in ("raw_text", "raw_number", "rich_text"):
            yield f"{at}: a cell of type {cell.get('type')!r}"
        elif cell["type"] != "rich_text":
            yield from _length(cell.get("text"), f"{at}: cell", 1, 3_000)
    if block["type"] == "data_table" and any(cell.get("type") == "rich_text" for cell in rows[0]):
        yield f"{at}: rich_text in the heading"


def _chart(chart: Json, at: str) -> Iterator[str]:
    if chart.get("type") not in ("line", "bar", "area", "pie"):
        yield f"{at}: a chart of type {chart.get('type')!r}"
        return
    if chart["type"] == "pie":
        return
    series, axis = chart.get("series", []), chart.get("axis_config", {})
    yield from _count(series, f"{at}: series", 1, 6)
    yield from _unique(_found(series, "name"), "series", at)
    for one in series:
        yield from _length(one.get("name"), f"{at}: series name", 1, 20)
        yield from _count(one["data"], f"{at}: points", 1, 20)
        labels = [point["label"] for point in one["data"]]
        for label in labels:
            yield from _length(label, f"{at}: label", 1, 20)
        if labels != axis.get("categories"):
            yield f"{at}: the labels of {one.get('name')!r} are not the axis's categories"
        yield from _unique(labels, "label", at)


def _task(task: Json, at: str) -> Iterator[str]:
    yield from _length(task.get("task_id"), f"{at}: task_id", 1, 255)
    yield from _length(task.get("title"), f"{at}: task title", 1, 3_000)
    if task.get("status", "pending") not in STATUSES:
        yield f"{at}: status {task['status']!r}"


def _card(block: Json, at: str) -> Iterator[str]:
    for name, most in (("title", 150), ("subtitle", 150), ("body", 200)):
        if name in block:
            yield from _text(block[name], f"{at}: {name}", most)
    yield from _count(block.get("actions", []), f"{at}: actions", 0, 3)


def _second_opinion(kind: str, block: Json, at: str) -> Iterator[str]:
    """slack_sdk's own models, where they know the block."""
    if kind in SDK_DROPS or (kind == "card"):
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
    may = {"text", "emoji"} if text["type"] == "plain_text" else {"text", "verbatim"}
    yield from _keys(text, {"text"}, may, at)
    yield from _length(text.get("text"), at, 1, most)


def _length(text: Any, at: str, least: int, most: int) -> Iterator[str]:
    if not isinstance(text, str):
        yield f"{at}: no text"
    elif not least <= len(text) <= most or (least and not text.strip()):
        yield f"{at}: {len(text):,} characters, {least:,} to {most:,} are allowed"


def _count(items: Sequence[Any], at: str, least: int, most: int) -> Iterator[str]:
    if not least <= len(items) <= most:
        yield f"{at}: {len(items)}, {least} to {most} are allowed"


def _keys(holder: Json, must: set[str], may: set[str], at: str, *, typed: bool = True) -> Iterator[str]:
    known = must | may | ({"type"} if typed else set())
    yield from (f"{at}: unknown key {key!r}" for key in sorted(holder.keys() - known))
    yield from (f"{at}: {key!r} is missing" for key in sorted(must - holder.keys()))


def _found(holders: Sequence[Json], key: str) -> list[str]:
    return [holder[key] for holder in holders if holder.get(key)]


def _unique(names: Sequence[str], what: str, at: str) -> Iterator[str]:
    yield from (f"{at}: {what} {name!r} twice" for name, count in Counter(names).items() if count > 1)


def _characters(node: Any) -> int:
    """Everything that a person can read."""
    if isinstance(node, Mapping):
        read = ("text", "title", "caption", "alt_text", "label", "name")
        own = sum(len(node[key]) for key in read if isinstance(node.get(key), str))
        return own + sum(_characters(value) for value in node.values() if not isinstance(value, str))
    if isinstance(node, (list, tuple)):
        return sum(_characters(item) for item in node)
    return 0
