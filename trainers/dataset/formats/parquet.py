"""Reads Parquet files row by row, with limits against files that unpack to far more than their size suggests.

A file has either a column `messages` of conversations or two columns like a CSV. pyarrow is imported when needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from trainers.dataset import jsonl, tables
from trainers.dataset.checks import Fault, Findings, Rule
from trainers.dataset.file_format import BOMB, ENCRYPTED, NOT_TEXT, Refusal, megabytes, too_long
from trainers.dataset.formats.values import HEADER_SAMPLE, FileFormat, FirstRecords, RowFile
from trainers.dataset.rows import Example, Limits
from trainers.dataset.tables import Record

if TYPE_CHECKING:
    from pyarrow import Array, Int64Array, RecordBatch
    from pyarrow.parquet import ParquetFile

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
        groups = [opened.metadata.row_group(number) for number in range(opened.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
    except (pa.ArrowException, OSError, ValueError, MemoryError):
        return Refusal(NOT_TEXT, "is a damaged Parquet file")
    if unpacked > limits.max_bytes:
        return Refusal(BOMB, f"is a Parquet file that unpacks to more than {megabytes(limits.max_bytes)}")
    return None


def _examples(rows: RowFile) -> Iterator[Example]:
    """Yields the good rows of an accepted Parquet file. A row's line is its row number, from 1."""
    schema = _open_parquet(rows.file).schema
    # Reading these as dictionaries unpacks a text that many rows share only once.
    texts = []
    for number in range(len(schema)):
        column = schema.column(number)
        is_nested = column.path != column.name
        if column.physical_type == "BYTE_ARRAY" and not is_nested:
            texts.append(column.path)
    opened = _open_parquet(rows.file, texts)
    names = opened.schema_arrow.names
    if _MESSAGES not in names or rows.columns.text is not None:
        records = _records_in(opened, rows.findings, rows.limits)
        yield from tables.examples(records, rows.columns, rows.findings, rows.progress, header=True)
        return
    wanted = [name for name in jsonl.ROW_KEYS if name in names]
    for line, row in _rows(opened, wanted, rows.findings, rows.limits):
        example = _chat(line, row, rows.limits)
        if isinstance(example, Fault):
            rows.findings.add_for_line(line, example)
        else:
            yield example


def _records(rows: RowFile) -> Iterator[Record]:
    opened = _open_parquet(rows.file)
    return _records_in(opened, rows.findings, rows.limits)


def _first_records(rows: RowFile) -> Iterator[FirstRecords]:
    first = islice(_records(rows), HEADER_SAMPLE)
    yield FirstRecords("", list(first))


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
            row = None
            if is_short:
                row = next(rows)
            # Numbers and nested values have no length in the batch, so a row is measured again as text.
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
    batch = pa.RecordBatch.from_arrays(plain, names=batch.schema.names)
    rows: list[dict[str, Any]] = batch.to_pylist()
    return rows


def _lengths(batch: RecordBatch) -> Int64Array:
    """Returns the bytes of each row's texts. The bytes of nested columns are divided evenly among rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    nested = sum(column.nbytes for column in batch.columns if pa.types.is_nested(column.type))
    share = nested // max(batch.num_rows, 1)
    total = pa.repeat(pa.scalar(share, pa.int64()), batch.num_rows)
    for column in batch.columns:
        lengths = _texts_lengths(column)
        if lengths is not None:
            texts = pc.fill_null(lengths, 0)
            total = pc.add(total, texts)
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
                rule = jsonl.BAD_TOOLS
                if name == _MESSAGES:
                    rule = jsonl.BAD_MESSAGES
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


def _records_in(opened: ParquetFile, findings: Findings, limits: Limits) -> Iterator[Record]:
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


PARQUET = FileFormat(
    name="parquet",
    title="a Parquet file",
    extensions=("parquet",),
    signatures=(b"PAR1", b"PARE"),
    refusal=parquet_refusal,
    examples=_examples,
    records=_records,
    first=_first_records,
    cleaned_as="jsonl",
)
