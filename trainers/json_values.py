"""Converts frozen dataclasses to JSON and back, by their annotations, for columns of the database and files beside it.

Numbers, texts and booleans are kept exactly as JSON has them. A validating library could turn a stored 0 into 0.0 and
true into 1, but plan hashes and job keys are computed from these bytes.

A field can be renamed in code while its stored name stays, with `field(metadata=stored_as("old_name"))`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from decimal import Decimal
from functools import cache, partial
from types import UnionType
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Converter = Callable[[Any], Any]

_STORED_NAME = "stored name"


def stored_as(name: str) -> Mapping[str, str]:
    """Returns the metadata of a dataclass field whose name in stored JSON is `name`."""
    return {_STORED_NAME: name}


class JsonValue:
    """Base class for frozen dataclasses that are stored. Fields with defaults may be missing in stored JSON."""

    def to_json(self) -> str:
        """Returns JSON in which decimals and dates are strings."""
        value = to_object(self)
        return json.dumps(value, default=str)

    @classmethod
    def from_json(cls, text: str | bytes | None) -> Self:
        """Reads JSON; None and empty text count as {}. Raises ValueError or TypeError if it doesn't fit the class."""
        raw = {}
        if text:
            raw = json.loads(text)
        return from_object(cls, raw)


def to_object(value: Any) -> Any:
    """Returns a dataclass as a dict with its stored names, and what it contains likewise. Tuples become lists."""
    if is_dataclass(value) and not isinstance(value, type):
        names = stored_names(type(value))
        return {stored: to_object(getattr(value, name)) for stored, name in names.items()}
    if isinstance(value, list | tuple):
        return [to_object(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_object(item) for key, item in value.items()}
    return value


def from_object(kind: type[T], raw: Any) -> T:
    """Makes an instance of the dataclass `kind` from a parsed JSON object."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"a {kind.__name__} is an object of JSON, not {raw!r}")
    converters: Mapping[str, Converter | None] = _converters(kind)  # type: ignore[arg-type]
    names = stored_names(kind)  # type: ignore[arg-type]
    values = {}
    for stored, value in raw.items():
        name = names.get(stored, stored)
        converter = converters.get(name)
        values[name] = _converted(converter, value)
    return kind(**values)


@cache
def stored_names(kind: type) -> Mapping[str, str]:
    """Returns the names of a dataclass's fields, by the names under which they are stored."""
    names = {}
    for field in fields(kind):
        stored = field.metadata.get(_STORED_NAME, field.name)
        names[stored] = field.name
    return names


@cache
def _converters(kind: type) -> Mapping[str, Converter | None]:
    hints = get_type_hints(kind)
    return {name: _converter(hint) for name, hint in hints.items()}


def _converted(converter: Converter | None, value: Any) -> Any:
    if converter is None:
        return value
    return converter(value)


@cache
def _converter(hint: Any) -> Converter | None:
    """Returns a function that converts a JSON value to this type, or None if the value can be used as it is."""
    if isinstance(hint, type) and is_dataclass(hint):
        return partial(from_object, hint)
    if hint is Decimal:
        return Decimal
    if hint is date:
        return date.fromisoformat
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin in (Union, UnionType):
        converters = [_converter(each) for each in arguments]
        needed = [converter for converter in converters if converter]
        return _optional(needed)
    if origin is tuple and arguments[1:] == (...,):
        item = _converter(arguments[0])
        if item is None:
            return tuple
        return lambda values: tuple(map(item, values))
    if origin is tuple:
        parts = [_converter(each) for each in arguments]
        return lambda values: tuple(map(_converted, parts, values))
    return None


def _optional(converters: list[Converter]) -> Converter | None:
    """Returns a converter for `X | None`, or for a union of types that need no conversion."""
    if not converters:
        return None
    [converter] = converters

    def convert(value: Any) -> Any:
        if value is None:
            return None
        return converter(value)

    return convert
