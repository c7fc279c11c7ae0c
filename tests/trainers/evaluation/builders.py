"""Builds held-out rows, replies of models and prices."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from decimal import Decimal

from trainers.dataset import Example
from trainers.evaluation.results import Reply
from trainers.providers.pricing import PriceRow
from trainers.types import Message, Price

WORDS = {
    "refund": "money back return refund send charged twice amount",
    "card": "card lost stolen block new plastic chip",
    "login": "password sign in account locked code app",
}


def make_example(question: str, answer: str, line: int = 1, system: str = "") -> Example:
    turns = (Message("user", question), Message("assistant", answer))
    return Example(line, (Message("system", system), *turns) if system else turns)


def make_rows(count: int, labels: Sequence[str] = tuple(WORDS), seed: int = 0) -> tuple[Example, ...]:
    """Makes different questions, whose labels take turns. Each has some words of its label."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        label = labels[number % len(labels)]
        words = chance.choices(WORDS.get(label, label).split(), k=5)
        rows.append(make_example(f"{' '.join(words)} please, case {seed} {number}", label, number + 1))
    return tuple(rows)


def make_replies(texts: Sequence[str], seconds: float = 0.5) -> tuple[Reply, ...]:
    """Each reply takes 100 tokens in and 10 out."""
    return tuple(Reply(text, 100, 10, seconds) for text in texts)


def answer_first(examples: Sequence[Example], correct: int, wrong: str = "nothing") -> tuple[Reply, ...]:
    """Answers the first `correct` rows correctly, and the others with `wrong`."""
    return make_replies([row.answer if i < correct else wrong for i, row in enumerate(examples)])


def make_price(model: str, usd_in: str, usd_out: str, usd_per_hour: str | None = None) -> PriceRow:
    return PriceRow(
        model=model,
        kind="prompted",
        price=Price(None, Decimal(usd_in), None, Decimal(usd_out)),
        source="a list",
        usd_per_hour=None if usd_per_hour is None else Decimal(usd_per_hour),
    )


def make_orders(count: int, seed: int = 0) -> tuple[Example, ...]:
    """Makes orders with answers in JSON: fields that the words decide, one of them nested and one often missing, and a
    number of the order's own."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        item = chance.choice(("desk", "chair", "lamp", "shelf"))
        colour = chance.choice(("blue", "red", "green"))
        words, quantity = chance.choice((("one", 1), ("two", 2), ("ten", 10)))
        is_urgent = chance.random() < 0.3
        text = f"Order {1000 + 7 * number + seed}: please send {words} {item} in {colour}"
        answer = {
            "order": 1000 + 7 * number + seed,
            "goods": {"item": item, "colour": colour},
            "quantity": quantity,
        }
        if is_urgent:
            text += ", we need it tomorrow"
            answer["urgent"] = True
        rows.append(make_example(text, json.dumps(answer), number + 1))
    return tuple(rows)
