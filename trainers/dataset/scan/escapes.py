"""Escapes in JSON's texts, of many texts at once. In a line without control characters two of them can stand for the
escapes that get in the way of cutting it at its quotes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import orjson

_BACKSLASH, _QUOTE = b"\x01", b"\x02"
_SIMPLE = (
    (b"\\n", b"\n"),
    (b"\\t", b"\t"),
    (b"\\r", b"\r"),
    (b"\\/", b"/"),
    (b"\\b", b"\b"),
    (b"\\f", b"\f"),
)
_CODES = re.compile(rb"\\u[0-9A-Fa-f]{4}(?:\\u[0-9A-Fa-f]{4})*")  # begins with what is quick to find
_CONTROL = re.compile(rb"\\u00[01]")


def hidden(line: bytes) -> bytes:
    """Every quote that is left begins or ends a text. `line` has no control character."""
    return line.replace(b"\\\\", _BACKSLASH).replace(b'\\"', _QUOTE)


def shown_again(line: bytes) -> bytes:
    return line.replace(_QUOTE, b'\\"').replace(_BACKSLASH, b"\\\\")


def unescaped(texts: Sequence[bytes]) -> list[bytes] | None:
    """What is meant by texts out of `hidden` lines. None where one has no good escape, half of a character, or the
    code of a control character, which nobody writes but by mistake."""
    joined = b"\0".join(texts).replace(_QUOTE, b'"')
    for escape, meant in _SIMPLE:
        if b"\\" in joined:
            joined = joined.replace(escape, meant)
    if b"\\" in joined:
        if _CONTROL.search(joined):
            return None
        try:
            joined = _CODES.sub(_meant, joined)
        except orjson.JSONDecodeError:
            return None
    return None if b"\\" in joined else joined.replace(_BACKSLASH, b"\\").split(b"\0")


def _meant(codes: re.Match[bytes]) -> bytes:
    return _text_of(codes.group())


@lru_cache(1024)
def _text_of(codes: bytes) -> bytes:
    text: str = orjson.loads(b'"%b"' % codes)
    return text.encode()
