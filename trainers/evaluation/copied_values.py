"""Learns to copy a field's value out of the text: an order's number, an e-mail address, a date as it was written. For
each field a linear classifier tells which run of words is the value, by its shape and the words around it. Values that
are written otherwise in the answer, such as a date in another format, are beyond it. Asks no model.

scikit-learn, scipy and numpy are imported when needed.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainers.evaluation.spans import COLUMNS, Copier, Span, Spans, find_spans
from trainers.evaluation.statistics import normalise
from trainers.evaluation.tfidf import fit_svm

MOST_TRAINED = 600  # rows: more hardly help, and each has up to four spans a word
MOST_TESTED = 150  # of these rows
TESTED_EACH = 3  # every third row is tested, up to MOST_TESTED
OTHER_SPANS = 25  # of a training row, beside those that are the value of a field
LEAST_COPIED = 0.5  # of a field's values; with fewer there is too little to learn from
Features = Any


@dataclass(frozen=True)
class SvmScorer:
    machine: Any

    def scores(self, described: Sequence[Mapping[str, float]]) -> Any:
        return self.machine.decision_function(_matrix(described))


def fit_copiers(
    columns: Mapping[int, Sequence[str]],
    texts: Sequence[str],
    seed: int,
) -> dict[int, Copier[SvmScorer]]:
    """Learns to copy those of the `columns`, a field's values as JSON by its index in the table, whose values mostly
    occur in the texts. A missing value is ''. Leaves out a field whose spans can't be told from others."""
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)  # noqa: S311
    rows = order[:MOST_TRAINED]
    spans: list[Spans] = []
    values_in_text: list[set[str]] = []
    for row in rows:
        of_row = find_spans(texts[row])
        spans.append(of_row)
        in_text = {normalise(span.value) for span in of_row.spans}
        values_in_text.append(in_text)

    wanted: dict[int, list[str | None]] = {}
    for index, column in columns.items():
        values = [_copyable(column[row]) for row in rows]
        occurs = 0
        for value, in_text in zip(values, values_in_text, strict=True):
            if value in in_text:
                occurs += 1
        if occurs >= LEAST_COPIED * len(rows):
            wanted[index] = values
    if not wanted:
        return {}

    table = _Table(spans, wanted, seed)
    copiers = {}
    for index in wanted:
        column = [columns[index][row] for row in rows]
        copier = _fit(table, index, column)
        if copier is not None:
            copiers[index] = copier
    return copiers


class _Table:
    """The features of the training rows' spans: those that are the value of some field, and a few others."""

    def __init__(
        self,
        spans: Sequence[Spans],
        wanted: Mapping[int, Sequence[str | None]],
        seed: int,
    ) -> None:
        chance = random.Random(seed)  # noqa: S311
        self.spans = spans
        self.wanted = wanted
        self.owners: list[int] = []
        self.values: list[str] = []
        described = []
        for row, of_row in enumerate(spans):
            right = {values[row] for values in wanted.values()}
            chosen: list[Span] = []
            others: list[Span] = []
            for span in of_row.spans:
                if normalise(span.value) in right:
                    chosen.append(span)
                else:
                    others.append(span)
            n_others = min(OTHER_SPANS, len(others))
            chosen += chance.sample(others, n_others)
            for span in chosen:
                self.owners.append(row)
                self.values.append(normalise(span.value))
                described.append(of_row.describe(span))
        self.features = _matrix(described)

    def train(self, field: int, is_used: Callable[[int], bool]) -> SvmScorer | None:
        """Returns a classifier that has seen the rows that are used, None if it has nothing to tell apart."""
        wanted = self.wanted[field]
        used: list[int] = []
        right: list[bool] = []
        for span, row in enumerate(self.owners):
            if is_used(row):
                used.append(span)
                right.append(self.values[span] == wanted[row])
        if len(set(right)) < 2:
            return None
        machine = fit_svm(self.features[used], right, 1.0, 0)
        return SvmScorer(machine)


def _fit(table: _Table, field: int, column: Sequence[str]) -> Copier[SvmScorer] | None:
    """Tests a copier on rows that it has not seen, then learns from all. Returns None if there is nothing to tell
    apart."""
    absent = _absent(column)
    is_number = _is_number(column)
    end = min(len(column), TESTED_EACH * MOST_TESTED)
    tested = range(0, end, TESTED_EACH)
    scorer = table.train(field, lambda row: row not in tested)
    if scorer is None:
        return None
    trial = Copier(scorer, absent, is_number)
    unseen = [table.spans[row] for row in tested]
    values = [column[row] for row in tested]
    guesses = trial.values(unseen, otherwise=[""] * len(unseen))
    right = 0
    for guess, value in zip(guesses, values, strict=True):
        if _same(guess, value):
            right += 1
    share = right / len(tested)
    final = table.train(field, lambda row: True)
    if final is None:
        return None
    return Copier(final, absent, is_number, share)


def _matrix(described: Sequence[Mapping[str, float]]) -> Features:
    from sklearn.feature_extraction import FeatureHasher

    hasher = FeatureHasher(COLUMNS, input_type="dict")
    return hasher.transform(described).tocsr()


def _copyable(value: str) -> str | None:
    """The text that would be copied for a value, None for one that is no text or number."""
    if not value:
        return None
    read = json.loads(value)
    # A bool is an int in Python.
    if isinstance(read, bool):
        return None
    if not isinstance(read, str | int | float):
        return None
    text = str(read)
    return normalise(text)


def _absent(column: Sequence[str]) -> str | None:
    """Returns how the column mostly says that a row has no value, None if each row has one."""
    absent = Counter(value for value in column if value in ("", "null"))
    if not absent:
        return None
    [(commonest, _)] = absent.most_common(1)
    return commonest


def _is_number(column: Sequence[str]) -> bool:
    present = [json.loads(value) for value in column if value not in ("", "null")]
    numbers = [value for value in present if isinstance(value, int | float)]
    return 2 * len(numbers) > len(present)


def _same(guess: str, value: str) -> bool:
    if not guess or not value:
        return guess == value
    left = json.loads(guess)
    right = json.loads(value)
    if isinstance(left, str) and isinstance(right, str):
        return normalise(left) == normalise(right)
    return bool(left == right)
