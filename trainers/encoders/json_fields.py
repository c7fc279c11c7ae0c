"""The candidate "encoder" of datasets whose answers are JSON objects: a linear head on the encoder's vectors for each
field whose values repeat. What a field is, and which are learned, is in trainers/evaluation/json_fields.py. numpy is
imported inside functions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainers.dataset.rows import Example
from trainers.encoders.classifier import (
    DEFAULT_INVERSE_PENALTY,
    INVERSE_PENALTY_WITH_WORDS,
    MAX_ROWS_WITH_WORDS,
    LinearHead,
    fit_with_penalty,
)
from trainers.encoders.embedding import StoredVectors, TextEncoder
from trainers.evaluation.json_fields import FieldClassifier, Values, fit_fields, read_fields
from trainers.evaluation.results import Reply
from trainers.evaluation.tfidf import rows_to_learn, text_of

if TYPE_CHECKING:
    from trainers.encoders.embedding import Vectors


@dataclass(frozen=True)
class HeadPredict:
    head: LinearHead

    def __call__(self, inputs: Vectors) -> Values:
        return self.head.answers(inputs)


@dataclass(frozen=True)
class FittedFields:
    """The heads of the fields. Their inputs are a text's vector and words in the space that `basis` spans, or the
    vector alone if it is None."""

    classifier: FieldClassifier[HeadPredict]
    basis: Vectors | None

    def inputs_of(self, encoder: TextEncoder, texts: Sequence[str]) -> Vectors:
        import numpy as np

        vectors = encoder.embed(texts)
        if self.basis is None:
            return vectors
        both = np.hstack([vectors, encoder.words(texts)])
        spanned: Vectors = both @ self.basis
        return spanned


def classify_holdout(
    encoder: TextEncoder,
    train: Sequence[Example],
    examples: Sequence[Example],
    seed: int,
    stored: StoredVectors | None = None,
) -> tuple[Reply, ...]:
    """Learns from `train` and returns an answer for each of `examples`, with 0 tokens. Each example is embedded on its
    own, as in production, so that `seconds` is realistic; only the training rows' vectors are taken from `stored`.
    Raises ValueError without rows to train on."""
    fitted = fit_heads(encoder, train, seed, stored)
    encoder.embed(["warm up"])  # the first call is slower, and is not the example's time
    replies = []
    for example in examples:
        started = time.perf_counter()
        inputs = fitted.inputs_of(encoder, [text_of(example)])
        (answer,) = fitted.classifier.answers(inputs)
        seconds = time.perf_counter() - started
        replies.append(Reply(answer, prompt_tokens=0, completion_tokens=0, seconds=seconds))
    return tuple(replies)


def fit_heads(
    encoder: TextEncoder,
    train: Sequence[Example],
    seed: int,
    stored: StoredVectors | None = None,
) -> FittedFields:
    """Fits a head for each field whose values repeat. Raises ValueError without rows."""
    import numpy as np

    rows = rows_to_learn(train, seed)
    texts = [text_of(row) for row in rows]
    trained = (stored or encoder).embed(texts)
    basis: Vectors | None = None
    inverse_penalty = DEFAULT_INVERSE_PENALTY
    if len(texts) <= MAX_ROWS_WITH_WORDS:
        inverse_penalty = INVERSE_PENALTY_WITH_WORDS
        both = np.hstack([trained, encoder.words(texts)])
        # n rows span at most n dimensions. Fitting in these gives the same heads, many times faster.
        basis = np.linalg.qr(both.T)[0]
        trained = both @ basis

    def fit(inputs: Vectors, values: Values) -> HeadPredict:
        return HeadPredict(fit_with_penalty(inputs, values, inverse_penalty, seed))

    classifier = fit_fields(read_fields(rows), trained, fit, seed)
    return FittedFields(classifier, basis)
