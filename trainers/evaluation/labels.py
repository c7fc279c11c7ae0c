"""Answers that are labels: which count as the same, what is taken for what, and each label's score."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

OTHER = "(something else)"
_QUOTES = "\"'`*“”‘’«»"


@dataclass(frozen=True)
class LabelScore:
    """`precision` and `recall` are None where nothing was answered, or expected, so; f1 is then 0."""

    label: str
    expected: int
    answered: int
    correct: int

    @property
    def precision(self) -> float | None:
        return self.correct / self.answered if self.answered else None

    @property
    def recall(self) -> float | None:
        return self.correct / self.expected if self.expected else None

    @property
    def f1(self) -> float:
        both = self.expected + self.answered
        return 2 * self.correct / both if both else 0.0


@dataclass(frozen=True)
class Confusion:
    """counts[i][j]: rows whose right label is labels[i] and whose answer is columns[j].

    `columns` are the labels and, last, OTHER for an answer that is no label.
    """

    labels: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def normalise(answer: str) -> str:
    """What counts as the same answer: NFKC, no case, single spaces, without quotes around it and a full stop
    at its end. "Label: refund" stays another answer than "refund": a program could not use it."""
    text = " ".join(unicodedata.normalize("NFKC", answer).casefold().split())
    return text.strip(_QUOTES + " ").removesuffix(".").strip(_QUOTES + " ")


def exact_match(expected: str, answer: str) -> bool:
    return normalise(expected) == normalise(answer)


def confusion(expected: Sequence[str], answers: Sequence[str]) -> Confusion:
    """Labels are those expected, by name; answers are matched to them as `exact_match` does, and so are
    spellings of one label to its first."""
    spelled = {normalise(label): label for label in sorted(set(expected), reverse=True)}
    labels = tuple(sorted(spelled.values()))
    place = {normalise(label): i for i, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for right, answer in zip(expected, answers, strict=True):
        counts[place[normalise(right)]][place.get(normalise(answer), len(labels))] += 1
    return Confusion(labels, (*labels, OTHER), tuple(map(tuple, counts)))


def label_scores(matrix: Confusion) -> tuple[LabelScore, ...]:
    """One for each label, in their order."""
    return tuple(
        LabelScore(
            label=label,
            expected=sum(matrix.counts[i]),
            answered=sum(row[i] for row in matrix.counts),
            correct=matrix.counts[i][i],
        )
        for i, label in enumerate(matrix.labels)
    )


@dataclass(frozen=True)
class Mistake:
    """`rows` whose right label is `expected` were answered `answered`, of `of` that are so labelled."""

    expected: str
    answered: str
    rows: int
    of: int


def mistakes(matrix: Confusion) -> tuple[Mistake, ...]:
    """What is taken for what, the most frequent first, then by name."""
    found = [
        Mistake(label, matrix.columns[j], count, sum(matrix.counts[i]))
        for i, label in enumerate(matrix.labels)
        for j, count in enumerate(matrix.counts[i])
        if count and i != j
    ]
    return tuple(sorted(found, key=lambda one: (-one.rows, one.expected, one.answered)))


def macro_f1(matrix: Confusion) -> float:
    """The plain mean of the labels' F1: a rare label counts as much as a frequent one. ValueError if none."""
    scores = label_scores(matrix)
    if not scores:
        raise ValueError("macro F1 of no labels: there is nothing to say")
    return sum(score.f1 for score in scores) / len(scores)
