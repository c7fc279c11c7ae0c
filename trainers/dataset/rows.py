"""The values of a dataset: rows, columns, limits, instructions around a question, and columns of many texts that are
searched together. Reads no files."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from operator import itemgetter
from typing import Any, Literal, TypeAlias, TypeVar

from trainers.types import Message

Value = TypeVar("Value")
LONGEST_SHOWN_TEXT = 140
LONGEST_SHOWN_LABEL = 60
INSTRUCTION_ROLES = frozenset({"system", "developer"})
_SAMPLE = 32


@dataclass(frozen=True, slots=True)
class Column:
    """The texts of one message in many rows. `texts` are the decoded `raws`, which are UTF-8. `numbers` has the index
    of each row's text, or is None if every row has a text of its own."""

    raws: Sequence[bytes]
    texts: Sequence[str]
    numbers: Sequence[int] | None

    def by_row(self, values: Sequence[Value]) -> Sequence[Value]:
        """Returns the value of each row. `values` has one for each of `raws`."""
        if self.numbers is None:
            return values
        if len(values) == 1:
            return [values[0]] * len(self.numbers)
        return list(map(values.__getitem__, self.numbers))

    def cut(self, rows: int) -> Column:
        """Returns the column with only the first `rows` rows."""
        if self.numbers is None:
            return Column(self.raws[:rows], self.texts[:rows], None)
        return Column(self.raws, self.texts, self.numbers[:rows])

    def rows_of(self, text: int) -> Sequence[int]:
        if self.numbers is None:
            return [text]
        return [row for row, number in enumerate(self.numbers) if number == text]


def column_of(texts: Sequence[str]) -> Column:
    """Makes a column from the text of each row. Equal texts are merged only if there are some among the first ones."""
    first = texts[:_SAMPLE]
    if len(set(first)) == len(first):
        raws = list(map(str.encode, texts))
        return Column(raws, texts, None)
    different = list(dict.fromkeys(texts))
    index_of = dict(zip(different, range(len(different)), strict=True))
    raws = list(map(str.encode, different))
    numbers = list(map(index_of.__getitem__, texts))
    return Column(raws, different, numbers)


class JoinedTexts:
    """Texts joined into one, `data`, with zero bytes between them."""

    def __init__(self, raws: Sequence[bytes]) -> None:
        self.raws = raws
        self.data = b"\0".join(raws)

    @cached_property
    def _starts(self) -> list[int]:
        sizes = [len(raw) + 1 for raw in self.raws[:-1]]  # with the zero byte
        return list(accumulate(sizes, initial=0))

    def indices_with(self, find: Callable[[int], int]) -> list[int]:
        """Returns the indices of texts with a match. `find` returns the position of the next match in `data`, at or
        after a given position, or -1 if there is none."""
        starts = self._starts
        indices: list[int] = []
        position = find(0)
        while position >= 0:
            index = bisect_right(starts, position) - 1
            indices.append(index)
            # A text counts once: the search goes on in the next.
            following = index + 1
            if following == len(starts):
                break
            position = find(starts[following])
        return indices


def join_texts(texts: Iterable[str]) -> JoinedTexts:
    raws = [text.encode() for text in texts]
    return JoinedTexts(raws)


# "chat", "completion" or "preference" of JSONL, or the name of another FileFormat
Format: TypeAlias = str
Task = Literal["labels", "free_text"]
T = TypeVar("T")


@dataclass(frozen=True)
class Columns:
    """The names of a table's columns; None means that the column is detected. `sheet` is the only sheet of a workbook
    to read; None reads the first with a table, and those with the same columns."""

    text: str | None = None
    label: str | None = None
    sheet: str | None = None


@dataclass(frozen=True)
class Choices:
    """The columns to choose from, if more than one would fit."""

    text: tuple[str, ...] = ()
    label: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """A sheet of a workbook that has anything in it. `lines` includes its header."""

    name: str
    lines: int
    is_read: bool


@dataclass(frozen=True)
class Limits:
    """Limits that protect against huge and malicious files. `listed` is the number of lines listed individually for
    each code."""

    max_bytes: int = 200_000_000
    max_rows: int = 200_000
    max_line_bytes: int = 1_000_000
    max_depth: int = 32
    max_messages: int = 256
    max_row_tokens: int = 65_536
    listed: int = 20


FIND_COLUMNS = Columns()
NO_CHOICES = Choices()
DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Example:
    """One row: a conversation whose last message is the answer to learn. `line` is the line where it begins, from 1.

    The content of a message that calls tools is its text followed by the calls as JSON. Such a row also has its own
    JSON in `row`, which is what gets written, and so has any other row whose line is more than roles and texts: names,
    weights, empty keys. `uses_tools`: the row offers functions or calls them. `dropped` are the names of keys that are
    not written because no trainer reads them.
    """

    line: int
    messages: tuple[Message, ...]
    row: bytes | None = None
    dropped: tuple[str, ...] = ()
    uses_tools: bool = False

    @property
    def prompt(self) -> tuple[Message, ...]:
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        return self.messages[-1].content

    @property
    def system(self) -> str:
        """The instructions, or "" if there are none."""
        texts = [message.content for message in self.messages if message.role in INSTRUCTION_ROLES]
        return "\n".join(texts)


@dataclass(frozen=True)
class ShownRow:
    """A row as people are shown it: one line each of its question and its answer, shortened."""

    text: str
    label: str


def shown_row(example: Example) -> ShownRow:
    turns = [message.content for message in example.prompt if message.role not in INSTRUCTION_ROLES]
    text = to_printable(turns[-1], LONGEST_SHOWN_TEXT)
    label = to_printable(example.answer, LONGEST_SHOWN_LABEL)
    return ShownRow(text, label)


MESSAGE_KEYS = (
    "role",
    "content",
    "name",
    "weight",
    "tool_calls",
    "tool_call_id",
    "function_call",
    "refusal",
)


def is_empty(value: object) -> bool:
    """True for null, and for a text, list or object without anything in it. 0 and false are values."""
    if isinstance(value, str | list | dict):
        return not value
    return value is None


def text_of_content(content: object) -> str | None:
    """Returns the text of a message's content, or the texts of its parts joined by newlines. Returns None if any part
    is not text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts: list[str] = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            return None
        text = part.get("text")
        if not isinstance(text, str):
            return None
        texts.append(text)
    return "\n".join(texts)


def written_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a valid message as trainers get it: with one text as its content, and without keys that are empty or that
    no trainer reads.

    The openai package writes every key that a message could have, most of them as null, and some vendors refuse these.
    """
    written: dict[str, Any] = {}
    for key in MESSAGE_KEYS:
        value = message.get(key)
        if not is_empty(value):
            written[key] = value
    if "content" in message and "content" not in written:
        written["content"] = message["content"] or None  # an assistant that calls tools may say nothing
    if isinstance(written.get("content"), list):
        written["content"] = text_of_content(written["content"])
    return written


def is_blank(text: str) -> bool:
    """True if a text has no visible characters, only white space and characters without width."""
    return not text.strip(INVISIBLE)


# Unicode's Default_Ignorable_Code_Point below U+10000, without lone surrogates. INVISIBLE adds what str.strip removes.
_NO_WIDTH = (
    (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
    (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x2800, 0x2800), (0x3164, 0x3164),
    (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0),
)  # fmt: skip
REMOVE_INVISIBLE: dict[int, None] = {}
for _first, _last in _NO_WIDTH:
    REMOVE_INVISIBLE |= dict.fromkeys(range(_first, _last + 1))
_SPACES = [character for character in map(chr, range(0x3001)) if character.isspace()]
INVISIBLE = "".join([*_SPACES, *map(chr, REMOVE_INVISIBLE)])


def normalise_text(text: str) -> str:
    """Returns a form that is equal for texts that a person would call the same: NFKC, case-folded, single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    words = text.casefold().split()
    return " ".join(words)


def normalise_all(joined: JoinedTexts, texts: Sequence[str], one_line: bool = False) -> list[bytes]:
    """Returns `normalise_text` of each text in UTF-8; `joined` has the same texts. `one_line`: no text has a control
    character.

    Most texts have single spaces and no cased letters beyond ASCII, and then lower-casing A-Z is enough.
    """
    small = list(map(bytes.lower, joined.raws))
    others = set(_oddly_spaced(joined, one_line))
    others.update(_changed_beyond_ascii(joined))
    for index in others:
        normal = normalise_text(texts[index])
        small[index] = normal.encode()
    return small


def _oddly_spaced(joined: JoinedTexts, one_line: bool) -> Iterator[int]:
    """Yields the indices of texts that have ASCII white space other than single spaces between words."""
    raws = joined.raws
    data = joined.data
    if _may_have_space_at_edges(raws):
        yield from [index for index, raw in enumerate(raws) if raw.strip() != raw]
    # Usually there is no double space, which rfind finds out in two thirds of the time that find takes.
    if data.rfind(b"  ") >= 0:
        yield from joined.indices_with(lambda start: data.find(b"  ", start))
    if not one_line:
        view = data.translate(_WHITE)
        yield from joined.indices_with(lambda start: view.find(b"\n", start))


def _may_have_space_at_edges(raws: Sequence[bytes]) -> bool:
    # An empty text has no first byte, so it is looked for before the edges.
    if not all(raws):
        return True
    edges = {*map(_FIRST, raws), *map(_LAST, raws)}
    return not _SPACE.isdisjoint(edges)


def _changed_beyond_ascii(joined: JoinedTexts) -> list[int]:
    """Returns the indices of texts with non-ASCII characters that `normalise_text` may change."""
    if joined.data.isascii():
        return []
    raws = joined.raws
    rest = [index for index, raw in enumerate(raws) if not raw.isascii()]
    joined_rest = b"".join([raws[index] for index in rest])
    beyond_ascii = joined_rest.translate(None, _ASCII)
    characters = set(beyond_ascii.decode()) - _INERT
    changed = [character.encode() for character in characters if not _is_inert(character)]
    if len(changed) > _FEW:  # then searching for each takes longer than normalising all
        return rest
    other_rows = []
    for index in rest:
        if any(character in raws[index] for character in changed):
            other_rows.append(index)
    return other_rows


@lru_cache(4096)
def _is_inert(character: str) -> bool:
    """True if `normalise_text` never changes the character, whatever its neighbours are. Marks, which combine with the
    letter before, and parts of Hangul, which combine with each other, don't qualify."""
    code = ord(character)
    kind = unicodedata.category(character)[0]
    is_hangul_part = 0x1100 <= code < 0x1200
    if kind not in "LNPS" or is_hangul_part:
        return False
    is_inert = code < 0x10000 and normalise_text(character) == character
    if is_inert:
        _INERT.add(character)
    return is_inert


_INERT: set[str] = set()
_ASCII = bytes(range(128))
_FEW = 12
_WHITE = bytes([0] + [10] * 31 + [0] * 224)  # maps control characters but \0 to a line break
_SPACE = frozenset(b" \t\n\r\v\f")
_FIRST = itemgetter(0)
_LAST = itemgetter(-1)


def question_key(example: Example) -> bytes:
    """Returns a 16-byte hash of the normalised messages before the answer, without instructions."""
    turns: list[str] = []
    for message in example.prompt:
        if message.role not in INSTRUCTION_ROLES:
            text = normalise_text(message.content)
            turns.append(f"{message.role}\x1f{text}")
    question = "\x1e".join(turns)
    return hashlib.blake2b(question.encode(), digest_size=16).digest()


def question_keys(examples: Iterable[Example]) -> list[bytes]:
    return [question_key(example) for example in examples]


def distinct_indices(keys: Sequence[bytes], answers: Sequence[str]) -> list[int]:
    """Returns the indices of the rows without copies: the first for each question (`keys` are question_keys) and
    answer."""
    if len(set(keys)) == len(keys):
        return list(range(len(keys)))
    first: dict[tuple[bytes, str], int] = {}
    for index, (key, answer) in enumerate(zip(keys, answers, strict=True)):
        copies = (key, answer.strip())
        first.setdefault(copies, index)
    return list(first.values())


def distinct_example_indices(examples: Sequence[Example]) -> list[int]:
    """Like `distinct_indices`, for examples. Holdouts from version 0.1.0 have copies, and holdouts that a person
    provides may have some."""
    keys = question_keys(examples)
    answers = [example.answer for example in examples]
    return distinct_indices(keys, answers)


def at(indices: Iterable[int], values: Sequence[T]) -> tuple[T, ...]:
    """Returns the values at these indices."""
    return tuple(values[index] for index in indices)


def most_frequent(counts: Counter[str]) -> str:
    """Returns the most frequent text; of equally frequent ones the first in the alphabet."""
    return min(counts, key=lambda text: (-counts[text], text))


def to_printable(text: str, longest: int = 80) -> str:
    """Makes text from outside safe to quote in a sentence: without control and bidirectional characters, on one line,
    and shortened to `longest` characters."""
    # Control characters become spaces rather than vanish, or else the words around them would be joined.
    shown = [" " if unicodedata.category(character) in _UNSHOWN else character for character in text]
    words = "".join(shown).split()
    clean = " ".join(words)
    if len(clean) <= longest:
        return clean
    return clean[: longest - 1] + "…"


_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def ignore_message(text: str) -> None:
    """Does nothing; the default for `on_progress`."""


CLASSIFY = "Classify the customer's message. Answer with the label only."
REPLY = "Answer the customer's message."


def default_system(task: Task) -> str:
    if task == "labels":
        return CLASSIFY
    return REPLY


def with_system(examples: Iterable[Example], system: str) -> tuple[Example, ...]:
    """Puts `system` before rows that have no instructions. Rows with instructions or with JSON of their own are left
    unchanged."""
    first = Message("system", system)
    completed: list[Example] = []
    for example in examples:
        if not example.system and example.row is None:
            example = replace(example, messages=(first, *example.messages))
        completed.append(example)
    return tuple(completed)


def has_own_instructions(example: Example) -> bool:
    """True if the row came with instructions. Rows of a table get our plain ones when they are read."""
    return example.system not in ("", REPLY)


def prompt_with_labels(
    example: Example,
    labels: Sequence[str],
    answer_format: str = "",
) -> tuple[Message, ...]:
    """Returns the prompt for an untuned model: the row's own, plus a list of the labels if it has none, to be fair.
    `answer_format` describes answers in JSON; it is used if the row has no instructions of its own."""
    if answer_format and not has_own_instructions(example):
        turns = [message for message in example.prompt if message.role not in INSTRUCTION_ROLES]
        return (Message("system", answer_format), *turns)
    if lists_labels(example.system, labels):
        return example.prompt
    listed = "Labels:\n" + "\n".join(labels)
    for number, message in enumerate(example.prompt):
        if message.role in INSTRUCTION_ROLES:
            longer = replace(message, content=f"{message.content}\n{listed}")
            before = example.prompt[:number]
            after = example.prompt[number + 1 :]
            return (*before, longer, *after)
    system = Message("system", f"{CLASSIFY}\n{listed}")
    return (system, *example.prompt)


def lists_labels(system: str, labels: Sequence[str]) -> bool:
    """True if `system` contains each label as a separate word, and also if there are no labels."""
    text = normalise_text(system)
    for label in labels:
        name = re.escape(normalise_text(label))
        # \b would never match beside a label like "C#", which ends in no letter.
        if not re.search(rf"(?<!\w){name}(?!\w)", text):
            return False
    return True
