"""Puts placeholders in the place of personal data, before a program's call is stored. It finds what the check of every
uploaded row finds (trainers/dataset/sensitive_data.py), and stores nothing itself.

Secrets are never masked: a pattern may match only the beginning of one, so a text with a secret is left out. The same
holds for what is still found after masking, and for what only shows once escaped JSON is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import orjson

from trainers.dataset.rows import Example
from trainers.dataset.sensitive_data import (
    PERSONAL,
    SECRET,
    Span,
    find_presidio_spans,
    find_spans,
    strings_in,
)

Sensitive = Literal["secret", "personal"]
MOST_NESTED = 4  # JSON in a text of JSON


@dataclass(frozen=True)
class Masked:
    """Texts without personal data. `is_masked`: placeholders stand for some."""

    texts: tuple[str, ...]
    is_masked: bool


def mask(
    texts: Sequence[str], personal: Literal["mask", "drop"], *, presidio: bool = False
) -> Masked | Sensitive:
    """Returns the texts masked, or why none of them may be stored. With "drop" no personal data may be in them."""
    found_in = [_find(text, presidio=presidio) for text in texts]
    rules = {span.rule for spans in found_in for span in spans}
    if SECRET in rules:
        return "secret"
    if PERSONAL in rules and personal == "drop":
        return "personal"
    masked = [_with_placeholders(text, spans) for text, spans in zip(texts, found_in, strict=True)]
    for before, after in zip(texts, masked, strict=True):
        left = _find_left(before, after, presidio=presidio)
        if left is not None:
            return left
    return Masked(tuple(masked), is_masked=PERSONAL in rules)


def mask_row(row: Example, *, presidio: bool = False) -> Example:
    """Returns a row of data with placeholders, as a call with the same texts would be stored."""
    messages = []
    for message in row.messages:
        spans = _find(message.content, presidio=presidio)
        messages.append(replace(message, content=_with_placeholders(message.content, spans)))
    return replace(row, messages=tuple(messages))


def placeholder(kind: str) -> str:
    """Returns what stands for this kind of data: '[phone number]' for 'what looks like a phone number'."""
    noun = kind.removeprefix("what looks like ").removeprefix("what presidio calls ")
    noun = noun.removeprefix("a ").removeprefix("an ")
    return f"[{noun}]"


def _find(text: str, *, presidio: bool) -> list[Span]:
    """Returns the secrets and personal data in a text, by their beginning."""
    spans = find_spans(text)
    if presidio:
        spans += find_presidio_spans(text)
    sensitive = [span for span in spans if span.rule in (SECRET, PERSONAL)]
    return sorted(sensitive, key=lambda span: (span.start, -span.end))


def _with_placeholders(text: str, spans: Sequence[Span]) -> str:
    """Replaces what spans cover. Of those that overlap, the first gives the placeholder."""
    parts = []
    end = 0
    for span in spans:
        if span.start >= end:
            parts += [text[end : span.start], placeholder(span.kind)]
        end = max(end, span.end)
    return "".join((*parts, text[end:]))


def _find_left(before: str, after: str, *, presidio: bool) -> Sensitive | None:
    """Returns what a text still has after masking, as it is or in what it says as JSON."""
    inner = list(_read_as_json(after, MOST_NESTED))
    if not inner and list(_read_as_json(before, MOST_NESTED)):
        return (
            "personal"  # a placeholder for a number has broken the JSON, so nobody can read what else it says
        )
    for text in (after, *inner):
        rules = {span.rule for span in _find(text, presidio=presidio)}
        if SECRET in rules:
            return "secret"
        if rules:
            return "personal"
    return None


def _read_as_json(text: str, nested: int) -> Iterator[str]:
    """Yields the strings in a text of JSON: "\\u0040" is an @ only there. A call of a tool has JSON in its JSON."""
    if nested == 0 or not text.lstrip().startswith(("{", "[", '"')):
        return
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return
    for inner in strings_in(value):
        yield inner
        yield from _read_as_json(inner, nested - 1)
