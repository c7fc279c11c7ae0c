"""Turns the records of a table into Examples: splits CSV records and finds the header. table_columns.py finds the text
and the label column."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from trainers.dataset.checks import Fault, Findings, Rule
from trainers.dataset.rows import (
    FIND_COLUMNS,
    NO_CHOICES,
    Choices,
    Columns,
    Example,
    Format,
    Sheet,
    is_blank,
)
from trainers.dataset.table_columns import (
    ColumnLayout,
    UnclearColumns,
    are_names,
    find_layout,
    has_known_name,
)
from trainers.types import Message

BROKEN_QUOTES = Rule("broken_quotes", "blocks", "Close the quote, and double any quotes inside a text.")
LONG_CELL = Rule("cell_too_long", "blocks", "Shorten the text, or delete the line.")
WRONG_WIDTH = Rule("wrong_width", "blocks", "Put the text in quotes, or add the missing columns.")
EMPTY_TEXT = Rule("empty_text", "blocks", "Fill in the text, or delete the line.")
EMPTY_LABEL = Rule(
    "empty_label", "warns", "It is left out until it has a label: fill it in, or label such rows in Slack."
)
HEADER_AGAIN = Rule("header_again", "blocks", "Delete the line; perhaps two files were joined.")
NO_HEADER = Rule("no_header", "tells", "Add a first line with the names text and label to be sure.")

TITLE_LINES = Rule("title_lines", "tells", "Nothing to do: they are above the header and are not rows.")

_SAMPLE = 1000
_MOST_TITLE_LINES = 10

# How a format's own programs write false and true. People know their labels by that spelling.
PANDAS_BOOLEANS = ("False", "True")
EXCEL_BOOLEANS = ("FALSE", "TRUE")
JSON_BOOLEANS = ("false", "true")


def cell_text(value: object, booleans: tuple[str, str]) -> str:
    """Returns the text of a value that is not stored as text: 3 for 3.0, because many tools store labels as floats, and
    models answer 3. Nothing, nested values and NaN, which tables store for a missing number, are blank. `booleans` are
    the format's false and true."""
    if value is None or isinstance(value, list | dict):
        return ""
    if isinstance(value, bool):
        return booleans[value]
    if isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


@dataclass(frozen=True)
class UnlabelledRow:
    """A row with a text and no label, which begins at this `line`."""

    line: int
    text: str


@dataclass
class Progress:
    """What is known about a file so far. `blank` and `pairs` count blank lines and preference pairs. Of a table,
    `columns` are those that are used, `choices` those that a person can choose from, `names` all of them. `sheets` are
    those of a workbook. `unlabelled` collects the rows without a label, None ignores them."""

    format: Format | None = None
    blank: int = 0
    pairs: int = 0
    columns: Columns = FIND_COLUMNS
    choices: Choices = NO_CHOICES
    names: tuple[str, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    unlabelled: list[UnlabelledRow] | None = None


@dataclass(frozen=True, slots=True)
class Record:
    line: int
    cells: list[str]


def csv_records(lines: Iterable[str], separator: str, findings: Findings) -> Iterator[Record]:
    """Splits lines into records. `lines` must have all lines of the file with their endings, so that numbers stay
    right.

    With `strict`, csv raises an error for an unclosed quote instead of silently swallowing rows.
    """
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "field limit" in str(error):  # csv has only one class of errors
                text = f"has a cell of more than {csv.field_size_limit():,} characters"
                findings.add_for_line(line, Fault(LONG_CELL, text))
                continue
            last = reader.line_num
            text = "begins a row whose quotes don't match"
            if last > line:
                text += f", so that lines {line} to {last} can't be separated"
            findings.add_for_line(line, Fault(BROKEN_QUOTES, text))
            continue
        if any(cell and not cell.isspace() for cell in cells):
            yield Record(line, cells)


def examples(
    records: Iterator[Record],
    columns: Columns,
    findings: Findings,
    used: Progress,
    header: bool | None = None,
) -> Iterator[Example]:
    """Yields the good rows. `header` says whether the first record has names; None detects it."""
    sample = list(islice(records, _SAMPLE))
    if not sample:
        return
    if not header:
        titles = header_index(sample, columns)
        if titles:
            text = f"The header is in line {sample[titles].line}; what is above it was skipped."
            findings.add_for_file(TITLE_LINES, text, titles)
            sample = sample[titles:]
            header = True

    layout = find_layout([record.cells for record in sample], columns, header)
    used.names = layout.names
    if isinstance(layout, UnclearColumns):
        used.choices = layout.choices
        findings.add_for_file(layout.rule, layout.text)
        return
    names = layout.columns
    used.columns = replace(columns, text=names.text, label=names.label)
    if layout.header:
        sample = sample[1:]
    else:
        text = f"{names.text} was used as the text and {names.label} as the label"
        findings.add_for_file(NO_HEADER, f"There is no header, so {text}.")

    for record in chain(sample, records):
        example = _example(record, layout)
        if isinstance(example, Fault):
            findings.add_for_line(record.line, example)
            if example.rule == EMPTY_LABEL and used.unlabelled is not None:
                text = record.cells[layout.text].strip()
                used.unlabelled.append(UnlabelledRow(record.line, text))
        else:
            yield example


def find_header(sample: Sequence[Record]) -> Record | None:
    """Returns the record with the columns' names, or None if there are none."""
    index = header_index(sample, FIND_COLUMNS)
    header = sample[index]
    below = [record.cells for record in sample[index + 1 :]]
    if has_known_name(header.cells, FIND_COLUMNS) or are_names(header.cells, below):
        return header
    return None


def header_index(sample: Sequence[Record], columns: Columns) -> int:
    """Returns the index of the record with the columns' names; 0 also if there may be none.

    Above the names there may be titles, of one cell each, and names of groups, which leave cells empty. So the names
    are in the first record that fills every column that the rows fill, or else in one that has a usual name.
    """
    complete = _first_complete(sample)
    if complete == 0:
        return 0
    cells = sample[complete].cells
    below = [record.cells for record in sample[complete + 1 :]]
    look_like_names = are_names(cells, below)
    if look_like_names and has_known_name(cells, columns):
        return complete
    for above, record in enumerate(sample[:complete]):
        filled = [cell for cell in record.cells if cell.strip()]
        if len(filled) > 1 and has_known_name(record.cells, columns):
            return above
    if look_like_names:
        return complete
    return 0


def _first_complete(sample: Sequence[Record]) -> int:
    """Returns the index of the first record that fills every column in use; 0 also if it would have too many titles
    above it."""
    columns = _columns_in_use(sample)
    first = sample[: _MOST_TITLE_LINES + 1]
    for number, record in enumerate(first):
        if all(_is_filled(record, column) for column in columns):
            return number
    return 0


def _columns_in_use(sample: Sequence[Record]) -> list[int]:
    """Returns the columns that are filled in at least half of the records."""
    width = max(len(record.cells) for record in sample)
    in_use: list[int] = []
    for column in range(width):
        filled = sum(_is_filled(record, column) for record in sample)
        if 2 * filled >= len(sample):
            in_use.append(column)
    return in_use


def _is_filled(record: Record, column: int) -> bool:
    cells = record.cells
    return column < len(cells) and bool(cells[column].strip())


def _example(record: Record, layout: ColumnLayout) -> Example | Fault:
    cells = record.cells
    width = len(cells)
    wanted = len(layout.names)
    surplus = cells[wanted:]  # spreadsheets may write empty cells behind a row
    if width < wanted or any(cell.strip() for cell in surplus):
        columns = f"{width} columns"
        if width == 1:
            columns = "1 column"
        return Fault(WRONG_WIDTH, f"has {columns}, but the first line has {wanted}")
    text = cells[layout.text].strip()
    label = cells[layout.label].strip()
    names = layout.columns
    repeats_names = text == names.text and label == names.label
    if layout.header and repeats_names:
        return Fault(HEADER_AGAIN, "repeats the header")
    if is_blank(text):
        return Fault(EMPTY_TEXT, "has no text")
    if is_blank(label):
        return Fault(EMPTY_LABEL, "has no label")
    messages = (Message("user", text), Message("assistant", label))
    return Example(record.line, messages)


def from_names_on(sample: Sequence[Record]) -> Sequence[Record]:
    """Returns the records without the titles above the columns' names."""
    if not sample:
        return sample
    return sample[header_index(sample, FIND_COLUMNS) :]
