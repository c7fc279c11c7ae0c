"""Chooses between the English and the multilingual encoder, by the training rows alone: the holdout is for measuring.
numpy is imported inside functions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trainers.encoders import DEFAULT_ENCODER, MULTILINGUAL_ENCODER, multilingual
from trainers.encoders.classifier import (
    FOLDS,
    INVERSE_PENALTY_WITH_WORDS,
    MIN_ROWS_TO_CHOOSE,
    fit_with_penalty,
)
from trainers.encoders.embedding import StoredVectors, TextEncoder, load_encoder
from trainers.encoders.language import is_english
from trainers.evaluation.results import EncoderUse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainers.encoders.embedding import Vectors

MOST_ROWS = 400  # a few seconds of each encoder; on rows in another language the difference is 10 points
MOST_TARGETS = 5  # fields of JSON answers
SEED = 0

Targets = Sequence[Sequence[str]]


def choose_encoder(
    name: str,
    texts: Sequence[str],
    targets: Targets,
    reader_of: Callable[[TextEncoder], TextEncoder | StoredVectors] = lambda encoder: encoder,
) -> EncoderUse:
    """Returns the encoder to use where the settings say `name`. If that is the default and the multilingual one is
    installed, the one wins whose vectors predict more of `targets` in rows that a classifier has not seen; each target
    has one value per row. If they tell nothing, the language decides. `reader_of` may add a cache of vectors.

    The same rows give the same choice, so that a training uses the encoder that was measured. Raises EncoderError.
    """
    english = is_english(texts)
    if name != DEFAULT_ENCODER or not multilingual.is_installed():
        return EncoderUse(name, is_english=english)
    usual = MULTILINGUAL_ENCODER
    other = DEFAULT_ENCODER
    if english:
        usual = DEFAULT_ENCODER
        other = MULTILINGUAL_ENCODER

    rows = list(range(len(texts)))
    if len(rows) > MOST_ROWS:
        rows = sorted(random.Random(SEED).sample(rows, MOST_ROWS))  # noqa: S311
    columns = [[target[row] for row in rows] for target in targets[:MOST_TARGETS]]
    columns = [column for column in columns if len(set(column)) > 1]
    if len(rows) < MIN_ROWS_TO_CHOOSE or not columns:
        return EncoderUse(usual, is_english=english)

    read = [texts[row] for row in rows]
    right = {}
    for encoder_name in (usual, other):
        encoder = load_encoder(encoder_name)
        right[encoder_name] = _count_right(encoder, reader_of(encoder), read, columns)
    if right[other] > right[usual]:
        usual, other = other, usual
    guesses = len(rows) * len(columns)
    return EncoderUse(usual, right[usual], other, right[other], guesses, english)


def _count_right(
    encoder: TextEncoder, reader: TextEncoder | StoredVectors, texts: Sequence[str], columns: Targets
) -> int:
    """Returns the number of right guesses over all folds and columns, with or without words, whichever is better: a
    head decides in the same way."""
    import numpy as np

    vectors = reader.embed(texts)
    both = np.hstack([vectors, encoder.words(texts)])
    # n rows span at most n dimensions. Fitting in these gives the same heads, many times faster.
    basis = np.linalg.qr(both.T)[0]
    with_words = both @ basis
    fold = np.random.default_rng(SEED).permutation(len(texts)) % FOLDS
    count = 0
    for column in columns:
        values = np.array(column)
        plain = _count_in_folds(vectors, values, fold)
        wordy = _count_in_folds(with_words, values, fold)
        count += max(plain, wordy)
    return count


def _count_in_folds(inputs: Vectors, values: NDArray[np.str_], fold: NDArray[np.intp]) -> int:
    import numpy as np

    count = 0
    for number in range(FOLDS):
        inside = fold == number
        learned = values[~inside].tolist()
        head = fit_with_penalty(inputs[~inside], learned, INVERSE_PENALTY_WITH_WORDS, SEED)
        answers = np.array(head.answers(inputs[inside]))
        is_right = answers == values[inside]
        count += int(is_right.sum())
    return count
