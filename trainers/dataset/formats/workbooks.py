"""Reads XLSX files row by row, with limits against files that unpack to far more than their size suggests.

A small zip archive can contain a huge sheet, so a workbook is measured before it is loaded: its unpacked bytes, the
rectangle around its cells (which the reader allocates), and long texts that many cells share. python-calamine is
imported when needed.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, Literal
from xml.parsers import expat

from trainers.dataset import tables
from trainers.dataset.checks import Findings, Rule
from trainers.dataset.file_format import BOMB, ENCRYPTED, NOT_TEXT, Refusal, megabytes, too_long
from trainers.dataset.formats.values import HEADER_SAMPLE, FileFormat, FirstRecords, RowFile
from trainers.dataset.rows import Example, Limits, Sheet, to_printable
from trainers.dataset.table_columns import column_names
from trainers.dataset.tables import Record

if TYPE_CHECKING:
    from python_calamine import CalamineSheet, CalamineWorkbook

NO_ROWS = Rule("no_rows", "blocks", "Put the rows, each with a text and a label, into the first sheet.")
ONE_SHEET = Rule("one_sheet", "tells", "If the rows are in another one, choose that sheet.")
SHEETS_JOINED = Rule("sheets_joined", "tells", "Nothing to do; to use only one of them, choose that sheet.")
MISSING_SHEET = Rule("sheet_missing", "blocks", "Name a sheet that the workbook has.")

SizeVerdict = Literal["fits", "too_big", "damaged", "no_workbook", "open_document", "encrypted"]

MAX_CELLS = 5_000_000
MOST_SHEETS = 10  # whose first rows are shown
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
    # Nested entities could unpack a small part to gigabytes.
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
        if not self.is_shared or not text.strip().isdecimal():
            return
        # A cell has the number of its text: a long one may be in every cell of a sheet, which the file's size hides.
        number = int(text)
        if number < len(self.lengths):
            self.characters -= self.lengths[number]
            if self.characters < 0:
                raise _TooBig


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
        damaged = "a zip archive"
        if verdict == "damaged":
            damaged = "a damaged zip archive"
        return Refusal(NOT_TEXT, f"is {damaged}, not an Excel workbook (.xlsx) that can be opened")
    try:
        workbook = _workbook(file)
        outlines = _outlines(workbook)
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
    rows = _sheet_records(sheet, 0, Findings(0), limits)
    return list(islice(rows, count))


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
            header = _header_of(sheet)
            outlines.append(_Outline(meta.name, is_visible, sheet.height, sheet.width, header))
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
    sample = list(islice(records, HEADER_SAMPLE))
    if not sample:
        return None
    header = tables.find_header(sample)
    if header is None:
        return None
    names = column_names(header.cells)
    filled = [number for number, cell in enumerate(header.cells, 1) if cell.strip()]
    width = max(filled)
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


def _workbook(file: BinaryIO) -> CalamineWorkbook:
    from python_calamine import CalamineWorkbook

    file.seek(0)
    return CalamineWorkbook.from_filelike(file)


def _xlsx_examples(rows: RowFile) -> Iterator[Example]:
    sheets = find_sheets(rows.file, rows.columns.sheet, rows.findings)
    if sheets is None:
        return
    rows.progress.sheets = sheets.filled
    read = records(sheets, rows.findings, rows.limits)
    yield from tables.examples(read, rows.columns, rows.findings, rows.progress)


def _xlsx_records(rows: RowFile) -> Iterator[Record]:
    """Yields the records of the sheet that is named, or else of those that are read without asking."""
    sheets = find_sheets(rows.file, rows.columns.sheet, rows.findings)
    if sheets is None:
        return iter(())
    return records(sheets, rows.findings, rows.limits)


def _first_of_xlsx(rows: RowFile) -> Iterator[FirstRecords]:
    sheets = find_sheets(rows.file, None, Findings(0))
    if sheets is None:
        return
    for sheet in sheets.filled[:MOST_SHEETS]:
        sample = first_records(sheets, sheet.name, HEADER_SAMPLE, rows.limits)
        yield FirstRecords(sheet.name, tables.from_names_on(sample))


XLSX = FileFormat(
    name="xlsx",
    title="a workbook",
    extensions=("xlsx",),
    signatures=(b"PK\x03\x04",),  # any other zip archive is refused
    refusal=xlsx_refusal,
    examples=_xlsx_examples,
    records=_xlsx_records,
    first=_first_of_xlsx,
    asks="column",
    cleaned_as="csv",
    has_sheets=True,
)
