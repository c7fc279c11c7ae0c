"""Tables → Examples, each with the line where its record begins. Records of CSV are cut here."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from trainers.dataset.findings import Fault, Findings, Rule
from trainers.dataset.formats.columns import Layout, NoLayout, find_layout
from trainers.dataset.values import Choices, Columns, Example, is_blank
from trainers.types import Message

BROKEN_QUOTES = Rule("broken_quotes", "blocks", "Close the quote, and write a quote inside a text twice.")
LONG_CELL = Rule("cell_too_long", "blocks", "Shorten the text, or delete the line.")
WRONG_WIDTH = Rule("wrong_width", "blocks", "Put the text in quotes, or give the row all its columns.")
EMPTY_TEXT = Rule("empty_text", "blocks", "Fill in the text, or delete the line.")
EMPTY_LABEL = Rule("empty_label", "blocks", "Fill in the label, or delete the line.")
NO_HEADER = Rule("no_header", "tells", "Add a first line with the names text and label to be sure.")

_SAMPLE = 1000


class Used(Protocol):
    """Where `examples` leaves which columns it took, or which a person can choose from."""

    columns: Columns
    choices: Choices


@dataclass(frozen=True, slots=True)
class Record:
    line: int
    cells: list[str]


def records(lines: Iterable[str], separator: str, found: Findings) -> Iterator[Record]:
    """`lines` keep their ends, one for each line of the file, so that numbers stay right.

    `strict` makes the module raise on a quote that isn't closed, where it would else swallow rows.
    """
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        begins = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            found.at(begins, _broken(error, begins, reader.line_num))
            continue
        if any(cell and not cell.isspace() for cell in cells):
            yield Record(begins, cells)


def _broken(error: csv.Error, begins: int, ends: int) -> Fault:
    if "field limit" in str(error):  # the module has one class of error for all
        return Fault(LONG_CELL, f"has a cell of more than {csv.field_size_limit():,} characters")
    swallowed = f": lines {begins} to {ends} can't be told apart" if ends > begins else ""
    return Fault(BROKEN_QUOTES, f"begins a row whose quotes don't match{swallowed}")


def examples(
    records: Iterator[Record], asked: Columns, found: Findings, used: Used, header: bool | None = None
) -> Iterator[Example]:
    """`header`: whether the first record holds names; None = to be found."""
    sample = list(islice(records, _SAMPLE))
    if not sample:
        return
    layout = find_layout([record.cells for record in sample], asked, header)
    if isinstance(layout, NoLayout):
        used.choices = layout.choices
        found.about_file(layout.rule, layout.said)
        return
    used.columns = layout.columns
    if not layout.header:
        found.about_file(NO_HEADER, f"There is no header; {_reading_as(layout)}.")
    yield from _from_records(sample[layout.header :], layout, found)
    yield from _from_records(records, layout, found)


def _reading_as(layout: Layout) -> str:
    return f"{layout.columns.text} was taken as the text and {layout.columns.label} as the label"


def _from_records(records: Iterable[Record], layout: Layout, found: Findings) -> Iterator[Example]:
    for record in records:
        example = _example(record, layout)
        if isinstance(example, Fault):
            found.at(record.line, example)
        else:
            yield example


def _example(record: Record, layout: Layout) -> Example | Fault:
    width, wanted = len(record.cells), len(layout.names)
    if width < wanted or any(cell.strip() for cell in record.cells[wanted:]):
        return Fault(
            WRONG_WIDTH, f"has {width} column{'' if width == 1 else 's'} where the first line has {wanted}"
        )
    text, label = record.cells[layout.text].strip(), record.cells[layout.label].strip()
    if is_blank(text):
        return Fault(EMPTY_TEXT, "has no text")
    if is_blank(label):
        return Fault(EMPTY_LABEL, "has no label")
    return Example(record.line, (Message("user", text), Message("assistant", label)))
