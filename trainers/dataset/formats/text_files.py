"""Formats of text: JSONL, lines of flat JSON objects that are the rows of a table, and CSV."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from trainers.dataset import jsonl, tables
from trainers.dataset.checks import Fault, Findings
from trainers.dataset.file_format import blocks
from trainers.dataset.formats.values import HEADER_SAMPLE, FileFormat, FirstRecords, RowFile
from trainers.dataset.rows import Example, Limits
from trainers.dataset.tables import Record

# JSONL.


def _jsonl_examples(rows: RowFile) -> Iterator[Example]:
    rows.progress.format = None
    for block in blocks(rows.file, rows.findings, rows.limits):
        for line, raw in enumerate(block.lines, block.first):
            example = jsonl.parse_line(line, raw.strip(), rows.findings, rows.limits, rows.progress)
            if example is not None:
                yield example
    rows.progress.format = rows.progress.format or "chat"


# Tables of text.


def _object_examples(rows: RowFile) -> Iterator[Example]:
    return tables.examples(_object_records(rows), rows.columns, rows.findings, rows.progress, header=True)


def _object_records(rows: RowFile) -> Iterator[Record]:
    """Yields the keys of the first object as a header, and then all objects as records. Missing and null values become
    empty cells; keys that the first object lacks are ignored."""
    names: list[str] = []
    for block in blocks(rows.file, rows.findings, rows.limits):
        for line, raw in enumerate(block.lines, block.first):
            if not raw.strip():
                continue
            row = jsonl.parse_object(raw.strip(), rows.limits)
            if isinstance(row, Fault):
                rows.findings.add_for_line(line, row)
                continue
            if not names:
                names = [name for name, value in row.items() if not isinstance(value, list | dict)]
                yield Record(line, names)
            cells = [tables.cell_text(row.get(name), tables.JSON_BOOLEANS) for name in names]
            yield Record(line, cells)


def _csv_examples(rows: RowFile) -> Iterator[Example]:
    return tables.examples(_csv_records(rows), rows.columns, rows.findings, rows.progress)


def _csv_records(rows: RowFile) -> Iterator[Record]:
    texts = (text for _, text in text_lines(rows.file, rows.findings, rows.limits))
    return tables.csv_records(texts, rows.sniffed.separator, rows.findings)


def text_lines(file: BinaryIO, findings: Findings, limits: Limits) -> Iterator[tuple[bytes, str]]:
    """Yields the bytes and the text of all lines, with their endings. A line that can't be read has an empty text, and
    one that is too long no bytes either, so that line numbers stay right."""
    expected = 1
    for block in blocks(file, findings, limits):
        yield from [(b"", "\n")] * (block.first - expected)
        expected = block.first + len(block.lines)
        for line, raw in enumerate(block.lines, block.first):
            try:
                text = raw.decode()
            except UnicodeDecodeError:
                fault = Fault(jsonl.BAD_BYTES, f"is not UTF-8; {jsonl.guessed_encoding(raw)}")
                findings.add_for_line(line, fault)
                text = ""
            yield raw + b"\n", f"{text}\n"


def _first_of_csv(rows: RowFile) -> Iterator[FirstRecords]:
    # Titles above the names are for people, so only files that people write have them.
    sample = list(islice(_csv_records(rows), HEADER_SAMPLE))
    yield FirstRecords("", tables.from_names_on(sample))


def _first_of_objects(rows: RowFile) -> Iterator[FirstRecords]:
    yield FirstRecords("", list(islice(_object_records(rows), HEADER_SAMPLE)))


JSONL = FileFormat(
    name=None,
    title="JSONL",
    extensions=("json", "jsonl"),
    examples=_jsonl_examples,
    asks="keys",
    cleaned_as="jsonl",
    keeps_bytes=True,
)
OBJECTS = FileFormat(
    name="objects",
    title="a file of JSON objects",
    extensions=("json", "jsonl"),
    examples=_object_examples,
    records=_object_records,
    first=_first_of_objects,
    asks="keys",
    cleaned_as="csv",
)
CSV = FileFormat(
    name="csv",
    title="a CSV file",
    extensions=("csv", "tsv", "txt"),
    examples=_csv_examples,
    records=_csv_records,
    first=_first_of_csv,
    asks="column",
    cleaned_as="csv",
    keeps_bytes=True,
)
