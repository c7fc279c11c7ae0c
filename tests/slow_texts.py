"""Texts that are slow for a regular expression, derived from the expression itself.

For everything that a pattern repeats, a text is what stands before it, and then what is repeated many times. That is
enough to make a pattern try exponentially many readings of one stretch, or the rest of the text from each place of it.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

ops: Any = importlib.import_module("re._constants")  # how Python itself reads a pattern
parser: Any = importlib.import_module("re._parser")

STOP = "\x00"  # ends each text: hardly a pattern matches it, so that one which may give up tries everything
MOST_TEXTS = 16
MOST_SAMPLES = 4
MANY = 50  # a part that may be repeated as often as this counts as repeated without limit
TIMES = 20  # after which an exponential pattern is slow
# Lengths in characters. Up to the first two, a pattern whose time grows with the fourth or third power still ends.
QUARTIC = 200
CUBIC = 1_000
SHORT = 1_500
LONG = 12_000
AT_ONCE_S = 0.05
NOTICED_S = 0.004  # what takes less on the long text isn't worth a comparison
MOST_GROWTH = 24  # from short to long: 8 if it is linear, 64 if it is quadratic
_REPEATS = (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT)
_OF_CATEGORY = {
    ops.CATEGORY_SPACE: " ",
    ops.CATEGORY_NOT_SPACE: "a",
    ops.CATEGORY_DIGIT: "0",
    ops.CATEGORY_NOT_DIGIT: "a",
    ops.CATEGORY_WORD: "a",
    ops.CATEGORY_NOT_WORD: "!",
}

Read = Callable[[str | bytes], object]


def find_slow_text(pattern: re.Pattern[Any], method: str) -> str | None:
    """Returns what makes the pattern slow when it is called by this method, None if nothing does."""
    read = _reader(pattern, method)
    is_bytes = isinstance(pattern.pattern, bytes)

    for before, repeated in _parts(pattern):
        if _is_slow(read, _Text(before, repeated, is_bytes)):
            return f"{before!r} and then {repeated!r} again and again"
    return None


@dataclass(frozen=True)
class _Text:
    before: str
    repeated: str
    is_bytes: bool

    def of_length(self, length: int) -> str | bytes:
        return self.repeating(length // len(self.repeated))

    def repeating(self, times: int) -> str | bytes:
        text = self.before + self.repeated * times + STOP
        if self.is_bytes:
            return text.encode("latin-1", "replace")
        return text


def _reader(pattern: re.Pattern[Any], method: str) -> Read:
    if method == "finditer":
        return lambda text: sum(1 for _ in pattern.finditer(text))
    read: Read = getattr(pattern, method)
    return read


def _is_slow(read: Read, text: _Text) -> bool:
    """Whether time grows faster than the text. Begins with few characters, as some patterns would never end on many."""
    first = (text.repeating(TIMES), text.of_length(QUARTIC), text.of_length(CUBIC))
    if any(_seconds(read, each) > AT_ONCE_S for each in first):
        return True
    # Three times, since anything else that runs on this machine makes it look slower.
    growths = (_growth(read, text) for _ in range(3))
    return all(growth > MOST_GROWTH for growth in growths)


def _growth(read: Read, text: _Text) -> float:
    long = _seconds(read, text.of_length(LONG))
    if long <= NOTICED_S:
        return 0.0
    return long / _seconds(read, text.of_length(SHORT))


def _seconds(read: Read, text: str | bytes) -> float:
    """CPU seconds."""
    start = time.process_time()
    read(text)
    return max(time.process_time() - start, 1e-6)


def _parts(pattern: re.Pattern[Any]) -> list[tuple[str, str]]:
    """Returns pairs of what comes first and what is then repeated."""
    parts: list[tuple[str, str]] = []
    for befores, bodies in _repeats(parser.parse(pattern.pattern, pattern.flags), ["", "\n"]):
        for before in befores:
            parts += [(before, body) for body in bodies]
            parts += [("", before + body) for body in bodies]
            if before:
                parts.append(("", before))
    return list(dict.fromkeys(parts))[:MOST_TEXTS]


def _repeats(tree: Any, befores: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Yields texts that come before a repeated part, and texts that match it once, for each such part."""
    for place, (kind, value) in enumerate(tree):
        here = [before + sample for before in befores for sample in _samples(tree[:place])][:MOST_SAMPLES]
        if kind in _REPEATS:
            _, most, body = value
            if most >= MANY:
                yield here, [sample for sample in _samples(body) if sample]
            yield from _repeats(body, here)
        else:
            for branch in _branches(kind, value):
                yield from _repeats(branch, here)


def _branches(kind: Any, value: Any) -> list[Any]:
    if kind is ops.SUBPATTERN:
        return [value[3]]
    if kind is ops.ATOMIC_GROUP:
        return [value]
    if kind is ops.BRANCH:
        return list(value[1])
    if kind in (ops.ASSERT, ops.ASSERT_NOT):
        return [value[1]]
    return []


def _samples(tree: Any) -> list[str]:
    """Returns a few short texts that match, or nearly: look-around isn't obeyed."""
    texts = [""]
    for kind, value in tree:
        more = _samples_of(kind, value) or [""]
        texts = [text + each for text in texts for each in more][: 2 * MOST_SAMPLES]
    return list(dict.fromkeys(texts))[:MOST_SAMPLES]


def _samples_of(kind: Any, value: Any) -> list[str]:
    if kind is ops.LITERAL:
        return [chr(value)]
    if kind is ops.NOT_LITERAL:
        return ["a" if chr(value) != "a" else "b"]
    if kind is ops.ANY:
        return ["a", " "]
    if kind is ops.IN:
        return _members(value)
    if kind in _REPEATS:
        least, _, body = value
        once = _samples(body)
        if least == 0:
            return ["", *once[:2]]
        return [sample * least for sample in once]
    if kind in (ops.ASSERT, ops.ASSERT_NOT):
        return [""]
    return [sample for branch in _branches(kind, value) for sample in _samples(branch)[:2]]


def _members(items: Any) -> list[str]:
    """Returns characters of a class such as [a-z_] or [^<>]."""
    named = []
    is_negated = False
    for kind, value in items:
        if kind is ops.NEGATE:
            is_negated = True
        elif kind is ops.LITERAL:
            named.append(chr(value))
        elif kind is ops.RANGE:
            named.append(chr(value[0]))
        else:
            named.append(_OF_CATEGORY[value])
    if is_negated:
        return [letter for letter in 'a 0\n-<{"' if letter not in named][:MOST_SAMPLES]
    return named[:MOST_SAMPLES]
