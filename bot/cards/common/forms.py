"""Slack's forms and their fields. A block's id is the field's name; its element's action is always `value`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from bot.cards.common.blocks import Block, CardBlock, plain, slack_blocks
from bot.cards.common.words import shorten
from bot.rules.facts import TASK_KINDS

# Slack refuses a form with more than these.
MOST_OPTIONS = 100
MOST_BOXES = 10
LONGEST_TEXT = 3000
LONGEST_OPTION = 75
LONGEST_VALUE = 150
# Of the options of one select: a form has up to three, and Slack takes 250 kB for all of it.
MOST_BYTES = 70_000
NO_MARKS: Mapping[str, str] = MappingProxyType({})


def modal(
    title: str, callback: str, blocks: Sequence[CardBlock | Block], *, submit: str, private: str = ""
) -> Block:
    return {
        "type": "modal",
        "callback_id": callback,
        "title": plain(title, 24),
        "submit": plain(submit, 24),
        "close": plain("Cancel", 24),
        "private_metadata": private,
        "blocks": slack_blocks(blocks),
    }


def text_input(
    name: str, label: str, example: str, *, optional: bool = True, hint: str = "", initial: str = ""
) -> Block:
    element: Block = {
        "type": "plain_text_input",
        "action_id": "value",
        "placeholder": plain(example, 75),
        "max_length": 80,
    }
    if initial:
        element["initial_value"] = initial[:80]
    return _input(name, label, element, optional=optional, hint=hint)


def long_text_input(
    name: str, label: str, example: str, *, hint: str, most: int = LONGEST_TEXT, initial: str = ""
) -> Block:
    element: Block = {
        "type": "plain_text_input",
        "action_id": "value",
        "multiline": True,
        "placeholder": plain(example, 150),
        "max_length": most,
    }
    if initial:
        element["initial_value"] = initial[:most]
    return _input(name, label, element, optional=True, hint=hint)


def required_text_input(name: str, label: str, *, most: int, multiline: bool = True, hint: str = "") -> Block:
    """A required text of up to `most` characters."""
    element: Block = {"type": "plain_text_input", "action_id": "value", "max_length": most}
    if multiline:
        element["multiline"] = True
    return _input(name, label, element, optional=False, hint=hint)


def select_input(
    name: str,
    label: str,
    options: Sequence[str],
    *,
    initial: str | None = None,
    marks: Mapping[str, str] = NO_MARKS,
    descriptions: Mapping[str, str] = NO_MARKS,
) -> Block:
    """A select. `marks` adds words to some options, and `descriptions` a line below some. If there are no options, or
    only names too long for one, the field takes typed text instead."""
    entries = [_described(_marked(entry, marks), descriptions) for entry in _options(options)]
    if not entries:
        # Slack refuses a select without options.
        return text_input(name, label, "its name", optional=False)
    return _input(name, label, _select(entries, initial), optional=False)


def choice_input(
    name: str, label: str, options: Sequence[tuple[str, str]], *, initial: str, hint: str = ""
) -> Block:
    """A select of (value, words), with one of the values chosen."""
    entries = [_option(value, shorten(words, LONGEST_OPTION)) for value, words in options[:MOST_OPTIONS]]
    return _input(name, label, _select(entries, initial), optional=False, hint=hint)


def _select(entries: Sequence[Block], initial: str | None) -> Block:
    """A select with the option whose value is `initial` chosen, else the first."""
    chosen = next((entry for entry in entries if entry["value"] == initial), entries[0])
    return {
        "type": "static_select",
        "action_id": "value",
        "options": entries,
        "initial_option": chosen,
    }


def task_input(hint: str, *, initial: str | None = None) -> Block:
    """An optional select for the kind of task."""
    options = [_option(value, words) for value, words in TASK_KINDS.items()]
    element: Block = {
        "type": "static_select",
        "action_id": "value",
        "options": options,
        "placeholder": plain("Not specified", 150),
    }
    for option in options:
        if option["value"] == initial:
            element["initial_option"] = option
    return _input("task", "What should the model get better at?", element, optional=True, hint=hint)


def multi_select_input(
    name: str, label: str, options: Sequence[str], *, placeholder: str, hint: str = ""
) -> Block:
    """A select of any number of names. Without options, the field takes names separated by commas."""
    entries = _options(options)
    if not entries:
        return text_input(name, label, "openai/gpt-4o-mini, local/smollm2-135m", hint=hint)
    element = {
        "type": "multi_static_select",
        "action_id": "value",
        "options": entries,
        "placeholder": plain(placeholder, 150),
    }
    return _input(name, label, element, optional=True, hint=hint)


def checkbox_input(
    name: str,
    label: str,
    options: Sequence[tuple[str, str]],
    *,
    ticked: Collection[str] | None = None,
    is_consent: bool = False,
) -> Block:
    """Checkboxes for (value, words). At first those in `ticked` are ticked; all, if it is None. A consent starts
    unticked and is required."""
    entries = [_option(value, words) for value, words in options[:MOST_BOXES]]
    element: Block = {"type": "checkboxes", "action_id": "value", "options": entries}
    initial = [entry for entry in entries if ticked is None or entry["value"] in ticked]
    # Slack refuses an empty list.
    if initial and not is_consent:
        element["initial_options"] = initial
    return _input(name, label, element, optional=not is_consent)


def file_input(
    name: str, label: str, kinds: Sequence[str], *, optional: bool = False, hint: str = ""
) -> Block:
    element = {"type": "file_input", "action_id": "value", "filetypes": list(kinds), "max_files": 1}
    return _input(name, label, element, optional=optional, hint=hint)


def _input(name: str, label: str, element: Block, *, optional: bool, hint: str = "") -> Block:
    values: Block = {"type": "input", "block_id": name, "label": plain(label, 75), "element": element}
    if optional:
        values["optional"] = True
    if hint:
        values["hint"] = plain(hint, 150)
    return values


def _options(names: Sequence[str]) -> list[Block]:
    """As many options as a select takes, within a third of the size that Slack allows for a view."""
    values = [name for name in dict.fromkeys(names) if 0 < len(name) <= LONGEST_VALUE]
    entries = [_option(value, shorten(value, LONGEST_OPTION)) for value in values[:MOST_OPTIONS]]
    while sum(len(json.dumps(entry)) for entry in entries) > MOST_BYTES:
        entries.pop()
    return entries


def _marked(option: Block, marks: Mapping[str, str]) -> Block:
    mark = marks.get(option["value"])
    if mark is None:
        return option
    end = f" ({mark})"
    name = shorten(option["value"], LONGEST_OPTION - len(end))
    return _option(option["value"], name + end)


def _described(option: Block, descriptions: Mapping[str, str]) -> Block:
    text = descriptions.get(option["value"])
    if not text:
        return option
    return {**option, "description": plain(text, LONGEST_OPTION)}


def _option(value: str, words: str) -> Block:
    return {"text": plain(words, LONGEST_OPTION), "value": value}
