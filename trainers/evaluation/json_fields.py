"""The free candidates of datasets whose answers are JSON objects: a classifier for each field whose values repeat, and
the commonest value for every other field. The classical one also copies values out of the text (copied_values.py) where
that is right more often on training rows. Asks no model.

Fields are those that `json_share` scores: nested fields count individually, a list is one value, and a missing field is
a value too. Values keep their JSON types. The floor, what the commonest answer gets, is here too.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from trainers.dataset.rows import Example, Task, most_frequent
from trainers.evaluation.answer_format import MOST_ANSWERS, answer_format
from trainers.evaluation.copied_values import SvmScorer, fit_copiers
from trainers.evaluation.results import Reply, Scoring, free_replies
from trainers.evaluation.scores import json_leaves, read_json, score, scoring_of
from trainers.evaluation.spans import Copier, Scorer, find_spans
from trainers.evaluation.statistics import normalise
from trainers.evaluation.tfidf import (
    features,
    fit_svm,
    is_short_enough,
    label_of,
    rows_to_learn,
    text_of,
)

Path = tuple[str, ...]
Values = Sequence[str]
# Rows of a text's features, which numpy and scipy index by lists of row numbers.
Matrix = Any
# Answers rows.
Predict = Callable[[Matrix], Values]
Learned = TypeVar("Learned", bound=Predict)
# Learns from rows and their values, and returns a function that answers other rows.
Fit = Callable[[Matrix, Values], Learned]

MISSING = ""  # the value of a field that an answer lacks; no JSON is empty
# Of the fields, those that most rows have: answers may have keys of their own in each row, like a dictionary.
MOST_FIELDS = 300
MOST_LEARNED = 30
MOST_VALUES = 500  # of one field, as many as a dataset may have labels
FOLDS = 3
MOST_READ = 2_000  # training rows in which the commonest answer is looked for
MOST_CHECKED = 2_000  # rows on which a classifier is compared with the commonest value


@dataclass(frozen=True)
class Field:
    """A field's value in each training row, as JSON in its commonest spelling; MISSING where a row lacks the field."""

    path: Path
    values: tuple[str, ...]

    @property
    def usual(self) -> str:
        return most_frequent(Counter(self.values))

    @property
    def repeating_rows(self) -> tuple[int, ...]:
        """The rows whose value another row has too. None if they all have the same, or if most rows have a value of
        their own, like the number of an order."""
        counts = Counter(self.values)
        repeated = set()
        for value, count in counts.items():
            if count > 1:
                repeated.add(value)
        if not 2 <= len(repeated) <= MOST_VALUES:
            return ()
        rows = [row for row, value in enumerate(self.values) if value in repeated]
        if len(rows) < len(self.values) / 2:
            return ()
        return tuple(rows)


@dataclass(frozen=True)
class FieldTable:
    """The fields of the training answers, in the order of their first appearance. `without_fields` is the commonest
    answer that has no field, such as {} or "none"."""

    fields: tuple[Field, ...]
    without_fields: str

    @property
    def usual_answer(self) -> str:
        """The answer in which every field has its commonest value."""
        commonest = [field.usual for field in self.fields]
        return self.answer(commonest)

    @property
    def learned(self) -> frozenset[int]:
        """The indices of the fields that are learned, which most answers have."""
        missing = [field.values.count(MISSING) for field in self.fields]
        indices = range(len(self.fields))
        often_present = sorted(indices, key=missing.__getitem__)
        return frozenset(often_present[:MOST_LEARNED])

    def answer(self, values: Values) -> str:
        """Returns the answer with these values, one for each field."""
        leaves = {}
        for field, value in zip(self.fields, values, strict=True):
            if value != MISSING:
                leaves[field.path] = json.loads(value)
        if not leaves:
            return self.without_fields
        return json.dumps(_nested(leaves), ensure_ascii=False)


@dataclass(frozen=True)
class FieldClassifier(Generic[Learned]):
    """Answers new rows. `predict` has a function for each field of the table, None where the commonest value counts.
    `shares` are the shares of training rows that each field's answer gets right without having seen them."""

    table: FieldTable
    predict: tuple[Learned | None, ...]
    shares: tuple[float, ...]

    def answers(self, inputs: Matrix) -> tuple[str, ...]:
        """Returns an answer for each row of features."""
        columns = self.columns(inputs)
        return self.join(columns, inputs.shape[0])

    def join(self, columns: Sequence[Values], rows: int) -> tuple[str, ...]:
        """Returns the answers for so many rows. `columns` has each field's values."""
        if not columns:  # without a field, nothing says how many rows there are
            return (self.table.without_fields,) * rows
        by_row = zip(*columns, strict=True)
        return tuple(self.table.answer(values) for values in by_row)

    def columns(self, inputs: Matrix) -> list[Values]:
        """Returns each field's values, one for each row of features."""
        rows = inputs.shape[0]
        columns: list[Values] = []
        for field, predict in zip(self.table.fields, self.predict, strict=True):
            if predict is None:
                columns.append([field.usual] * rows)
            else:
                predicted = predict(inputs)
                columns.append([str(value) for value in predicted])
        return columns


def read_fields(rows: Sequence[Example]) -> FieldTable:
    """Collects the fields that most of the rows' answers have. An answer that is no object has none."""
    leaves: list[Mapping[Path, Any]] = []
    rows_with_path: Counter[Path] = Counter()
    bare_answers: Counter[str] = Counter()
    for row in rows:
        answer = read_json(row.answer) or {}
        of_row = dict(json_leaves(answer))
        leaves.append(of_row)
        rows_with_path.update(of_row.keys())
        if not of_row:
            bare_answers[row.answer.strip()] += 1

    frequent = {path for path, _ in rows_with_path.most_common(MOST_FIELDS)}
    fields = []
    for path in rows_with_path:  # in the order of their first appearance
        if path in frequent:
            fields.append(Field(path, _column(path, leaves)))
    without_fields = "{}"
    if bare_answers:
        without_fields = most_frequent(bare_answers)
    return FieldTable(tuple(fields), without_fields)


@dataclass(frozen=True)
class SvmPredict:
    machine: Any

    def __call__(self, inputs: Matrix) -> Values:
        values: Values = self.machine.predict(inputs)
        return values


@dataclass(frozen=True)
class FittedFields:
    """The classical candidate, fitted. `vectors` turns texts into features; None if there was nothing to learn from.
    `copiers` copy the value of the field with that index in the table."""

    classifier: FieldClassifier[SvmPredict]
    vectors: Any
    copiers: Mapping[int, Copier[SvmScorer]]

    def answers(self, texts: Sequence[str]) -> tuple[str, ...]:
        if self.vectors is None:
            return (self.classifier.table.usual_answer,) * len(texts)
        inputs = self.vectors.transform(texts)
        return answer_fields(self.classifier, self.copiers, inputs, texts)


def answer_fields(
    classifier: FieldClassifier[Learned],
    copiers: Mapping[int, Copier[Scorer]],
    inputs: Matrix,
    texts: Sequence[str],
) -> tuple[str, ...]:
    """Returns an answer for each of the texts with these features, with copied values where there is a copier."""
    columns = classifier.columns(inputs)
    if copiers:
        spans = [find_spans(text) for text in texts]
        for index, copier in copiers.items():
            columns[index] = copier.values(spans, columns[index])
    return classifier.join(columns, len(texts))


def classify_holdout(train: Sequence[Example], examples: Sequence[Example], seed: int) -> tuple[Reply, ...]:
    """Returns an answer for each of `examples`, with 0 tokens. `seconds` is the total time divided by the number of
    rows. Raises ValueError if there are no rows to train on."""
    fitted = fit_classical(train, seed)
    started = time.perf_counter()
    texts = [text_of(example) for example in examples]
    answers = fitted.answers(texts)
    elapsed = time.perf_counter() - started
    return free_replies(answers, elapsed)


def fit_classical(train: Sequence[Example], seed: int) -> FittedFields:
    """Fits the classical candidate; the same rows and seed give the same result. Raises ValueError if there are no
    rows."""
    rows = rows_to_learn(train, seed)
    texts = [text_of(row) for row in rows]
    table = read_fields(rows)
    if not any(texts):
        nothing = (None,) * len(table.fields)
        classifier: FieldClassifier[SvmPredict] = FieldClassifier(table, nothing, shares=())
        return FittedFields(classifier, vectors=None, copiers={})

    def fit(inputs: Matrix, values: Values) -> SvmPredict:
        machine = fit_svm(inputs, values, 1.0, seed)
        return SvmPredict(machine)

    has_pieces = is_short_enough(texts)
    vectors = features(has_pieces)
    trained = vectors.fit_transform(texts)
    classifier = fit_fields(table, trained, fit, seed)
    copiers = _better_copiers(classifier, texts, seed)
    return FittedFields(classifier, vectors, copiers)


def _better_copiers(
    classifier: FieldClassifier[SvmPredict], texts: Sequence[str], seed: int
) -> dict[int, Copier[SvmScorer]]:
    """Returns a copier for each field that it gets right more often than the classifier does."""
    table = classifier.table
    columns = {index: table.fields[index].values for index in sorted(table.learned)}
    copiers = fit_copiers(columns, texts, seed)
    better = {}
    for index, copier in copiers.items():
        if copier.share > classifier.shares[index]:
            better[index] = copier
    return better


def fit_fields(table: FieldTable, trained: Matrix, fit: Fit[Learned], seed: int) -> FieldClassifier[Learned]:
    """Learns each field. `trained` has the features of the table's rows."""
    predictions: list[Learned | None] = []
    shares = []
    learned = table.learned
    for index, field in enumerate(table.fields):
        fitted = None
        if index in learned:
            fitted = _fit_field(field, trained, fit, seed)
        if fitted is None:
            predict = None
            right_by_usual = field.values.count(field.usual)
            share = right_by_usual / len(field.values)
        else:
            predict, share = fitted
        predictions.append(predict)
        shares.append(share)
    return FieldClassifier(table, tuple(predictions), tuple(shares))


def _fit_field(field: Field, trained: Matrix, fit: Fit[Learned], seed: int) -> tuple[Learned, float] | None:
    """Returns the field's classifier with the share of training rows that it gets right without having seen them, None
    if there is nothing to learn."""
    rows = list(field.repeating_rows)
    if not rows:
        return None
    inputs = trained[rows]
    values = [field.values[row] for row in rows]
    share = _share_beyond_usual(inputs, values, fit, seed)
    if share is None:
        return None
    # It never guesses the value of a row whose value no other row has.
    share_of_all = share * len(rows) / len(field.values)
    return fit(inputs, values), share_of_all


@dataclass(frozen=True)
class AnswerKind:
    """`floor` is the share of right answers on the held-out rows of the answer that is commonest in the training rows:
    the commonest label, or an object in which every field has its commonest value. A model that is not far above it has
    learnt little. None for texts and function calls. `answer_format` is the plain instruction for JSON objects, "" for
    other answers."""

    scoring: Scoring
    floor: float | None
    answer_format: str = ""


def find_answer_kind(train: Sequence[Example], holdout: Sequence[Example], task: Task) -> AnswerKind | None:
    """Returns None if there are no held-out rows. `train` may be a sample of the training rows."""
    if not holdout:
        return None
    scoring = scoring_of(holdout, task)
    instruction = ""
    if scoring == "json" and task != "labels":
        instruction = answer_format(row.answer for row in train[:MOST_ANSWERS])
    usual = _usual_answer(train, scoring, task)
    if usual is None:
        return AnswerKind(scoring, None, instruction)
    scores = [score(scoring, row.answer, usual, (usual,)) for row in holdout]
    floor = sum(scores) / len(scores)
    return AnswerKind(scoring, floor, instruction)


def _share_beyond_usual(inputs: Matrix, values: Values, fit: Fit[Learned], seed: int) -> float | None:
    """Returns the share of rows that classifiers get right without having seen them, None if the commonest value gets
    as many right, as it does where the text says nothing about a field."""
    order = list(range(len(values)))
    generator = random.Random(seed)  # noqa: S311
    generator.shuffle(order)
    del order[MOST_CHECKED:]
    right = 0
    for number in range(FOLDS):
        inside = order[number::FOLDS]
        outside = []
        for position, row in enumerate(order):
            if position % FOLDS != number:
                outside.append(row)
        learned = [values[row] for row in outside]
        # With few rows a fold may be empty, and one of the others may have a single value: nothing to learn from.
        if not inside or len(set(learned)) < 2:
            return None
        predict = fit(inputs[outside], learned)
        guesses = predict(inputs[inside])
        for row, guess in zip(inside, guesses, strict=True):
            if guess == values[row]:
                right += 1

    counts = Counter(values[row] for row in order)
    right_by_usual = max(counts.values())
    if right <= right_by_usual:
        return None
    return right / len(order)


def _column(path: Path, leaves: Sequence[Mapping[Path, Any]]) -> tuple[str, ...]:
    """Returns the field's value in each row. Values that count as equal, such as "Paid" and "paid", get the same
    spelling."""
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    keys = []
    for of_row in leaves:
        key = MISSING
        spelling = MISSING
        if path in of_row:
            comparable = _comparable(of_row[path])
            key = _written(comparable)
            spelling = _written(of_row[path])
        spellings[key][spelling] += 1
        keys.append(key)
    commonest = {key: most_frequent(counts) for key, counts in spellings.items()}
    return tuple(commonest[key] for key in keys)


def _comparable(value: Any) -> Any:
    """Returns a form that is equal for values that `json_share` counts as equal."""
    if isinstance(value, str):
        return normalise(value)
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _nested(leaves: Mapping[Path, Any]) -> dict[str, Any]:
    """Returns the object with these fields. Classifiers are independent, so they may say of one field both that it is
    null and what is inside it: then what is inside counts."""
    result: dict[str, Any] = {}
    for path, value in leaves.items():
        inner = result
        for key in path[:-1]:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        last = path[-1]
        present = inner.get(last)
        has_fields = isinstance(present, dict) and bool(present)
        if not has_fields:
            inner[last] = value
    return result


def _usual_answer(train: Sequence[Example], scoring: Scoring, task: Task) -> str | None:
    if not train:
        return None
    if task == "labels" and scoring in ("label", "json"):
        labels = Counter(map(label_of, train))
        return most_frequent(labels)
    if scoring == "json":
        return read_fields(train).usual_answer
    return None
