"""Parses the `method` of a job: supervised, or dpo for preference pairs, with its hyperparameters. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainers.local.problems import invalid
from trainers.local.spool import Method

TYPES: tuple[Method, ...] = ("supervised", "dpo")


@dataclass(frozen=True)
class Chosen:
    """`hyperparameters` as they came, from the place `path` of the request."""

    type: Method
    path: str
    hyperparameters: object


def parse_method(value: object) -> Chosen:
    """Nothing is supervised. Raises Problem (400)."""
    given = as_object(value, "method")
    kind = _type(given) if given else "supervised"
    for name in given:
        if name in TYPES and name != kind:
            text = (
                f"'method.{name}' does not belong to the type {kind}. Change 'method.type', or leave it out."
            )
            raise invalid(text, f"method.{name}")
        if name not in ("type", kind):
            raise invalid(f"Unknown parameter 'method.{name}'.", f"method.{name}", "unknown_parameter")
    inner = as_object(given.get(kind), f"method.{kind}")
    for name in inner:
        if name != "hyperparameters":
            path = f"method.{kind}.{name}"
            raise invalid(f"Unknown parameter '{path}'.", path, "unknown_parameter")
    return Chosen(kind, f"method.{kind}.hyperparameters", inner.get("hyperparameters"))


def _type(given: Mapping[str, Any]) -> Method:
    for kind in TYPES:
        if given.get("type") == kind:
            return kind
    text = f"This trainer knows the methods {' and '.join(TYPES)}, not {given.get('type')!r}."
    raise invalid(text, "method.type")


def as_object(value: object, path: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"'{path}' must be an object.", path, "invalid_type")
    return value
