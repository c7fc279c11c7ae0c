"""Recognises which kind of rows a text has by its first bytes, refuses files of other kinds, and splits files of lines
into numbered blocks. Parses no rows. The formats are in formats/."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import BinaryIO, Literal

import orjson

from trainers.dataset.checks import Fault, Findings, Rule
from trainers.dataset.rows import Limits
from trainers.dataset.table_columns import is_text_name

HEAD_BYTES = 256 * 1024
BOM = b"\xef\xbb\xbf"
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}

EMPTY = Rule("empty_file", "blocks", "Choose the file again; it may have been saved while still empty.")
NOT_TEXT = Rule("not_text", "blocks", "Send the rows as JSONL, CSV, .xlsx or Parquet.")
BOMB = Rule("too_big_unpacked", "blocks", "Send only the rows and the two columns that you need, as CSV.")
ENCRYPTED = Rule("encrypted", "blocks", "Save it without a password and send it again.")
NOT_UTF8 = Rule("not_utf8", "blocks", "Save it as UTF-8 (in Excel: 'CSV UTF-8') and send it again.")
JSON_ARRAY = Rule(
    "json_array",
    "blocks",
    "Write one object per line: jq -c '.[]' old.json > new.jsonl, then send new.jsonl.",
)
JSON_SPREAD = Rule(
    "json_over_lines",
    "blocks",
    "Write each object on one line: jq -c . old.json > new.jsonl, then send new.jsonl.",
)
OLD_LINE_ENDS = Rule(
    "old_line_ends", "blocks", "Save it with modern line endings: LF, or CR and LF (in Excel: 'CSV UTF-8')."
)
UNKNOWN_FORMAT = Rule(
    "unknown_format",
    "blocks",
    'Send JSONL with {"messages": […]} on each line, or a CSV with a text and a label column.',
)

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF-", "a PDF"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"{\\rtf", "a rich-text document"),
)
_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# of files that are neither text nor in a format with rows
BINARY_SIGNATURES = (_OLD_OFFICE, *(magic for magic, _ in _MAGIC))
_HTML = re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE)


@dataclass(frozen=True)
class Refusal:
    """Why a file is refused. `text` completes the sentence "'tickets.csv' …"."""

    rule: Rule
    text: str


@dataclass(frozen=True)
class Sniffed:
    """A recognised format, by its key in FORMATS. `objects` are lines of flat JSON objects that are the rows of a
    table. `separator` is that of a `table`."""

    kind: str
    separator: str = ","


def sniff_text(head: bytes) -> Sniffed | Refusal:
    """Recognises a text by `head`, up to HEAD_BYTES from its start, and refuses what is none."""
    if not head.removeprefix(BOM).strip():  # bytes.strip also removes \v and \f, as the readers do
        return Refusal(EMPTY, "is empty")
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return Refusal(NOT_TEXT, f"is {kind}, whatever its name says")
    if head.startswith(_OLD_OFFICE):
        # An encrypted workbook is wrapped in a file of the old format.
        if "EncryptedPackage".encode("utf-16-le") in head:
            text = "is an Excel or Word file with a password: save it without one, as .xlsx or CSV"
            return Refusal(NOT_TEXT, text)
        return Refusal(NOT_TEXT, "is an old Excel or Word file (.xls, .doc): save it as .xlsx or CSV")
    if utf16_order(head):
        return Refusal(NOT_UTF8, "seems to be UTF-16 (Excel calls it 'Unicode text'), not UTF-8")
    if b"\x00" in head:
        return Refusal(NOT_TEXT, "is not text: it contains zero bytes")
    if _HTML.match(head):
        return Refusal(NOT_TEXT, "is a web page, perhaps a login page that was saved instead of the file")
    return _sniff_lines(head.removeprefix(BOM))


def utf16_order(head: bytes) -> Literal["utf-16-le", "utf-16-be"] | None:
    """Returns the UTF-16 encoding of a text, or None if it isn't UTF-16. It is recognised by its byte order mark or,
    for Latin text, by every second byte being zero."""
    even = head[0:2000:2].count(0)
    odd = head[1:2000:2].count(0)
    half = min(len(head), 2000) // 2
    looks_so = half >= 4 and max(even, odd) > 0.6 * half and min(even, odd) < 0.1 * half
    if head.startswith(b"\xff\xfe") or (looks_so and odd > even):
        return "utf-16-le"
    if head.startswith(b"\xfe\xff") or looks_so:
        return "utf-16-be"
    return None


def _sniff_lines(head: bytes) -> Sniffed | Refusal:
    if b"\n" not in head and b"\r" in head.strip():
        return Refusal(OLD_LINE_ENDS, "has the line endings of old Macs (CR alone)")
    lines = [line.strip() for line in head.splitlines() if line.strip()][:20]
    if lines[0] == b"{":
        return Refusal(JSON_SPREAD, "has JSON objects that span several lines")
    if lines[0] == b"[" or lines[0].startswith((b"[{", b"[ {")):
        return Refusal(JSON_ARRAY, "is a JSON array instead of one JSON object per line")
    # Half is enough, so that a file with broken lines is read and they are reported.
    if 2 * sum(line.startswith(b"{") for line in lines) >= len(lines):
        return Sniffed("objects" if _is_flat(lines[0]) else "jsonl")

    # The separator of a table is the one for which most records have the same number of columns.
    text = head.decode("utf-8", errors="replace")
    shares = {separator: _even_share(text, separator) for separator in SEPARATORS}
    best = max(shares, key=lambda separator: shares[separator])
    if shares[best] >= 0.5:
        return Sniffed("table", best)
    if is_text_name(lines[0].decode("utf-8", errors="replace").strip('"')):
        return Sniffed("table")  # has one column, so its reader reports that there are no labels
    return Refusal(UNKNOWN_FORMAT, "is neither JSONL nor a CSV with at least two columns")


def _is_flat(line: bytes) -> bool:
    """True if a line is a JSON object like a table's row: at least two texts, numbers or booleans, one of them under a
    usual name for a text."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(row, dict):
        return False
    if {"messages", "chosen", "preferred_output"} & row.keys() or {"prompt", "completion"} <= row.keys():
        return False
    scalars = [name for name, value in row.items() if not isinstance(value, list | dict)]
    return len(scalars) >= 2 and any(map(is_text_name, scalars))


def _even_share(text: str, separator: str) -> float:
    """Returns the share of the first records that have the most frequent number of columns, or 0 if that number is
    one."""
    widths: list[int] = []
    try:
        for record in csv.reader(StringIO(text, newline="\n"), delimiter=separator):
            widths.append(len(record))
            if len(widths) == 200:
                break
    except csv.Error:
        pass  # the reader will report a broken record with its line
    filled = [width for width in widths if width]
    if not filled:
        return 0.0
    width, count = Counter(filled).most_common(1)[0]
    if width < 2:
        return 0.0
    return count / len(filled)


LONG_LINE = Rule("line_too_long", "blocks", "Shorten the row, or delete the line.")
_BLOCK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Block:
    """Complete lines without their endings. `first` is the number of the first line, from 1, and `start` its offset in
    the file in bytes."""

    first: int
    start: int
    lines: list[bytes]


def blocks(file: BinaryIO, findings: Findings, limits: Limits) -> Iterator[Block]:
    """Yields all lines of the file. Lines over the size limit are reported and left out; the others keep their
    numbers."""
    file.seek(0)
    start = len(BOM) if file.read(len(BOM)) == BOM else 0
    file.seek(start)
    first = 1
    rest = b""
    while read := file.read(_BLOCK):
        lines = (rest + read).split(b"\n")
        rest = lines.pop()
        yield from _within_cap(Block(first, start, lines), findings, limits)
        first += len(lines)
        start += sum(map(len, lines)) + len(lines)
        if len(rest) > limits.max_line_bytes:
            findings.add_for_line(first, too_long(limits))
            start += len(rest)
            while rest and not rest.endswith(b"\n"):  # read in parts, never as a whole
                rest = file.readline(1 << 20)
                start += len(rest)
            first += 1
            rest = b""
    if rest:
        yield from _within_cap(Block(first, start, [rest]), findings, limits)


def too_long(limits: Limits) -> Fault:
    return Fault(LONG_LINE, f"is longer than {megabytes(limits.max_line_bytes)}")


def megabytes(size: int) -> str:
    if size < 100_000:
        return f"{size:,} bytes"
    return f"{size / 1e6:,.1f} MB"


def _within_cap(block: Block, findings: Findings, limits: Limits) -> Iterator[Block]:
    """Yields the block. Lines that are too long are reported, and the parts around them are yielded separately."""
    if not block.lines:
        return
    if max(map(len, block.lines)) <= limits.max_line_bytes:
        yield block
        return
    lines: list[bytes] = []
    first = block.first
    start = block.start
    for line in block.lines:
        if len(line) <= limits.max_line_bytes:
            lines.append(line)
            continue
        if lines:
            yield Block(first, start, lines)
        first += len(lines)
        start += sum(map(len, lines)) + len(lines)
        findings.add_for_line(first, too_long(limits))
        first += 1
        start += len(line) + 1
        lines = []
    if lines:
        yield Block(first, start, lines)
