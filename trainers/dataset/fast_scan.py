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
from trainers.dataset.file_format import Block, blocks
from trainers.dataset.jsonl import parse_line
from trainers.dataset.rows import INSTRUCTION_ROLES, INVISIBLE, Column, Example, Limits, column_of
from trainers.dataset.tables import Progress
from trainers.types import Message, Role

Roles = tuple[Role, ...]

_KEY = re.compile(rb'"[ \t\r]*:')
_BRACE = b"{"[0]
_CONTROLS = bytes(byte < 32 for byte in range(256))  # maps control characters to 1, all others to 0
_UNSEEN = frozenset(INVISIBLE)
_FIRST = itemgetter(0)


# gc=False: these objects are in no cycle, so the collector need not look at them.
class _PlainMessage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "developer", "user", "assistant"]
    content: str


class _PlainChat(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    messages: list[_PlainMessage]


Chat = Sequence[_PlainMessage | Message]

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
    answer = len(roles) - 1
    turns: list[int] = []
    system: list[int] = []
    formats: list[bytes] = []
    for position, role in enumerate(roles):
        if role in INSTRUCTION_ROLES:
            system.append(position)
        elif position != answer:
            turns.append(position)
            formats.append(role.encode() + b"\x1f%b")
    return Shape(
        roles,
        turns=tuple(turns),
        system=tuple(system),
        question=b"\x1e".join(formats),
    )


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one shape: their positions in a chunk, and one column for each message."""

    shape: Shape
    positions: Sequence[int]
    columns: Sequence[Column]

    def cut(self, rows: int) -> Group:
        """Returns the group without the rows from position `rows` on."""
        count = bisect_left(self.positions, rows)
        positions = self.positions[:count]
        columns = [column.cut(count) for column in self.columns]
        return Group(self.shape, positions, columns)


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
        position = len(self.lines)
        self.examples.append((position, example))
        self.add(example.line, start, size, plain)

    def groups(self) -> list[Group]:
        """Returns all rows grouped by shape."""
        positions = [position for position, _ in self.examples]
        messages = [example.messages for _, example in self.examples]
        return [*self.plain_groups, *_groups(messages, positions)]

    def cut(self, rows: int) -> None:
        """Keeps the first `rows` rows."""
        del self.lines[rows:]
        del self.starts[rows:]
        del self.sizes[rows:]
        del self.plain[rows:]
        remaining = [group for group in self.plain_groups if group.positions[0] < rows]
        self.plain_groups = [group.cut(rows) for group in remaining]
        self.examples = [(position, example) for position, example in self.examples if position < rows]


def scan(
    file: BinaryIO,
    findings: Findings,
    limits: Limits,
    progress: Progress,
) -> Iterator[Chunk]:
    """Yields the good rows in chunks. Never raises because of the file's content: faults go to `findings`, in the same
    words as those of `reader.stream`."""
    scanner = _Scanner(findings, limits, progress)
    for block in blocks(file, findings, limits):
        yield scanner.read(block)


@dataclass(frozen=True, slots=True)
class _Scanner:
    """Reads blocks of lines. Faults go to `findings`; `progress` is updated."""

    findings: Findings
    limits: Limits
    progress: Progress

    def read(self, block: Block) -> Chunk:
        chunk = Chunk()
        rest = self._parse_until_format(chunk, block)
        if rest.lines and self.progress.format == "chat":
            self._add_chats(chunk, rest)
        else:
            start = rest.start
            for number, raw in enumerate(rest.lines, rest.first):
                self._parse(chunk, number, start, raw)
                start += len(raw) + 1  # with the line break
        return chunk

    def _parse_until_format(self, chunk: Chunk, block: Block) -> Block:
        """Parses lines up to the first good row of the file, which decides the format. Returns the other lines."""
        lines = block.lines
        n_parsed = 0
        start = block.start
        while self.progress.format is None and n_parsed < len(lines):
            raw = lines[n_parsed]
            number = block.first + n_parsed
            self._parse(chunk, number, start, raw)
            n_parsed += 1
            start += len(raw) + 1
        first = block.first + n_parsed
        return Block(first, start, lines[n_parsed:])

    def _add_chats(self, chunk: Chunk, block: Block) -> None:
        lines = block.lines
        joined = b"\n".join(lines)
        groups = _trainable_groups(lines, joined, self.limits)
        lengths = [len(raw) + 1 for raw in lines[:-1]]
        starts = list(accumulate(lengths, initial=block.start))

        # Usually the typed parser has read all lines, and then nothing is left to do for each of them.
        n_grouped = sum(len(group.positions) for group in groups)
        if not chunk.lines and n_grouped == len(lines):
            end = block.first + len(lines)
            chunk.lines = list(range(block.first, end))
            chunk.starts = starts
            chunk.sizes = [len(raw.rstrip()) for raw in lines]
            chunk.plain = bytearray(b"\x01") * len(lines)
            chunk.plain_groups = groups
            # JSON can write a control character only as an escape.
            has_escape = b"\\" in joined
            chunk.one_line_texts = not has_escape or not _has_control(groups)
            return

        grouped: set[int] = set()
        for group in groups:
            grouped.update(group.positions)
        # A faulty line is no row, so the rows behind it move forward.
        row_of_line: list[int] = []
        for position, raw in enumerate(lines):
            row_of_line.append(len(chunk.lines))
            number = block.first + position
            start = starts[position]
            if position in grouped:
                size = len(raw.rstrip())
                chunk.add(number, start, size, plain=True)
            else:
                self._parse(chunk, number, start, raw)
        plain_groups: list[Group] = []
        for group in groups:
            rows = [row_of_line[position] for position in group.positions]
            plain_groups.append(Group(group.shape, rows, group.columns))
        chunk.plain_groups = plain_groups

    def _parse(self, chunk: Chunk, number: int, start: int, raw: bytes) -> None:
        """Adds line `number` of the file, which begins at byte `start`, unless it is faulty."""
        row = raw.strip()
        example = parse_line(number, row, self.findings, self.limits, self.progress)
        if example is None:
            return
        indent = len(raw) - len(raw.lstrip())
        plain = self.progress.format == "chat" and example.row is None
        chunk.add_example(example, start + indent, len(row), plain)


def _trainable_groups(lines: Sequence[bytes], joined: bytes, limits: Limits) -> list[Group]:
    """Returns the rows that need no closer look, grouped by shape; their positions are indices of `lines`. All other
    lines must be parsed one by one, which reports what is wrong."""
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
    if "user" not in roles or len(roles) > max_messages:
        return False
    return roles[-1] == "assistant"


def _has_control(groups: Sequence[Group]) -> bool:
    """True if any text has a control character, such as a line break."""
    for group in groups:
        for column in group.columns:
            joined = b"".join(column.raws)
            is_control = joined.translate(_CONTROLS)
            if b"\x01" in is_control:
                return True
    return False


def _plain_chats(lines: Sequence[bytes], joined: bytes) -> list[list[_PlainMessage]]:
    """Returns each line's messages; an empty list if it has anything besides roles and texts, has a key twice, or
    begins with white space (its position in the file would be wrong)."""
    chats = _decode_together(lines, joined)
    if chats is None:
        chats = list(map(_decode_line, lines))
    if _has_each_key_once(joined, chats):
        return chats

    once: list[list[_PlainMessage]] = []
    for line, chat in zip(lines, chats, strict=True):
        n_keys = len(_KEY.findall(line))
        # `messages`, and `role` and `content` of each message
        expected = 1 + 2 * len(chat)
        if n_keys == expected:
            once.append(chat)
        else:
            once.append([])
    return once


def _decode_together(lines: Sequence[bytes], joined: bytes) -> list[list[_PlainMessage]] | None:
    """Decodes all lines in a single call, which is fastest. Returns None if some line is not a plain chat, or begins
    with white space."""
    try:
        chats = [chat.messages for chat in _DECODER.decode_lines(joined)]
    except ValueError:
        return None
    # An empty line has no first byte, so it is looked for before the braces.
    if len(chats) != len(lines) or b"" in lines:
        return None
    if set(map(_FIRST, lines)) != {_BRACE}:
        return None
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
    n_messages = sum(map(len, chats))
    return quotes == 2 * len(chats) + 8 * n_messages


def _has_blank(texts: Sequence[str]) -> bool:
    """True if any text is blank. Blank texts begin with an invisible character, which few other texts do."""
    if not all(texts):
        return True
    if _UNSEEN.isdisjoint(map(_FIRST, texts)):
        return False
    return "" in [text.strip(INVISIBLE) for text in texts]


def _groups(chats: Sequence[Chat], positions: Sequence[int]) -> list[Group]:
    groups: list[Group] = []
    for roles, rows in _rows_by_roles(chats).items():
        texts = [message.content for row in rows for message in chats[row]]
        n_messages = len(roles)
        columns: list[Column] = []
        for number in range(n_messages):
            # The texts lie row by row, so every so-many-th is of the same message.
            column = column_of(texts[number::n_messages])
            columns.append(column)
        shape = shape_of(roles)
        positions_of_rows = [positions[row] for row in rows]
        group = Group(shape, positions_of_rows, columns)
        groups.append(group)
    return groups


def _rows_by_roles(chats: Sequence[Chat]) -> Mapping[Roles, Sequence[int]]:
    common = _common_roles(chats)
    if common is not None:
        return {common: range(len(chats))}
    rows: dict[Roles, list[int]] = defaultdict(list)
    for row, chat in enumerate(chats):
        roles = tuple([message.role for message in chat])
        rows[roles].append(row)
    return rows


def _common_roles(chats: Sequence[Chat]) -> Roles | None:
    """Returns the roles that all chats have, as in most files, or None if there are others or no messages. Faster than
    comparing the roles of each chat."""
    sizes = set(map(len, chats))
    if len(sizes) != 1:
        return None
    size = sizes.pop()
    roles = [message.role for chat in chats for message in chat]
    first_roles = roles[:size]
    for number, role in enumerate(first_roles):
        roles_of_message = roles[number::size]
        if roles_of_message.count(role) != len(chats):
            return None
    return tuple(first_roles) or None
