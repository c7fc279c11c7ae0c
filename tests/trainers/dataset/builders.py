"""Builds rows of training data, and reads banking77 where it is beside the repository."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from trainers.dataset import Columns, Example, read
from trainers.types import Message

BANKING77 = Path(__file__).resolve().parents[4] / "shared" / "data" / "banking77"
needs_banking77 = pytest.mark.skipif(
    not BANKING77.is_dir(), reason="needs ../shared/data/banking77, which a plain clone lacks"
)


def make_row(line: int, text: str, answer: str = "a", system: str = "") -> Example:
    instructions = (Message("system", system),) if system else ()
    return Example(line, (*instructions, Message("user", text), Message("assistant", answer)))


def make_rows(count: int, labels: int = 2, first: int = 1) -> list[Example]:
    """Makes different questions, whose labels take turns."""
    return [make_row(i, f"question {i}", f"label {i % labels}") for i in range(first, first + count)]


def chat_line(question: str, answer: str, system: str | None = None, **more: object) -> str:
    """Returns the line of a JSONL file. `more` are further keys beside "messages"."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return json.dumps({"messages": messages, **more}, ensure_ascii=False)


@cache
def read_banking77(part: str) -> tuple[Example, ...]:
    """`part` is "train" or "test"."""
    return read(BANKING77 / f"{part}.csv", f"{part}.csv", columns=Columns("text", "category")).examples
