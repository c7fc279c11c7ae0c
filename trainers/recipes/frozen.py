"""What a free candidate's files hold, and how its scores become an answer.

    classifier.json    a FrozenClassifier: what each column of scores stands for
    classifier.npz     the arrays: the weights that give the scores, and what reads a text

Nothing is pickled: loading a file runs no code of it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.evaluation.json_fields import Field, FieldClassifier, FieldTable, Values, answer_fields
from trainers.evaluation.spans import Copier, SpanWeights, read_weights
from trainers.json_values import JsonValue
from trainers.recipes.calibration import Calibration

if TYPE_CHECKING:
    from trainers.recipes.calibration import Scores

DESCRIPTION = "classifier.json"
ARRAYS = "classifier.npz"
Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class FrozenCopier:
    """See `Copier`; its weights are among the arrays."""

    absent: str | None
    is_number: bool


@dataclass(frozen=True)
class FrozenField:
    """A field of answers in JSON. `values`, as JSON, are what its columns of scores stand for, in their order. A field
    without any always has its `usual` value."""

    path: tuple[str, ...]
    usual: str
    values: tuple[str, ...] = ()
    copier: FrozenCopier | None = None


@dataclass(frozen=True)
class FrozenClassifier(JsonValue):
    """What columns of scores stand for: a label each, or the values of one field of JSON after the other's.

    `without_fields` is the answer that has no field. `encoder` is the name of the encoder that reads the texts, None
    for the classical candidate, and `encoder_sha256` the hash of everything that its vectors depend on. `calibration`
    is None for fields.
    """

    labels: tuple[str, ...] = ()
    fields: tuple[FrozenField, ...] = ()
    without_fields: str = ""
    encoder: str | None = None
    encoder_sha256: str | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True)
class FieldAnswers:
    """Turns scores into objects of JSON."""

    classifier: FieldClassifier[Callable[[Any], Values]]
    copiers: Mapping[int, Copier[SpanWeights]]

    def answers(self, scores: Scores, texts: Sequence[str]) -> tuple[str, ...]:
        return answer_fields(self.classifier, self.copiers, scores, texts)


@dataclass(frozen=True)
class _BestColumn:
    """Chooses the value with the highest score, among the columns from `first` on."""

    first: int
    values: tuple[str, ...]

    def __call__(self, scores: Scores) -> Values:
        end = self.first + len(self.values)
        best = scores[:, self.first : end].argmax(axis=1)
        return [self.values[column] for column in best]


def field_answers(frozen: FrozenClassifier, arrays: Arrays) -> FieldAnswers:
    """Returns what answers with the fields of a description."""
    fields = []
    predict = []
    copiers = {}
    first = 0
    for index, field in enumerate(frozen.fields):
        fields.append(Field(field.path, (field.usual,)))
        choose = None
        if field.values:
            choose = _BestColumn(first, field.values)
            first += len(field.values)
        predict.append(choose)
        if field.copier is not None:
            weights = read_weights(arrays, index)
            copiers[index] = Copier(weights, field.copier.absent, field.copier.is_number)
    table = FieldTable(tuple(fields), frozen.without_fields)
    # Shares are those of training rows, which only the choice between copiers and classifiers needs.
    classifier: FieldClassifier[Callable[[Any], Values]] = FieldClassifier(table, tuple(predict), shares=())
    return FieldAnswers(classifier, copiers)


def write_files(frozen: FrozenClassifier, arrays: Arrays) -> dict[str, bytes]:
    """Returns the files' content by their names; the same values give the same bytes."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    description = frozen.to_json()
    return {DESCRIPTION: description.encode(), ARRAYS: buffer.getvalue()}


def read_arrays(content: bytes) -> Arrays:
    import numpy as np

    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def pack_texts(texts: Sequence[str]) -> Any:
    """Returns texts without line breaks as one array of bytes."""
    import numpy as np

    joined = "\n".join(texts).encode()
    return np.frombuffer(joined, np.uint8)
