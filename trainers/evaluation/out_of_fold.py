"""Scores of all labels for each row, by classifiers that have not seen it: the rows are dealt into folds, and each fold
is scored by what learned from the others. For worker processes and the terminal; scikit-learn, scipy and numpy are
imported when needed.

With many rows and labels, which would need too many SVMs, a ridge regression on all labels at once does equally well.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.dataset.rows import Example, question_keys
from trainers.evaluation.terms import WORDS, pieces_of, words_and_pairs
from trainers.evaluation.tfidf import (
    MOST_FEATURES,
    distances_of,
    fit_svm,
    label_of,
    text_of,
    without_pandas,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float32]
    Indices = NDArray[np.intp]

FOLDS = 5
LETTERS = 2_500_000  # of all rows: a second of work
LETTERS_IN_PIECES = 1_000_000
PIECES_OUT_OF_FOLD = (3, 4)  # letters
# Up to these sizes a ridge regression with only numpy finds more errors than the SVM, and saves the import of
# scikit-learn, which takes longer than the rest of a check.
FEW_ROWS = 150
FEW_LETTERS = 60_000
MOST_FOR_SVM = 65_000  # rows x labels: three seconds
# Rows that span the space of the ridge regression. On 8,000 rows of banking77, 1,000 of them find 75% of planted
# errors, and 2,000 find 78%.
SPAN = 1_500
AT_ONCE = 1_000
# More regularised than the classical candidate: a classifier that fits wrong labels closely can't doubt them.
SVM_C = 0.1
RIDGE = 10.0
FEW_RIDGE = 1.0


@dataclass(frozen=True)
class _Split:
    """The rows' labels and folds. `labels` are sorted, `own` has the column of each row's label, `fold` its fold."""

    labels: tuple[str, ...]
    own: Indices
    fold: Indices

    @property
    def shape(self) -> tuple[int, int]:
        """That of the scores: rows x labels."""
        return len(self.own), len(self.labels)


def out_of_fold(examples: Sequence[Example], seed: int) -> tuple[tuple[str, ...], Scores]:
    """Returns the sorted labels, and the scores (rows x labels) of each row by a classifier that was not trained on it.

    Copies of a question are in the same fold. If a row's label occurs only in its own fold, the row can't be judged,
    and its score for that label is inf. Raises ValueError if there are no rows.
    """
    import numpy as np

    if not examples:
        raise ValueError("scoring rows out of fold: there are no rows")
    split = _split_into_folds(examples, seed)
    # Of many rows only the beginnings, so that the work stays the same.
    letters = max(LETTERS // len(examples), 1)
    texts = [text_of(example)[:letters] for example in examples]
    del examples  # frees memory; only their texts and labels are needed

    scores = _scores(texts, split, seed)
    is_alone = _is_in_one_fold(split)
    unknown = split.own[is_alone]
    scores[is_alone, unknown] = np.inf
    return split.labels, scores


def _split_into_folds(examples: Sequence[Example], seed: int) -> _Split:
    import numpy as np

    names = [label_of(example) for example in examples]
    labels = tuple(sorted(set(names)))
    column = {label: index for index, label in enumerate(labels)}
    own = [column[label] for label in names]
    copies = _first_copies(examples)
    folds = deal_folds(examples, copies, seed)
    return _Split(
        labels,
        own=np.array(own, dtype=np.intp),
        fold=np.array(folds),
    )


def _first_copies(examples: Sequence[Example]) -> list[int]:
    """Returns for each row the first row with the same question, which may be itself."""
    first: dict[bytes, int] = {}
    keys = question_keys(examples)
    return [first.setdefault(key, row) for row, key in enumerate(keys)]


def _scores(texts: Sequence[str], split: _Split, seed: int) -> Scores:
    """Chooses the classifier by the amount of work."""
    import numpy as np

    rows, labels = split.shape
    letters = sum(map(len, texts))
    has_one_fold = len(set(split.fold)) == 1
    if not letters or labels == 1 or has_one_fold:
        return np.zeros(split.shape, np.float32)
    if rows <= FEW_ROWS and letters <= FEW_LETTERS:
        return _by_kernel(texts, split)
    vectors = _features(texts)
    if rows * labels <= MOST_FOR_SVM:
        return _by_svm(vectors, split, seed)
    return _by_ridge(vectors, split, seed)


def _is_in_one_fold(split: _Split) -> NDArray[np.bool_]:
    """Returns for each row whether its label occurs in no other fold, so that its classifier didn't know the label."""
    import numpy as np

    own = split.own
    fold = split.fold
    shape = (fold.max() + 1, len(split.labels))
    counts = np.zeros(shape)  # folds x labels: rows of each label in each fold
    np.add.at(counts, (fold, own), 1)
    in_own_fold = counts[fold, own]  # rows
    in_all_folds = counts.sum(axis=0)[own]  # rows
    is_alone: NDArray[np.bool_] = in_own_fold == in_all_folds
    return is_alone


def deal_folds(examples: Sequence[Example], groups: Sequence[int], seed: int) -> list[int]:
    """Returns the fold of each row. Rows are shuffled and dealt out label by label, so that all folds get their share
    of each label. Rows of a group, which is named by its first row, are in the same fold."""
    firsts = sorted(set(groups))
    generator = random.Random(seed)  # noqa: S311
    generator.shuffle(firsts)
    # A sort is stable, so the rows of a label stay shuffled.
    firsts.sort(key=lambda first: label_of(examples[first]))
    fold_of = {}
    for number, first in enumerate(firsts):
        fold_of[first] = number % FOLDS
    return [fold_of[group] for group in groups]


def _features(texts: Sequence[str]) -> Any:
    """Returns the features of all rows together, which is no leak between folds: word frequencies don't depend on
    labels."""
    import numpy as np
    from scipy.sparse import hstack

    with without_pandas():
        from sklearn.feature_extraction.text import TfidfVectorizer

    def vectors(**terms: Any) -> Any:
        vectoriser = TfidfVectorizer(
            sublinear_tf=True,
            max_features=MOST_FEATURES,
            dtype=np.float32,
            **terms,
        )
        return vectoriser.fit_transform(texts)

    words = vectors(token_pattern=WORDS, ngram_range=(1, 2))
    letters = sum(map(len, texts))
    if letters > LETTERS_IN_PIECES:
        return words
    pieces = vectors(analyzer="char_wb", ngram_range=PIECES_OUT_OF_FOLD)
    return hstack([words, pieces]).tocsr()


def _by_kernel(texts: Sequence[str], split: _Split) -> Scores:
    """The ridge regression of `_by_ridge` on all features, computed from the inner products of the rows."""
    import numpy as np

    products = _products(texts) + np.float32(1)  # rows x rows; 1 is the intercept
    identity = np.eye(len(texts), dtype=np.float32)
    ridge = np.float32(FEW_RIDGE) * identity
    inverse = np.linalg.inv(products + ridge)
    hat: Scores = products @ inverse.astype(np.float32)  # rows x rows; turns targets into fitted scores
    wanted = _label_targets(split)  # rows x labels
    scores: Scores = hat @ wanted
    for inside in _rows_of_folds(split):
        cells = np.ix_(inside, inside)
        _leave_out(inside, hat[cells], wanted, scores)
    return scores


def _products(texts: Sequence[str]) -> Scores:
    """Returns the inner products of the rows' TF-IDF vectors, with the words and pieces that `_features` uses."""
    import numpy as np

    small = [text.lower() for text in texts]
    words = [words_and_pairs(text) for text in small]
    pieces = [pieces_of(text, PIECES_OUT_OF_FOLD) for text in small]
    rows = len(texts)
    products = np.zeros((rows, rows), np.float32)
    for terms in (words, pieces):
        counts = [Counter(of_row) for of_row in terms]
        vectors = _tfidf_vectors(counts)
        products += vectors @ vectors.T
    return products


def _tfidf_vectors(counts: Sequence[Counter[str]]) -> Scores:
    """Returns rows x terms for rows whose terms are counted. Rare terms weigh more, and all rows have the length 1, as
    TfidfVectorizer does it."""
    import numpy as np

    # In the order of the rows: a set's differs in each process, and sums would differ in their last bits.
    column: dict[str, int] = {}
    for count in counts:
        for term in count:
            column.setdefault(term, len(column))
    shape = (len(counts), len(column))
    vectors: Scores = np.zeros(shape, np.float32)
    for row, count in enumerate(counts):
        columns = [column[term] for term in count]
        times = list(count.values())
        vectors[row, columns] = 1 + np.log(times)

    rows_with_term = (vectors > 0).sum(axis=0, dtype=np.float32)
    rarity = (1 + len(counts)) / (1 + rows_with_term)
    vectors *= 1 + np.log(rarity)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.maximum(lengths, np.float32(1e-9))  # a row without terms has the length 0
    return vectors


def _label_targets(split: _Split) -> Scores:
    """Returns what a regression should predict, rows x labels: 1 for each row's own label, with means of 0."""
    import numpy as np

    rows = np.arange(len(split.own))
    wanted: Scores = np.zeros(split.shape, np.float32)
    wanted[rows, split.own] = 1
    wanted -= wanted.mean(axis=0)
    return wanted


def _rows_of_folds(split: _Split) -> list[Indices]:
    import numpy as np

    numbers = np.unique(split.fold)
    return [np.flatnonzero(split.fold == number) for number in numbers]


def _leave_out(inside: Indices, hat: Scores, wanted: Scores, scores: Scores) -> None:
    """Replaces the scores of a fold by those of a fit without it, in closed form: if r are the residuals of the fit to
    all rows and H is the fold's block of the hat matrix, the residuals without the fold are (I - H)⁻¹ r."""
    import numpy as np

    identity = np.eye(len(inside), dtype=np.float32)
    own_wanted = wanted[inside]
    residuals = own_wanted - scores[inside]
    without_fold = np.linalg.solve(identity - hat, residuals)
    scores[inside] = own_wanted - without_fold


def _by_svm(rows: Any, split: _Split, seed: int) -> Scores:
    import numpy as np

    own = split.own
    scores = np.full(split.shape, -1.0, np.float32)
    for number in np.unique(split.fold):
        inside = split.fold == number
        outside = ~inside
        trained = np.unique(own[outside])  # labels in the other folds; the rest keep the lowest score
        cells = np.ix_(inside, trained)
        if len(trained) == 1:  # there is nothing to distinguish
            scores[cells] = 1.0
            continue
        machine = fit_svm(rows[outside], own[outside], SVM_C, seed)
        scores[cells] = distances_of(machine, rows[inside])
    return scores


def _by_ridge(rows: Any, split: _Split, seed: int) -> Scores:
    import numpy as np
    from scipy.linalg import cho_factor, cho_solve

    spanned = _nystroem_features(rows, seed)
    wanted = _label_targets(split)
    squares = spanned.T @ spanned  # SPAN x SPAN
    diagonal = np.diag_indices_from(squares)
    squares[diagonal] += RIDGE
    factor = cho_factor(squares, overwrite_a=True, check_finite=False)
    moments = spanned.T @ wanted  # SPAN x labels
    weights = cho_solve(factor, moments, check_finite=False)
    scores: Scores = spanned @ weights
    for inside in _rows_of_folds(split):
        part = spanned[inside]  # rows of the fold x SPAN
        solved = cho_solve(factor, part.T, check_finite=False)
        hat = part @ solved  # the fold's block of the hat matrix
        _leave_out(inside, hat, wanted, scores)
    return scores


def _nystroem_features(rows: Any, seed: int) -> Scores:
    """Returns the rows' features in the space that SPAN random rows span (Nyström), rows x SPAN. Their inner products
    approximate those of all features. Computed in batches, because intermediate results are several times as large."""
    import numpy as np
    from scipy.linalg import cholesky, solve_triangular

    count = rows.shape[0]
    shuffled = np.random.default_rng(seed).permutation(count)
    drawn = shuffled[:SPAN]
    drawn_rows = rows[drawn]
    basis = drawn_rows.T.tocsr()  # features x SPAN

    def products(part: Any) -> Scores:
        inner: Scores = (part @ basis).toarray()
        return inner + np.float32(1)  # 1 is the intercept

    gram = products(drawn_rows)  # SPAN x SPAN
    diagonal = np.diag_indices_from(gram)
    gram[diagonal] += np.float32(0.01)  # copies of a row would make it singular
    lower = cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    spanned = np.empty((count, len(drawn)), np.float32)
    for begin in range(0, count, AT_ONCE):
        end = begin + AT_ONCE
        part = products(rows[begin:end])
        solved = solve_triangular(lower, part.T, lower=True, check_finite=False)
        spanned[begin:end] = solved.T
    return spanned
