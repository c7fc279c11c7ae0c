"""Frozen values as JSON and back: what older rows lack, what must keep its bytes, and what does not fit."""

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
class Whole(JsonValue):
    parts: tuple[Part, ...] = ()
    best: Part | None = None
    curve: tuple[tuple[int, float], ...] = ()
    chosen: tuple[tuple[str, Hyperparameter], ...] = ()
    day: date | None = None
    peaks: Mapping[str, float] | None = None


FULL = Whole(
    (Part("a", Decimal("0.10")), Part("b")),
    Part("c"),
    ((1, 0.5), (2, 0)),
    (("lora", True), ("rate", 2.0), ("r", 8), ("kind", "auto")),
    date(2026, 11, 25),
    {"bf16": 1e12},
)


def test_what_was_written_is_read_again() -> None:
    assert Whole.from_json(FULL.to_json()) == FULL


def test_numbers_and_booleans_keep_their_bytes() -> None:
    """Hashes are made of them: 0 must not come back as 0.0, nor true as 1."""
    assert Whole.from_json(FULL.to_json()).to_json() == FULL.to_json()


@pytest.mark.parametrize("text", [None, "", "{}"])
def test_what_is_missing_has_its_default(text: str | None) -> None:
    assert Whole.from_json(text) == Whole()


def test_a_field_without_a_default_must_be_there() -> None:
    with pytest.raises(TypeError, match="name"):
        Whole.from_json('{"best": {}}')


def test_a_field_that_nobody_knows_is_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        Whole.from_json('{"colour": 1}')


@pytest.mark.parametrize("text", ["{", "[]", '{"best": 3}', '{"day": "soon"}'])
def test_what_is_no_such_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting|an object of JSON|Invalid isoformat"):
        Whole.from_json(text)
