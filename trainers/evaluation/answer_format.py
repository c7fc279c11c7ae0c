"""Writes our plain instruction for answers in JSON. It names their fields, as the one for labels lists the labels.

Takes answers of training rows only. The instruction has the names of their fields and the kinds of their values, never
a value: an untrained model is told what anybody who writes a prompt by hand would tell it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from trainers.evaluation.scores import read_calls, read_json

MOST_ANSWERS = 2_000  # that are read; names of fields are all seen long before
MOST_FIELDS = 40  # of one object
LEAST_SHARE = 0.02  # of the objects that have a field; keys that are data of a row are rarer
LONGEST_NAME = 80  # characters
MOST_LEVELS = 4
LONGEST_SHAPE = 4_000  # characters, about 1,000 tokens

ANSWER = "Answer the customer's message with one JSON object and nothing else. Its fields, with the kind of each value:"
SOME_FIELDS = "Leave out fields that the message says nothing about."

Fields = list[tuple[str, list[Any]]]
"""The names of fields, the most frequent first, each with its values."""


def answer_format(answers: Iterable[str]) -> str:
    """Returns the instruction for answers like these, or "" if none of them has a field."""
    read = map(_object_in, answers)
    objects = [each for each in read if each]
    if not objects:
        return ""
    for levels in range(MOST_LEVELS, 0, -1):
        shape = _shape_of_objects(objects, levels)
        if len(shape) <= LONGEST_SHAPE:
            break
    lines = [ANSWER, shape]
    is_optional = [len(values) < len(objects) for _, values in _fields(objects)]
    if any(is_optional):
        lines.append(SOME_FIELDS)
    return "\n".join(lines)


def _object_in(answer: str) -> dict[str, Any] | None:
    """Returns the object that is the answer; a call of a tool is none."""
    if read_calls(answer) is not None:
        return None
    return read_json(answer)


def _fields(objects: Sequence[dict[str, Any]]) -> Fields:
    counts: Counter[str] = Counter()
    for each in objects:
        names = [name for name in each if len(name) <= LONGEST_NAME]
        counts.update(names)
    least = LEAST_SHARE * len(objects)
    fields = []
    for name, count in counts.most_common(MOST_FIELDS):
        if count >= least:
            values = [each[name] for each in objects if name in each]
            fields.append((name, values))
    return fields


def _shape_of_objects(objects: Sequence[dict[str, Any]], levels: int) -> str:
    if not levels:
        return "{…}"
    fields = []
    for name, values in _fields(objects):
        quoted = json.dumps(name, ensure_ascii=False)
        shape = _shape(values, levels - 1)
        fields.append(f"{quoted}: {shape}")
    return "{" + ", ".join(fields) + "}"


def _shape_of_lists(lists: Sequence[list[Any]], levels: int) -> str:
    items = [item for each in lists for item in each]
    if not items or not levels:
        return "[…]"
    return f"[{_shape(items, levels - 1)}, …]"


def _shape(values: Sequence[Any], levels: int) -> str:
    """Describes the commonest kind among the values, apart from null."""
    kinds = Counter(type(value) for value in values if value is not None)
    if not kinds:
        return "null"
    [(kind, _)] = kinds.most_common(1)
    # By type(), since True is an int for isinstance.
    same: list[Any] = [value for value in values if type(value) is kind]
    if kind is dict:
        return _shape_of_objects(same, levels)
    if kind is list:
        return _shape_of_lists(same, levels)
    return _KINDS[kind]


_KINDS: dict[type, str] = {str: "text", bool: "true or false", int: "number", float: "number"}
