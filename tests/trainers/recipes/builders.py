"""Texts as programs send them, for candidates that were frozen."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

from tests.trainers.evaluation.builders import make_example
from trainers.dataset import Example
from trainers.evaluation import tfidf

ROOT = Path(__file__).parents[3]
SEED = 7
SNIPPETS = (
    "Wo bleibt meine Bestellung?",
    "Où est ma commande ?",
    "注文はどこですか。",
    "أين طلبي؟",
    "İstanbul'a gönderin, straße",
    "ﬁne ﬂow e\u0301te\u0301",
    "\u00a0 \u2003\u3000 \x1c\x85",
    "👩‍👩‍👧",
    "a",
    "ab c",
    "C# != C++ 4/5 12.50€",
    "zero\0byte",
)


def read_tickets() -> tuple[Example, ...]:
    with (ROOT / "examples" / "support_tickets.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(make_example(row["text"], row["label"], line) for line, row in enumerate(rows, 2))


def odd_texts(rows: Sequence[Example], count: int) -> list[str]:
    """Makes texts from the words of rows, in several languages, some empty, some very long, with unusual spaces."""
    chance = random.Random(SEED)
    words = [word for row in rows for word in tfidf.text_of(row).split()]
    texts = ["", "   ", "\n", *SNIPPETS, "x" * 9_000, " ".join(words[:3_000])]
    while len(texts) < count:
        parts = [*chance.choices(words, k=chance.randint(1, 40)), *chance.choices(SNIPPETS, k=2)]
        chance.shuffle(parts)
        space = chance.choice((" ", "  ", "\t", "\r\n", "\u00a0", ""))
        texts.append(space.join(parts))
    return texts
