"""Excel workbooks (.xlsx) → records of text from the first sheet with rows, after measuring how large the
file would be unpacked. python-calamine is imported at use.

A small zip can hold a huge sheet, so its size is counted before anything holds it: its bytes, the rectangle around
its cells, which its reader fills, and long texts that many cells share. python-calamine is imported at use.
"""

from __future__ import annotations

import datetime
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Literal
from xml.parsers import expat

from trainers.dataset.file_format import LONG_LINE, NOT_TEXT, Refusal, megabytes
from trainers.dataset.findings import Fault, Findings, Rule
from trainers.dataset.rows import Limits
from trainers.dataset.tables import Record

SizeVerdict = Literal["fits", "too_big", "damaged", "no_workbook", "open_document", "encrypted"]

MAX_CELLS = 5_000_000
_PIECE = 1 << 18
_MAX_TAG = 1 << 22  # bytes of one tag, comment or the like; the parser begins it anew with each piece
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


def refusal(file: BinaryIO, limits: Limits) -> Refusal | None:
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
    return _opened(file)


def _opened(file: BinaryIO) -> Refusal | None:
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
