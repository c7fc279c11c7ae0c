"""Finds the text and the label column of a table, by the columns' names or else by their contents, and tells a record
with names from one with values. Lets a person choose if several columns would fit or none surely does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trainers.dataset.checks import Rule
from trainers.dataset.preference_pairs import ANSWERS, IN_A_TABLE
from trainers.dataset.rows import NO_CHOICES, Choices, Columns, to_printable

Cells = Sequence[str]

MISSING_COLUMN = Rule("column_missing", "blocks", "Name a column that the file has.")
UNCLEAR_COLUMNS = Rule("columns_unclear", "blocks", "Choose which one to use.")
DUPLICATE_COLUMN = Rule("column_twice", "blocks", "Give each column a name of its own.")
NO_LABELS = Rule("no_labels", "blocks", "Add a column 'label' with the right answer for each row.")
NO_TEXT = Rule("no_text", "blocks", "Add a column 'text' with what the customer wrote.")
NOT_A_TEXT = Rule(
    "text_unclear",
    "blocks",
    "Choose the column with the texts. If it really is this one, choose it all the same.",
)

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


@dataclass(frozen=True)
class ColumnLayout:
    """The positions of the two columns, from 0. `header`: the first record has the columns' names. `names` are those of
    all columns."""

    header: bool
    names: tuple[str, ...]
    text: int
    label: int

    @property
    def columns(self) -> Columns:
        text = self.names[self.text]
        label = self.names[self.label]
        return Columns(text, label)


@dataclass(frozen=True)
class UnclearColumns:
    """Why the columns could not be determined. `text` is a sentence; `choices` is set if a person can decide. `names`
    are those of all columns."""

    rule: Rule
    text: str
    choices: Choices = NO_CHOICES
    names: tuple[str, ...] = ()


def find_layout(
    sample: Sequence[Cells],
    columns: Columns,
    header: bool | None = None,
) -> ColumnLayout | UnclearColumns:
    """Finds the columns. `sample` has the first records of the file, at least one, including any header. `header` says
    whether there is a header; None detects it."""
    if header is None:
        header = _has_header(sample, columns)
    width = len(sample[0])
    if header:
        names = column_names(sample[0])
        records = sample[1:]
    else:
        names = column_names([""] * width)
        records = sample
    body = [record for record in records if len(record) == width]

    for name in (columns.text, columns.label):
        if name is not None and name not in names:
            text = f"There is no column '{to_printable(name)}'; available: {_listed(names)}."
            return UnclearColumns(MISSING_COLUMN, text, Choices(names, names), names)
    are_pairs = {name.strip().casefold() for name in names} >= ANSWERS
    if are_pairs and columns.label is None:
        return UnclearColumns(IN_A_TABLE, "The rows are preference pairs, which can't be read from a table.")

    fitting = _fitting_columns(names, body, columns)
    unclear = _unclear(names, fitting)
    if unclear is not None:
        return unclear
    text_index = names.index(fitting.texts[0])
    label_index = names.index(fitting.labels[0])
    return ColumnLayout(header, names, text_index, label_index)


@dataclass(frozen=True)
class _FittingColumns:
    """The columns that may be the text and the label, and those that hold only `codes`: numbers, dates or ids."""

    texts: list[str]
    labels: list[str]
    codes: list[str]


def _fitting_columns(
    names: Sequence[str],
    body: Sequence[Cells],
    columns: Columns,
) -> _FittingColumns:
    """Judges columns by their names, or else by their contents. What a person has named is taken as it is."""
    codes: list[str] = []
    for name in names:
        values = _values(name, names, body)
        if name != columns.text and _are_codes(values):
            codes.append(name)
    labels = _columns_named(names, _LABEL_NAMES)
    if columns.label:
        labels = [columns.label]
    texts = _columns_named(names, _TEXT_NAMES)
    if columns.text:
        texts = [columns.text]
    texts = [name for name in texts if name not in codes]

    if not labels:
        others = [name for name in names if name not in texts]
        labels = _label_columns(others, names, body)
    if not texts:
        not_texts = (*labels[:1], *codes)
        others = [name for name in names if name not in not_texts]
        texts = _text_columns(others, names, body)
    # The only text can't be the label as well.
    labels = [name for name in labels if [name] != texts]
    return _FittingColumns(texts, labels, codes)


def _unclear(names: tuple[str, ...], fitting: _FittingColumns) -> UnclearColumns | None:
    """Returns why a person has to choose or rename columns, None if exactly one fits for each role."""
    texts = fitting.texts
    labels = fitting.labels
    if not texts or not labels:
        return _lacking(names, fitting)
    repeated = [name for name in (*texts, *labels) if names.count(name) > 1]
    if repeated:
        name = repeated[0]
        text = f"{names.count(name)} columns are called '{name}'."
        return UnclearColumns(DUPLICATE_COLUMN, text)
    if len(texts) == len(labels) == 1:
        return None

    parts: list[str] = []
    choices = NO_CHOICES
    if len(texts) > 1:
        parts.append(_could_be(texts, "text"))
        choices = replace(choices, text=tuple(texts))
    if len(labels) > 1:
        parts.append(_could_be(labels, "label"))
        choices = replace(choices, label=tuple(labels))
    text = f"The columns {'; '.join(parts)}."
    return UnclearColumns(UNCLEAR_COLUMNS, text, choices, names)


def _lacking(names: tuple[str, ...], fitting: _FittingColumns) -> UnclearColumns:
    """Says which column is missing. A role that no column fits may be given to any column but that of the other
    role."""
    choices = NO_CHOICES
    if len(names) > 1 and len(fitting.texts) != 1:
        others = tuple(name for name in names if name not in fitting.labels[:1])
        choices = replace(choices, text=others)
    if len(names) > 1 and len(fitting.labels) != 1:
        others = tuple(name for name in names if [name] != fitting.texts)
        choices = replace(choices, label=others)

    codes = fitting.codes
    if not fitting.texts and codes:
        have = "have"
        if len(codes) == 1:
            have = "has"
        text = f"No column looks like a text: {_listed(codes)} {have} only numbers, dates or ids."
        return UnclearColumns(NOT_A_TEXT, text, choices, names)
    if not fitting.labels:
        return UnclearColumns(NO_LABELS, "No column has labels.", choices, names)
    return UnclearColumns(NO_TEXT, "No column has texts.", choices, names)


def _could_be(several: Sequence[str], role: str) -> str:
    every = "both"
    if len(several) > 2:
        every = "all"
    return f"{_listed(several)} could {every} be the {role}"


def column_names(header: Cells) -> tuple[str, ...]:
    """Returns the names of a table's columns. One without a name is called by its number."""
    names: list[str] = []
    for number, cell in enumerate(header, 1):
        name = to_printable(cell)
        names.append(name or f"column {number}")
    return tuple(names)


def find_text_column(names: Cells, column: str | None) -> int | None:
    """Returns the position of the text column in a table without labels, or None: the column of that name, or else the
    first with a usual name, or else the only one."""
    clean = [to_printable(name) for name in names]
    if column is not None and column in clean:
        return clean.index(column)
    usual = _columns_named(clean, _TEXT_NAMES)
    if usual:
        return clean.index(usual[0])
    if len(clean) == 1:
        return 0
    return None


def is_text_name(name: str) -> bool:
    return name.strip().casefold() in _TEXT_NAMES


def _listed(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names[:20]]  # a table may have hundreds of columns
    *first, last = quoted
    if not first:
        return last
    return f"{', '.join(first)} and {last}"


def _has_header(sample: Sequence[Cells], columns: Columns) -> bool:
    """Decides whether the first record is a header: it has a known or given name, or it looks like names."""
    first = sample[0]
    if has_known_name(first, columns):
        return True
    return are_names(first, sample[1:])


def has_known_name(cells: Cells, columns: Columns) -> bool:
    """True if a cell is the name of a column that a person has given, or a usual one."""
    names = [to_printable(cell) for cell in cells]
    if columns.text in names or columns.label in names:
        return True
    usual_texts = _columns_named(names, _TEXT_NAMES)
    usual_labels = _columns_named(names, _LABEL_NAMES)
    return bool(usual_texts or usual_labels)


def are_names(cells: Cells, below: Sequence[Cells]) -> bool:
    """True if at least two cells are filled, and all of these are short, different, and don't occur in their columns
    below. A column may have no name, as the numbers that pandas writes before each row."""
    printable = [to_printable(cell) for cell in cells]
    filled = [column for column, name in enumerate(printable) if name]
    names = [printable[column] for column in filled]
    are_different = len(set(names)) == len(names)
    if len(names) < 2 or not are_different:
        return False
    if not all(map(_is_short, names)):
        return False
    if _are_codes(names):
        return False

    rows = [record for record in below if len(record) == len(cells)]
    for record in rows:
        if any(record[column] == cells[column] for column in filled):
            return False
    return bool(rows)


def _is_short(name: str) -> bool:
    return len(name) <= 40 and len(name.split()) <= 3


def _columns_named(names: Sequence[str], vocabulary: tuple[str, ...]) -> list[str]:
    """Returns the columns whose name is in the vocabulary or, if there are none, those whose last word is."""
    exact: list[str] = []
    first: list[str] = []
    similar: list[str] = []
    for name in names:
        plain = name.strip().casefold()
        words = _words(name)
        if plain in vocabulary:
            exact.append(name)
        if plain == vocabulary[0]:
            first.append(name)
        if words and words[-1] in vocabulary:
            similar.append(name)
    if len(first) == 1:
        return first
    return exact or similar


def _words(name: str) -> list[str]:
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    words = re.split(r"[\W_]+", spaced.casefold())
    return [word for word in words if word]


def _values(
    name: str,
    names: Sequence[str],
    body: Sequence[Cells],
) -> list[str]:
    """Returns the column's non-empty cells."""
    column = names.index(name)
    cells = [record[column].strip() for record in body]
    return [cell for cell in cells if cell]


def _label_columns(
    candidates: list[str],
    names: Sequence[str],
    body: Sequence[Cells],
) -> list[str]:
    """Returns the columns whose values are short, not numeric, and occur at least twice on average. A single candidate
    may be anything but many numbers, or a column with a name such as id."""
    if len(candidates) == 1:
        name = candidates[0]
        values = _values(name, names, body)
        is_named_otherwise = bool(_NOT_LABELS.intersection(_words(name)))
        may_be_labels = _are_grades(values) or not _are_numbers(values)
        if is_named_otherwise or not may_be_labels:
            return []
        return [name]

    columns = []
    for name in candidates:
        values = _values(name, names, body)
        occur_twice = 2 * len(set(values)) <= len(values)
        are_short = max(map(len, values), default=0) <= 60
        if values and occur_twice and are_short and not _are_numbers(values):
            columns.append(name)
    return columns


def _text_columns(
    candidates: list[str],
    names: Sequence[str],
    body: Sequence[Cells],
) -> list[str]:
    """Returns the columns whose values have at least three words on average and mostly differ. A single candidate is
    always returned."""
    if len(candidates) == 1:
        return candidates
    columns = []
    for name in candidates:
        values = _values(name, names, body)
        words = sum(len(value.split()) for value in values)
        are_long = words >= 3 * len(values)
        mostly_differ = len(set(values)) > len(values) / 4
        if values and are_long and mostly_differ:
            columns.append(name)
    return columns


def _are_numbers(values: Sequence[str]) -> bool:
    """True if all values are numbers, dates or times, and there are any."""
    if not values:
        return False
    return all(_NUMBER.fullmatch(value) for value in values)


def _are_grades(values: Sequence[str]) -> bool:
    """True for a few whole numbers that come up again and again, like 0 and 1 or one to five stars."""
    different = set(values)
    if len(different) > _MOST_GRADES:
        return False
    if 2 * len(different) > len(values):
        return False
    return all(_GRADE.fullmatch(value) for value in different)


def _are_codes(values: Sequence[str]) -> bool:
    """True if nearly all values are numbers, dates or ids, and there are any. An id is one word of ASCII characters
    with a digit; other scripts may write a sentence without spaces."""
    if not values:
        return False
    codes = 0
    for value in values:
        if _NUMBER.fullmatch(value) or _DATE.fullmatch(value) or _ID.fullmatch(value):
            codes += 1
    return codes >= _NEARLY_ALL * len(values)


_NEARLY_ALL = 0.9
_MOST_GRADES = 11  # 0 to 10
_GRADE = re.compile(r"[-+]?\d{1,2}")
_NUMBER = re.compile(r"[-+]?[\d.,:/ %TZ-]+")
_DATE = re.compile(
    r"(\d{1,2}(st|nd|rd|th|\.)?[ -]?)?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
    r"[ -]?(\d{1,2}(st|nd|rd|th)?,? ?)?(\d{2,4})?( [\d:]+( ?[ap]m)?)?",
    re.IGNORECASE,
)
_ID = re.compile(r"(?=\S*\d)(?!\S*://)(?![{\[])[!-~]{1,64}")
