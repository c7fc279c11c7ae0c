"""The first pass over JSONL: reads chunks of a few hundred rows as columns of texts, without a Python object per row.

Most lines are chats with only roles and texts. A typed parser accepts exactly those; every other line goes to
`jsonl.parse_line`, which knows all formats and explains what is wrong.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from operator import itemgetter
from typing import BinaryIO, Literal

import msgspec

from trainers.dataset.checks import Findings
from trainers.dataset.file_format import blocks
from trainers.dataset.jsonl import parse_line
from trainers.dataset.rows import INSTRUCTION_ROLES, INVISIBLE, Column, Example, Limits, column_of
from trainers.dataset.tables import Progress
from trainers.types import Message, Role

Roles = tuple[Role, ...]

_KEY = re.compile(rb'"[ \t\r]*:')
_BRACE = b"{"[0]
_CONTROLS = bytes(1 if byte < 32 else 0 for byte in range(256))
_UNSEEN = frozenset(INVISIBLE)
_FIRST = itemgetter(0)


# gc=False: these objects are in no cycle, so the collector need not look at them.
class _PlainMessage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "developer", "user", "assistant"]
    content: str


class _PlainChat(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    messages: list[_PlainMessage]


_DECODER = msgspec.json.Decoder(_PlainChat)


@dataclass(frozen=True, slots=True)
class Shape:
    """The roles of a chat. `turns` are the positions, from 0, of the messages before the answer, and `system` those of
    instructions. `question` is the format that question_key hashes, with a %b for each turn's text."""

    roles: Roles
    turns: tuple[int, ...]
    system: tuple[int, ...]
    question: bytes


@lru_cache(4096)
def shape_of(roles: Roles) -> Shape:
    """Returns the shape of chats with these roles, whose last message is the answer."""
    before_answer = roles[:-1]
    turns = tuple(i for i, role in enumerate(before_answer) if role not in INSTRUCTION_ROLES)
    system = tuple(i for i, role in enumerate(roles) if role in INSTRUCTION_ROLES)
    formats = [roles[i].encode() + b"\x1f%b" for i in turns]
    return Shape(roles, turns, system, question=b"\x1e".join(formats))


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one shape: their positions in a chunk, and one column for each message."""

    shape: Shape
    places: Sequence[int]
    columns: Sequence[Column]

    def cut(self, rows: int) -> Group:
        """Returns the group without the rows from position `rows` on."""
        count = bisect_left(self.places, rows)
        places = self.places[:count]
        columns = [column.cut(count) for column in self.columns]
        return Group(self.shape, places, columns)


@dataclass(slots=True)
class Chunk:
    """A few hundred rows in parallel lists. Their texts are in `plain_groups`, if the typed parser read them, or else
    in `examples`.

    A row is `sizes` bytes long and begins at `starts`; the file has `plain` rows in the form that trainers accept.
    `one_line_texts`: no text in `plain_groups` has a control character (if False, some may).
    """

    lines: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    plain: bytearray = field(default_factory=bytearray)
    plain_groups: Sequence[Group] = ()
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
        """Returns all rows grouped by shape."""
        places = [place for place, _ in self.examples]
        messages = [example.messages for _, example in self.examples]
        return [*self.plain_groups, *_groups(messages, places)]

    def cut(self, rows: int) -> None:
        """Keeps the first `rows` rows."""
        for values in (self.lines, self.starts, self.sizes, self.plain):
            del values[rows:]
        self.plain_groups = [group.cut(rows) for group in self.plain_groups if group.places[0] < rows]
        self.examples = [(place, example) for place, example in self.examples if place < rows]


def scan(file: BinaryIO, findings: Findings, limits: Limits, progress: Progress) -> Iterator[Chunk]:
    """Yields the good rows in chunks. Never raises because of the file's content: faults go to `findings`, in the same
    words as those of `reader.stream`."""
    for block in blocks(file, findings, limits):
        chunk = Chunk()
        first = 0
        start = block.start
        # The first good row decides the format.
        while progress.format is None and first < len(block.lines):
            raw = block.lines[first]
            _parse_into(chunk, block.first + first, start, raw, findings, limits, progress)
            first += 1
            start += len(raw) + 1
        lines = block.lines[first:]
        if lines and progress.format == "chat":
            _add_chats(chunk, lines, block.first + first, start, findings, limits, progress)
        else:
            for number, raw in enumerate(lines, block.first + first):
                _parse_into(chunk, number, start, raw, findings, limits, progress)
                start += len(raw) + 1
        yield chunk


def _add_chats(
    chunk: Chunk,
    lines: Sequence[bytes],
    first: int,
    start: int,
    findings: Findings,
    limits: Limits,
    progress: Progress,
) -> None:
    """Adds `lines`, the first of which is line `first` of the file and begins at byte `start`."""
    joined = b"\n".join(lines)
    groups = _trainable_groups(lines, joined, limits)
    lengths = [len(raw) + 1 for raw in lines[:-1]]  # with the line break
    starts = list(accumulate(lengths, initial=start))

    # Usually the typed parser has read all lines, and then nothing is left to do for each of them.
    n_grouped = sum(len(group.places) for group in groups)
    if not chunk.lines and n_grouped == len(lines):
        end = first + len(lines)
        chunk.lines = list(range(first, end))
        chunk.starts = starts
        chunk.sizes = [len(raw.rstrip()) for raw in lines]
        chunk.plain = bytearray(b"\x01") * len(lines)
        chunk.plain_groups = groups
        # JSON can write a control character only as an escape.
        chunk.one_line_texts = b"\\" not in joined or not _has_control(groups)
        return

    plain = {place for group in groups for place in group.places}
    places: list[int] = []
    for number, (raw, at) in enumerate(zip(lines, starts, strict=True)):
        places.append(len(chunk.lines))
        if number in plain:
            chunk.add(first + number, at, len(raw.rstrip()), plain=True)
        else:
            _parse_into(chunk, first + number, at, raw, findings, limits, progress)
    plain_groups: list[Group] = []
    for group in groups:
        # A faulty line is no row, so the rows behind it move forward.
        moved = [places[number] for number in group.places]
        plain_groups.append(Group(group.shape, moved, group.columns))
    chunk.plain_groups = plain_groups


def _trainable_groups(lines: Sequence[bytes], joined: bytes, limits: Limits) -> list[Group]:
    """Returns the rows that need no closer look, grouped by shape; their places are indices of `lines`. All other lines
    must be parsed one by one, which reports what is wrong."""
    chats = _plain_chats(lines, joined)
    trainable: list[Group] = []
    for group in _groups(chats, range(len(chats))):
        if not _is_trainable(group.shape.roles, limits.max_messages):
            continue
        if any(_has_blank(column.texts) for column in group.columns):
            return []
        trainable.append(group)
    return trainable


def _is_trainable(roles: Roles, max_messages: int) -> bool:
    return "user" in roles and roles[-1] == "assistant" and len(roles) <= max_messages


def _has_control(groups: Sequence[Group]) -> bool:
    """True if any text has a control character, such as a line break."""
    columns = (column for group in groups for column in group.columns)
    return any(b"\x01" in b"".join(column.raws).translate(_CONTROLS) for column in columns)


def _plain_chats(lines: Sequence[bytes], joined: bytes) -> list[list[_PlainMessage]]:
    """Returns each line's messages; an empty list if it has anything besides roles and texts, has a key twice, or
    begins with white space (its position in the file would be wrong)."""
    try:
        # Usually all lines are plain chats, and then a single call is fastest.
        chats = [chat.messages for chat in _DECODER.decode_lines(joined)]
    except ValueError:
        chats = []
    if len(chats) != len(lines) or b"" in lines or set(map(_FIRST, lines)) != {_BRACE}:
        chats = list(map(_decode_line, lines))
    if _has_each_key_once(joined, chats):
        return chats

    for number, (line, chat) in enumerate(zip(lines, chats, strict=True)):
        # `messages`, and `role` and `content` of each message
        expected_keys = 1 + 2 * len(chat)
        if chat and len(_KEY.findall(line)) != expected_keys:
            chats[number] = []
    return chats


def _decode_line(line: bytes) -> list[_PlainMessage]:
    if not line.startswith(b"{"):
        return []
    try:
        return _DECODER.decode(line).messages
    except ValueError:
        return []


def _has_each_key_once(joined: bytes, chats: Sequence[list[_PlainMessage]]) -> bool:
    """Returns False if some line may have a key twice, of which the parser would keep the last. An extra key means two
    extra quotes; quotes within texts are escaped by a backslash."""
    quotes = joined.count(b'"')
    if b"\\" in joined:
        # After an escaped backslash, a quote ends the text; counting can't tell that from an escaped quote.
        if b"\\\\" in joined:
            return False
        quotes -= joined.count(b'\\"')
    # Two around "messages"; a message has two keys and two texts.
    expected = 2 * len(chats) + 8 * sum(map(len, chats))
    return quotes == expected


def _has_blank(texts: Sequence[str]) -> bool:
    """True if any text is blank. Blank texts begin with an invisible character, which few other texts do."""
    if not all(texts):
        return True
    if _UNSEEN.isdisjoint(map(_FIRST, texts)):
        return False
    return "" in [text.strip(INVISIBLE) for text in texts]


def _groups(chats: Sequence[Sequence[_PlainMessage | Message]], places: Sequence[int]) -> list[Group]:
    groups = []
    for roles, rows in _rows_by_roles(chats).items():
        texts = [message.content for row in rows for message in chats[row]]
        # The texts lie row by row, so every so-many-th is of the same message.
        n_messages = len(roles)
        columns = [column_of(texts[number::n_messages]) for number in range(n_messages)]
        places_of_rows = [places[row] for row in rows]
        groups.append(Group(shape_of(roles), places_of_rows, columns))
    return groups


def _rows_by_roles(chats: Sequence[Sequence[_PlainMessage | Message]]) -> Mapping[Roles, Sequence[int]]:
    sizes = set(map(len, chats))
    # Fast path for rows that all have the same roles, as in most files.
    if len(sizes) == 1 and sizes != {0}:
        size = sizes.pop()
        roles = [message.role for chat in chats for message in chat]
        first_roles = roles[:size]
        columns = [roles[number::size] for number in range(size)]
        if all(column.count(role) == len(chats) for column, role in zip(columns, first_roles, strict=True)):
            return {tuple(first_roles): range(len(chats))}

    rows: dict[Roles, list[int]] = defaultdict(list)
    for row, chat in enumerate(chats):
        roles_of_row = tuple([message.role for message in chat])
        rows[roles_of_row].append(row)
    return rows


def _parse_into(
    chunk: Chunk, line: int, start: int, raw: bytes, findings: Findings, limits: Limits, progress: Progress
) -> None:
    row = raw.strip()
    example = parse_line(line, row, findings, limits, progress)
    if example is None:
        return
    indent = len(raw) - len(raw.lstrip())
    plain = progress.format == "chat" and example.row is None
    chunk.add_example(example, start + indent, len(row), plain)
