"""Excel workbooks (.xlsx) → records of text: the first sheet that has rows. python-calamine is imported at use."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from trainers.dataset.findings import Fault, Findings, Rule
from trainers.dataset.formats.sniffing import NOT_TEXT, Refusal
from trainers.dataset.formats.table import Record
from trainers.dataset.formats.unpacking import MAX_CELLS, weigh
from trainers.dataset.scan.lines import LONG_LINE, megabytes
from trainers.dataset.values import Limits

if TYPE_CHECKING:
    from python_calamine import CalamineSheet, CalamineWorkbook

Cell = int | float | str | bool | datetime.time | datetime.date | datetime.datetime | datetime.timedelta

BOMB = Rule("too_big_unpacked", "blocks", "Send only the rows and the two columns that are needed, as CSV.")
ENCRYPTED = Rule("encrypted", "blocks", "Save it without a password and send it again.")
NO_ROWS = Rule("no_rows", "blocks", "Put the rows into the first sheet: a text and a label in each.")


def refusal(file: BinaryIO, limits: Limits) -> Refusal | None:
    """Why the workbook can't be read, before it is."""
    verdict = weigh(file, limits.max_bytes)
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


def records(file: BinaryIO, found: Findings, limits: Limits) -> Iterator[Record]:
    """Of an accepted workbook. The line of a record is its row in the sheet, from 1."""
    sheet = _first_with_rows(_workbook(file))
    for line, row in enumerate(sheet.iter_rows() if sheet else (), 1):
        cells = [_text(cell) for cell in row]
        if sum(map(len, cells)) > limits.max_line_bytes:
            found.at(line, Fault(LONG_LINE, f"is longer than {megabytes(limits.max_line_bytes)}"))
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
