"""Splits a file into JSON documents: its lines, the elements of an array, or objects over several lines, one after the
other. Unpacks gzip. Parses them one by one, so that a large file needs little memory; what can't be parsed is reported
with its line.
"""

from __future__ import annotations

import gzip
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import orjson

from trainers.dataset.checks import Fault, Findings, Rule
from trainers.dataset.file_format import BOM, HEAD_BYTES, blocks, megabytes
from trainers.dataset.jsonl import NOT_JSON
from trainers.dataset.rows import DEFAULT_LIMITS, Limits
from trainers.traces.calls import Record

# A batch of spans is one line, and a collector writes 8,192 spans into one.
MOST_DOCUMENT_BYTES = 32_000_000
LIMITS = Limits(max_bytes=DEFAULT_LIMITS.max_bytes, max_line_bytes=MOST_DOCUMENT_BYTES)
GZIP = b"\x1f\x8b"

TOO_BIG = Rule("file_too_big", "blocks", "Export fewer days, or split it: split -C 150M traces.jsonl part-.")
TOO_LONG = Rule(
    "document_too_long",
    "blocks",
    "Write each record on a line: jq -c '.[]' old.json > new.jsonl. For OTLP: jq -c '.resourceSpans[] | "
    "{resourceSpans: [.]}'.",
)
DAMAGED = Rule("damaged_gzip", "blocks", "Export it again: the file is not complete.")
CUT_OFF = Rule(
    "cut_off", "warns", "Export it again if you need them: the file ends in the middle of a record."
)
NOT_AN_OBJECT = Rule("not_an_object", "warns", "Nothing to do if the other lines could be read.")

_PIECE = 1 << 20
_LINES_TRIED = 20
_SPACE = b" \t\r\n,"
# Possessive, as a text without its closing quote would otherwise be tried in exponentially many ways.
_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+([{}\[\]])', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON object, and the line where it begins."""

    line: int
    record: Record


@contextmanager
def open_unpacked(path: Path, findings: Findings, limits: Limits = LIMITS) -> Iterator[BinaryIO | None]:
    """Opens a file, unpacked if it is gzip. Yields None if it is too big or damaged, with the reason in `findings`.
    Raises OSError as open() does."""
    with path.open("rb") as file, tempfile.TemporaryFile() as unpacked:
        size = path.stat().st_size
        head = file.read(len(GZIP))
        file.seek(0)
        if size > limits.max_bytes:
            text = f"The file has {megabytes(size)}; the limit is {megabytes(limits.max_bytes)}."
            findings.add_for_file(TOO_BIG, text)
            yield None
        elif head != GZIP:
            yield file
        elif _unpack(file, unpacked, findings, limits):
            unpacked.seek(0)
            yield unpacked
        else:
            yield None


def _unpack(file: BinaryIO, out: BinaryIO, findings: Findings, limits: Limits) -> bool:
    size = 0
    try:
        with gzip.open(file) as packed:
            while piece := packed.read(_PIECE):
                size += len(piece)
                if size > limits.max_bytes:
                    text = f"The file unpacks to more than {megabytes(limits.max_bytes)}, the limit."
                    findings.add_for_file(TOO_BIG, text)
                    return False
                out.write(piece)
    except (OSError, EOFError, zlib.error):
        findings.add_for_file(DAMAGED, f"The file is gzip, but damaged after {megabytes(size)}.")
        return False
    return True


def unpacked_head(head: bytes) -> bytes:
    """Returns the beginning of a file, unpacked if it is gzip, as far as it can be."""
    if not head.startswith(GZIP):
        return head.removeprefix(BOM)
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, HEAD_BYTES).removeprefix(BOM)
    except zlib.error:
        return b""


def is_by_line(head: bytes) -> bool:
    """True if each line is a document: the first one is complete or longer than the whole head, or each begins an
    object."""
    first, *others = head.lstrip().splitlines()[:_LINES_TRIED] or [b""]
    if not first.startswith(b"{"):
        return False
    if not others or _parse(first) is not None:
        return True
    return all(line.startswith(b"{") for line in others if line.strip())


def read_documents(file: BinaryIO, findings: Findings, limits: Limits = LIMITS) -> Iterator[Document]:
    """Yields the objects of a file of JSON. Lines and elements that are none are reported."""
    file.seek(0)
    by_line = is_by_line(file.read(HEAD_BYTES).removeprefix(BOM))
    file.seek(0)
    if by_line:
        raws = _lines(file, findings, limits)
    else:
        raws = _elements(file, findings, limits)
    for line, raw in raws:
        record = _parse(raw)
        if isinstance(record, dict):
            yield Document(line, cast(Record, record))
        elif record is None:
            findings.add_for_line(line, Fault(NOT_JSON, "is not valid JSON"))
        else:
            findings.add_for_line(line, Fault(NOT_AN_OBJECT, "is JSON, but not an object"))


def first_documents(head: bytes) -> list[Record]:
    """Returns the objects at the beginning of a file that are complete in `head`, at most 20."""
    if is_by_line(head):
        raws = head.lstrip().splitlines()
    else:
        depth = _base_depth(head)
        raws = [raw for _, raw in _split(head, depth)]
    records = []
    for raw in raws[:_LINES_TRIED]:
        if not raw.strip():
            continue
        record = _parse(raw)
        if isinstance(record, dict):
            records.append(cast(Record, record))
    return records


def _parse(raw: bytes) -> object:
    """Returns the value, or None if it is not JSON."""
    try:
        return cast(object, orjson.loads(raw))
    except orjson.JSONDecodeError:
        return None


def _lines(file: BinaryIO, findings: Findings, limits: Limits) -> Iterator[tuple[int, bytes]]:
    for block in blocks(file, findings, limits):
        for line, raw in enumerate(block.lines, block.first):
            if raw.strip():
                yield line, raw.strip()


def _elements(file: BinaryIO, findings: Findings, limits: Limits) -> Iterator[tuple[int, bytes]]:
    """Yields the elements of an array, or objects one after the other, with their lines."""
    rest = file.read(_PIECE).removeprefix(BOM)
    base = _base_depth(rest)
    line = 1
    while rest:
        end = 0
        for start, raw in _split(rest, base):
            at = line + rest.count(b"\n", 0, start)
            yield at, raw
            end = start + len(raw)
        line += rest.count(b"\n", 0, end)
        rest = rest[end:]
        base = 0 if end else base  # an array's opening bracket is behind us
        piece = file.read(max(_PIECE, len(rest)))
        if len(rest) > limits.max_line_bytes:
            findings.add_for_line(line, Fault(TOO_LONG, _longer_than(limits)))
            return
        if not piece:
            _report_rest(rest, line, findings)
            return
        rest += piece


def _base_depth(head: bytes) -> int:
    """Returns how deep the documents are: 1 in an array, else 0."""
    return int(head.lstrip().startswith(b"["))


def _split(text: bytes, base: int) -> Iterator[tuple[int, bytes]]:
    """Yields the complete objects of a text at this depth of brackets, with their offsets."""
    depth = 0
    start = 0
    at = 0
    while match := _TO_BRACKET.match(text, at):
        at = match.end()
        if match[1] in b"{[":
            if depth == base:
                start = at - 1
            depth += 1
        else:
            depth -= 1
            if depth == base:
                yield start, text[start:at]
            # An array's own end, after which another one may follow.
            depth = max(depth, 0)


def _longer_than(limits: Limits) -> str:
    return f"begins a record of more than {megabytes(limits.max_line_bytes)}; reading stopped there"


def _report_rest(rest: bytes, line: int, findings: Findings) -> None:
    """Reports what is left of a file after its last complete object, except the end of an array."""
    left = rest.lstrip(_SPACE)
    if left.rstrip(_SPACE) in (b"", b"]", b"[]"):
        return
    before = len(rest) - len(left)
    fault = Fault(CUT_OFF, "begins what is not a complete record")
    findings.add_for_line(line + rest.count(b"\n", 0, before), fault)
