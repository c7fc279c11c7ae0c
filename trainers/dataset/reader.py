"""Reads a file row by row into examples and faults. `read` returns all examples, `stream` yields them one by one. Never
raises because of a file's content."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from trainers.dataset import jsonl, table_files, tables
from trainers.dataset.checks import Fault, Finding, Findings, Rule
from trainers.dataset.conversion import ConvertedFile, open_converted
from trainers.dataset.file_format import HEAD_BYTES, Refusal, Sniffed, blocks, megabytes, sniff
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
    Sheet,
    is_blank,
    text_of_content,
    to_printable,
)
from trainers.dataset.tables import UnlabelledRow
from trainers.types import Message

TOO_BIG = Rule(
    "file_too_big", "blocks", "Send a part of it: a few thousand good rows teach more than a huge file."
)
TOO_MANY_ROWS = Rule("too_many_rows", "blocks", "Send a part of it: a random sample is best.")
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


@dataclass
class Progress:
    """What is known about a file so far. `blank` and `pairs` count blank lines and preference pairs. `names` are the
    columns of a table, `sheets` those of a workbook. `unlabelled` collects the rows without a label, None ignores
    them."""

    format: Format | None = None
    blank: int = 0
    pairs: int = 0
    columns: Columns = FIND_COLUMNS
    choices: Choices = NO_CHOICES
    names: tuple[str, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    unlabelled: list[UnlabelledRow] | None = None


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
    if isinstance(sniffed, Sniffed) and sniffed.kind == "xlsx":
        sniffed = table_files.xlsx_refusal(file, limits) or sniffed
    elif isinstance(sniffed, Sniffed) and sniffed.kind == "parquet":
        sniffed = table_files.parquet_refusal(file, limits) or sniffed
    if isinstance(sniffed, Refusal):
        findings.add_for_file(sniffed.rule, f"'{to_printable(name)}' {sniffed.text}.")
        return None
    source.report(findings)
    return sniffed


def stream(
    file: BinaryIO, sniffed: Sniffed, columns: Columns, findings: Findings, limits: Limits, progress: Progress
) -> Iterator[Example]:
    """Yields all good rows of an accepted file. Faults go to `findings`."""
    if columns.sheet is not None and sniffed.kind != "xlsx":
        sheet = to_printable(columns.sheet, 40)
        text = f"The file is not a workbook, so the sheet '{sheet}' was not looked for."
        findings.add_for_file(table_files.NO_WORKBOOK, text)
    if sniffed.kind == "jsonl":
        progress.format = None
        for block in blocks(file, findings, limits):
            for line, raw in enumerate(block.lines, block.first):
                example = parse_line(line, raw.strip(), findings, limits, progress)
                if example is not None:
                    yield example
        progress.format = progress.format or "chat"
    elif sniffed.kind == "parquet":
        progress.format = "parquet"
        yield from table_files.examples(file, columns, findings, limits, progress)
    elif sniffed.kind == "objects":
        progress.format = "objects"
        yield from tables.examples(
            _object_records(file, findings, limits), columns, findings, progress, header=True
        )
    elif sniffed.kind == "xlsx":
        progress.format = "xlsx"
        sheets = table_files.find_sheets(file, columns.sheet, findings)
        if sheets:
            progress.sheets = sheets.filled
            records = table_files.records(sheets, findings, limits)
            yield from tables.examples(records, columns, findings, progress)
    else:
        progress.format = "csv"
        records = tables.csv_records(_text_lines(file, findings, limits), sniffed.separator, findings)
        yield from tables.examples(records, columns, findings, progress)


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
        if sniffed is None or sniffed.kind == "jsonl":
            return ()
        if sniffed.kind == "xlsx":
            return tuple(_first_rows_of_sheets(source.file, count))
        records = _table_records(source.file, sniffed, findings, limits)
        sample = list(islice(records, _HEADER_SAMPLE))
        if sniffed.kind == "table":
            # Titles above the names are for people, so only files that people write have them.
            sample = _from_names_on(sample)
        return (FirstRows("", _cells(sample[: count + 1])),)


def _first_rows_of_sheets(file: BinaryIO, count: int) -> Iterator[FirstRows]:
    sheets = table_files.find_sheets(file, None, Findings(0))
    if sheets is None:
        return
    for sheet in sheets.filled[:_MOST_SHEETS]:
        sample = table_files.first_records(sheets, sheet.name, _HEADER_SAMPLE, DEFAULT_LIMITS)
        shown = _from_names_on(sample)[: count + 1]
        yield FirstRows(sheet.name, _cells(shown))


def _from_names_on(sample: list[tables.Record]) -> list[tables.Record]:
    """Returns the records without the titles above the columns' names."""
    if not sample:
        return sample
    return sample[tables.header_place(sample, FIND_COLUMNS) :]


def _cells(records: list[tables.Record]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(record.cells) for record in records)


def _table_records(
    file: BinaryIO, sniffed: Sniffed, findings: Findings, limits: Limits, sheet: str | None = None
) -> Iterator[tables.Record]:
    """Yields the records of an accepted table; of a workbook, those of `sheet` or of the sheets that are read without
    asking."""
    if sniffed.kind == "objects":
        return _object_records(file, findings, limits)
    if sniffed.kind == "parquet":
        return table_files.parquet_records(file, findings, limits)
    if sniffed.kind == "xlsx":
        sheets = table_files.find_sheets(file, sheet, findings)
        if sheets is None:
            return iter(())
        return table_files.records(sheets, findings, limits)
    return tables.csv_records(_text_lines(file, findings, limits), sniffed.separator, findings)


_MOST_SHEETS = 10  # whose first rows are shown
_HEADER_SAMPLE = 100  # records that show where the names of the columns are


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
        if sniffed.kind == "parquet":
            return (
                f"'{to_printable(name)}' is a Parquet file; send rows without labels as CSV, XLSX or JSONL."
            )
        if sniffed.kind in ("jsonl", "objects"):
            return _questions_of(_asked_texts(source.file, column, findings, limits), name, limits)
        records = _table_records(source.file, sniffed, findings, limits, sheet)
        sample = list(islice(records, _HEADER_SAMPLE))
        header = tables.header_place(sample, Columns(column)) if sample else 0
        names = tables.column_names(sample[header].cells) if sample else ()
        place = tables.find_text_column(names, column)
        if place is None:
            wanted = f"'{to_printable(column)}'" if column else "'text'"
            return f"'{to_printable(name)}' has no column called {wanted}. A line at its top must name the columns."
        cells = (
            (record.line, record.cells[place] if place < len(record.cells) else "")
            for record in chain(sample[header + 1 :], records)
        )
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
            if not raw.strip():
                continue
            row = jsonl.parse_object(raw.strip(), limits)
            if isinstance(row, Fault):
                yield line, ""
            else:
                yield line, _asked_text(row, column)


def _asked_text(row: dict[str, Any], column: str | None) -> str:
    messages = row.get("messages")
    if isinstance(messages, list):
        turns = [
            turn for turn in messages if isinstance(turn, dict) and turn.get("role") not in INSTRUCTION_ROLES
        ]
        if [turn.get("role") for turn in turns] != ["user"]:
            return ""
        return text_of_content(turns[0].get("content")) or ""
    names = list(row)
    place = tables.find_text_column(names, column)
    if place is None:
        return ""
    return tables.cell_text(row[names[place]], tables.JSON_BOOLEANS)


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
        are = "row is a preference pair" if progress.pairs == 1 else "rows are preference pairs"
        text = f"{progress.pairs:,} {are}. When models are measured, the preferred answers count as right."
        findings.add_for_file(PREFERENCES, text, progress.pairs)
    if progress.blank:
        are = "line is" if progress.blank == 1 else "lines are"
        findings.add_for_file(BLANK_LINES, f"{progress.blank:,} {are} blank.", progress.blank)


def parse_line(
    line: int, row: bytes, findings: Findings, limits: Limits, progress: Progress
) -> Example | None:
    """Parses one line of JSONL, without surrounding white space. Returns None if it is blank or faulty; faults go to
    `findings`."""
    if not row:
        progress.blank += 1
        return None
    parsed = jsonl.parse_row(line, row, limits)
    if isinstance(parsed, Fault):
        findings.add_for_line(line, parsed)
        return None
    row_format, example = parsed
    progress.format = progress.format or row_format
    if row_format != progress.format:
        findings.add_for_line(line, Fault(jsonl.MIXED, "has a different format than the rows before it"))
        return None
    progress.pairs += row_format == "preference"
    if example.dropped:
        findings.add_for_line(line, jsonl.dropped_fault(example.dropped))
    return example


def _object_records(file: BinaryIO, findings: Findings, limits: Limits) -> Iterator[tables.Record]:
    """Yields the keys of the first object as a header, and then all objects as records. Missing and null values become
    empty cells; keys that the first object lacks are ignored."""
    names: list[str] = []
    for block in blocks(file, findings, limits):
        for line, raw in enumerate(block.lines, block.first):
            if not raw.strip():
                continue
            row = jsonl.parse_object(raw.strip(), limits)
            if isinstance(row, Fault):
                findings.add_for_line(line, row)
                continue
            if not names:
                names = [name for name, value in row.items() if not isinstance(value, list | dict)]
                yield tables.Record(line, names)
            cells = [tables.cell_text(row.get(name), tables.JSON_BOOLEANS) for name in names]
            yield tables.Record(line, cells)


def _text_lines(file: BinaryIO, findings: Findings, limits: Limits) -> Iterator[str]:
    """Yields all lines with their endings. Lines that can't be read are yielded empty, so that line numbers stay
    right."""
    expected = 1
    for block in blocks(file, findings, limits):
        yield from ["\n"] * (block.first - expected)
        expected = block.first + len(block.lines)
        for line, raw in enumerate(block.lines, block.first):
            try:
                yield f"{raw.decode()}\n"
            except UnicodeDecodeError:
                findings.add_for_line(
                    line, Fault(jsonl.BAD_BYTES, f"is not UTF-8; {jsonl.guessed_encoding(raw)}")
                )
                yield "\n"
