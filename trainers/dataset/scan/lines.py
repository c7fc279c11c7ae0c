"""A file of lines, some hundred at a time: with their numbers and places, capped in length. Parses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from trainers.dataset.findings import Fault, Findings, Rule
from trainers.dataset.formats.sniffing import BOM
from trainers.dataset.values import Limits

LONG_LINE = Rule("line_too_long", "blocks", "Shorten the row, or delete the line.")
_BLOCK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines without their ends. `first` is the number of the first, from 1; `start` its place in the file,
    in bytes."""

    first: int
    start: int
    lines: list[bytes]


def blocks(file: BinaryIO, found: Findings, limits: Limits) -> Iterator[Block]:
    """From the start of the file. A line over the cap is reported and left out; the others keep their numbers."""
    file.seek(0)
    start = len(BOM) if file.read(len(BOM)) == BOM else 0
    file.seek(start)
    first, rest = 1, b""
    while read := file.read(_BLOCK):
        lines = (rest + read).split(b"\n")
        rest = lines.pop()
        yield from _within_cap(Block(first, start, lines), found, limits)
        first += len(lines)
        start += sum(map(len, lines)) + len(lines)
        if len(rest) > limits.max_line_bytes:
            found.at(first, _too_long(limits))
            start += len(rest) + _skip_line(file)
            first, rest = first + 1, b""
    if rest:
        yield from _within_cap(Block(first, start, [rest]), found, limits)


def megabytes(size: int) -> str:
    return f"{size:,} bytes" if size < 100_000 else f"{size / 1e6:,.1f} MB"


def _too_long(limits: Limits) -> Fault:
    return Fault(LONG_LINE, f"is longer than {megabytes(limits.max_line_bytes)}")


def _skip_line(file: BinaryIO) -> int:
    """Goes on to the next line, and tells how many bytes that was."""
    skipped = 0
    while rest := file.readline(1 << 20):
        skipped += len(rest)
        if rest.endswith(b"\n"):
            break
    return skipped


def _within_cap(block: Block, found: Findings, limits: Limits) -> Iterator[Block]:
    """The block, or its parts before, between and after lines that are too long."""
    if not block.lines:
        return
    if max(map(len, block.lines)) <= limits.max_line_bytes:
        yield block
        return
    kept: list[bytes] = []
    first, start = block.first, block.start
    for line in block.lines:
        if len(line) <= limits.max_line_bytes:
            kept.append(line)
            continue
        if kept:
            yield Block(first, start, kept)
        first, start = first + len(kept), start + sum(map(len, kept)) + len(kept)
        found.at(first, _too_long(limits))
        first, start, kept = first + 1, start + len(line) + 1, []
    if kept:
        yield Block(first, start, kept)
