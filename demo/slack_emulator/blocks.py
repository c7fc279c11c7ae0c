"""Checks blocks and views against Slack's limits, and describes violations in words. Pure. Where sources disagree, the
smaller limit counts.

It knows the kinds of blocks that cards use and refuses any other until its limits are added here. Other tests check
whether a card reads well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from demo.workspace import Block

Surface = Literal["message", "modal", "home"]

_MESSAGES = frozenset({"message"})
_EVERYWHERE = frozenset({"message", "modal", "home"})
_KNOWN = {
    "actions": _EVERYWHERE,
    "context": _EVERYWHERE,
    "data_table": _MESSAGES,
    "data_visualization": _MESSAGES,
    "divider": _EVERYWHERE,
    "header": _EVERYWHERE,
    "input": _EVERYWHERE,
    "plan": _MESSAGES,
    "section": _EVERYWHERE,
}
_STATUSES = ("pending", "in_progress", "complete", "error")
_MESSAGE_CHARACTERS = 12_000
_VIEW_BYTES = 250_000


def complaints(blocks: Sequence[Block], surface: Surface) -> tuple[str, ...]:
    """Returns the violations, none if Slack would accept these blocks. Each names the place, such as
    '/blocks/0/text'."""
    return tuple(_all(blocks, surface))


def view_complaints(view: Block) -> tuple[str, ...]:
    """Returns the violations of a whole modal or home view, including its frame."""
    surface: Surface = "modal"
    violations: list[str] = []
    if view.get("type") == "home":
        surface = "home"
    else:
        violations += _frame(view)
    size = len(json.dumps(view).encode())
    if size > _VIEW_BYTES:
        violations.append(f"/: view_too_large, {size} bytes of {_VIEW_BYTES}")
    return (*violations, *complaints(view.get("blocks", ()), surface))


def characters(blocks: Sequence[Block]) -> int:
    """Returns the number of characters of all texts in these blocks."""
    return sum(len(text) for text in _texts(list(blocks)))


def _frame(view: Block) -> Iterator[str]:
    if view.get("type") != "modal":
        yield "/type: must be modal or home"
    yield from _text(view.get("title"), 24, "/title", plain=True)
    for name in ("submit", "close"):
        if view.get(name) is not None:
            yield from _text(view[name], 24, f"/{name}", plain=True)
    yield from _short(view, "private_metadata", 3_000, "")
    yield from _short(view, "callback_id", 255, "")
    kinds = {block.get("type") for block in view.get("blocks", ())}
    if "input" in kinds and not view.get("submit"):
        yield "/submit: a modal with an input block needs one"


def _all(blocks: Sequence[Block], surface: Surface) -> Iterator[str]:
    most = 100
    if surface == "message":
        most = 50
    yield from _at_most(blocks, most, "/blocks")
    for index, block in enumerate(blocks):
        yield from _block(block, surface, f"/blocks/{index}")
    yield from _twice(blocks, "block_id", "/blocks")
    kinds = Counter(block.get("type") for block in blocks)
    if kinds["data_visualization"] > 2:
        yield "/blocks: at most 2 data_visualization"
    length = characters(blocks)
    if surface == "message" and length > _MESSAGE_CHARACTERS:
        yield f"/blocks: msg_blocks_too_long, {length} characters of {_MESSAGE_CHARACTERS}"


def _twice(items: Sequence[Block], key: str, at: str) -> Iterator[str]:
    """Ids that two of the items share."""
    ids = Counter(item[key] for item in items if item.get(key))
    for name, count in ids.items():
        if count > 1:
            yield f"{at}: {key} '{name}' is used twice"


def _block(block: Block, surface: Surface, at: str) -> Iterator[str]:
    kind = block.get("type")
    if kind not in _KNOWN:
        yield f"{at}: unsupported type: {kind}"
    elif surface not in _KNOWN[kind]:
        yield f"{at}: {kind} is not allowed in a {surface}"
    else:
        yield from _short(block, "block_id", 255, at)
        yield from _inside(kind, block, surface, at)


def _inside(kind: str, block: Block, surface: Surface, at: str) -> Iterator[str]:
    match kind:
        case "section":
            yield from _section(block, at)
        case "header":
            yield from _text(block.get("text"), 150, f"{at}/text", plain=True)
        case "context":
            yield from _context(block, at)
        case "actions":
            yield from _actions(block, at)
        case "input":
            yield from _input(block, surface, at)
        case "data_table":
            yield from _table(block, at)
        case "data_visualization":
            yield from _chart(block, at)
        case "plan":
            yield from _plan(block, at)


def _section(block: Block, at: str) -> Iterator[str]:
    text = block.get("text")
    fields = block.get("fields", ())
    if not text and not fields:
        yield f"{at}: a section needs text or fields"
    if text:
        yield from _text(text, 3_000, f"{at}/text")
    yield from _at_most(fields, 10, f"{at}/fields")
    for index, field in enumerate(fields):
        yield from _text(field, 2_000, f"{at}/fields/{index}")
    accessory = block.get("accessory")
    if accessory:
        yield from _element(accessory, f"{at}/accessory")


def _context(block: Block, at: str) -> Iterator[str]:
    elements = block.get("elements", ())
    yield from _at_most(elements, 10, f"{at}/elements", least=1)
    for index, element in enumerate(elements):
        yield from _text(element, 2_000, f"{at}/elements/{index}")


def _actions(block: Block, at: str) -> Iterator[str]:
    elements = block.get("elements", ())
    yield from _at_most(elements, 25, f"{at}/elements", least=1)
    for index, element in enumerate(elements):
        yield from _element(element, f"{at}/elements/{index}")
    yield from _twice(elements, "action_id", at)


def _input(block: Block, surface: Surface, at: str) -> Iterator[str]:
    yield from _text(block.get("label"), 2_000, f"{at}/label", plain=True)
    hint = block.get("hint")
    if hint:
        yield from _text(hint, 2_000, f"{at}/hint", plain=True)
    element = block.get("element") or {}
    kind = element.get("type")
    if not element:
        yield f"{at}/element: missing required field"
    if kind == "file_input" and surface != "modal":
        yield f"{at}/element: file_input is allowed in modals only"
    if kind == "button":
        yield f"{at}/element: a button is no input"
    yield from _element(element, f"{at}/element", in_input=True)


def _element(element: Block, at: str, *, in_input: bool = False) -> Iterator[str]:
    kind = element.get("type")
    yield from _short(element, "action_id", 255, at)
    if kind == "file_input" and not in_input:
        yield f"{at}: file_input must be inside an input block"
    if kind == "button":
        yield from _button(element, at)
    placeholder = element.get("placeholder")
    if placeholder:
        yield from _text(placeholder, 150, f"{at}/placeholder", plain=True)
    if "options" in element:
        yield from _options(element, at)
    confirm = element.get("confirm")
    if confirm:
        yield from _confirm(confirm, f"{at}/confirm")


def _button(button: Block, at: str) -> Iterator[str]:
    yield from _text(button.get("text"), 75, f"{at}/text", plain=True)
    yield from _short(button, "value", 2_000, at)
    if button.get("style") not in (None, "primary", "danger"):
        yield f"{at}/style: primary or danger"


def _options(element: Block, at: str) -> Iterator[str]:
    options = element["options"]
    most = 100
    if element["type"] in ("radio_buttons", "checkboxes"):
        most = 10
    yield from _at_most(options, most, f"{at}/options", least=1)
    for index, option in enumerate(options):
        place = f"{at}/options/{index}"
        yield from _text(option.get("text"), 75, f"{place}/text")
        yield from _short(option, "value", 150, place, required=True)
    initial = element.get("initial_option")
    if initial and initial not in options:
        yield f"{at}/initial_option: must be one of the options"


def _confirm(confirm: Block, at: str) -> Iterator[str]:
    yield from _text(confirm.get("title"), 100, f"{at}/title", plain=True)
    yield from _text(confirm.get("text"), 300, f"{at}/text")
    for name in ("confirm", "deny"):
        yield from _text(confirm.get(name), 30, f"{at}/{name}", plain=True)


def _table(block: Block, at: str) -> Iterator[str]:
    yield from _short(block, "caption", 255, at, required=True)
    rows = block.get("rows", ())
    yield from _at_most(rows, 101, f"{at}/rows", least=2)
    widths = {len(row) for row in rows}
    widest = max(widths, default=0)
    if len(widths) > 1 or widest > 20:
        yield f"{at}/rows: every row the same length, at most 20 cells"


def _chart(block: Block, at: str) -> Iterator[str]:
    yield from _short(block, "title", 50, at, required=True)
    chart = block.get("chart") or {}
    if chart.get("type") != "line":
        yield f"{at}/chart/type: line"
    series = chart.get("series", ())
    yield from _at_most(series, 6, f"{at}/chart/series", least=1)
    axis = chart.get("axis_config") or {}
    for item in series:
        yield from _series(item, axis.get("categories"), f"{at}/chart/series/{item.get('name')}")


def _series(series: Block, categories: object, at: str) -> Iterator[str]:
    labels = [point["label"] for point in series.get("data", ())]
    yield from _at_most(labels, 20, at, least=1)
    for label in labels:
        if len(label) > 20:
            yield f"{at}: label '{label}' over 20 characters"
    if labels != categories:
        yield f"{at}: labels must be the axis' categories"


def _plan(block: Block, at: str) -> Iterator[str]:
    yield from _short(block, "title", 3_000, at, required=True)
    tasks = block.get("tasks", ())
    yield from _at_most(tasks, 50, f"{at}/tasks")
    for index, task in enumerate(tasks):
        place = f"{at}/tasks/{index}"
        for name in ("task_id", "title"):
            yield from _short(task, name, 3_000, place, required=True)
        if task.get("status") not in _STATUSES:
            yield f"{place}/status: one of {', '.join(_STATUSES)}"


def _text(value: Any, most: int, at: str, *, plain: bool = False) -> Iterator[str]:
    if not isinstance(value, Mapping) or value.get("type") not in ("plain_text", "mrkdwn"):
        yield f"{at}: must be a text object"
        return
    if plain and value["type"] != "plain_text":
        yield f"{at}: must be plain_text"
    yield from _short(value, "text", most, at, required=True)


def _short(holder: Block, name: str, most: int, at: str, *, required: bool = False) -> Iterator[str]:
    value = holder.get(name)
    if value is None or value == "":
        if required:
            yield f"{at}/{name}: missing required field"
    elif len(value) > most:
        yield f"{at}/{name}: must be less than {most + 1} characters, has {len(value)}"


def _at_most(items: Sequence[Any], most: int, at: str, *, least: int = 0) -> Iterator[str]:
    if len(items) > most:
        yield f"{at}: no more than {most} items allowed, has {len(items)}"
    if len(items) < least:
        yield f"{at}: no fewer than {least} items allowed"


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if isinstance(value, str) and key in ("text", "title", "caption", "alt_text", "label"):
                yield value
            else:
                yield from _texts(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from _texts(item)
