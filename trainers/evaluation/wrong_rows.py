"""Finds rows that are answered wrongly: held-out rows by their stored scores, and training rows by a free model that
has not learnt from them.

A test is worth less once people have read its held-out rows (trainers/evaluation/looks.py). Training rows teach as much
about what goes wrong, and may be read freely: each is answered by a classifier that was trained on the other folds. For
worker processes; scikit-learn is imported when needed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from trainers.dataset.rows import Example, at, distinct_example_indices, question_keys
from trainers.dataset.slow_checks import sample_rows
from trainers.evaluation.out_of_fold import out_of_fold
from trainers.evaluation.results import Scoring
from trainers.evaluation.scores import json_share
from trainers.evaluation.statistics import normalise
from trainers.evaluation.tfidf import label_of

JSON_FOLDS = 3
MOST_JSON_ROWS = 2_000  # each field is learned once more for each fold
LEARNABLE: tuple[Scoring, ...] = ("label", "json")  # what a free model can answer


@dataclass(frozen=True)
class WrongRow:
    """A row with a wrong answer. `answer` is None if it is no longer stored. Holds customers' words: for private
    channels only."""

    question: str
    expected: str
    answer: str | None


@dataclass(frozen=True)
class WrongRows:
    """Some of the `wrong` rows among `of`, from index `first` on, the most clearly wrong ones first."""

    rows: tuple[WrongRow, ...]
    first: int
    wrong: int
    of: int


ScoredRow = tuple[float, WrongRow]


def wrong_indices(scores: Sequence[float]) -> tuple[int, ...]:
    """Returns the indices of scores that are not entirely right, the lowest first, then in the order of the rows."""
    wrong = [index for index, score in enumerate(scores) if score < 1]
    wrong.sort(key=lambda index: scores[index])  # a sort is stable
    return tuple(wrong)


def find_wrong_training_rows(
    train: Sequence[Example],
    scoring: Scoring,
    seed: int,
    first: int,
    count: int,
) -> WrongRows:
    """Answers training rows out of fold, and returns `count` of the wrong ones from index `first` on. The same rows
    and seed give the same result, so that pages fit together. Raises ValueError if no free model can answer such
    rows."""
    if scoring == "label":
        judged, wrong = _find_wrong_labels(train, seed)
    elif scoring == "json":
        judged, wrong = _find_wrong_objects(train, seed)
    else:
        raise ValueError(
            f"answering training rows out of fold: no free model answers rows scored as '{scoring}'"
        )
    # Sorted by the score alone: of equal ones, the earlier row stays first.
    wrong.sort(key=itemgetter(0))
    shown = [row for _, row in wrong[first : first + count]]
    return WrongRows(tuple(shown), first, len(wrong), judged)


def _find_wrong_labels(train: Sequence[Example], seed: int) -> tuple[int, list[ScoredRow]]:
    """Returns the number of judged rows, and the wrong ones with how far their own label is ahead of the best, which is
    a negative number."""
    rows = [row for row in train if not row.uses_tools]
    row_labels = [label_of(row) for row in rows]
    sample = sample_rows(row_labels, question_keys(rows), seed)
    judged = at(sample.rows, rows)
    judged_labels = set(map(label_of, judged))
    if len(judged_labels) < 2:
        return len(judged), []
    labels, scores = out_of_fold(judged, seed)
    column = {label: index for index, label in enumerate(labels)}
    best_columns = scores.argmax(axis=1)
    distinct = distinct_example_indices(judged)
    wrong: list[ScoredRow] = []
    for index in distinct:
        row = judged[index]
        label = label_of(row)
        best = int(best_columns[index])
        answer = labels[best]
        # Labels may differ in their spelling alone.
        if normalise(answer) == normalise(label):
            continue
        own_score = float(scores[index, column[label]])
        best_score = float(scores[index, best])
        lead = own_score - best_score
        wrong_row = _wrong_row(row, answer)
        wrong.append((lead, wrong_row))
    return len(distinct), wrong


def _wrong_row(row: Example, answer: str | None) -> WrongRow:
    question = row.prompt[-1].content
    return WrongRow(question, row.answer, answer)


def _find_wrong_objects(train: Sequence[Example], seed: int) -> tuple[int, list[ScoredRow]]:
    """Returns the number of judged rows, and the wrong ones with the share of their fields that are right."""
    from trainers.evaluation import json_fields

    rows = list(at(distinct_example_indices(train), train))
    generator = random.Random(seed)  # noqa: S311 - no secret
    generator.shuffle(rows)
    rows = rows[:MOST_JSON_ROWS]
    if len(rows) < JSON_FOLDS:
        return len(rows), []
    wrong: list[ScoredRow] = []
    for fold in range(JSON_FOLDS):
        held = rows[fold::JSON_FOLDS]
        others = [row for index, row in enumerate(rows) if index % JSON_FOLDS != fold]
        replies = json_fields.classify_holdout(others, held, seed)
        for row, reply in zip(held, replies, strict=True):
            share = json_share(row.answer, reply.text)
            if share < 1:
                wrong_row = _wrong_row(row, reply.text)
                wrong.append((share, wrong_row))
    return len(rows), wrong
