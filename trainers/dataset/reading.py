"""A file → its examples and what is wrong with it, line by line. Nothing in the file can make it raise.

Memory: one line at a time, capped, beside the examples themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trainers.dataset import jsonl, table
from trainers.dataset.findings import Fault, Finding, Findings, Rule
from trainers.dataset.sniffing import BOM, HEAD_BYTES, Refusal, sniff
from trainers.dataset.values import (
    DEFAULT_LIMITS,
    FIND_COLUMNS,
    NO_CHOICES,
    Choices,
    Columns,
    Example,
    Format,
    Limits,
    shown,
)

TOO_BIG = Rule(
    "file_too_big", "blocks", "Send a part of it: some thousand good rows teach more than a huge file."
)
TOO_MANY_ROWS = Rule("too_many_rows", "blocks", "Send a part of it: a random sample is best.")
LONG_LINE = Rule("line_too_long", "blocks", "Shorten the row, or delete the line.")
BLANK_LINES = Rule("blank_lines", "tells", "Nothing to do: they are passed over.")


@dataclass(frozen=True)
class Reading:
    """`format` is None where the file was refused. `columns` are those used, for a table."""

    name: str
    format: Format | None
    examples: tuple[Example, ...]
    findings: tuple[Finding, ...]
    columns: Columns = FIND_COLUMNS
    choices: Choices = NO_CHOICES

    @property
    def refused(self) -> bool:
        return any(finding.blocks for finding in self.findings)


@dataclass
class _Progress:
    format: Format | None = None
    blank: int = 0


def read(
    path: Path, name: str, *, columns: Columns = FIND_COLUMNS, limits: Limits = DEFAULT_LIMITS
) -> Reading:
    """`name` is what people call the file; it is shown and never used as a path. OSError as from open()."""
    found = Findings(limits.listed)
    size = path.stat().st_size
    if size > limits.max_bytes:
        said = f"'{shown(name)}' has {_megabytes(size)}; at most {_megabytes(limits.max_bytes)} can be taken."
        found.about_file(TOO_BIG, said)
        return Reading(shown(name), None, (), found.sorted())
    with path.open("rb") as file:
        sniffed = sniff(file.read(HEAD_BYTES))
        file.seek(0)
        if isinstance(sniffed, Refusal):
            found.about_file(sniffed.rule, f"'{shown(name)}' {sniffed.said}.")
            return Reading(shown(name), None, (), found.sorted())
        if sniffed.kind == "jsonl":
            return _jsonl(file, name, found, limits)
        return _table(file, name, sniffed.separator, columns, found, limits)


def _megabytes(size: int) -> str:
    return f"{size:,} bytes" if size < 100_000 else f"{size / 1e6:,.1f} MB"


def _jsonl(file: BinaryIO, name: str, found: Findings, limits: Limits) -> Reading:
    progress = _Progress()
    examples = _capped(_jsonl_examples(file, found, limits, progress), found, limits)
    if progress.blank:
        are = "line is" if progress.blank == 1 else "lines are"
        found.about_file(BLANK_LINES, f"{progress.blank:,} {are} blank.", progress.blank)
    return Reading(shown(name), progress.format or "chat", examples, found.sorted())


def _jsonl_examples(
    file: BinaryIO, found: Findings, limits: Limits, progress: _Progress
) -> Iterator[Example]:
    for line, raw in _lines(file, found, limits):
        row = raw.strip()
        if not row:
            progress.blank += bool(raw)
            continue
        parsed = jsonl.parse_row(line, row, limits)
        if isinstance(parsed, Fault):
            found.at(line, parsed)
            continue
        row_format, example = parsed
        progress.format = progress.format or row_format
        if row_format != progress.format:
            found.at(line, Fault(jsonl.MIXED, "has another format than the rows before it"))
            continue
        yield example


def _table(
    file: BinaryIO, name: str, separator: str, columns: Columns, found: Findings, limits: Limits
) -> Reading:
    left = table.Table()
    rows = table.examples(_text_lines(file, found, limits), separator, columns, found, left)
    examples = _capped(rows, found, limits)
    return Reading(shown(name), "csv", examples, found.sorted(), left.columns, left.choices)


def _capped(rows: Iterator[Example], found: Findings, limits: Limits) -> tuple[Example, ...]:
    examples: list[Example] = []
    for example in rows:
        if len(examples) == limits.max_rows:
            found.about_file(TOO_MANY_ROWS, f"There are more than {limits.max_rows:,} rows.")
            break
        examples.append(example)
    return tuple(examples)


def _lines(file: BinaryIO, found: Findings, limits: Limits) -> Iterator[tuple[int, bytes]]:
    """Numbered from 1. A line over the cap is reported and comes as b"", so that numbers hold."""
    number = 0
    while raw := file.readline(limits.max_line_bytes + 2):
        number += 1
        if number == 1:
            raw = raw.removeprefix(BOM)
        if len(raw) > limits.max_line_bytes and not raw.endswith(b"\n"):
            found.at(number, Fault(LONG_LINE, f"is longer than {_megabytes(limits.max_line_bytes)}"))
            _skip_line(file)
            raw = b""
        yield number, raw


def _skip_line(file: BinaryIO) -> None:
    while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
        pass


def _text_lines(file: BinaryIO, found: Findings, limits: Limits) -> Iterator[str]:
    for number, raw in _lines(file, found, limits):
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError:
            found.at(number, Fault(jsonl.BAD_BYTES, f"is not UTF-8; {jsonl.guessed_encoding(raw)}"))
            yield "\n"
