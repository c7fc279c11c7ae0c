"""Slack's JSON as the text of a golden file: what a person reads, and the ids of buttons and fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]


def readable(payload: Json) -> str:
    """A view, or a message with the newest blocks that its classic form lacks."""
    if "type" in payload:
        return "\n".join([_view(payload), *_blocks(payload["blocks"])]) + "\n"
    lines = [f"text: {payload['text']}", *_blocks(payload["blocks"])]
    newest = [block for block in payload.get("newest", []) if block not in payload["blocks"]]
    if newest:
        lines += ["", "", "In the newest blocks:", *_blocks(newest)]
    return "\n".join(lines) + "\n"


def _view(view: Json) -> str:
    title, submit = (view.get(key, {}).get("text", "") for key in ("title", "submit"))
    ids = f"{view.get('callback_id', '')} {view.get('private_metadata', '')}"
    return f"{view['type']}: {title} [{submit}] {ids}".rstrip()


def _blocks(blocks: Sequence[Json]) -> Iterator[str]:
    for block in blocks:
        yield ""
        yield from _lines(block)


def _lines(block: Json) -> Iterator[str]:
    match block["type"]:
        case "header":
            yield f"# {block['text']['text']}"
        case "section":
            yield (
                block["text"]["text"]
                if "text" in block
                else "\n".join(field["text"].replace("\n", ": ", 1) for field in block["fields"])
            )
            beside = block.get("accessory", {})
            for option in beside.get("options", []):
                yield f"  ( ) {option['text']['text']} = {option['value']}"
            if beside.get("type") == "button":
                yield from _button(beside)
        case "context":
            yield from (f"({element['text']})" for element in block["elements"])
        case "divider":
            yield "---"
        case "actions":
            for button in block["elements"]:
                yield from _button(button)
        case "input":
            yield from _field(block)
        case "data_table":
            yield block["caption"]
            yield from (" | ".join(cell["text"] for cell in row) for row in block["rows"])
        case "data_visualization":
            yield from _chart(block)
        case "plan":
            yield block["title"]
            yield from (f"  {task['status']}: {task['title']}" for task in block["tasks"])


def _button(button: Json) -> Iterator[str]:
    style = f" ({button['style']})" if "style" in button else ""
    yield f"[{button['text']['text']}]{style} {button['action_id']} {button['value']}"
    if "confirm" in button:
        texts = {key: part["text"] for key, part in button["confirm"].items()}
        yield f"  sure? {texts['title']} {texts['text']} [{texts['confirm']}] [{texts['deny']}]"


def _field(block: Json) -> Iterator[str]:
    element = block["element"]
    optional = ", optional" if block.get("optional") else ""
    yield f"{block['label']['text']} ({block['block_id']}: {element['type']}{optional})"
    for key in ("placeholder", "initial_value"):
        if key in element:
            yield f"  {key}: {element[key]['text'] if isinstance(element[key], Mapping) else element[key]}"
    first = [element["initial_option"]] if "initial_option" in element else element.get("initial_options", [])
    for option in element.get("options", []):
        yield f"  {'(x)' if option in first else '( )'} {option['text']['text']} = {option['value']}"
        if "description" in option:
            yield f"      {option['description']['text']}"
    if "hint" in block:
        yield f"  {block['hint']['text']}"


def _chart(block: Json) -> Iterator[str]:
    chart, axis = block["chart"], block["chart"]["axis_config"]
    (series,) = chart["series"]
    yield f"{block['title']}: {series['name']}, {axis['y_label']} by {axis['x_label']}"
    yield from (f"  {point['label']}: {point['value']}" for point in series["data"])
