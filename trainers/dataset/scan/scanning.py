"""JSONL → chunks of rows as columns of texts, without making a value of each row: the quick first pass over a big
file.

Nearly all lines of a file are written alike: the same keys, quotes and commas around other texts. That frame
of a line is parsed once, strictly (jsonl.py); further lines with the same frame are only cut at their quotes.
This is exact where what stands between the quotes is text of JSON: UTF-8, no control character in it, and its
escapes good ones (escapes.py). Any other line is parsed by itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from operator import itemgetter
from typing import BinaryIO

from trainers.dataset.findings import Fault, Findings
from trainers.dataset.formats.jsonl import parse_row
from trainers.dataset.reading import Progress, parse_line
from trainers.dataset.scan.batches import Column, column_of
from trainers.dataset.scan.escapes import hidden, unescaped
from trainers.dataset.scan.frames import Frames, Texts
from trainers.dataset.scan.lines import Block, blocks
from trainers.dataset.scan.shapes import Shape, shape_of
from trainers.dataset.values import UNSEEN, Example, Limits
from trainers.types import Role

_CONTROLS = bytes(1 if byte < 32 and byte != 10 else 0 for byte in range(256))
_UNSEEN, _FIRST = frozenset(UNSEEN), itemgetter(0)
_ANY_CONTROLS = bytes(1 if byte < 32 else 0 for byte in range(256))


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one shape: their places, in a chunk or block, and a column for each message."""

    shape: Shape
    places: Sequence[int]
    columns: Sequence[Column]

    def cut(self, rows: int) -> Group:
        """Those before that place."""
        kept = bisect_left(self.places, rows)
        return Group(self.shape, self.places[:kept], [column.cut(kept) for column in self.columns])


@dataclass(slots=True)
class Chunk:
    """Some hundred rows in parallel lists, and their texts in groups: of rows with known frames, and `examples`.

    `plain` rows stand in the file as a trainer takes them, at `starts`, `sizes` bytes long. `one_line_texts`: none
    in `framed` has a control character in it; where it is False some may.
    """

    lines: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    plain: bytearray = field(default_factory=bytearray)
    framed: Sequence[Group] = ()
    examples: list[tuple[int, Example]] = field(default_factory=list)
    one_line_texts: bool = False

    def add(self, line: int, start: int, size: int, plain: bool) -> None:
        self.lines.append(line)
        self.starts.append(start)
        self.sizes.append(size)
        self.plain.append(plain)

    def add_example(self, example: Example, start: int, size: int, plain: bool) -> None:
        self.examples.append((len(self.lines), example))
        self.add(example.line, start, size, plain)

    def groups(self) -> list[Group]:
        """Of all rows."""
        shapes = [
            shape_of(tuple([message.role for message in example.messages])) for _, example in self.examples
        ]
        contents = [
            [message.content.encode() for message in example.messages] for _, example in self.examples
        ]
        return [*self.framed, *_groups(shapes, contents, [place for place, _ in self.examples])]

    def cut(self, rows: int) -> None:
        """Keep that many."""
        for values in (self.lines, self.starts, self.sizes, self.plain):
            del values[rows:]
        self.framed = [group.cut(rows) for group in self.framed if group.places[0] < rows]
        self.examples = [(place, example) for place, example in self.examples if place < rows]


@dataclass(slots=True)
class _Framed:
    """The lines of a block whose frame is known, by their place in it; `parsed`: the others, to be parsed."""

    parsed: Sequence[int]
    groups: Sequence[Group] = ()
    one_line_texts: bool = True


def scan(file: BinaryIO, found: Findings, limits: Limits, progress: Progress) -> Iterator[Chunk]:
    """Nothing in the file raises. Faults go to `found`, as `read` would say them."""
    frames = Frames(limits)
    for block in blocks(file, found, limits):
        framed = _framed(block.lines, frames)
        if framed.groups and not _are_chats(block, framed, limits, progress):
            framed = _unframed(block.lines)
        yield _chunk(block, framed, found, limits, progress)


def _framed(lines: list[bytes], frames: Frames) -> _Framed:
    whole = b"\n".join(lines)
    if b"\x01" in whole.translate(_CONTROLS):
        return _framed_without_ends(lines, frames) if b"\r" in whole else _unframed(lines)
    if b"\\" not in whole:
        return _grouped(*frames.cut(lines), one_line=True)
    escaped = [number for number, line in enumerate(lines) if b"\\" in line]
    lines = list(lines)
    for number in escaped:
        lines[number] = hidden(lines[number])
    shapes, texts = frames.cut(lines)
    one_line = _unescape(shapes, texts, escaped)
    return _grouped(shapes, texts, one_line)


def _framed_without_ends(lines: list[bytes], frames: Frames) -> _Framed:
    """Of a file whose lines end in \\r\\n."""
    without = [line.removesuffix(b"\r") for line in lines]
    return _unframed(lines) if b"\r" in b"".join(without) else _framed(without, frames)


def _unframed(lines: list[bytes]) -> _Framed:
    return _Framed(range(len(lines)))


def _unescape(shapes: list[Shape | None], texts: list[Texts], escaped: list[int]) -> bool:
    """The texts of these rows, in their place; rows that have something rare in a text lose their shape. False
    where a text now has a control character."""
    known = [number for number in escaped if shapes[number] is not None]
    meant = unescaped([text for number in known for text in texts[number]])
    if meant is None:
        for number in known:
            shapes[number] = None
        return True
    rest = iter(meant)
    for number in known:
        texts[number] = list(islice(rest, len(texts[number])))
    return b"\x01" not in b"".join(meant).translate(_ANY_CONTROLS)


def _grouped(shapes: list[Shape | None], texts: list[Texts], one_line: bool) -> _Framed:
    """Where a text is blank or no UTF-8, each line is looked at by itself."""
    known: Sequence[int] = range(len(shapes))
    parsed: Sequence[int] = ()
    if None in shapes:
        known = [number for number, shape in enumerate(shapes) if shape is not None]
        parsed = [number for number, shape in enumerate(shapes) if shape is None]
        texts = [texts[number] for number in known]
    try:
        groups = _groups([shape for shape in shapes if shape is not None], texts, known)
    except UnicodeDecodeError:
        return _Framed(range(len(shapes)))
    has_blank = any(_has_blank(column.texts) for group in groups for column in group.columns)
    return _Framed(range(len(shapes))) if has_blank else _Framed(parsed, groups, one_line)


def _has_blank(texts: Sequence[str]) -> bool:
    """A blank one begins with what is not seen, as few others do."""
    if not all(texts):
        return True
    return not _UNSEEN.isdisjoint(map(_FIRST, texts)) and "" in [text.strip(UNSEEN) for text in texts]


def _groups(shapes: Sequence[Shape], contents: Sequence[Texts], places: Sequence[int]) -> list[Group]:
    """UnicodeDecodeError where a text is no UTF-8."""
    if not shapes:
        return []
    if shapes.count(shapes[0]) == len(shapes):
        return [Group(shapes[0], places, _columns(contents))]
    numbers: dict[tuple[Role, ...], list[int]] = defaultdict(list)
    for number, shape in enumerate(shapes):
        numbers[shape.roles].append(number)
    return [
        Group(shape_of(roles), [places[i] for i in some], _columns([contents[i] for i in some]))
        for roles, some in numbers.items()
    ]


def _columns(contents: Sequence[Texts]) -> list[Column]:
    return [column_of(raws) for raws in zip(*contents, strict=True)]


def _are_chats(block: Block, framed: _Framed, limits: Limits, progress: Progress) -> bool:
    """The first good row decides: rows that have a frame are of another format where that is none of chat."""
    if progress.format is not None:
        return progress.format == "chat"
    first = min(group.places[0] for group in framed.groups)
    parsed = [parse_row(1, raw.strip(), limits, pairs=True) for raw in block.lines[:first] if raw.strip()]
    good = [row for row in parsed if not isinstance(row, Fault)]
    return not good or good[0][0] == "chat"


def _chunk(block: Block, framed: _Framed, found: Findings, limits: Limits, progress: Progress) -> Chunk:
    if framed.parsed:
        return _mixed_chunk(block, framed, found, limits, progress)
    progress.format = "chat"
    sizes = list(map(len, block.lines))
    return Chunk(
        lines=list(range(block.first, block.first + len(sizes))),
        starts=list(accumulate([size + 1 for size in sizes[:-1]], initial=block.start)),
        sizes=[size - raw.endswith(b"\r") for size, raw in zip(sizes, block.lines, strict=True)],
        plain=bytearray(b"\x01") * len(sizes),
        framed=framed.groups,
        one_line_texts=framed.one_line_texts,
    )


def _mixed_chunk(block: Block, framed: _Framed, found: Findings, limits: Limits, progress: Progress) -> Chunk:
    chunk, start, parsed = Chunk(), block.start, set(framed.parsed)
    places: list[int] = []
    for number, raw in enumerate(block.lines):
        places.append(len(chunk.lines))
        if number in parsed:
            _parse_into(chunk, block.first + number, start, raw, found, limits, progress)
        else:
            progress.format = "chat"
            chunk.add(block.first + number, start, len(raw) - raw.endswith(b"\r"), plain=True)
        start += len(raw) + 1
    chunk.framed = [
        Group(group.shape, [places[number] for number in group.places], group.columns)
        for group in framed.groups
    ]
    return chunk


def _parse_into(
    chunk: Chunk, line: int, start: int, raw: bytes, found: Findings, limits: Limits, progress: Progress
) -> None:
    row = raw.strip()
    example = parse_line(line, row, found, limits, progress)
    if example is not None:
        start += len(raw) - len(raw.lstrip())
        plain = progress.format == "chat" and example.row is None
        chunk.add_example(example, start, len(row), plain)
