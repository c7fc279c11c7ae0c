"""Rows, replies and prices for the tests of this folder; banking77 where it is there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from pathlib import Path

import pytest

from trainers.dataset import Columns, Example, read
from trainers.evaluation.results import Reply
from trainers.pricing import PriceRow
from trainers.types import Message, Price

BANKING = Path(__file__).resolve().parents[4] / "shared" / "data" / "banking77"
needs_banking = pytest.mark.skipif(
    not BANKING.exists(), reason="banking77 is not there: ../shared/data/banking77 beside the repository"
)

WORDS = {
    "refund": "money back return refund send charged twice amount",
    "card": "card lost stolen block new plastic chip",
    "login": "password sign in account locked code app",
}


def example(question: str, answer: str, line: int = 1, system: str = "") -> Example:
    said = (Message("user", question), Message("assistant", answer))
    return Example(line, (Message("system", system), *said) if system else said)


def rows(n: int, labels: Sequence[str] = tuple(WORDS), seed: int = 0) -> tuple[Example, ...]:
    """n different questions, their labels in turn, each with some words of its label."""
    chance = random.Random(seed)
    made = []
    for number in range(n):
        label = labels[number % len(labels)]
        words = chance.choices(WORDS.get(label, label).split(), k=5)
        made.append(example(f"{' '.join(words)} please, case {seed} {number}", label, number + 1))
    return tuple(made)


def replies(texts: Sequence[str], seconds: float = 0.5) -> tuple[Reply, ...]:
    """Each took 100 tokens in and 10 out."""
    return tuple(Reply(text, 100, 10, seconds) for text in texts)


def right_on(examples: Sequence[Example], correct: int, wrong: str = "nothing") -> tuple[Reply, ...]:
    """Right on the first ones."""
    return replies([e.answer if i < correct else wrong for i, e in enumerate(examples)])


def price(model: str, usd_in: str, usd_out: str, usd_per_hour: str | None = None) -> PriceRow:
    return PriceRow(
        model=model,
        kind="prompted",
        price=Price(None, Decimal(usd_in), None, Decimal(usd_out)),
        source="a list",
        usd_per_hour=None if usd_per_hour is None else Decimal(usd_per_hour),
    )


@lru_cache
def banking(file: str) -> tuple[Example, ...]:
    return read(BANKING / file, file, columns=Columns("text", "category")).examples
