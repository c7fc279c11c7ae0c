"""Opens a file and converts it to what the reader expects: UTF-16 and Windows-1252 become UTF-8, a JSON array or JSON
objects over several lines become one object per line, and Alpaca's and ShareGPT's rows become chats.

Conversions lose nothing and are reported. A file that can't be converted completely stays as it is, and the reader
refuses it. Line numbers are those of the file; for arrays and objects over several lines they count the objects.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from trainers.dataset.checks import Findings, Rule
from trainers.dataset.file_format import BOM, HEAD_BYTES, utf16_order
from trainers.dataset.formats import is_text
from trainers.dataset.rows import Limits

CONVERTED = Rule("converted", "tells", "Nothing to do: the file was converted automatically.")

_PIECE = 1 << 20
_MOST_JSON = 256 << 20  # bytes parsed at once, which takes about ten times their size in memory


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes a dict. Raises ValueError if a key occurs twice, because the parser would silently keep only one."""
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key occurs twice")
    return row


def _parse_finite(digits: str) -> float:
    """Parses a float. Raises ValueError for NaN, Infinity and overflows, which orjson would write as null."""
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


_STRICT = json.JSONDecoder(
    object_pairs_hook=_refuse_repeated_keys, parse_constant=_parse_finite, parse_float=_parse_finite
)
_SPACE = re.compile(r"[ \t\r\n,]*")
_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


@dataclass(frozen=True)
class ConvertedFile:
    """A file in UTF-8, positioned at its start, with `size` bytes. `notes` are sentences that say what was
    converted."""

    file: BinaryIO
    size: int
    notes: tuple[str, ...] = ()

    def report(self, findings: Findings) -> None:
        for note in self.notes:
            findings.add_for_file(CONVERTED, note)


@contextmanager
def open_converted(path: Path, limits: Limits) -> Iterator[ConvertedFile]:
    """Opens a file and converts it if necessary, unless it exceeds the size limit. Raises OSError as open() does."""
    with path.open("rb") as file, tempfile.TemporaryFile() as text, tempfile.TemporaryFile() as rows:
        size = path.stat().st_size
        notes: list[str] = []
        current: BinaryIO = file
        if size <= limits.max_bytes and is_text(file.read(HEAD_BYTES)):
            encoding = _other_encoding(file)
            if encoding and _transcode(file, encoding, text):
                current = text
                notes.append(f"The file is encoded in {_ENCODING_NAMES[encoding]} and was converted.")
            note = _as_json_lines(current, rows)
            if note:
                current = rows
                notes.append(note)
        size = current.seek(0, 2)
        current.seek(0)
        yield ConvertedFile(current, size, tuple(notes))


_ENCODING_NAMES = {"utf-16-le": "UTF-16", "utf-16-be": "UTF-16", "cp1252": "Windows-1252"}


def _other_encoding(file: BinaryIO) -> str | None:
    """Returns the encoding of a text if it isn't UTF-8, else None. A file that mixes valid UTF-8 characters with
    invalid bytes is damaged rather than in another encoding, so it gets None too."""
    file.seek(0)
    order = utf16_order(file.read(HEAD_BYTES))
    if order:
        return order
    file.seek(0)
    is_utf8 = True
    has_characters = False
    for line in file:
        if line.isascii():
            continue
        try:
            line.decode()
            has_characters = True
        except UnicodeDecodeError:
            is_utf8 = False
        if has_characters and not is_utf8:
            return None
    if is_utf8:
        return None
    return "cp1252"


def _transcode(file: BinaryIO, encoding: str, out: BinaryIO) -> bool:
    """Writes the text in UTF-8. Returns False if it isn't in that encoding after all."""
    file.seek(0)
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while piece := file.read(_PIECE):
            out.write(decoder.decode(piece).encode())
        out.write(decoder.decode(b"", True).encode())
    except UnicodeError:
        return False
    return True


def _as_json_lines(file: BinaryIO, out: BinaryIO) -> str | None:
    """Writes one object per line and returns a note on the conversion, or None if none was needed or possible."""
    file.seek(0)
    head = file.read(HEAD_BYTES).removeprefix(BOM).removeprefix("\ufeff".encode()).lstrip()
    first = head.split(b"\n", 1)[0].strip()
    if head.startswith(b"["):
        return _split_array(file, out)
    if first == b"{":
        return _join_lines(file, out)
    try:
        row = orjson.loads(first)
    except orjson.JSONDecodeError:
        return None
    if isinstance(row, dict):
        for name, convert in _SHAPES.items():
            if convert(row) is not None:
                _rewrite(file, out, name)
                return f"The rows are in the format of {name} and were read as chats."
    return None


def _split_array(file: BinaryIO, out: BinaryIO) -> str | None:
    file.seek(0)
    raw = file.read(_MOST_JSON + 1).removeprefix(BOM)
    if len(raw) > _MOST_JSON:
        return None
    try:
        array = _STRICT.decode(raw.decode())
        if not isinstance(array, list) or not array:
            return None
        if not all(isinstance(row, dict) for row in array):
            return None
        for row in array:
            chat = _as_chat(row)
            out.write(orjson.dumps(chat) + b"\n")
    except (ValueError, TypeError, RecursionError):  # not JSON, or a value that can't be written unchanged
        return None
    return f"The file is a JSON array of {len(array):,} objects, each read as one row: line 3 means the third object."


def _join_lines(file: BinaryIO, out: BinaryIO) -> str | None:
    file.seek(0)
    raw = file.read(_MOST_JSON + 1).removeprefix(BOM)
    if len(raw) > _MOST_JSON:
        return None
    count = 0
    try:
        text = raw.decode()
        at = 0
        # Past the spaces and commas between objects.
        while (at := _end_of(_SPACE, text, at)) < len(text):
            row, at = _STRICT.raw_decode(text, at)
            if isinstance(row, dict):
                row = _as_chat(row)
            out.write(orjson.dumps(row) + b"\n")
            count += 1
    except (ValueError, TypeError, RecursionError):
        return None
    what = f"The file has {count:,} JSON objects over several lines"
    return f"{what}, each read as one row: line 3 means the third object."


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    if match is None:
        return at
    return match.end()


def _rewrite(file: BinaryIO, out: BinaryIO, name: str) -> None:
    """Writes each line's row as a chat. Lines in another format are written unchanged."""
    file.seek(0)
    for raw in file:
        written = raw
        try:
            row = _STRICT.decode(raw.removeprefix(BOM).decode())
            chat = None
            if isinstance(row, dict):
                chat = _SHAPES[name](row)
            if chat is not None:
                written = orjson.dumps(chat) + b"\n"
        except (ValueError, TypeError, RecursionError):
            written = raw
        out.write(written)


def _as_chat(row: dict[str, Any]) -> Mapping[str, Any]:
    for convert in _SHAPES.values():
        chat = convert(row)
        if chat is not None:
            return chat
    return row


def _alpaca(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Converts Stanford Alpaca's {"instruction", "input", "output"}, where the input may be empty or missing."""
    instruction = row.get("instruction")
    data = row.get("input") or ""
    answer = row.get("output")
    if not isinstance(instruction, str) or not isinstance(answer, str):
        return None
    if not isinstance(data, str):
        return None

    used = ["instruction", "input", "output"]
    messages: list[dict[str, Any]] = []
    system = row.get("system")
    if isinstance(system, str) and system.strip():
        used.append("system")
        messages.append({"role": "system", "content": system})
    question = instruction
    if data.strip():
        question = f"{instruction}\n\n{data}"
    messages.append({"role": "user", "content": question})
    messages.append({"role": "assistant", "content": answer})
    return _chat(row, messages, *used)


def _sharegpt(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Converts ShareGPT's {"conversations": [{"from", "value"}]}."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        return None
    messages = []
    for turn in turns:
        if not isinstance(turn, dict):
            return None
        role = _SHAREGPT_ROLES.get(str(turn.get("from")))
        value = turn.get("value")
        if role is None or not isinstance(value, str):
            return None
        messages.append({"role": role, "content": value})
    return _chat(row, messages, "conversations")


def _chat(row: Mapping[str, Any], messages: list[dict[str, Any]], *used: str) -> dict[str, Any]:
    """Returns a chat row that keeps the unused keys, so that the reader can report which of them it drops."""
    unused = {name: value for name, value in row.items() if name not in used}
    return {"messages": messages, **unused}


_SHAPES = {"Alpaca": _alpaca, "ShareGPT": _sharegpt}
