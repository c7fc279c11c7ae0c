"""Rows of XLSX and Parquet files, streamed in a worker process, with limits against files that unpack to far
more than they seem."""

from __future__ import annotations

import datetime
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Literal
from xml.parsers import expat

import orjson

from trainers.dataset import jsonl, tables
from trainers.dataset.checks import Fault, Findings, Rule
from trainers.dataset.file_format import LONG_LINE, NOT_TEXT, Refusal, megabytes
from trainers.dataset.rows import Columns, Example, Limits
from trainers.dataset.tables import Record

# Excel workbooks (.xlsx) → records of text from the first sheet with rows, after measuring how large the
# file would be unpacked. python-calamine is imported at use.
#
# A small zip can hold a huge sheet, so its size is counted before anything holds it: its bytes, the
# rectangle around its cells, which its reader fills, and long texts that many cells share.
# python-calamine is imported at use.


SizeVerdict = Literal["fits", "too_big", "damaged", "no_workbook", "open_document", "encrypted"]

MAX_CELLS = 5_000_000
_PIECE = 1 << 18
_MAX_TAG = 1 << 22  # bytes of one tag, comment or the like; the parser begins it again with each piece
_SHEET = re.compile(r"xl/worksheets/[^/]+\.xml")
_STRINGS = "xl/sharedStrings.xml"
_REFERENCE = re.compile(r"([A-Z]{0,3})([0-9]{1,9})")


class _TooBig(Exception):
    pass


@dataclass
class _Budget:
    bytes: int

    def take(self, size: int) -> None:
        self.bytes -= size
        if self.bytes < 0:
            raise _TooBig


def check_unpacked_size(file: BinaryIO, max_bytes: int) -> SizeVerdict:
    """`max_bytes` for all parts unpacked together, and again for the texts of each sheet."""
    try:
        with zipfile.ZipFile(file) as archive:
            return _check_archive(archive, max_bytes)
    except _TooBig:
        return "too_big"
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        expat.ExpatError,
        NotImplementedError,
        OSError,
        ValueError,
    ):
        return "damaged"
    except RuntimeError:  # zipfile's way to ask for a password
        return "encrypted"


def _check_archive(archive: zipfile.ZipFile, max_bytes: int) -> SizeVerdict:
    names = archive.namelist()
    if "mimetype" in names and "content.xml" in names:
        return "open_document"
    if "xl/workbook.xml" not in names:
        return "no_workbook"
    budget = _Budget(max_bytes)
    lengths = _Lengths()
    if _STRINGS in names:
        _parse(archive, _STRINGS, budget, lengths.parser())
    for name in names:
        if _SHEET.fullmatch(name):
            _parse(archive, name, budget, _Sheet(lengths.found, max_bytes).parser())
        elif name != _STRINGS:
            _unpack(archive, name, budget)
    return "fits"


def _parse(archive: zipfile.ZipFile, name: str, budget: _Budget, parser: expat.XMLParserType) -> None:
    fed = 0
    with archive.open(name) as part:
        while piece := part.read(_PIECE):
            budget.take(len(piece))
            parser.Parse(piece, False)
            fed += len(piece)
            if fed - parser.CurrentByteIndex > _MAX_TAG:
                raise _TooBig
    parser.Parse(b"", True)


def _unpack(archive: zipfile.ZipFile, name: str, budget: _Budget) -> None:
    with archive.open(name) as part:
        while piece := part.read(_PIECE):
            budget.take(len(piece))


def _parser() -> expat.XMLParserType:
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _no_doctype
    return parser


def _no_doctype(*_: object) -> None:
    raise ValueError("a workbook's parts declare no entities")


def _local(tag: str) -> str:
    return tag.rpartition(" ")[2]


@dataclass
class _Lengths:
    """Of each shared text, in characters."""

    found: list[int] = field(default_factory=list)

    def parser(self) -> expat.XMLParserType:
        parser = _parser()
        parser.StartElementHandler = self._start
        parser.CharacterDataHandler = self._text
        return parser

    def _start(self, tag: str, _: dict[str, str]) -> None:
        if _local(tag) == "si":
            self.found.append(0)

    def _text(self, text: str) -> None:
        if self.found:
            self.found[-1] += len(text)


@dataclass
class _Sheet:
    lengths: list[int]
    characters: int
    top: int = 1 << 40
    left: int = 1 << 40
    bottom: int = 0
    right: int = 0
    row: int = 0
    column: int = 0
    shared: bool = False

    def parser(self) -> expat.XMLParserType:
        parser = _parser()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        return parser

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        kind = _local(tag)
        if kind == "row":
            self.row = int(attributes.get("r", self.row + 1))
            self.column = 0
        elif kind == "c":
            self.shared = attributes.get("t") == "s"
            self._place(attributes.get("r"))

    def _end(self, tag: str) -> None:
        if _local(tag) == "c":
            self.shared = False

    def _place(self, reference: str | None) -> None:
        """A cell without a reference is the next one."""
        self.column += 1
        match = _REFERENCE.fullmatch(reference or "")
        if match:
            self.row, self.column = int(match[2]), _number(match[1])
        self.top, self.bottom = min(self.top, self.row), max(self.bottom, self.row)
        self.left, self.right = min(self.left, self.column), max(self.right, self.column)
        if (self.bottom - self.top + 1) * (self.right - self.left + 1) > MAX_CELLS:
            raise _TooBig

    def _text(self, text: str) -> None:
        if self.shared and text.strip().isdecimal() and int(text) < len(self.lengths):
            self.characters -= self.lengths[int(text)]
            if self.characters < 0:
                raise _TooBig


def _number(letters: str) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - 64
    return number


if TYPE_CHECKING:
    from python_calamine import CalamineSheet, CalamineWorkbook

Cell = int | float | str | bool | datetime.time | datetime.date | datetime.datetime | datetime.timedelta

BOMB = Rule("too_big_unpacked", "blocks", "Send only the rows and the two columns that are needed, as CSV.")
ENCRYPTED = Rule("encrypted", "blocks", "Save it without a password and send it again.")
NO_ROWS = Rule("no_rows", "blocks", "Put the rows into the first sheet: a text and a label in each.")


def xlsx_refusal(file: BinaryIO, limits: Limits) -> Refusal | None:
    """Why the workbook can't be read, before it is."""
    verdict = check_unpacked_size(file, limits.max_bytes)
    if verdict == "too_big":
        size = f"{megabytes(limits.max_bytes)} or {MAX_CELLS:,} cells"
        return Refusal(BOMB, f"is a workbook that unpacks to more than {size}")
    if verdict == "encrypted":
        return Refusal(ENCRYPTED, "is locked with a password")
    if verdict == "open_document":
        return Refusal(NOT_TEXT, "is an OpenDocument file (.ods); only Excel's .xlsx and CSV can be read")
    if verdict != "fits":
        damaged = "a damaged zip archive" if verdict == "damaged" else "a zip archive"
        return Refusal(NOT_TEXT, f"is {damaged}, not an Excel workbook (.xlsx) that can be opened")
    return _open_xlsx(file)


def _open_xlsx(file: BinaryIO) -> Refusal | None:
    from python_calamine import CalamineError, PasswordError, ZipError

    try:
        sheet = _first_with_rows(_workbook(file))
    except PasswordError:
        return Refusal(ENCRYPTED, "is locked with a password")
    except (CalamineError, ZipError, OSError, ValueError):
        return Refusal(NOT_TEXT, "is a damaged Excel workbook (.xlsx)")
    return None if sheet is not None else Refusal(NO_ROWS, "is a workbook without rows")


def records(file: BinaryIO, findings: Findings, limits: Limits) -> Iterator[Record]:
    """Of an accepted workbook. The line of a record is its row in the sheet, from 1."""
    sheet = _first_with_rows(_workbook(file))
    for line, row in enumerate(sheet.iter_rows() if sheet else (), 1):
        cells = [_text(cell) for cell in row]
        if sum(map(len, cells)) > limits.max_line_bytes:
            findings.at(line, Fault(LONG_LINE, f"is longer than {megabytes(limits.max_line_bytes)}"))
        elif any(cell and not cell.isspace() for cell in cells):
            yield Record(line, cells)


def _workbook(file: BinaryIO) -> CalamineWorkbook:
    from python_calamine import CalamineWorkbook

    file.seek(0)
    return CalamineWorkbook.from_filelike(file)


def _first_with_rows(workbook: CalamineWorkbook) -> CalamineSheet | None:
    from python_calamine import SheetTypeEnum

    for meta in workbook.sheets_metadata:
        if meta.typ == SheetTypeEnum.WorkSheet:
            sheet = workbook.get_sheet_by_name(meta.name)
            if sheet.height:
                return sheet
    return None


def _text(cell: Cell) -> str:
    """As Excel shows it in a cell without a format: 3, not 3.0."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return cell if isinstance(cell, str) else str(cell)


# Parquet → Examples: a column `messages` of conversations, else two columns as in CSV. pyarrow is
# imported at use.
#
# Read some rows at a time. A row's line is its number, from 1.


if TYPE_CHECKING:
    from pyarrow import Array, Int64Array, RecordBatch
    from pyarrow.parquet import ParquetFile

DAMAGED = Rule("damaged_part", "blocks", "Write the file again; rows from here on could not be read.")

_MESSAGES = "messages"
_ROWS_AT_ONCE = 256


def parquet_refusal(file: BinaryIO, limits: Limits) -> Refusal | None:
    """Why the file can't be read, by what it says of itself."""
    import pyarrow as pa

    if _magic(file) == b"PARE":
        return Refusal(ENCRYPTED, "is an encrypted Parquet file")
    try:
        opened = _open_parquet(file)
        unpacked = sum(opened.metadata.row_group(i).total_byte_size for i in range(opened.num_row_groups))
    except (pa.ArrowException, OSError, ValueError, MemoryError):
        return Refusal(NOT_TEXT, "is a damaged Parquet file")
    if unpacked > limits.max_bytes:
        return Refusal(BOMB, f"is a Parquet file that unpacks to more than {megabytes(limits.max_bytes)}")
    return None


def examples(
    file: BinaryIO, columns: Columns, findings: Findings, limits: Limits, used: tables.Used
) -> Iterator[Example]:
    """Of an accepted file."""
    opened = _with_dictionaries(_open_parquet(file), file)
    if _MESSAGES in opened.schema_arrow.names and columns.text is None:
        for line, row in _rows(opened, [_MESSAGES], findings, limits):
            example = _chat(line, row[_MESSAGES], limits)
            if isinstance(example, Fault):
                findings.at(line, example)
            else:
                yield example
        return
    yield from tables.examples(_records(opened, findings, limits), columns, findings, used, header=True)


def _magic(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(4)


def _open_parquet(file: BinaryIO) -> ParquetFile:
    from pyarrow.parquet import ParquetFile

    file.seek(0)
    return ParquetFile(file, memory_map=False, pre_buffer=False)


def _with_dictionaries(opened: ParquetFile, file: BinaryIO) -> ParquetFile:
    """The same file, read so that a text that many rows share is unpacked once and not for each of them."""
    from pyarrow.parquet import ParquetFile

    columns = [opened.schema.column(i) for i in range(len(opened.schema))]
    texts = [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY" and column.path == column.name
    ]
    file.seek(0)
    return ParquetFile(file, memory_map=False, pre_buffer=False, read_dictionary=texts)


def _rows(
    opened: ParquetFile, names: list[str], findings: Findings, limits: Limits
) -> Iterator[tuple[int, dict[str, Any]]]:
    """With their numbers, those that are not too long, as long as all together stay under the cap. What the footer
    says of sizes may be a lie, so a batch is measured before it becomes Python's."""
    import pyarrow as pa
    import pyarrow.compute as pc

    line, size = 0, 0
    batches = opened.iter_batches(batch_size=_ROWS_AT_ONCE, columns=names, use_threads=False)
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            lengths = _lengths(batch)
            size += pc.sum(lengths).as_py()
            if size > 2 * limits.max_bytes:
                findings.at(
                    line + 1, Fault(BOMB, f"is beyond {megabytes(2 * limits.max_bytes)} of unpacked rows")
                )
                return
            short = pc.less_equal(lengths, limits.max_line_bytes)
            rows = iter(_unpacked(batch if pc.all(short).as_py() else batch.filter(short)))
        except MemoryError:
            findings.at(line + 1, Fault(BOMB, "begins a part that takes more memory than there is"))
            return
        except (pa.ArrowException, OSError, ValueError):
            findings.at(line + 1, Fault(DAMAGED, "begins a part of the file that is damaged"))
            return
        for line, is_short in enumerate(short.to_pylist(), line + 1):  # noqa: B020 (numbers go on from batch to batch)
            row = next(rows) if is_short else None
            if row is None or _length(row) > limits.max_line_bytes:
                findings.at(line, Fault(LONG_LINE, f"is longer than {megabytes(limits.max_line_bytes)}"))
            else:
                yield line, row


def _unpacked(batch: RecordBatch) -> list[dict[str, Any]]:
    """Rows of plain texts: a batch of dictionaries becomes Python's far more slowly."""
    import pyarrow as pa

    plain = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
    rows: list[dict[str, Any]] = pa.RecordBatch.from_arrays(plain, names=batch.schema.names).to_pylist()
    return rows


def _lengths(batch: RecordBatch) -> Int64Array:
    """Bytes of each row's texts. Those of nested columns are shared out evenly."""
    import pyarrow as pa
    import pyarrow.compute as pc

    nested = sum(column.nbytes for column in batch.columns if pa.types.is_nested(column.type))
    total = pa.repeat(pa.scalar(nested // max(batch.num_rows, 1), pa.int64()), batch.num_rows)
    for column in batch.columns:
        lengths = _texts_lengths(column)
        total = total if lengths is None else pc.add(total, pc.fill_null(lengths, 0))
    return total


def _texts_lengths(column: Array) -> Array | None:
    """None where they are no texts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        lengths = _texts_lengths(column.dictionary)
        return None if lengths is None else lengths.take(column.indices)
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return pc.binary_length(column).cast(pa.int64()) if is_text else None


def _length(row: dict[str, Any]) -> int:
    return sum(len(value) if isinstance(value, str) else len(str(value)) for value in row.values())


def _chat(line: int, messages: Any, limits: Limits) -> Example | Fault:
    """Parquet gives every message every key; those without a value weren't there."""
    if isinstance(messages, str):
        try:
            messages = orjson.loads(messages)
        except orjson.JSONDecodeError:
            return Fault(jsonl.BAD_MESSAGES, "has messages that are neither a list nor JSON")
    if isinstance(messages, list):
        messages = [_filled(message) for message in messages]
    parsed = jsonl.chat_example(line, {"messages": messages}, limits)
    return parsed if isinstance(parsed, Fault) else parsed[1]


def _filled(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    return {key: value for key, value in message.items() if value is not None}


def _records(opened: ParquetFile, findings: Findings, limits: Limits) -> Iterator[Record]:
    """The header, as line 0, and the rows. Only columns of texts, numbers and truth values are looked at."""
    names = [field.name for field in opened.schema_arrow if not _nested(str(field.type))]
    yield Record(0, names)
    for line, row in _rows(opened, names, findings, limits):
        cells = [_parquet_cell(row[name]) for name in names]
        if any(cell and not cell.isspace() for cell in cells):
            yield Record(line, cells)


def _nested(kind: str) -> bool:
    return kind.startswith(
        ("list", "large_list", "struct", "map", "fixed_size_list", "binary", "large_binary")
    )


def _parquet_cell(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else str(value)
