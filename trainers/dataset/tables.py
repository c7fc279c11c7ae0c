"""Turns the records of a table into Examples: splits CSV records, finds the text and the label column by their names or
contents, and lets a person choose if several would fit."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol

from trainers.dataset.checks import Fault, Findings, Rule
from trainers.dataset.preference_pairs import ANSWERS, IN_A_TABLE
from trainers.dataset.rows import NO_CHOICES, Choices, Columns, Example, is_blank, to_printable
from trainers.types import Message

MISSING_COLUMN = Rule("column_missing", "blocks", "Name a column that the file has.")
UNCLEAR_COLUMNS = Rule("columns_unclear", "blocks", "Choose which one to use.")
DUPLICATE_COLUMN = Rule("column_twice", "blocks", "Give each column a name of its own.")
NO_LABELS = Rule("no_labels", "blocks", "Add a column 'label' with the right answer for each row.")
NO_TEXT = Rule("no_text", "blocks", "Add a column 'text' with what the customer wrote.")

# If a table has the first name of a list, that column is used without asking: the documentation recommends it.
_TEXT_NAMES = (
    "text", "utterance", "message", "question", "body", "ticket", "prompt", "input", "query", "content",
    "description", "sentence", "review", "comment", "request", "complaint",
)  # fmt: skip
_LABEL_NAMES = (
    "label", "intent", "category", "class", "tag", "topic", "answer", "completion", "output", "target",
    "response", "reply", "sentiment", "department", "queue",
)  # fmt: skip
_NOT_LABELS = frozenset({"id", "ids", "date", "time", "number", "url", "email", "name"})

Cells = Sequence[str]


def cell_text(value: object) -> str:
    """Returns the text of a value that is not stored as text: 3 for 3.0, because many tools store labels as floats, and
    models answer 3. Nothing and nested values are blank."""
    if value is None or isinstance(value, list | dict):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


@dataclass(frozen=True)
class ColumnLayout:
    """The positions of the two columns, from 0. `header`: the first record has the columns' names."""

    header: bool
    names: tuple[str, ...]
    text: int
    label: int

    @property
    def columns(self) -> Columns:
        return Columns(self.names[self.text], self.names[self.label])


@dataclass(frozen=True)
class UnclearColumns:
    """Why the columns could not be determined. `text` is a sentence; `choices` is set if a person can decide."""

    rule: Rule
    text: str
    choices: Choices = NO_CHOICES


def find_layout(
    sample: Sequence[Cells], columns: Columns, header: bool | None = None
) -> ColumnLayout | UnclearColumns:
    """Finds the columns. `sample` has the first records of the file, at least one, including any header. `header` says
    whether there is a header; None detects it."""
    header = _has_header(sample, columns) if header is None else header
    width = len(sample[0])
    names = (
        tuple(map(to_printable, sample[0])) if header else tuple(f"column {n}" for n in range(1, width + 1))
    )
    body = [record for record in (sample[1:] if header else sample) if len(record) == width]
    for name in (columns.text, columns.label):
        if name is not None and name not in names:
            text = f"There is no column '{to_printable(name)}'; available: {_listed(names)}."
            return UnclearColumns(MISSING_COLUMN, text)
    if columns.label is None and {name.strip().casefold() for name in names} >= ANSWERS:
        return UnclearColumns(IN_A_TABLE, "The rows are preference pairs, which can't be read from a table.")

    labels = [columns.label] if columns.label else _columns_named(names, _LABEL_NAMES)
    texts = [columns.text] if columns.text else _columns_named(names, _TEXT_NAMES)
    labels = labels or _label_columns([n for n in names if n not in texts], names, body)
    texts = texts or _text_columns([n for n in names if n not in labels[:1]], names, body)
    labels = [n for n in labels if [n] != texts]
    if not labels:
        return UnclearColumns(NO_LABELS, "No column has labels.")
    if not texts:
        return UnclearColumns(NO_TEXT, "No column has texts.")
    repeated = [name for name in (*texts, *labels) if names.count(name) > 1]
    if repeated:
        text = f"{names.count(repeated[0])} columns are called '{repeated[0]}'."
        return UnclearColumns(DUPLICATE_COLUMN, text)
    if len(texts) > 1 or len(labels) > 1:
        parts = [
            f"{_listed(fitting)} could {'all' if len(fitting) > 2 else 'both'} be the {role}"
            for role, fitting in (("text", texts), ("label", labels))
            if len(fitting) > 1
        ]
        choices = Choices(tuple(texts) if len(texts) > 1 else (), tuple(labels) if len(labels) > 1 else ())
        return UnclearColumns(UNCLEAR_COLUMNS, f"The columns {'; '.join(parts)}.", choices)
    return ColumnLayout(header, names, names.index(texts[0]), names.index(labels[0]))


def find_text_column(names: Cells, column: str | None) -> int | None:
    """Returns the position of the text column in a table without labels, or None: the column of that name, or else the
    first with a usual name, or else the only one."""
    clean = [to_printable(name) for name in names]
    wanted = [column] if column in clean else _columns_named(clean, _TEXT_NAMES)
    if wanted:
        return clean.index(str(wanted[0]))
    return 0 if len(clean) == 1 else None


def is_text_name(name: str) -> bool:
    return name.strip().casefold() in _TEXT_NAMES


def _listed(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names[:20]]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _has_header(sample: Sequence[Cells], columns: Columns) -> bool:
    """Decides whether the first record is a header: it has a known or given name, or it consists of short, different
    cells that don't occur below."""
    first = [to_printable(cell) for cell in sample[0]]
    if columns.text in first or columns.label in first:
        return True
    if _columns_named(first, _TEXT_NAMES) or _columns_named(first, _LABEL_NAMES):
        return True
    below = [set(column) for column in zip(*[r for r in sample[1:] if len(r) == len(first)], strict=True)]
    are_names = all(0 < len(cell) <= 40 and len(cell.split()) <= 3 for cell in first)
    is_tidy = are_names and len(set(first)) == len(first)
    return (
        is_tidy and bool(below) and not any(cell in column for cell, column in zip(first, below, strict=True))
    )


def _columns_named(names: Sequence[str], vocabulary: tuple[str, ...]) -> list[str]:
    """Returns the columns whose name is in the vocabulary or, if there are none, those whose last word is."""
    exact = [name for name in names if name.strip().casefold() in vocabulary]
    if exact:
        first = [name for name in exact if name.strip().casefold() == vocabulary[0]]
        return first if len(first) == 1 else exact
    return [name for name in names if _words(name)[-1:] and _words(name)[-1] in vocabulary]


def _words(name: str) -> list[str]:
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return [word for word in re.split(r"[\W_]+", spaced.casefold()) if word]


def _values(name: str, names: Sequence[str], body: Sequence[Cells]) -> list[str]:
    """Returns the column's non-empty cells."""
    place = names.index(name)
    return [record[place].strip() for record in body if record[place].strip()]


def _label_columns(candidates: list[str], names: Sequence[str], body: Sequence[Cells]) -> list[str]:
    """Returns the columns whose values are short, not numeric, and occur at least twice on average. A single candidate
    only must not be numeric or have a name such as id."""
    values = {name: _values(name, names, body) for name in candidates}
    if len(candidates) == 1:
        name = candidates[0]
        return [] if _NOT_LABELS.intersection(_words(name)) or _are_numbers(values[name]) else [name]
    return [
        name
        for name in candidates
        if values[name]
        and 2 * len(set(values[name])) <= len(values[name])
        and max(map(len, values[name])) <= 60
        and not _are_numbers(values[name])
    ]


def _text_columns(candidates: list[str], names: Sequence[str], body: Sequence[Cells]) -> list[str]:
    """Returns the columns whose values have at least three words on average and mostly differ. A single candidate is
    always returned."""
    if len(candidates) == 1:
        return candidates
    columns = []
    for name in candidates:
        values = _values(name, names, body)
        words = sum(len(value.split()) for value in values)
        if values and words >= 3 * len(values) and len(set(values)) > len(values) / 4:
            columns.append(name)
    return columns


def _are_numbers(values: list[str]) -> bool:
    """True if all values are numbers, dates or times, and there are any."""
    return bool(values) and all(re.fullmatch(r"[-+]?[\d.,:/ %TZ-]+", value) for value in values)


BROKEN_QUOTES = Rule("broken_quotes", "blocks", "Close the quote, and double any quotes inside a text.")
LONG_CELL = Rule("cell_too_long", "blocks", "Shorten the text, or delete the line.")
WRONG_WIDTH = Rule("wrong_width", "blocks", "Put the text in quotes, or add the missing columns.")
EMPTY_TEXT = Rule("empty_text", "blocks", "Fill in the text, or delete the line.")
EMPTY_LABEL = Rule("empty_label", "blocks", "Fill in the label, or delete the line.")
HEADER_AGAIN = Rule("header_again", "blocks", "Delete the line; perhaps two files were joined.")
NO_HEADER = Rule("no_header", "tells", "Add a first line with the names text and label to be sure.")

TITLE_LINES = Rule("title_lines", "tells", "Nothing to do: they are above the header and are not rows.")

_SAMPLE = 1000
_MOST_TITLE_LINES = 10


class LayoutProgress(Protocol):
    """Receives from `examples` the columns that are used, or those that a person can choose from."""

    columns: Columns
    choices: Choices


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
            swallowed = f", so that lines {line} to {last} can't be separated" if last > line else ""
            findings.add_for_line(
                line, Fault(BROKEN_QUOTES, f"begins a row whose quotes don't match{swallowed}")
            )
            continue
        if any(cell and not cell.isspace() for cell in cells):
            yield Record(line, cells)


def examples(
    records: Iterator[Record],
    columns: Columns,
    findings: Findings,
    used: LayoutProgress,
    header: bool | None = None,
) -> Iterator[Example]:
    """Yields the good rows. `header` says whether the first record has names; None detects it."""
    sample = list(islice(records, _SAMPLE))
    if not sample:
        return
    titles = 0 if header else _count_titles(sample, columns)
    if titles:
        text = "One line above the header was" if titles == 1 else f"{titles} lines above the header were"
        findings.add_for_file(TITLE_LINES, f"{text} skipped.", titles)
        sample = sample[titles:]
    layout = find_layout([record.cells for record in sample], columns, header)
    if isinstance(layout, UnclearColumns):
        used.choices = layout.choices
        findings.add_for_file(layout.rule, layout.text)
        return
    used.columns = layout.columns
    if not layout.header:
        text = f"{layout.columns.text} was used as the text and {layout.columns.label} as the label"
        findings.add_for_file(NO_HEADER, f"There is no header, so {text}.")
    for record in chain(sample[layout.header :], records):
        example = _example(record, layout)
        if isinstance(example, Fault):
            findings.add_for_line(record.line, example)
        else:
            yield example


def _count_titles(sample: Sequence[Record], columns: Columns) -> int:
    """Returns the number of title lines above a table's header. Title lines have one filled cell each, and the first
    line with more must have a known or given name."""
    filled = [sum(1 for cell in record.cells if cell.strip()) for record in sample[: _MOST_TITLE_LINES + 1]]
    titles = next((at for at, count in enumerate(filled) if count > 1), 0)
    names = [to_printable(cell) for cell in sample[titles].cells]
    is_header = {columns.text, columns.label} & set(names) or any(
        _columns_named(names, vocabulary) for vocabulary in (_TEXT_NAMES, _LABEL_NAMES)
    )
    return titles if is_header else 0


def _example(record: Record, layout: ColumnLayout) -> Example | Fault:
    width, wanted = len(record.cells), len(layout.names)
    if width < wanted or any(cell.strip() for cell in record.cells[wanted:]):
        columns = f"{width} column{'' if width == 1 else 's'}"
        return Fault(WRONG_WIDTH, f"has {columns}, but the first line has {wanted}")
    text, label = record.cells[layout.text].strip(), record.cells[layout.label].strip()
    if layout.header and (text, label) == (layout.names[layout.text], layout.names[layout.label]):
        return Fault(HEADER_AGAIN, "repeats the header")
    if is_blank(text):
        return Fault(EMPTY_TEXT, "has no text")
    if is_blank(label):
        return Fault(EMPTY_LABEL, "has no label")
    return Example(record.line, (Message("user", text), Message("assistant", label)))
