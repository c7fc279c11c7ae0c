"""Reads a document as text, and splits a text into passages.

The first bytes of a file decide its kind, never its name. Its text is taken out in a separate process with limited
memory and time (conversion.py). The text of a usable document is stored beside its file (`store_text`), so that
each document is converted only once.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainers.dataset.file_format import BOM
from trainers.dataset.formats import is_text
from trainers.documents.conversion import OUT_OF_MEMORY

Kind = Literal["pdf", "docx", "html", "text"]
Trouble = Literal[
    "damaged",
    "empty",
    "encrypted",
    "no_document",
    "no_text",
    "no_word",
    "not_utf8",
    "old_word",
    "too_big_unpacked",
    "too_hard",
    "too_long",
    "too_many_pages",
]

MAX_CHARACTERS = 5_000_000
WORDS_A_PASSAGE = 90  # about 128 tokens, which is as much as an encoder reads
TIMEOUT_S = 600.0  # wall time; longer than the limit of CPU seconds, since the machine may be busy
HEAD_BYTES = 4_096
TEXT_ENDING = ".text"
_CONVERSION = Path(__file__).with_name("conversion.py")
_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_HTML = re.compile(
    # Possessive, as a file of comments alone would otherwise be tried in exponentially many ways.
    rb"(?:\s|<\?xml[^>]*>|<!--.*?-->)*+"
    rb"<(!doctype html|html|head|body|div|p|h[1-6]|section|article|main|table|ul)\b",
    re.IGNORECASE | re.DOTALL,
)
_PARAGRAPHS = re.compile(r"\n\s*\n")
_SENTENCES = re.compile(r"(?<=[.!?…。！？])\s+")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unreadable:
    """Why a document can't be used. `number` is the page count if there are too many pages."""

    trouble: Trouble
    number: int = 0


def read_document(path: Path) -> str | Unreadable:
    """Returns the text without unprintable characters, or why the document can't be used."""
    if text_path(path).exists():
        return text_path(path).read_text(encoding="utf-8")
    kind = _kind_of(path)
    if isinstance(kind, Unreadable):
        return kind
    text = _convert(path, kind)
    if isinstance(text, Unreadable):
        return text
    if len(text) > MAX_CHARACTERS:
        return Unreadable("too_long")
    clean = "".join(map(_printable, text))
    if clean.strip():
        return clean
    if kind == "text":
        return Unreadable("empty")
    return Unreadable("no_text")


def store_text(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(text_path(path))


def text_path(path: Path) -> Path:
    """Returns the path of a document's stored text."""
    return path.with_name(f"{path.name}{TEXT_ENDING}")


def _kind_of(path: Path) -> Kind | Unreadable:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).removeprefix(BOM)
    if not head.strip():
        return Unreadable("empty")
    if b"%PDF-" in head[:1024]:
        return "pdf"
    if head.startswith(b"PK\x03\x04"):
        return "docx"  # or another zip archive, which conversion.py refuses
    if head.startswith(_OLD_OFFICE):
        # Word wraps a password-protected .docx in a file of the old format.
        is_locked = "EncryptedPackage".encode("utf-16-le") in path.read_bytes()
        if is_locked:
            return Unreadable("encrypted")
        return Unreadable("old_word")
    if not is_text(head):
        return Unreadable("no_document")
    if _HTML.match(head):
        return "html"
    return "text"


def _convert(path: Path, kind: Kind) -> str | Unreadable:
    command = [sys.executable, "-I", str(_CONVERSION), kind, str(path)]
    # One thread, since each reserves some of the limited memory. The environment holds none of our keys.
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return Unreadable("too_hard")
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        log.warning("converting %s (%s): exit code %s: %.300s", path.name, kind, done.returncode, last)
        was_ended = done.returncode < 0  # by a signal, as at the end of its time
        if was_ended or done.returncode == OUT_OF_MEMORY:
            return Unreadable("too_hard")
        return Unreadable("damaged")
    outcome: dict[str, Any] = json.loads(done.stdout)
    text: str | None = outcome.get("text")
    if text is None:
        return Unreadable(**outcome)
    return text


def _printable(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    if character.isspace():
        return " "
    return ""


def split_passages(text: str) -> tuple[str, ...]:
    """Returns passages of at most 90 words. Whole paragraphs are joined while they fit; a longer paragraph is cut
    between sentences, and a longer sentence between words."""
    passages: list[str] = []
    pieces: list[str] = []
    for paragraph in _PARAGRAPHS.split(text.replace("\r\n", "\n")):
        for piece in _pieces(paragraph.strip()):
            if pieces and sum(map(_count_words, pieces)) + _count_words(piece) > WORDS_A_PASSAGE:
                passages.append("\n\n".join(pieces))
                pieces = []
            pieces.append(piece)
    if pieces:
        passages.append("\n\n".join(pieces))
    return tuple(passages)


def _pieces(paragraph: str) -> Iterator[str]:
    """Yields the paragraph in parts of at most 90 words."""
    if not paragraph:
        return
    if _count_words(paragraph) <= WORDS_A_PASSAGE:
        yield paragraph
        return
    words: list[str] = []
    for sentence in _SENTENCES.split(paragraph):
        more = sentence.split()
        if words and len(words) + len(more) > WORDS_A_PASSAGE:
            yield " ".join(words)
            words = []
        words.extend(more)
        if len(words) > WORDS_A_PASSAGE:
            *full, words = _groups(words, WORDS_A_PASSAGE)
            yield from map(" ".join, full)
    if words:
        yield " ".join(words)


def _groups(words: Sequence[str], size: int) -> list[list[str]]:
    """Returns the words in groups of `size`; the last may be smaller."""
    return [list(words[start : start + size]) for start in range(0, len(words), size)]


def _count_words(text: str) -> int:
    return len(text.split())
