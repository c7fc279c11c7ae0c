"""Reads a file row by row into examples and faults. `read` returns all examples, `stream` yields them one by one. Never
raises because of a file's content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from trainers.dataset import jsonl, tables
from trainers.dataset.checks import Fault, Finding, Findings, Rule
from trainers.dataset.conversion import ConvertedFile, open_converted
from trainers.dataset.file_format import HEAD_BYTES, Refusal, Sniffed, blocks, megabytes
from trainers.dataset.formats import FORMATS, sniff
from trainers.dataset.formats.values import HEADER_SAMPLE, RowFile
from trainers.dataset.preference_pairs import PREFERENCES
from trainers.dataset.rows import (
    DEFAULT_LIMITS,
    FIND_COLUMNS,
    INSTRUCTION_ROLES,
    NO_CHOICES,
    Choices,
    Columns,
    Example,
    Format,
    Limits,
    is_blank,
    text_of_content,
    to_printable,
)
from trainers.dataset.table_columns import column_names, find_text_column
from trainers.dataset.tables import Progress, Record, UnlabelledRow
from trainers.types import Message

TOO_BIG = Rule(
    "file_too_big", "blocks", "Send a part of it: a few thousand good rows teach more than a huge file."
)
TOO_MANY_ROWS = Rule("too_many_rows", "blocks", "Send a part of it: a random sample is best.")
NO_WORKBOOK = Rule("no_workbook", "tells", "Nothing to do: only workbooks have sheets.")
BLANK_LINES = Rule("blank_lines", "tells", "Nothing to do: they are skipped.")


@dataclass(frozen=True)
class Reading:
    """A file that was read. `format` is None if the file was refused. `columns` are those that were used, for a
    table, and `unlabelled` are its rows without a label."""

    name: str
    format: Format | None
    examples: tuple[Example, ...]
    findings: tuple[Finding, ...]
    columns: Columns = FIND_COLUMNS
    choices: Choices = NO_CHOICES
    unlabelled: tuple[UnlabelledRow, ...] = ()

    @property
    def is_refused(self) -> bool:
        return any(finding.blocks for finding in self.findings)


def read(
    path: Path, name: str, *, columns: Columns = FIND_COLUMNS, limits: Limits = DEFAULT_LIMITS
) -> Reading:
    """Reads a whole file. `name` is its name for people, never used as a path. Raises OSError as open() does."""
    findings = Findings(limits.listed)
    unlabelled: list[UnlabelledRow] = []
    progress = Progress(unlabelled=unlabelled)
    examples: tuple[Example, ...] = ()
    with open_converted(path, limits) as source:
        sniffed = accept_file(source, name, findings, limits)
        if sniffed:
            rows = stream(source.file, sniffed, columns, findings, limits, progress)
            examples = tuple(cap_rows(rows, findings, limits))
    report_counts(findings, progress)
    return Reading(
        to_printable(name),
        progress.format,
        examples,
        findings.sorted(),
        progress.columns,
        progress.choices,
        tuple(unlabelled),
    )


def accept_file(source: ConvertedFile, name: str, findings: Findings, limits: Limits) -> Sniffed | None:
    """Returns the file's format, or None if it is refused, with the reason in `findings`."""
    file = source.file
    size = source.size
    if size > limits.max_bytes:
        text = f"'{to_printable(name)}' has {megabytes(size)}; the limit is {megabytes(limits.max_bytes)}."
        findings.add_for_file(TOO_BIG, text)
        return None
    sniffed = sniff(file.read(HEAD_BYTES))
    if isinstance(sniffed, Sniffed):
        sniffed = FORMATS[sniffed.kind].refusal(file, limits) or sniffed
    if isinstance(sniffed, Refusal):
        findings.add_for_file(sniffed.rule, f"'{to_printable(name)}' {sniffed.text}.")
        return None
    source.report(findings)
    return sniffed


def stream(
    file: BinaryIO, sniffed: Sniffed, columns: Columns, findings: Findings, limits: Limits, progress: Progress
) -> Iterator[Example]:
    """Yields all good rows of an accepted file. Faults go to `findings`."""
    row_format = FORMATS[sniffed.kind]
    if columns.sheet is not None and not row_format.has_sheets:
        sheet = to_printable(columns.sheet, 40)
        text = f"The file is not a workbook, so the sheet '{sheet}' was not looked for."
        findings.add_for_file(NO_WORKBOOK, text)
    progress.format = row_format.name
    yield from row_format.examples(RowFile(file, sniffed, columns, findings, limits, progress))


@dataclass(frozen=True)
class FirstRows:
    """The first records of a table, the one with the names first. `sheet` is '' where there are no sheets."""

    sheet: str
    records: tuple[tuple[str, ...], ...]


def read_first_rows(path: Path, count: int) -> tuple[FirstRows, ...]:
    """Returns the names of the columns and the first `count` rows of a table, and of each sheet of a workbook. Returns
    nothing for a file that is no table. Raises OSError as open() does."""
    limits = DEFAULT_LIMITS
    findings = Findings(0)
    with open_converted(path, limits) as source:
        sniffed = accept_file(source, path.name, findings, limits)
        if sniffed is None:
            return ()
        first = FORMATS[sniffed.kind].first
        if first is None:
            return ()
        rows = RowFile(source.file, sniffed, FIND_COLUMNS, findings, limits, Progress())
        firsts = []
        for each in first(rows):
            records = each.records[: count + 1]
            firsts.append(FirstRows(each.sheet, _cells(records)))
        return tuple(firsts)


def _cells(records: Sequence[Record]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(record.cells) for record in records)


@dataclass(frozen=True)
class Questions:
    """Rows without answers (those of `examples` are empty), and the number of lines that could not be read."""

    examples: tuple[Example, ...]
    unread: int


def read_questions(path: Path, name: str, column: str | None, sheet: str | None = None) -> Questions | str:
    """Reads a file of rows without labels. Returns a sentence if that is not possible.

    The file is a table with a column of texts (`column`, or one with a usual name, or the only one; of a workbook only
    `sheet`, if that is given), or JSONL with such a key or with the messages of a single question.
    """
    limits = DEFAULT_LIMITS
    findings = Findings(limits.listed)
    with open_converted(path, limits) as source:
        sniffed = accept_file(source, name, findings, limits)
        if sniffed is None:
            worst = findings.sorted()[0]
            return f"{worst.message} {worst.cure}"
        row_format = FORMATS[sniffed.kind]
        if row_format.asks == "keys":
            texts = _asked_texts(source.file, column, findings, limits)
            return _questions_of(texts, name, limits)
        if row_format.asks is None or row_format.records is None:
            return f"'{to_printable(name)}' is {row_format.title}; send rows without labels as CSV, XLSX or JSONL."
        rows = RowFile(source.file, sniffed, Columns(column, sheet=sheet), findings, limits, Progress())
        records = row_format.records(rows)
        cells = _asked_cells(records, column)
        if cells is None:
            wanted = to_printable(column or "text")
            return f"'{to_printable(name)}' has no column called '{wanted}'. A line at its top must name the columns."
        return _questions_of(cells, name, limits)


def _questions_of(texts: Iterator[tuple[int, str]], name: str, limits: Limits) -> Questions | str:
    examples: list[Example] = []
    unread = 0
    for line, text in texts:
        if is_blank(text):
            unread += 1
        elif len(examples) == limits.max_rows:
            return f"'{to_printable(name)}' has more than {limits.max_rows:,} rows. {TOO_MANY_ROWS.cure}"
        else:
            messages = (Message("user", text), Message("assistant", ""))
            examples.append(Example(line, messages))
    if not examples:
        return f"'{to_printable(name)}' has no row with a text."
    return Questions(tuple(examples), unread)


def _asked_texts(
    file: BinaryIO, column: str | None, findings: Findings, limits: Limits
) -> Iterator[tuple[int, str]]:
    """Yields each line's number and text. The text is empty if there is none, or if the chat has several turns."""
    for block in blocks(file, findings, limits):
        for line, raw in enumerate(block.lines, block.first):
            text = raw.strip()
            if not text:
                continue
            row = jsonl.parse_object(text, limits)
            if isinstance(row, Fault):
                yield line, ""
            else:
                yield line, _asked_text(row, column)


def _asked_cells(records: Iterator[Record], column: str | None) -> Iterator[tuple[int, str]] | None:
    """Returns each row's line and its cell in the column of texts, None if there is no such column."""
    sample = list(islice(records, HEADER_SAMPLE))
    if not sample:
        return None
    header = tables.header_index(sample, Columns(column))
    names = column_names(sample[header].cells)
    text_column = find_text_column(names, column)
    if text_column is None:
        return None
    rows = chain(sample[header + 1 :], records)
    return ((row.line, _cell_at(row, text_column)) for row in rows)


def _cell_at(row: Record, column: int) -> str:
    if column >= len(row.cells):  # cells at the end of a row may be missing
        return ""
    return row.cells[column]


def _asked_text(row: dict[str, Any], column: str | None) -> str:
    messages = row.get("messages")
    if isinstance(messages, list):
        turns = []
        for turn in messages:
            if isinstance(turn, dict) and turn.get("role") not in INSTRUCTION_ROLES:
                turns.append(turn)
        if len(turns) != 1 or turns[0].get("role") != "user":
            return ""
        return text_of_content(turns[0].get("content")) or ""
    names = list(row)
    text_column = find_text_column(names, column)
    if text_column is None:
        return ""
    value = row[names[text_column]]
    return tables.cell_text(value, tables.JSON_BOOLEANS)


def cap_rows(examples: Iterator[Example], findings: Findings, limits: Limits) -> Iterator[Example]:
    """Yields at most `limits.max_rows` rows, and reports it if there are more."""
    for count, example in enumerate(examples):
        if count == limits.max_rows:
            report_too_many_rows(findings, limits)
            return
        yield example


def report_too_many_rows(findings: Findings, limits: Limits) -> None:
    findings.add_for_file(TOO_MANY_ROWS, f"The file has more than {limits.max_rows:,} rows.")


def report_counts(findings: Findings, progress: Progress) -> None:
    """Reports preference pairs and blank lines, which are counted until the end of the file."""
    if progress.pairs:
        are = "rows are preference pairs"
        if progress.pairs == 1:
            are = "row is a preference pair"
        text = f"{progress.pairs:,} {are}. When models are measured, the preferred answers count as right."
        findings.add_for_file(PREFERENCES, text, progress.pairs)
    if progress.blank:
        are = "lines are"
        if progress.blank == 1:
            are = "line is"
        findings.add_for_file(BLANK_LINES, f"{progress.blank:,} {are} blank.", progress.blank)
