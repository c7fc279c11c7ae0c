"""The words of a dataset: its rows, their columns, the caps. Holds values, reads nothing."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from trainers.types import Message

Format = Literal["chat", "completion", "csv"]
Task = Literal["labels", "free_text"]


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; None = to be found."""

    text: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Choices:
    """Columns that would fit, where more than one does: a person picks."""

    text: tuple[str, ...] = ()
    label: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """Caps against files that are too big or too clever. `listed`: lines named one by one for each code."""

    max_bytes: int = 50_000_000
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
    own JSON, and it is what gets written. `row` is None where the messages say everything.
    """

    line: int
    messages: tuple[Message, ...]
    row: bytes | None = None

    @property
    def prompt(self) -> tuple[Message, ...]:
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        return self.messages[-1].content

    @property
    def system(self) -> str:
        """The instructions, empty where there are none."""
        return "\n".join(m.content for m in self.messages if m.role in ("system", "developer"))


def normalised(text: str) -> str:
    """What two texts share when a person would call them the same: NFKC, no case, single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def question_key(example: Example) -> bytes:
    """16 bytes that two rows share when all before the answer is the same, instructions left aside."""
    turns = [
        f"{m.role}\x1f{normalised(m.content)}"
        for m in example.messages[:-1]
        if m.role not in ("system", "developer")
    ]
    return hashlib.blake2b("\x1e".join(turns).encode(), digest_size=16).digest()


def question_keys(examples: Iterable[Example]) -> list[bytes]:
    return [question_key(example) for example in examples]


def shown(text: str, longest: int = 80) -> str:
    """Text from outside, fit for a sentence: no control or bidirectional characters, not longer than that."""
    clean = "".join(" " if unicodedata.category(c) in _UNSHOWN else c for c in text)
    clean = " ".join(clean.split())
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
