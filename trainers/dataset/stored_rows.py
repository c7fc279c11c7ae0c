"""Reads the rows of a checked file again by their places: one by one, or into two files to train and to test.

Rows of JSONL stand in the file itself; those of other formats are put into a nameless file as they are read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import add
from pathlib import Path
from typing import BinaryIO, overload

from trainers.dataset.checks import Fault
from trainers.dataset.jsonl import parse_row
from trainers.dataset.row_facts import Facts
from trainers.dataset.rows import Example, Limits, with_system
from trainers.dataset.splits import ChatFile, chat_row


class StoredRows(Sequence[Example]):
    """Reads a row whenever it is asked for. `system` goes before rows without instructions.

    Raises ValueError where the file has changed since it was checked.
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
        parsed = parse_row(self.facts.lines[row], self._raw(row), self._limits, pairs=True)
        if isinstance(parsed, Fault):
            raise ValueError(f"reading row {row + 1} again: the file has changed since it was checked")
        return with_system([parsed[1]], self.system)[0] if self.system else parsed[1]

    def _raw(self, row: int) -> bytes:
        """Returns the row as it stands in the file, without the system prompt that belongs before it."""
        return self.span(self.facts.starts[row], self.facts.sizes[row])

    def span(self, start: int, size: int) -> bytes:
        self.file.seek(start)
        return self.file.read(size)

    def written(self, row: int) -> bytes:
        """Returns the row as it is trained on."""
        if self.facts.plain[row] and not self.system:
            return self._raw(row)
        return chat_row(self[row])


def store_split(
    folder: Path,
    rows: StoredRows,
    held: Collection[int],
    examples: Sequence[Example] = (),
    left_out: Collection[int] = (),
) -> tuple[str, str]:
    """Writes FOLDER/SHA256.jsonl for the rows to train on, and for those held out and then `examples`. Rows that are
    `left_out` are in neither. Returns both sha256."""
    facts = rows.facts
    with ChatFile(folder) as train, ChatFile(folder) as holdout:
        first = 0
        for end in _run_ends(facts, (*held, *left_out), needs_system=rows.system is not None):
            file = holdout if first in held else train
            if first in left_out:
                pass
            elif end - first == 1:
                file.write(rows.written(first))
            else:  # many rows that stand one after another are copied in pieces
                start, stop = facts.starts[first], facts.starts[end - 1] + facts.sizes[end - 1]
                for piece in range(start, stop, _PIECE):
                    file.write_part(rows.span(piece, min(_PIECE, stop - piece)))
                file.write_part(b"\n")
            first = end
        for example in examples:
            holdout.write(chat_row(example))
        return train.close(), holdout.close()


_PIECE = 1 << 20


def _run_ends(facts: Facts, apart: Collection[int], *, needs_system: bool) -> Sequence[int]:
    """Returns the ends of runs of rows that can be copied at once: plain ones that stand one after another in the file
    and are trained on. Rows that are `apart` are runs of one."""
    if needs_system:
        return range(1, len(facts) + 1)
    alone = [row for row, is_plain in enumerate(facts.plain) if not is_plain]
    ends = {end for row in (*apart, *alone) for end in (row, row + 1)}
    following = zip(facts.starts[1:], map(add, facts.starts, facts.sizes), strict=False)
    ends.update(row for row, (start, end) in enumerate(following, 1) if start != end + 1)
    return sorted((ends | {len(facts)}) - {0})
