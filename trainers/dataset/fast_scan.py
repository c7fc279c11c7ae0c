"""The fast first pass over JSONL: chunks of rows as columns of texts, without a Python object per row. Lines
written alike share one frame; other lines are parsed one by one."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, islice
from operator import itemgetter
from typing import BinaryIO

import orjson

from trainers.dataset.file_format import Block, blocks
from trainers.dataset.findings import Fault, Findings
from trainers.dataset.jsonl import parse_row
from trainers.dataset.reader import Progress, parse_line
from trainers.dataset.rows import UNSEEN, Column, Example, Limits, column_of
from trainers.types import Role

INSTRUCTIONS = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Shape:
    """Places of messages, from 0. `asked` come before the answer, instructions aside. `question` is the text that
    question_key hashes, with a %b for each of `asked`."""

    roles: tuple[Role, ...]
    asked: tuple[int, ...]
    system: tuple[int, ...]
    question: bytes


@lru_cache(4096)
def shape_of(roles: tuple[Role, ...]) -> Shape:
    """The last message is the answer."""
    asked = tuple(i for i, role in enumerate(roles[:-1]) if role not in INSTRUCTIONS)
    system = tuple(i for i, role in enumerate(roles) if role in INSTRUCTIONS)
    return Shape(
        roles=roles,
        asked=asked,
        system=system,
        question=b"\x1e".join(roles[i].encode() + b"\x1f%b" for i in asked),
    )


# Escapes in JSON's texts, of many texts at once. In a line without control characters two of them can
# stand for the escapes that get in the way of cutting it at its quotes.


_BACKSLASH, _QUOTE = b"\x01", b"\x02"
_SIMPLE = (
    (b"\\n", b"\n"),
    (b"\\t", b"\t"),
    (b"\\r", b"\r"),
    (b"\\/", b"/"),
    (b"\\b", b"\b"),
    (b"\\f", b"\f"),
)
_CODES = re.compile(rb"\\u[0-9A-Fa-f]{4}(?:\\u[0-9A-Fa-f]{4})*")  # begins with what is quick to find
_CONTROL = re.compile(rb"\\u00[01]")


def hide_escapes(line: bytes) -> bytes:
    """Every quote that is left begins or ends a text. `line` has no control character."""
    return line.replace(b"\\\\", _BACKSLASH).replace(b'\\"', _QUOTE)


def restore_escapes(line: bytes) -> bytes:
    return line.replace(_QUOTE, b'\\"').replace(_BACKSLASH, b"\\\\")


def unescape(texts: Sequence[bytes]) -> list[bytes] | None:
    """What is meant by texts out of `hidden` lines. None where one has no good escape, half of a character, or the
    code of a control character, which nobody writes but by mistake."""
    joined = b"\0".join(texts).replace(_QUOTE, b'"')
    for escape, meant in _SIMPLE:
        if b"\\" in joined:
            joined = joined.replace(escape, meant)
    if b"\\" in joined:
        if _CONTROL.search(joined):
            return None
        try:
            joined = _CODES.sub(_meant, joined)
        except orjson.JSONDecodeError:
            return None
    return None if b"\\" in joined else joined.replace(_BACKSLASH, b"\\").split(b"\0")


def _meant(codes: re.Match[bytes]) -> bytes:
    return _text_of(codes.group())


@lru_cache(1024)
def _text_of(codes: bytes) -> bytes:
    text: str = orjson.loads(b'"%b"' % codes)
    return text.encode()


# Cuts lines of JSONL into the texts that differ and the frame around them, which many lines share.
#
# Cut at its quotes, {"messages": [{"role": "user", "content": "hi"}, …]} has the role in place 5 and the
# text in place 9; the same of each further message is 8 places on, and 3 places come after the last.


Texts = Sequence[bytes]

_TEXT, _MESSAGE, _AFTER = 9, 8, 3
_FRAMES = 10_000


class Frames:
    """Those that were met in a file, each parsed once. The usual one is looked for first, by a pattern that finds a
    line's texts in half the time that cutting it takes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._shapes: dict[bytes, Shape | None] = {}
        self._usual: tuple[re.Pattern[bytes], Shape] | None = None

    def cut(self, lines: Sequence[bytes]) -> tuple[list[Shape | None], list[Texts]]:
        """Each line's shape and its texts; no shape where it must be parsed. `lines` have no control characters but
        those that stand for escapes: a quote in them begins or ends a text."""
        if self._usual is None:
            return self._cut_at_quotes(lines, len(lines))
        pattern, shape = self._usual
        matches = list(map(pattern.fullmatch, lines))
        if None not in matches:
            return [shape] * len(lines), [match.groups() for match in matches if match]
        rest = [line for line, match in zip(lines, matches, strict=True) if not match]
        others = zip(*self._cut_at_quotes(rest, len(lines)), strict=True)
        cut = [(shape, match.groups()) if match else next(others) for match in matches]
        return [shape for shape, _ in cut], [texts for _, texts in cut]

    def _cut_at_quotes(self, lines: Sequence[bytes], among: int) -> tuple[list[Shape | None], list[Texts]]:
        frames: list[bytes] = []
        texts: list[Texts] = []
        for line in lines:
            parts = line.split(b'"')
            texts.append(parts[_TEXT::_MESSAGE])
            del parts[_TEXT::_MESSAGE]
            frames.append(b'"'.join(parts))
        shapes = [self._shape(frame, len(cut)) for frame, cut in zip(frames, texts, strict=True)]
        self._choose_usual(frames, among)
        return shapes, texts

    def _shape(self, frame: bytes, texts: int) -> Shape | None:
        shape = self._shapes.get(frame)
        if shape is None and frame not in self._shapes and len(self._shapes) < _FRAMES:
            shape = self._shapes[frame] = _learnt(frame, texts, self._limits)
        return shape if shape is None or len(shape.roles) == texts else None

    def _choose_usual(self, frames: Sequence[bytes], among: int) -> None:
        """The most frequent of these, where that is half of all that are looked at now."""
        frame, lines = Counter(frames).most_common(1)[0]
        shape = self._shapes.get(frame)
        if shape is not None and (self._usual is None or 2 * lines > among):
            self._usual = _pattern(frame, len(shape.roles)), shape


def _learnt(frame: bytes, texts: int, limits: Limits) -> Shape | None:
    """The shape of rows that are only roles and texts, and have them in the places that were cut out: other texts
    that are put there are read as theirs."""
    others = [b"text %d" % number for number in range(texts)]
    parts = _filled(frame.split(b'"'), others)
    if len(parts) != _MESSAGE * texts + _AFTER:
        return None
    parsed = parse_row(1, restore_escapes(b'"'.join(parts)), limits)
    if isinstance(parsed, Fault) or parsed[0] != "chat" or parsed[1].row is not None:
        return None
    messages = parsed[1].messages
    same = [message.content.encode() for message in messages] == others
    return shape_of(tuple([message.role for message in messages])) if same else None


def _pattern(frame: bytes, texts: int) -> re.Pattern[bytes]:
    parts = [re.escape(part) for part in frame.split(b'"')]
    return re.compile(b'"'.join(_filled(parts, [b'([^"]*+)'] * texts)))


def _filled(parts: list[bytes], texts: Sequence[bytes]) -> list[bytes]:
    """With texts in the places of texts."""
    for number, text in enumerate(texts):
        parts.insert(_TEXT + _MESSAGE * number, text)
    return parts


# JSONL → chunks of rows as columns of texts, without making a value of each row: the quick first pass
# over a big file.
#
# Nearly all lines of a file are written alike: the same keys, quotes and commas around other texts. That
# frame of a line is parsed once, strictly (jsonl.py); further lines with the same frame are only cut at
# their quotes. This is exact where what stands between the quotes is text of JSON: UTF-8, no control
# character in it, and its escapes good ones (escapes.py). Any other line is parsed by itself.


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
        lines[number] = hide_escapes(lines[number])
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
    meant = unescape([text for number in known for text in texts[number]])
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
