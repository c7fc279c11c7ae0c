"""The candidate "encoder" of datasets whose answers are JSON objects: a linear head on the encoder's vectors for each
field whose values repeat. What a field is, and which are learned, is in trainers/evaluation/json_fields.py. numpy is
imported inside functions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trainers.dataset.rows import Example
from trainers.encoders.classifier import (
    DEFAULT_INVERSE_PENALTY,
    INVERSE_PENALTY_WITH_WORDS,
    MAX_ROWS_WITH_WORDS,
    fit_with_penalty,
)
from trainers.encoders.embedding import StoredVectors, TextEncoder
from trainers.evaluation.json_fields import Values, fit_fields, read_fields, rows_to_learn
from trainers.evaluation.results import Reply
from trainers.evaluation.tfidf import text_of

if TYPE_CHECKING:
    from trainers.encoders.embedding import Vectors


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

    def inputs_of(text: str) -> Vectors:
        vectors = encoder.embed([text])
        if basis is None:
            return vectors
        both = np.hstack([vectors, encoder.words([text])])
        return both @ basis

    def fit(inputs: Vectors, values: Values) -> Callable[[Vectors], Values]:
        return fit_with_penalty(inputs, values, inverse_penalty, seed).answers

    classifier = fit_fields(read_fields(rows), trained, fit, seed)
    encoder.embed(["warm up"])  # the first call is slower, and is not the example's time
    replies = []
    for example in examples:
        started = time.perf_counter()
        inputs = inputs_of(text_of(example))
        (answer,) = classifier.answers(inputs)
        seconds = time.perf_counter() - started
        replies.append(Reply(answer, prompt_tokens=0, completion_tokens=0, seconds=seconds))
    return tuple(replies)
