"""Tables → Examples, each with the line where its record begins: cuts CSV records and finds the text and
label columns, by name or by shape; where unclear, a person is asked."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from trainers.dataset.checks import Fault, Findings, Rule
from trainers.dataset.preference_pairs import ANSWERS, PREFERENCES
from trainers.dataset.rows import NO_CHOICES, Choices, Columns, Example, is_blank, shown
from trainers.types import Message

MISSING_COLUMN = Rule("column_missing", "blocks", "Name a column that the file has.")
UNCLEAR_COLUMNS = Rule(
    "columns_unclear", "blocks", "Say which one to use: in the upload's form, or with --text and --label."
)
DUPLICATE_COLUMN = Rule("column_twice", "blocks", "Give each column a name of its own.")
NO_LABELS = Rule("no_labels", "blocks", "Add a column 'label' with the right answer for each row.")
NO_TEXT = Rule("no_text", "blocks", "Add a column 'text' with what the customer wrote.")

# The first name of each wins by itself: it is the one that the documentation tells people to use.
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


@dataclass(frozen=True)
class ColumnLayout:
    """Where the two columns are, from 0. `header` tells whether the first record holds names."""

    header: bool
    names: tuple[str, ...]
    text: int
    label: int

    @property
    def columns(self) -> Columns:
        return Columns(self.names[self.text], self.names[self.label])


@dataclass(frozen=True)
class UnclearColumns:
    """Why there is none. `said` is a sentence; `choices` is filled where a person can settle it."""

    rule: Rule
    said: str
    choices: Choices = NO_CHOICES


def find_layout(
    sample: Sequence[Cells], columns: Columns, header: bool | None = None
) -> ColumnLayout | UnclearColumns:
    """`sample` holds the file's first records, one at least, the header among them. `header`: None = to be found."""
    header = _has_header(sample, columns) if header is None else header
    names = tuple(shown(n) for n in sample[0]) if header else _numbered(len(sample[0]))
    body = [record for record in (sample[1:] if header else sample) if len(record) == len(names)]
    for name in (columns.text, columns.label):
        if name is not None and name not in names:
            return UnclearColumns(
                MISSING_COLUMN, f"There is no column '{shown(name)}'; there are {_listed(names)}."
            )
    if columns.label is None and {name.strip().casefold() for name in names} >= ANSWERS:
        return UnclearColumns(
            PREFERENCES, "The rows are preference pairs, which are trained on as JSONL in OpenAI's form."
        )
    labels = [columns.label] if columns.label else _named(names, _LABEL_NAMES)
    texts = [columns.text] if columns.text else _named(names, _TEXT_NAMES)
    labels = labels or _label_shaped([n for n in names if n not in texts], names, body)
    texts = texts or _text_shaped([n for n in names if n not in labels[:1]], names, body)
    labels = [n for n in labels if [n] != texts]
    return _settled(header, names, texts, labels)


def is_text_name(name: str) -> bool:
    return name.strip().casefold() in _TEXT_NAMES


def _settled(
    header: bool, names: tuple[str, ...], texts: list[str], labels: list[str]
) -> ColumnLayout | UnclearColumns:
    if not labels:
        return UnclearColumns(NO_LABELS, "No column holds labels.")
    if not texts:
        return UnclearColumns(NO_TEXT, "No column holds texts.")
    twice = [name for name in (*texts, *labels) if names.count(name) > 1]
    if twice:
        return UnclearColumns(
            DUPLICATE_COLUMN, f"{names.count(twice[0])} columns have the name '{twice[0]}'."
        )
    if len(texts) > 1 or len(labels) > 1:
        choices = Choices(tuple(texts) if len(texts) > 1 else (), tuple(labels) if len(labels) > 1 else ())
        return UnclearColumns(UNCLEAR_COLUMNS, _which(choices), choices)
    return ColumnLayout(header, names, names.index(texts[0]), names.index(labels[0]))


def _which(choices: Choices) -> str:
    parts = [
        f"{_listed(fitting)} could all be the {what}"
        if len(fitting) > 2
        else f"{_listed(fitting)} could both be the {what}"
        for what, fitting in (("text", choices.text), ("label", choices.label))
        if fitting
    ]
    return f"The columns {'; '.join(parts)}."


def _listed(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names[:20]]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _numbered(width: int) -> tuple[str, ...]:
    return tuple(f"column {number}" for number in range(1, width + 1))


def _has_header(sample: Sequence[Cells], columns: Columns) -> bool:
    """By a name that we know or were given; else where the first record is unlike all below it."""
    first = [shown(cell) for cell in sample[0]]
    if columns.text in first or columns.label in first:
        return True
    if _named(tuple(first), _TEXT_NAMES) or _named(tuple(first), _LABEL_NAMES):
        return True
    below = [set(column) for column in zip(*[r for r in sample[1:] if len(r) == len(first)], strict=True)]
    tidy = all(0 < len(cell) <= 40 and len(cell.split()) <= 3 for cell in first) and len(set(first)) == len(
        first
    )
    return tidy and bool(below) and not any(cell in column for cell, column in zip(first, below, strict=True))


def _named(names: Sequence[str], texts: tuple[str, ...]) -> list[str]:
    """Columns with a known name; where there is none, those whose last word is known."""
    exact = [name for name in names if name.strip().casefold() in texts]
    first = [name for name in exact if name.strip().casefold() == texts[0]]
    if exact:
        return first if len(first) == 1 else exact
    return [name for name in names if _words(name)[-1:] and _words(name)[-1] in texts]


def _words(name: str) -> list[str]:
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return [word for word in re.split(r"[\W_]+", spaced.casefold()) if word]


def _values(name: str, names: Sequence[str], body: Sequence[Cells]) -> list[str]:
    at = names.index(name)
    return [record[at].strip() for record in body if record[at].strip()]


def _label_shaped(candidates: list[str], names: Sequence[str], body: Sequence[Cells]) -> list[str]:
    """Short, not numbers, and seen again and again; or simply the only column left."""
    if len(candidates) == 1:
        return [name for name in candidates if _may_be_label(name, _values(name, names, body))]
    return [name for name in candidates if _is_label_shaped(_values(name, names, body))]


def _may_be_label(name: str, values: list[str]) -> bool:
    return not _NOT_LABELS.intersection(_words(name)) and not _numeric(values)


def _is_label_shaped(values: list[str]) -> bool:
    if not values or 2 * len(set(values)) > len(values):
        return False
    return max(map(len, values)) <= 60 and not _numeric(values)


def _text_shaped(candidates: list[str], names: Sequence[str], body: Sequence[Cells]) -> list[str]:
    """Three words on average, mostly different; or simply the only column left."""
    if len(candidates) == 1:
        return candidates
    return [name for name in candidates if _is_text_shaped(_values(name, names, body))]


def _is_text_shaped(values: list[str]) -> bool:
    if not values:
        return False
    words = sum(len(value.split()) for value in values) / len(values)
    return words >= 3 and len(set(values)) > len(values) / 4


def _numeric(values: list[str]) -> bool:
    """Numbers, dates and times only."""
    return bool(values) and all(re.fullmatch(r"[-+]?[\d.,:/ %TZ-]+", value) for value in values)


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


def csv_records(lines: Iterable[str], separator: str, findings: Findings) -> Iterator[Record]:
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
            findings.at(begins, _broken(error, begins, reader.line_num))
            continue
        if any(cell and not cell.isspace() for cell in cells):
            yield Record(begins, cells)


def _broken(error: csv.Error, begins: int, ends: int) -> Fault:
    if "field limit" in str(error):  # the module has one class of error for all
        return Fault(LONG_CELL, f"has a cell of more than {csv.field_size_limit():,} characters")
    swallowed = f": lines {begins} to {ends} can't be told apart" if ends > begins else ""
    return Fault(BROKEN_QUOTES, f"begins a row whose quotes don't match{swallowed}")


def examples(
    records: Iterator[Record], columns: Columns, findings: Findings, used: Used, header: bool | None = None
) -> Iterator[Example]:
    """`header`: whether the first record holds names; None = to be found."""
    sample = list(islice(records, _SAMPLE))
    if not sample:
        return
    layout = find_layout([record.cells for record in sample], columns, header)
    if isinstance(layout, UnclearColumns):
        used.choices = layout.choices
        findings.about_file(layout.rule, layout.said)
        return
    used.columns = layout.columns
    if not layout.header:
        findings.about_file(NO_HEADER, f"There is no header; {_reading_as(layout)}.")
    yield from _from_records(sample[layout.header :], layout, findings)
    yield from _from_records(records, layout, findings)


def _reading_as(layout: ColumnLayout) -> str:
    return f"{layout.columns.text} was taken as the text and {layout.columns.label} as the label"


def _from_records(records: Iterable[Record], layout: ColumnLayout, findings: Findings) -> Iterator[Example]:
    for record in records:
        example = _example(record, layout)
        if isinstance(example, Fault):
            findings.at(record.line, example)
        else:
            yield example


def _example(record: Record, layout: ColumnLayout) -> Example | Fault:
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
