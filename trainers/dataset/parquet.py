"""Parquet → Examples: a column `messages` of conversations, else two columns as in CSV. pyarrow is imported at use.

Read some rows at a time. A row's line is its number, from 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from trainers.dataset import jsonl, tables
from trainers.dataset.file_format import LONG_LINE, NOT_TEXT, Refusal, megabytes
from trainers.dataset.findings import Fault, Findings, Rule
from trainers.dataset.rows import Columns, Example, Limits
from trainers.dataset.spreadsheets import BOMB, ENCRYPTED
from trainers.dataset.tables import Record

if TYPE_CHECKING:
    from pyarrow import Array, Int64Array, RecordBatch
    from pyarrow.parquet import ParquetFile

DAMAGED = Rule("damaged_part", "blocks", "Write the file again; rows from here on could not be read.")

_MESSAGES = "messages"
_ROWS_AT_ONCE = 256


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
    file: BinaryIO, columns: Columns, findings: Findings, limits: Limits, used: tables.Used
) -> Iterator[Example]:
    """Of an accepted file."""
    opened = _with_dictionaries(_opened(file), file)
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


def _opened(file: BinaryIO) -> ParquetFile:
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
        cells = [_text(row[name]) for name in names]
        if any(cell and not cell.isspace() for cell in cells):
            yield Record(line, cells)


def _nested(kind: str) -> bool:
    return kind.startswith(
        ("list", "large_list", "struct", "map", "fixed_size_list", "binary", "large_binary")
    )


def _text(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else str(value)
