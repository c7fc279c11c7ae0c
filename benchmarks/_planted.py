"""Rows with known errors: synthetic texts with any number of labels, and labels made wrong on purpose."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from trainers.dataset import Example
from trainers.types import Message

OWN_WORDS, COMMON_WORDS = 40, 2_000


def make_texts(labels: int, of_each: int, seed: int, own: float = 0.25) -> list[Example]:
    """Returns texts of twelve words. The share `own` of them is specific to the label, a tenth to a similar label, and
    the others are common to all, with realistic frequencies."""
    chance = random.Random(seed)
    similar = [chance.randrange(labels) for _ in range(labels)]

    def word(label: int) -> str:
        drawn = chance.random()
        if drawn < own + 0.1:
            owner = label if drawn < own else similar[label]
            return f"own{owner}word{int(OWN_WORDS * chance.random() ** 2)}"
        return f"word{int(COMMON_WORDS ** chance.random())}"

    rows = [
        (" ".join(word(label) for _ in range(12)), f"label {label}")
        for label in range(labels)
        for _ in range(of_each)
    ]
    chance.shuffle(rows)
    return [make_example(text, label, line) for line, (text, label) in enumerate(rows, 1)]


def make_example(text: str, label: str, line: int) -> Example:
    return Example(line, (Message("user", text), Message("assistant", label)))


def mislabel(rows: Sequence[Example], share: float, seed: int) -> tuple[list[Example], set[int]]:
    """Gives a share of the rows a random other label. Returns the rows and the places of the wrong labels."""
    chance = random.Random(seed)
    names = sorted({row.answer for row in rows})
    wrong = set(chance.sample(range(len(rows)), round(share * len(rows))))
    mislabelled = [
        make_example(row.prompt[-1].content, chance.choice([n for n in names if n != row.answer]), row.line)
        if place in wrong
        else row
        for place, row in enumerate(rows)
    ]
    return mislabelled, wrong


def rank_by_margin(rows: Sequence[Example]) -> list[int]:
    """Ranks rows by the margin of an obvious baseline, logistic regression on words out of fold, worst first."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    names = sorted({row.answer for row in rows})
    labels = np.array([names.index(row.answer) for row in rows])
    words = TfidfVectorizer().fit_transform([row.prompt[-1].content for row in rows])
    scores = np.zeros((len(rows), len(names)))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(words, labels):
        model = LogisticRegression(max_iter=1_000).fit(words[train], labels[train])
        scores[np.ix_(test, model.classes_)] = model.predict_proba(words[test])
    return [int(place) for place in margins_of(scores, labels).argsort(kind="stable")]


def margins_of(scores: Any, labels: Sequence[int]) -> Any:
    """Returns how far each row's own label is ahead of the best other one."""
    import numpy as np

    places = np.arange(len(labels))
    own, others = scores[places, labels], np.array(scores)
    others[places, labels] = -np.inf
    return own - others.max(axis=1)
