"""Reads XLSX and Parquet files row by row, with limits against files that unpack to far more than their size suggests.

A small zip archive can contain a huge sheet, so a workbook is measured before it is loaded: its unpacked bytes, the
rectangle around its cells (which the reader allocates), and long texts that many cells share. A Parquet file has either
a column `messages` of conversations or two columns like a CSV. python-calamine and pyarrow are imported when needed.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, Literal
from xml.parsers import expat

import orjson

from trainers.dataset import jsonl, tables
from trainers.dataset.checks import Fault, Findings, Rule
from trainers.dataset.file_format import NOT_TEXT, Refusal, megabytes, too_long
from trainers.dataset.rows import Columns, Example, Limits, Sheet, to_printable
from trainers.dataset.tables import Record

if TYPE_CHECKING:
    from pyarrow import Array, Int64Array, RecordBatch
    from pyarrow.parquet import ParquetFile
    from python_calamine import CalamineSheet, CalamineWorkbook

SizeVerdict = Literal["fits", "too_big", "damaged", "no_workbook", "open_document", "encrypted"]

MAX_CELLS = 5_000_000
_PIECE = 1 << 18
_MAX_TAG = 1 << 22  # bytes of one tag or comment, since the parser restarts it with each piece
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
    """Measures a workbook. `max_bytes` limits all unpacked parts together, and also the texts of each sheet."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if "mimetype" in names and "content.xml" in names:
                return "open_document"
            if "xl/workbook.xml" not in names:
                return "no_workbook"
            budget = _Budget(max_bytes)
            texts = _SharedTexts()
            if _STRINGS in names:  # first, since the sheets refer to these texts
                _unpack(archive, _STRINGS, budget, texts.parser())
            for name in names:
                if name == _STRINGS:
                    continue
                parser: expat.XMLParserType | None = None
                if _SHEET.fullmatch(name):
                    parser = _Sheet(texts.lengths, max_bytes).parser()
                _unpack(archive, name, budget, parser)
            return "fits"
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
    except RuntimeError:  # raised by zipfile if a password is needed
        return "encrypted"


def _unpack(archive: zipfile.ZipFile, name: str, budget: _Budget, parser: expat.XMLParserType | None) -> None:
    """Unpacks a part piece by piece, and parses it if there is a parser."""
    size = 0
    with archive.open(name) as part:
        while piece := part.read(_PIECE):
            budget.take(len(piece))
            if parser:
                parser.Parse(piece, False)
                size += len(piece)
                if size - parser.CurrentByteIndex > _MAX_TAG:
                    raise _TooBig
    if parser:
        parser.Parse(b"", True)


def _parser() -> expat.XMLParserType:
    def refuse(*_: object) -> None:
        raise ValueError("a workbook's parts declare no entities")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    return parser


@dataclass
class _SharedTexts:
    """Collects the length of each shared text, in characters."""

    lengths: list[int] = field(default_factory=list)

    def parser(self) -> expat.XMLParserType:
        parser = _parser()
        parser.StartElementHandler = self._start
        parser.CharacterDataHandler = self._text
        return parser

    def _start(self, tag: str, _: dict[str, str]) -> None:
        if tag.rpartition(" ")[2] == "si":
            self.lengths.append(0)

    def _text(self, text: str) -> None:
        if self.lengths:
            self.lengths[-1] += len(text)


@dataclass
class _Sheet:
    """Measures the rectangle around a sheet's cells. `characters` is how many more characters its shared texts may
    have; `lengths` are the lengths of all shared texts."""

    lengths: list[int]
    characters: int
    top: int = 1 << 40
    left: int = 1 << 40
    bottom: int = 0
    right: int = 0
    row: int = 0
    column: int = 0
    is_shared: bool = False

    def parser(self) -> expat.XMLParserType:
        parser = _parser()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        return parser

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        kind = tag.rpartition(" ")[2]
        if kind == "row":
            self.row = int(attributes.get("r", self.row + 1))
            self.column = 0
        elif kind == "c":
            self.is_shared = attributes.get("t") == "s"
            self.column += 1  # a cell without a reference follows the previous one
            match = _REFERENCE.fullmatch(attributes.get("r") or "")
            if match:
                self.row = int(match[2])
                self.column = 0
                for letter in match[1]:
                    self.column = 26 * self.column + ord(letter) - 64
            self.top = min(self.top, self.row)
            self.bottom = max(self.bottom, self.row)
            self.left = min(self.left, self.column)
            self.right = max(self.right, self.column)
            height = self.bottom - self.top + 1
            width = self.right - self.left + 1
            if height * width > MAX_CELLS:
                raise _TooBig

    def _end(self, tag: str) -> None:
        if tag.rpartition(" ")[2] == "c":
            self.is_shared = False

    def _text(self, text: str) -> None:
        if self.is_shared and text.strip().isdecimal() and int(text) < len(self.lengths):
            self.characters -= self.lengths[int(text)]
            if self.characters < 0:
                raise _TooBig


BOMB = Rule("too_big_unpacked", "blocks", "Send only the rows and the two columns that you need, as CSV.")
ENCRYPTED = Rule("encrypted", "blocks", "Save it without a password and send it again.")
NO_ROWS = Rule("no_rows", "blocks", "Put the rows, each with a text and a label, into the first sheet.")
ONE_SHEET = Rule("one_sheet", "tells", "If the rows are in another one, choose that sheet.")
SHEETS_JOINED = Rule("sheets_joined", "tells", "Nothing to do; to use only one of them, choose that sheet.")
NO_WORKBOOK = Rule("no_workbook", "tells", "Nothing to do: only workbooks have sheets.")
MISSING_SHEET = Rule("sheet_missing", "blocks", "Name a sheet that the workbook has.")


def xlsx_refusal(file: BinaryIO, limits: Limits) -> Refusal | None:
    """Returns why the workbook can't be read, or None. Opens each sheet, so that a damaged one is found before any rows
    are read."""
    from python_calamine import CalamineError, PasswordError, ZipError

    verdict = check_unpacked_size(file, limits.max_bytes)
    if verdict == "too_big":
        size = f"{megabytes(limits.max_bytes)} or {MAX_CELLS:,} cells"
        return Refusal(BOMB, f"is a workbook that unpacks to more than {size}")
    if verdict == "encrypted":
        return Refusal(ENCRYPTED, "is protected by a password")
    if verdict == "open_document":
        return Refusal(NOT_TEXT, "is an OpenDocument file (.ods); only Excel's .xlsx and CSV can be read")
    if verdict != "fits":
        damaged = "a damaged zip archive" if verdict == "damaged" else "a zip archive"
        return Refusal(NOT_TEXT, f"is {damaged}, not an Excel workbook (.xlsx) that can be opened")
    try:
        outlines = _outlines(_workbook(file))
    except PasswordError:
        return Refusal(ENCRYPTED, "is protected by a password")
    except (CalamineError, ZipError, OSError, ValueError):
        return Refusal(NOT_TEXT, "is a damaged Excel workbook (.xlsx)")
    if not outlines:
        return Refusal(NO_ROWS, "is a workbook without rows")
    return None


@dataclass(frozen=True)
class _Outline:
    """A sheet without its rows, which may be many. `header` is its row number with the names in it, None if it has no
    header."""

    name: str
    is_visible: bool
    lines: int
    width: int
    header: tuple[int, tuple[str, ...]] | None

    @property
    def is_table(self) -> bool:
        return self.lines >= 2 and self.width >= 2

    @property
    def names(self) -> tuple[str, ...] | None:
        if self.header is None:
            return None
        _, names = self.header
        return names


@dataclass(frozen=True)
class SheetsToRead:
    """The sheets of a workbook to read, in order, and all its sheets with anything in them."""

    workbook: CalamineWorkbook
    read: Sequence[_Outline]
    filled: tuple[Sheet, ...]


def find_sheets(file: BinaryIO, name: str | None, findings: Findings) -> SheetsToRead | None:
    """Returns which sheets of an accepted workbook to read: the one of this name. Without a name, the first with two
    columns and two rows, or else the first with any rows, together with all visible ones that have the same columns.
    Returns None if there is no sheet of this name."""
    workbook = _workbook(file)
    outlines = _outlines(workbook)
    if name is None:
        read = _sheets_to_read(outlines)
    else:
        read = [outline for outline in outlines if outline.name == name]
        if not read:
            _report_missing_sheet(name, outlines, findings)
            return None
    _report_sheets(read, outlines, findings)
    shown = [outline for outline in outlines if outline.is_visible or outline in read]
    filled = tuple(Sheet(outline.name, outline.lines, outline in read) for outline in shown)
    return SheetsToRead(workbook, read, filled)


def records(sheets: SheetsToRead, findings: Findings, limits: Limits) -> Iterator[Record]:
    """Yields the records of these sheets. A record's line is its row number, from 1; the rows of further sheets are
    counted on, without their headers."""
    above = 0
    for outline in sheets.read:
        header = 0
        if above and outline.header:
            header, _ = outline.header
        sheet = sheets.workbook.get_sheet_by_name(outline.name)
        rows = _sheet_records(sheet, above, findings, limits)
        yield from (record for record in rows if record.line > above + header)
        above += outline.lines


def first_records(sheets: SheetsToRead, name: str, count: int, limits: Limits) -> list[Record]:
    """Returns the first filled rows of a sheet."""
    sheet = sheets.workbook.get_sheet_by_name(name)
    return list(islice(_sheet_records(sheet, 0, Findings(0), limits), count))


def _sheet_records(sheet: CalamineSheet, above: int, findings: Findings, limits: Limits) -> Iterator[Record]:
    """Yields a sheet's filled rows. `above` is the number of rows in the sheets before it."""
    for line, row in enumerate(sheet.iter_rows(), above + 1):
        cells = [tables.cell_text(cell, tables.EXCEL_BOOLEANS) for cell in row]
        if sum(map(len, cells)) > limits.max_line_bytes:
            findings.add_for_line(line, too_long(limits))
        elif any(cell and not cell.isspace() for cell in cells):
            yield Record(line, cells)


def _outlines(workbook: CalamineWorkbook) -> list[_Outline]:
    """Describes the sheets that have anything in them, visible ones first. One sheet is in memory at a time."""
    from python_calamine import SheetTypeEnum, SheetVisibleEnum

    outlines = []
    for meta in workbook.sheets_metadata:
        if meta.typ != SheetTypeEnum.WorkSheet:
            continue
        sheet = workbook.get_sheet_by_name(meta.name)
        if sheet.height:
            is_visible = meta.visible == SheetVisibleEnum.Visible
            outlines.append(_Outline(meta.name, is_visible, sheet.height, sheet.width, _header_of(sheet)))
    return sorted(outlines, key=lambda outline: not outline.is_visible)


def _sheets_to_read(outlines: Sequence[_Outline]) -> list[_Outline]:
    """Returns the first table, or else the first sheet, and the visible sheets with the same columns."""
    first = next((outline for outline in outlines if outline.is_table), outlines[0])
    if first.header is None:
        return [first]
    others = [outline for outline in outlines if outline.is_visible and outline is not first]
    alike = [outline for outline in others if outline.names == first.names]
    return [first, *alike]


def _header_of(sheet: CalamineSheet) -> tuple[int, tuple[str, ...]] | None:
    """Returns the row number of a sheet's header and the names in it, None if it has no header."""
    records = _sheet_records(sheet, 0, Findings(0), Limits())
    sample = list(islice(records, _HEADER_SAMPLE))
    if not sample:
        return None
    header = tables.find_header(sample)
    if header is None:
        return None
    names = tables.column_names(header.cells)
    width = max(place for place, cell in enumerate(header.cells, 1) if cell.strip())
    return header.line, names[:width]


def _report_missing_sheet(name: str, outlines: Sequence[_Outline], findings: Findings) -> None:
    visible = [outline.name for outline in outlines if outline.is_visible]
    # Hidden sheets are named only if there are no others.
    available = _listed(visible or [outline.name for outline in outlines])
    text = f"There is no sheet {_quoted(name)} with rows; available: {available}."
    findings.add_for_file(MISSING_SHEET, text)


def _report_sheets(read: Sequence[_Outline], outlines: Sequence[_Outline], findings: Findings) -> None:
    """Reports which sheets were read, and which were not."""
    names = [outline.name for outline in read]
    if len(names) > 1:
        text = (
            f"The sheets {_listed(names)} have the same columns and were read together; their lines are counted "
            "on."
        )
        findings.add_for_file(SHEETS_JOINED, text, len(names))
    others = [outline.name for outline in outlines if outline not in read]
    if others:
        listed = ", ".join(map(_quoted, others[:3]))
        if len(others) > 3:
            listed += f" and {len(others) - 3:,} more"
        text = f"Not read: {listed}."
        if len(names) == 1:
            text = f"Only the sheet {_quoted(names[0])} was read. {text}"
        findings.add_for_file(ONE_SHEET, text, len(others))


def _listed(names: Sequence[str]) -> str:
    *before, last = map(_quoted, names)
    if not before:
        return last
    return f"{', '.join(before)} and {last}"


def _quoted(name: str) -> str:
    return f"'{to_printable(name, 40)}'"


_HEADER_SAMPLE = 100  # rows of a sheet that show where its header is


def _workbook(file: BinaryIO) -> CalamineWorkbook:
    from python_calamine import CalamineWorkbook

    file.seek(0)
    return CalamineWorkbook.from_filelike(file)


DAMAGED = Rule("damaged_part", "blocks", "Write the file again; rows from this line on could not be read.")

_MESSAGES = "messages"
_ROWS_AT_ONCE = 256


def parquet_refusal(file: BinaryIO, limits: Limits) -> Refusal | None:
    """Returns why the file can't be read, judging by its footer, or None."""
    import pyarrow as pa

    file.seek(0)
    if file.read(4) == b"PARE":
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
    file: BinaryIO, columns: Columns, findings: Findings, limits: Limits, used: tables.LayoutProgress
) -> Iterator[Example]:
    """Yields the good rows of an accepted Parquet file. A row's line is its row number, from 1."""
    schema = _open_parquet(file).schema
    # Reading these as dictionaries unpacks a text that many rows share only once.
    texts = []
    for place in range(len(schema)):
        column = schema.column(place)
        is_nested = column.path != column.name
        if column.physical_type == "BYTE_ARRAY" and not is_nested:
            texts.append(column.path)
    opened = _open_parquet(file, texts)
    names = opened.schema_arrow.names
    if _MESSAGES not in names or columns.text is not None:
        rows = _parquet_records(opened, findings, limits)
        yield from tables.examples(rows, columns, findings, used, header=True)
        return
    wanted = [name for name in jsonl.ROW_KEYS if name in names]
    for line, row in _rows(opened, wanted, findings, limits):
        example = _chat(line, row, limits)
        if isinstance(example, Fault):
            findings.add_for_line(line, example)
        else:
            yield example


def parquet_records(file: BinaryIO, findings: Findings, limits: Limits) -> Iterator[Record]:
    """Yields the header, as line 0, and the rows of an accepted Parquet file. Only columns of texts, numbers and
    booleans are read."""
    return _parquet_records(_open_parquet(file), findings, limits)


def _open_parquet(file: BinaryIO, dictionaries: list[str] | None = None) -> ParquetFile:
    from pyarrow.parquet import ParquetFile

    file.seek(0)
    return ParquetFile(file, memory_map=False, pre_buffer=False, read_dictionary=dictionaries)


def _rows(
    opened: ParquetFile, names: list[str], findings: Findings, limits: Limits
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields rows with their numbers, and reports those that are too long. Stops at the size limit for all rows. The
    footer's sizes may be forged, so each batch is measured before it is converted to Python objects."""
    import pyarrow as pa
    import pyarrow.compute as pc

    line = 0
    size = 0
    batches = opened.iter_batches(batch_size=_ROWS_AT_ONCE, columns=names, use_threads=False)
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            lengths = _lengths(batch)
            size += pc.sum(lengths).as_py()
            if size > 2 * limits.max_bytes:
                text = f"is beyond the limit of {megabytes(2 * limits.max_bytes)} of unpacked rows"
                findings.add_for_line(line + 1, Fault(BOMB, text))
                return
            short = pc.less_equal(lengths, limits.max_line_bytes)
            if not pc.all(short).as_py():
                batch = batch.filter(short)
            rows = iter(_unpacked(batch))
        except MemoryError:
            fault = Fault(BOMB, "begins a part that needs more memory than is available")
            findings.add_for_line(line + 1, fault)
            return
        except (pa.ArrowException, OSError, ValueError, OverflowError):
            # Such as a date that Python can't represent.
            findings.add_for_line(line + 1, Fault(DAMAGED, "begins a part of the file that is damaged"))
            return
        for line, is_short in enumerate(short.to_pylist(), line + 1):  # noqa: B020 (numbers go on from batch to batch)
            row = next(rows) if is_short else None
            if row is None or sum(len(str(value)) for value in row.values()) > limits.max_line_bytes:
                findings.add_for_line(line, too_long(limits))
            else:
                yield line, row


def _unpacked(batch: RecordBatch) -> list[dict[str, Any]]:
    """Returns the rows as Python objects. Dictionaries are decoded first, because converting them is far slower."""
    import pyarrow as pa

    plain = []
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        plain.append(column)
    rows: list[dict[str, Any]] = pa.RecordBatch.from_arrays(plain, names=batch.schema.names).to_pylist()
    return rows


def _lengths(batch: RecordBatch) -> Int64Array:
    """Returns the bytes of each row's texts. The bytes of nested columns are divided evenly among rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    nested = sum(column.nbytes for column in batch.columns if pa.types.is_nested(column.type))
    total = pa.repeat(pa.scalar(nested // max(batch.num_rows, 1), pa.int64()), batch.num_rows)
    for column in batch.columns:
        lengths = _texts_lengths(column)
        if lengths is not None:
            total = pc.add(total, pc.fill_null(lengths, 0))
    return total


def _texts_lengths(column: Array) -> Array | None:
    """Returns the bytes of each text, or None if the column has no texts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        lengths = _texts_lengths(column.dictionary)
        if lengths is None:
            return None
        return lengths.take(column.indices)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pc.binary_length(column).cast(pa.int64())
    return None


def _chat(line: int, row: dict[str, Any], limits: Limits) -> Example | Fault:
    chat: dict[str, Any] = {_MESSAGES: row[_MESSAGES]}
    chat |= {name: value for name, value in row.items() if value not in (None, "", [])}
    for name, value in chat.items():
        if isinstance(value, str):
            try:
                chat[name] = orjson.loads(value)
            except orjson.JSONDecodeError:
                rule = jsonl.BAD_MESSAGES if name == _MESSAGES else jsonl.BAD_TOOLS
                return Fault(rule, f"has {name} that are neither a list nor JSON")
        else:
            chat[name] = _without_nulls(value)
    parsed = jsonl.chat_example(line, chat, limits)
    if isinstance(parsed, Fault):
        return parsed
    _, example = parsed
    return example


def _without_nulls(value: Any) -> Any:
    """Removes null values from objects, because Parquet gives every object all keys."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value


def _parquet_records(opened: ParquetFile, findings: Findings, limits: Limits) -> Iterator[Record]:
    """Yields the header, as line 0, and the rows. Only columns of texts, numbers and booleans are read."""
    nested = ("list", "large_list", "struct", "map", "fixed_size_list", "binary", "large_binary")
    names = [field.name for field in opened.schema_arrow if not str(field.type).startswith(nested)]
    yield Record(0, names)
    if not names:  # pyarrow would return no rows without any columns
        return
    for line, row in _rows(opened, names, findings, limits):
        cells = [tables.cell_text(row[name], tables.PANDAS_BOOLEANS) for name in names]
        if any(cell and not cell.isspace() for cell in cells):
            yield Record(line, cells)
