"""Frozen values as JSON and back: missing fields, exact bytes, and JSON that does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import pytest

from trainers.json_values import JsonValue
from trainers.types import Hyperparameter


@dataclass(frozen=True)
class Part:
    name: str
    usd: Decimal | None = None


@dataclass(frozen=True)
class Record(JsonValue):
    parts: tuple[Part, ...] = ()
    best: Part | None = None
    curve: tuple[tuple[int, float], ...] = ()
    chosen: tuple[tuple[str, Hyperparameter], ...] = ()
    day: date | None = None
    peaks: Mapping[str, float] | None = None


FULL = Record(
    (Part("a", Decimal("0.10")), Part("b")),
    Part("c"),
    ((1, 0.5), (2, 0)),
    (("lora", True), ("rate", 2.0), ("r", 8), ("kind", "auto")),
    date(2026, 11, 25),
    {"bf16": 1e12},
)


def test_a_value_survives_json_with_the_same_bytes() -> None:
    """Hashes are computed from them: 0 must not become 0.0, nor true 1."""
    assert Record.from_json(FULL.to_json()) == FULL
    assert Record.from_json(FULL.to_json()).to_json() == FULL.to_json()


@pytest.mark.parametrize("text", [None, "", "{}"])
def test_missing_fields_have_their_defaults(text: str | None) -> None:
    assert Record.from_json(text) == Record()


def test_a_missing_field_without_a_default_and_an_unknown_field_are_refused() -> None:
    with pytest.raises(TypeError, match="name"):
        Record.from_json('{"best": {}}')
    with pytest.raises(TypeError, match="colour"):
        Record.from_json('{"colour": 1}')


@pytest.mark.parametrize("text", ["{", "[]", '{"best": 3}', '{"day": "soon"}'])
def test_json_that_is_no_such_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting|an object of JSON|Invalid isoformat"):
        Record.from_json(text)
