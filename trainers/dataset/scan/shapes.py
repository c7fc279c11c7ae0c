"""What a row's roles alone tell: who asks, where the instructions stand. Worked out once for rows alike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

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
