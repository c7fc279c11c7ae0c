"""The first pass: every row of an accepted file into Facts. Rows of tables are put into a spool to be read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

from trainers.dataset.findings import Findings
from trainers.dataset.formats.sniffing import Sniffed
from trainers.dataset.holdout.splitting import chat_row
from trainers.dataset.reading import Progress, capped, stream, too_many
from trainers.dataset.scan.facts import Facts
from trainers.dataset.scan.scanning import Chunk, scan
from trainers.dataset.values import Columns, Example, Limits, unheard

_ROWS_AT_ONCE = 500


def take_in(
    facts: Facts,
    file: BinaryIO,
    spool: BinaryIO,
    sniffed: Sniffed,
    columns: Columns,
    found: Findings,
    limits: Limits,
    progress: Progress,
    tell: Callable[[str], None] = unheard,
) -> None:
    """JSONL stays where it is: `facts` says where in `file` a row stands, and for other formats where in `spool`."""
    if sniffed.kind == "jsonl":
        chunks = scan(file, found, limits, progress)
    else:
        examples = stream(file, sniffed, columns, found, limits, progress)
        chunks = _spooled(capped(examples, found, limits), spool)
    for chunk in chunks:
        room = limits.max_rows - len(facts)
        if len(chunk.lines) > room:
            chunk.cut(room)
            too_many(found, limits)
            facts.add(chunk)
            return
        facts.add(chunk)
        tell(f"{len(facts):,} rows read")


def _spooled(examples: Iterator[Example], spool: BinaryIO) -> Iterator[Chunk]:
    chunk, start = Chunk(), 0
    for example in examples:
        row = chat_row(example)
        spool.write(row + b"\n")
        chunk.add_example(example, start, len(row), plain=True)
        start += len(row) + 1
        if len(chunk.lines) == _ROWS_AT_ONCE:
            yield chunk
            chunk = Chunk()
    yield chunk
