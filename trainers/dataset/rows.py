"""The values of a dataset: rows, columns, caps, instructions around a question, and columns of many texts that are
searched at once. Reads no files."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from operator import itemgetter
from typing import Literal, TypeVar

from trainers.types import Message

Value = TypeVar("Value")
INSTRUCTION_ROLES = frozenset({"system", "developer"})
_SAMPLE = 32


@dataclass(frozen=True, slots=True)
class Column:
    """One message's text in each of many rows. `texts` are `raws`, which are UTF-8, decoded. `numbers` has for each row
    the number of its text; None where each row has a text of its own."""

    raws: Sequence[bytes]
    texts: Sequence[str]
    numbers: Sequence[int] | None

    def by_row(self, values: Sequence[Value]) -> Sequence[Value]:
        """Returns each row's value. `values` has one for each of `raws`."""
        if self.numbers is None:
            return values
        if len(values) == 1:
            return [values[0]] * len(self.numbers)
        return list(map(values.__getitem__, self.numbers))

    def cut(self, rows: int) -> Column:
        """Keeps the first `rows` rows."""
        if self.numbers is None:
            return Column(self.raws[:rows], self.texts[:rows], None)
        return Column(self.raws, self.texts, self.numbers[:rows])

    def rows_of(self, text: int) -> Sequence[int]:
        if self.numbers is None:
            return [text]
        return [row for row, number in enumerate(self.numbers) if number == text]


def column_of(texts: Sequence[str]) -> Column:
    """Makes a column of each row's text. Equal texts are looked for only where the first ones have some."""
    first = texts[:_SAMPLE]
    if len(set(first)) == len(first):
        return Column(list(map(str.encode, texts)), texts, None)
    place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return Column(list(map(str.encode, place)), list(place), list(map(place.__getitem__, texts)))


class Joined:
    """Texts as one, `data`, with a zero byte between them."""

    def __init__(self, raws: Sequence[bytes]) -> None:
        self.raws, self.data = raws, b"\0".join(raws)

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate([len(raw) + 1 for raw in self.raws[:-1]], initial=0))

    def places_with(self, find: Callable[[int], int]) -> list[int]:
        """Returns the places of the texts that hold something. `find` returns where in `data` it stands, at or after a
        position; -1: nowhere."""
        places: list[int] = []
        position = find(0)
        while position >= 0:
            place = bisect_right(self._starts, position) - 1
            places.append(place)
            position = find(self._starts[place + 1]) if place + 1 < len(self._starts) else -1
        return places


Format = Literal["chat", "completion", "csv", "objects", "xlsx", "parquet", "preference"]
Task = Literal["labels", "free_text"]
T = TypeVar("T")


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; None: to be found."""

    text: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Choices:
    """The columns that would fit, where more than one does, for a person to pick from."""

    text: tuple[str, ...] = ()
    label: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """Caps against files that are too big or made to do harm. `listed`: lines listed one by one for each code."""

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
    """One row: a conversation whose last message is the answer to learn. `line` is where it begins, from 1.

    A message that calls tools has as content its text and then the calls as JSON; `row` is then the row's
    own JSON, and it is what gets written. `row` is None where the messages say everything. `dropped` are the
    names of what stood beside it and is not written: no trainer reads it.
    """

    line: int
    messages: tuple[Message, ...]
    row: bytes | None = None
    dropped: tuple[str, ...] = ()

    @property
    def prompt(self) -> tuple[Message, ...]:
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        return self.messages[-1].content

    @property
    def system(self) -> str:
        """The instructions, empty where there are none."""
        return "\n".join(m.content for m in self.messages if m.role in INSTRUCTION_ROLES)


def is_blank(text: str) -> bool:
    """Says whether a person sees nothing: no character at all, or white space and characters without a width."""
    return not text.strip(INVISIBLE)


# What str.strip takes, and Unicode's Default_Ignorable_Code_Point below U+10000, the lone surrogates aside.
_NO_WIDTH = (
    (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
    (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x2800, 0x2800), (0x3164, 0x3164),
    (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0),
)  # fmt: skip
REMOVE_INVISIBLE = dict.fromkeys(code for first, last in _NO_WIDTH for code in range(first, last + 1))
INVISIBLE = "".join([*filter(str.isspace, map(chr, range(0x3001))), *map(chr, REMOVE_INVISIBLE)])


def normalise_text(text: str) -> str:
    """Returns what two texts share when a person would call them the same: NFKC, no case, single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def normalise_all(joined: Joined, texts: Sequence[str], one_line: bool = False) -> list[bytes]:
    """Returns `normalise_text` of each text in UTF-8; `joined` has the same texts. Most have single spaces and no
    letters whose case is not ASCII's: then it is enough to make A-Z small. `one_line`: no text has a control
    character."""
    small = list(map(bytes.lower, joined.raws))
    for place in {*_oddly_spaced(joined, one_line), *_changed_beyond_ascii(joined)}:
        small[place] = normalise_text(texts[place]).encode()
    return small


def _oddly_spaced(joined: Joined, one_line: bool) -> Iterator[int]:
    """Yields the places of texts with other white space of ASCII than single spaces between words."""
    raws, data = joined.raws, joined.data
    if not all(raws) or not _EDGES.isdisjoint({*map(_FIRST, raws), *map(_LAST, raws)}):
        yield from [place for place, raw in enumerate(raws) if raw.strip() != raw]
    # Most often there is no double space, which rfind finds out in two thirds of the time of find.
    if data.rfind(b"  ") >= 0:
        yield from joined.places_with(lambda start: data.find(b"  ", start))
    if not one_line:
        view = data.translate(_WHITE)
        yield from joined.places_with(lambda start: view.find(b"\n", start))


def _changed_beyond_ascii(joined: Joined) -> list[int]:
    """Returns the places of texts with characters that are not ASCII and that `normalise_text` may change."""
    if joined.data.isascii():
        return []
    raws = joined.raws
    rest = [place for place, is_ascii in enumerate(map(bytes.isascii, raws)) if not is_ascii]
    characters = set(b"".join([raws[place] for place in rest]).translate(None, _ASCII).decode())
    changed = [char.encode() for char in characters if char not in _INERT and not _is_inert(char)]
    if len(changed) > _FEW:
        return rest
    return [place for place in rest if any(char in raws[place] for char in changed)]


@lru_cache(4096)
def _is_inert(character: str) -> bool:
    """Says whether `normalise_text` leaves the character alone whatever stands beside it: it is no mark, which joins
    with the letter before, nor a part of Hangul, which join with each other."""
    if unicodedata.category(character)[0] not in "LNPS" or 0x1100 <= ord(character) < 0x1200:
        return False
    is_inert = ord(character) < 0x10000 and normalise_text(character) == character
    if is_inert:
        _INERT.add(character)
    return is_inert


_INERT: set[str] = set()
_ASCII = bytes(range(128))
_FEW = 12
_WHITE = bytes(10 if 0 < byte < 32 else 0 for byte in range(256))
_EDGES = frozenset(b" \t\n\r\v\f")
_FIRST, _LAST = itemgetter(0), itemgetter(-1)


def question_key(example: Example) -> bytes:
    """Returns 16 bytes that two rows share when all before the answer is the same, instructions left aside."""
    turns = [
        f"{m.role}\x1f{normalise_text(m.content)}"
        for m in example.messages[:-1]
        if m.role not in INSTRUCTION_ROLES
    ]
    return hashlib.blake2b("\x1e".join(turns).encode(), digest_size=16).digest()


def question_keys(examples: Iterable[Example]) -> list[bytes]:
    return [question_key(example) for example in examples]


def distinct_places(keys: Sequence[bytes], answers: Sequence[str]) -> list[int]:
    """Returns the places of rows without their copies: the first of each question (`keys` are question_keys) and
    answer."""
    if len(set(keys)) == len(keys):
        return list(range(len(keys)))
    first: dict[tuple[bytes, str], int] = {}
    for place, (key, answer) in enumerate(zip(keys, answers, strict=True)):
        first.setdefault((key, answer.strip()), place)
    return list(first.values())


def distinct_example_places(examples: Sequence[Example]) -> list[int]:
    """Does the same as `distinct_places`. A holdout of 0.1.0 has copies, and so may one that a person provides."""
    return distinct_places(question_keys(examples), [example.answer for example in examples])


def at(places: Iterable[int], values: Sequence[T]) -> tuple[T, ...]:
    return tuple(values[place] for place in places)


def to_printable(text: str, longest: int = 80) -> str:
    """Makes text from outside fit for a sentence: no control or bidirectional characters, at most `longest`
    characters."""
    clean = "".join(" " if unicodedata.category(c) in _UNSHOWN else c for c in text)
    clean = " ".join(clean.split())
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def ignore_message(text: str) -> None:
    """Ignores a message about progress."""


CLASSIFY = "Classify the customer's message. Answer with the label only."
REPLY = "Answer the customer's message."


def default_system(task: Task) -> str:
    return CLASSIFY if task == "labels" else REPLY


def with_system(examples: Iterable[Example], system: str) -> tuple[Example, ...]:
    """Puts `system` before the rows that have no instructions. Others keep their own, and rows with tools stay as they
    came."""
    first = Message("system", system)
    return tuple(
        e if e.system or e.row is not None else replace(e, messages=(first, *e.messages)) for e in examples
    )


def prompt_with_labels(example: Example, labels: Sequence[str]) -> tuple[Message, ...]:
    """Returns what an untuned model is asked, to be fair: the row's prompt, and the labels where it doesn't list
    them."""
    if lists_labels(example.system, labels):
        return example.prompt
    listed = "Labels:\n" + "\n".join(labels)
    for number, message in enumerate(example.prompt):
        if message.role in INSTRUCTION_ROLES:
            longer = replace(message, content=f"{message.content}\n{listed}")
            return (*example.prompt[:number], longer, *example.prompt[number + 1 :])
    return (Message("system", f"{CLASSIFY}\n{listed}"), *example.prompt)


def lists_labels(system: str, labels: Sequence[str]) -> bool:
    """Says whether `system` has each label as a word of its own. True also where there are none."""
    text = normalise_text(system)
    return all(re.search(rf"(?<!\w){re.escape(normalise_text(label))}(?!\w)", text) for label in labels)
