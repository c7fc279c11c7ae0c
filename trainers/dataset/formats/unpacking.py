"""How big is an .xlsx once unpacked? Asked before anything holds it: a small zip can hold a huge sheet.

A sheet is big by its bytes, by the rectangle around its cells, which its reader fills, or by a long text that
many cells share. Each is counted here without keeping any of it.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import BinaryIO, Literal
from xml.parsers import expat

Verdict = Literal["fits", "too_big", "damaged", "no_workbook", "open_document", "encrypted"]

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


def weigh(file: BinaryIO, max_bytes: int) -> Verdict:
    """`max_bytes` for all parts unpacked together, and again for the texts of each sheet."""
    try:
        with zipfile.ZipFile(file) as archive:
            return _weigh(archive, max_bytes)
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


def _weigh(archive: zipfile.ZipFile, max_bytes: int) -> Verdict:
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
