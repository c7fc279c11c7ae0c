"""All formats of files with rows, a line each. A file is recognised by its first bytes, never by its name.

A new format is a module beside this one that describes it as a `FileFormat`, and its line in FORMATS.
"""

from __future__ import annotations

from trainers.dataset.file_format import BINARY_SIGNATURES, Refusal, Sniffed, sniff_text, utf16_order
from trainers.dataset.formats.parquet import PARQUET
from trainers.dataset.formats.text_files import CSV, JSONL, OBJECTS
from trainers.dataset.formats.values import FileFormat
from trainers.dataset.formats.workbooks import XLSX
from trainers.dataset.rows import Format

# The keys are those of `Sniffed.kind`. The first one whose signature fits reads a file.
FORMATS: dict[str, FileFormat] = {
    "table": CSV,
    "objects": OBJECTS,
    "jsonl": JSONL,
    "xlsx": XLSX,
    "parquet": PARQUET,
}


def sniff(head: bytes) -> Sniffed | Refusal:
    """Recognises a file by `head`, up to HEAD_BYTES from its start."""
    for kind, each in FORMATS.items():
        if each.signatures and head.startswith(each.signatures):
            return Sniffed(kind)
    return sniff_text(head)


def is_text(head: bytes) -> bool:
    """True if a file begins like text, in any encoding."""
    signatures = [*BINARY_SIGNATURES]
    for each in FORMATS.values():
        signatures += each.signatures
    if head.startswith(tuple(signatures)):
        return False
    return b"\x00" not in head or utf16_order(head) is not None


def extensions(*, asks: bool = False) -> tuple[str, ...]:
    """Returns the ends of the names of files that can be read, with `asks` of those that may be questions alone."""
    chosen = [each for each in FORMATS.values() if each.asks or not asks]
    return tuple(dict.fromkeys(end for each in chosen for end in each.extensions))


def is_table(name: Format | None) -> bool:
    """True if a report of this format is about a table, so that it has columns."""
    return any(each.is_table and each.name == name for each in FORMATS.values())
