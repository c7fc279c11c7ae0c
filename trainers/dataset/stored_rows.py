"""The rows of a file once more, by their places: one by one to look at, or into two files to train and to test.

Rows of JSONL stand in the file itself; those of tables are put into a nameless file as they are read.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from operator import add
from pathlib import Path
from typing import BinaryIO, overload

from trainers.dataset.checks import Fault
from trainers.dataset.jsonl import parse_row
from trainers.dataset.row_facts import Facts
from trainers.dataset.rows import Example, Limits, with_system
from trainers.dataset.splits import chat_row


class StoredRows(Sequence[Example]):
    """Reads a row whenever it is asked for. `system` goes before rows without instructions.

    ValueError where the file has changed since it was checked.
    """

    def __init__(self, file: BinaryIO, facts: Facts, limits: Limits, system: str | None) -> None:
        self.file, self.facts, self._limits, self.system = file, facts, limits, system

    def __len__(self) -> int:
        return len(self.facts)

    @overload
    def __getitem__(self, row: int) -> Example: ...
    @overload
    def __getitem__(self, row: slice) -> list[Example]: ...
    def __getitem__(self, row: int | slice) -> Example | list[Example]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        parsed = parse_row(self.facts.lines[row], self.raw(row), self._limits, pairs=True)
        if isinstance(parsed, Fault):
            raise ValueError(f"reading row {row + 1} again: the file has changed since it was checked")
        return with_system([parsed[1]], self.system)[0] if self.system else parsed[1]

    def raw(self, row: int) -> bytes:
        """As it stands in the file, without the system prompt that belongs before it."""
        return self.span(self.facts.starts[row], self.facts.sizes[row])

    def span(self, start: int, size: int) -> bytes:
        self.file.seek(start)
        return self.file.read(size)

    def written(self, row: int) -> bytes:
        if self.facts.plain[row] and not self.system:
            return self.raw(row)
        return chat_row(self[row])


@dataclass(frozen=True, slots=True)
class _Span:
    """Rows from `first` up to `end`, all for one side, that stand one after another in the file."""

    held: bool
    first: int
    end: int


def store_split(
    folder: Path,
    rows: StoredRows,
    held: Collection[int],
    examples: Sequence[Example] = (),
    left_out: Collection[int] = (),
) -> tuple[str, str]:
    """Write FOLDER/SHA256.jsonl for the rows to train on, and for those held out and then `examples`. Rows that are
    `left_out` are in neither. Returns both sha256."""
    facts = rows.facts
    with ChatFile(folder) as train, ChatFile(folder) as holdout:
        for span in _spans(facts, held, left_out, is_complete=rows.system is None):
            if span.first in left_out:
                continue
            file = holdout if span.held else train
            if span.end - span.first > 1:
                start = facts.starts[span.first]
                end = facts.starts[span.end - 1] + facts.sizes[span.end - 1]
                _copy(rows, start, end, file)
            else:
                file.write(rows.written(span.first))
        for example in examples:
            holdout.write(chat_row(example))
        return train.close(), holdout.close()


def _copy(rows: StoredRows, start: int, end: int, file: ChatFile) -> None:
    while end - start > _PIECE:
        file.write_part(rows.span(start, _PIECE))
        start += _PIECE
    file.write(rows.span(start, end - start))


_PIECE = 1 << 20


def _spans(
    facts: Facts, held: Collection[int], left_out: Collection[int], *, is_complete: bool
) -> Iterator[_Span]:
    """In the rows' order."""
    first = 0
    for end in (*_ends(facts, (*held, *left_out), is_complete), len(facts)):
        if end > first:
            yield _Span(first in held, first, end)
        first = end


def _ends(facts: Facts, apart_from_training: Collection[int], is_whole: bool) -> Sequence[int]:
    """Rows that can't be copied together with the one before."""
    if not is_whole:
        return range(len(facts))
    alone = [row for row, plain in enumerate(facts.plain) if not plain]
    sides = {row for each in (*apart_from_training, *alone) for row in (each, each + 1)}
    following = zip(facts.starts[1:], map(add, facts.starts, facts.sizes), strict=False)
    apart = [row for row, (start, end) in enumerate(following, 1) if start != end + 1]
    return sorted(sides.union(apart))


class ChatFile:
    """Chat rows on their way into FOLDER/SHA256.jsonl: the same rows are the same file. For the owner alone."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        prefix = f"unnamed-{os.getpid()}-{threading.get_ident()}-"
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=".tmp")
        self.file, self._path = os.fdopen(descriptor, "wb"), Path(name)
        self._digest = hashlib.sha256()
        self._closed = False

    def __enter__(self) -> ChatFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if not self._closed:
            self._path.unlink(missing_ok=True)

    def write(self, row: bytes) -> None:
        self.write_part(row + b"\n")

    def write_part(self, part: bytes) -> None:
        self._digest.update(part)
        self.file.write(part)

    def close(self) -> str:
        """Keep it, under its sha256."""
        self.file.flush()
        os.fsync(self.file.fileno())
        sha256 = self._digest.hexdigest()
        self._path.replace(self._path.parent / f"{sha256}.jsonl")
        self._closed = True
        return sha256
