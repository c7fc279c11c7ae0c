"""Divides the deep tests into parts, of which CI runs one at each landing.

They take twice as long as all other tests, and the time of a landing is bounded (`.ci/run`). A file's tests stay
together, since they share what takes long to set up.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`, the first being 1."""

    number: int
    count: int

    def holds(self, file: str) -> bool:
        """True for exactly one of the parts. `file` is a test file's path below the root, with slashes."""
        return zlib.crc32(file.encode()) % self.count == self.number - 1


def read_part(text: str) -> Part:
    """Reads '2/4'. Raises pytest.UsageError."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise pytest.UsageError(f"--deep-part is like 2/4, the second of four parts, not {text}")
    return Part(int(number), int(count))


def leave_out_others(part: Part, items: list[pytest.Item]) -> list[pytest.Item]:
    """Removes the deep tests of the other parts from `items`, and returns them."""
    root = Path(__file__).parents[1]
    left_out = []
    staying = []
    for item in items:
        file = item.path.relative_to(root).as_posix()
        if item.get_closest_marker("deep") and not part.holds(file):
            left_out.append(item)
        else:
            staying.append(item)
    items[:] = staying
    return left_out
