"""Parquet → Examples: a column `messages` of conversations, else two columns as in CSV. pyarrow is imported at use.

Read some rows at a time. A row's line is its number, from 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from trainers.dataset.findings import Fault, Findings, Rule
from trainers.dataset.formats import jsonl, table
from trainers.dataset.formats.sheets import BOMB, ENCRYPTED
from trainers.dataset.formats.sniffing import NOT_TEXT, Refusal
from trainers.dataset.formats.table import Record
from trainers.dataset.scan.lines import LONG_LINE, megabytes
from trainers.dataset.values import Columns, Example, Limits

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

DAMAGED = Rule("damaged_part", "blocks", "Write the file again; rows from here on could not be read.")

_MESSAGES = "messages"
_ROWS_AT_ONCE = 128


def refusal(file: BinaryIO, limits: Limits) -> Refusal | None:
    """Why the file can't be read, by what it says of itself."""
    import pyarrow as pa

    if _magic(file) == b"PARE":
        return Refusal(ENCRYPTED, "is an encrypted Parquet file")
    try:
        opened = _opened(file)
        unpacked = sum(opened.metadata.row_group(i).total_byte_size for i in range(opened.num_row_groups))
    except (pa.ArrowException, OSError, ValueError, MemoryError):
        return Refusal(NOT_TEXT, "is a damaged Parquet file")
    if unpacked > limits.max_bytes:
        return Refusal(BOMB, f"is a Parquet file that unpacks to more than {megabytes(limits.max_bytes)}")
    return None


def examples(
    file: BinaryIO, columns: Columns, found: Findings, limits: Limits, used: table.Used
) -> Iterator[Example]:
    """Of an accepted file."""
    opened = _opened(file)
    if _MESSAGES in opened.schema_arrow.names and columns.text is None:
        for line, row in _rows(opened, [_MESSAGES], found, limits):
            example = _chat(line, row[_MESSAGES], limits)
            if isinstance(example, Fault):
                found.at(line, example)
            else:
                yield example
        return
    yield from table.examples(_records(opened, found, limits), columns, found, used, header=True)


def _magic(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(4)


def _opened(file: BinaryIO) -> ParquetFile:
    from pyarrow.parquet import ParquetFile

    file.seek(0)
    return ParquetFile(file, memory_map=False, pre_buffer=False)


def _rows(
    opened: ParquetFile, names: list[str], found: Findings, limits: Limits
) -> Iterator[tuple[int, dict[str, Any]]]:
    """With their numbers, those that are not too long, as long as all together stay under the cap."""
    import pyarrow as pa

    line, size = 0, 0
    batches = opened.iter_batches(batch_size=_ROWS_AT_ONCE, columns=names, use_threads=False)
    while True:
        try:
            batch = next(batches, None)
            rows = batch.to_pylist() if batch is not None else []
        except (pa.ArrowException, OSError, ValueError, MemoryError):
            found.at(line + 1, Fault(DAMAGED, "begins a part of the file that is damaged"))
            return
        if batch is None:
            return
        size += batch.get_total_buffer_size()
        if size > 2 * limits.max_bytes:
            found.at(line + 1, Fault(BOMB, f"is beyond {megabytes(2 * limits.max_bytes)} of unpacked rows"))
            return
        for line, row in enumerate(rows, line + 1):  # noqa: B020 (the numbers go on from batch to batch)
            if _length(row) > limits.max_line_bytes:
                found.at(line, Fault(LONG_LINE, f"is longer than {megabytes(limits.max_line_bytes)}"))
            else:
                yield line, row


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


def _records(opened: ParquetFile, found: Findings, limits: Limits) -> Iterator[Record]:
    """The header, as line 0, and the rows. Only columns of texts, numbers and truth values are looked at."""
    names = [field.name for field in opened.schema_arrow if not _nested(str(field.type))]
    yield Record(0, names)
    for line, row in _rows(opened, names, found, limits):
        cells = [_text(row[name]) for name in names]
        if any(cell and not cell.isspace() for cell in cells):
            yield Record(line, cells)


def _nested(kind: str) -> bool:
    return kind.startswith(
        ("list", "large_list", "struct", "map", "fixed_size_list", "binary", "large_binary")
    )


def _text(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else str(value)
