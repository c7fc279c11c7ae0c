"""What a format of files with rows says of itself, and an accepted file whose rows are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal

from trainers.dataset.checks import Findings
from trainers.dataset.file_format import Refusal, Sniffed
from trainers.dataset.rows import Columns, Example, Format, Limits
from trainers.dataset.tables import Progress, Record

HEADER_SAMPLE = 100  # records that show where the names of the columns are


@dataclass(frozen=True)
class RowFile:
    """An accepted file, which may be read up to anywhere, and who is told of faults in it (`findings`) and of what was
    found (`progress`)."""

    file: BinaryIO
    sniffed: Sniffed
    columns: Columns
    findings: Findings
    limits: Limits
    progress: Progress


@dataclass(frozen=True)
class FirstRecords:
    """The first records of a table from the one with the names on. `sheet` is '' where there are no sheets."""

    sheet: str
    records: Sequence[Record]


def _nothing_to_refuse(file: BinaryIO, limits: Limits) -> Refusal | None:
    """Lines of text are refused one by one, where they are read."""
    return None


@dataclass(frozen=True)
class FileFormat:
    """One format of files.

    - `name` is what a report says; None if the rows say it. `title` completes the sentence "'tickets.csv' is …".
      `extensions` are the usual ends of such files' names.
    - `signatures` are the bytes that a file begins with; a text has none, and file_format.py recognises it.
    - `examples` yields the good rows, `refusal` says why a file can't be read, None if it can.
    - `records` yields the records of a table, `first` the first of them, for people who choose columns; both are None
      if the rows are no table.
    - `asks` says where questions without answers are read from: the keys of objects, or a column; None: nowhere.
    - A cleaned copy is written as `cleaned_as`; if `keeps_bytes`, its lines are those of the file.
    """

    name: Format | None
    title: str
    extensions: tuple[str, ...]
    examples: Callable[[RowFile], Iterator[Example]]
    cleaned_as: Literal["jsonl", "csv"]
    signatures: tuple[bytes, ...] = ()
    refusal: Callable[[BinaryIO, Limits], Refusal | None] = _nothing_to_refuse
    records: Callable[[RowFile], Iterator[Record]] | None = None
    first: Callable[[RowFile], Iterator[FirstRecords]] | None = None
    asks: Literal["keys", "column"] | None = None
    keeps_bytes: bool = False
    has_sheets: bool = False

    @property
    def is_table(self) -> bool:
        return self.records is not None
