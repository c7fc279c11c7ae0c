"""How far each label fits each row, judged by the other rows alone. The rows with the worst margins are where wrong
labels are to be looked for.

A linear SVM where that is quick; with many rows and labels the time of its many classifiers is too long, and a ridge
regression to all labels at once does as well. For worker processes: scikit-learn, scipy and numpy are imported at use.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainers.dataset.values import Example, question_keys
from trainers.measuring.classical import MOST_FEATURES, WORDS, label_of, text_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float32]

FOLDS = 5
LETTERS = 2_500_000  # of all rows: a second of work
LETTERS_IN_PIECES = 1_000_000
MOST_FOR_SVM = 65_000  # rows x labels: three seconds
# Rows that span the ridge's space. On 8,000 rows of banking77 1,000 find 75% of planted errors, 2,000 find 78%.
SPAN = 1_500
AT_ONCE = 1_000
# Softer than rung 0, which is there to be right: who fits a wrong label closely can't doubt it.
SVM_C, RIDGE = 0.1, 10.0


@contextmanager
def without_pandas() -> Iterator[None]:
    """scikit-learn imports pandas where it is installed, to know its types: 40 MB and a quarter of a second."""
    modules: dict[str, Any] = sys.modules
    is_missing = "pandas" not in modules
    if is_missing:
        modules["pandas"] = None
    try:
        yield
    finally:
        if is_missing:
            del modules["pandas"]


def out_of_fold(examples: Sequence[Example], seed: int) -> tuple[tuple[str, ...], Numbers]:
    """Labels by name, and scores, rows x labels, of each row by those who never saw it.

    Copies of a question are in one fold. A row whose label is in its own fold only can't be judged by others: it has
    the score inf for that label. ValueError without rows.
    """
    import numpy as np

    if not examples:
        raise ValueError("judging rows by the others: there are no rows")
    given = [label_of(example) for example in examples]
    labels = tuple(sorted(set(given)))
    column = {label: place for place, label in enumerate(labels)}
    own = np.array([column[label] for label in given], dtype=np.intp)
    fold = np.array(_folds(examples, seed))
    letters = max(LETTERS // len(examples), 1)
    texts = [text_of(example)[:letters] for example in examples]
    rows = len(examples)
    del examples  # what else they hold is not needed, and their memory is
    if not any(texts) or len(labels) == 1 or len(set(fold)) == 1:
        scores: Numbers = np.zeros((rows, len(labels)), np.float32)
    elif rows * len(labels) <= MOST_FOR_SVM:
        scores = _by_svm(_features(texts), own, fold, len(labels), seed)
    else:
        scores = _by_ridge(_features(texts), own, fold, len(labels), seed)
    inside = np.zeros((fold.max() + 1, len(labels)))
    np.add.at(inside, (fold, own), 1)
    alone = inside[fold, own] == inside.sum(axis=0)[own]
    scores[alone, own[alone]] = np.inf
    return labels, scores


def _folds(examples: Sequence[Example], seed: int) -> list[int]:
    """Each row's fold: dealt out label by label, shuffled, so that all folds have their share of each."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for place, key in enumerate(question_keys(examples)):
        same[key].append(place)
    groups = list(same.values())
    random.Random(seed).shuffle(groups)  # noqa: S311
    groups.sort(key=lambda rows: label_of(examples[rows[0]]))
    fold = [0] * len(examples)
    for number, rows in enumerate(groups):
        for row in rows:
            fold[row] = number % FOLDS
    return fold


def _features(texts: Sequence[str]) -> Any:
    """Of all rows at once: it takes no label to know how rare a word is."""
    import numpy as np
    from scipy.sparse import hstack

    with without_pandas():
        from sklearn.feature_extraction.text import TfidfVectorizer

    how = {"sublinear_tf": True, "max_features": MOST_FEATURES, "dtype": np.float32}
    words = TfidfVectorizer(token_pattern=WORDS, ngram_range=(1, 2), **how).fit_transform(texts)
    if sum(map(len, texts)) > LETTERS_IN_PIECES:
        return words
    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), **how).fit_transform(texts)
    return hstack([words, pieces]).tocsr()


def _by_svm(rows: Any, own: NDArray[np.intp], fold: NDArray[np.intp], labels: int, seed: int) -> Numbers:
    import numpy as np
    from sklearn.svm import LinearSVC

    scores = np.full((len(own), labels), -1.0, np.float32)
    for number in np.unique(fold):
        inside = fold == number
        known = np.unique(own[~inside])
        if len(known) == 1:
            scores[np.ix_(inside, known)] = 1.0
            continue
        machine = LinearSVC(C=SVM_C, max_iter=20_000, random_state=seed % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # "could be a regression": labels with hardly any rows
            machine.fit(rows[~inside], own[~inside])
        found = machine.decision_function(rows[inside])
        # of two labels scikit-learn gives one column: how far on the second one's side
        scores[np.ix_(inside, known)] = np.column_stack([-found, found]) if found.ndim == 1 else found
    return scores


def _by_ridge(rows: Any, own: NDArray[np.intp], fold: NDArray[np.intp], labels: int, seed: int) -> Numbers:
    """Each fold is left out in closed form: with residuals r of a fit to all rows and the fold's part H of its hat
    matrix, those of a fit without the fold are (I - H)⁻¹ r."""
    import numpy as np
    from scipy.linalg import cho_factor, cho_solve

    spanned = _spanned(rows, seed)
    wanted = np.zeros((len(own), labels), np.float32)
    wanted[np.arange(len(own)), own] = 1
    wanted -= wanted.mean(axis=0)
    squares = spanned.T @ spanned
    squares[np.diag_indices_from(squares)] += RIDGE
    factor = cho_factor(squares, overwrite_a=True, check_finite=False)
    scores: Numbers = spanned @ cho_solve(factor, spanned.T @ wanted, check_finite=False)
    for number in np.unique(fold):
        inside = np.flatnonzero(fold == number)
        part = spanned[inside]
        left = np.eye(len(inside), dtype=np.float32) - part @ cho_solve(factor, part.T, check_finite=False)
        scores[inside] = wanted[inside] - np.linalg.solve(left, wanted[inside] - scores[inside])
    return scores


def _spanned(rows: Any, seed: int) -> Numbers:
    """The rows in the space of SPAN of them (Nyström): rows x SPAN, whose products are near those of all features.
    Some at a time, for what lies between is several times as large."""
    import numpy as np
    from scipy.linalg import cholesky, solve_triangular

    drawn = np.random.default_rng(seed).permutation(rows.shape[0])[:SPAN]
    those = rows[drawn].T.tocsr()

    def alike(some: Any) -> Numbers:
        found: Numbers = (some @ those).toarray() + np.float32(1)  # 1: what all rows share
        return found

    among = alike(rows[drawn])
    among[np.diag_indices_from(among)] += np.float32(0.01)  # copies of a row span nothing more
    lower = cholesky(among, lower=True, overwrite_a=True, check_finite=False)
    spanned = np.empty((rows.shape[0], len(drawn)), np.float32)
    for begin in range(0, len(spanned), AT_ONCE):
        part = alike(rows[begin : begin + AT_ONCE])
        spanned[begin : begin + AT_ONCE] = solve_triangular(lower, part.T, lower=True, check_finite=False).T
    return spanned
