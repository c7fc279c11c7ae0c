"""TF-IDF without any service: the classical rung's classifier, and out-of-fold scores of each label. For worker
processes and the terminal; scikit-learn, whose import takes about a second, scipy and numpy are imported at use.

The classical rung is a linear SVM over words alone and in pairs and, unless there is very much text, pieces of words of
2 to 5 letters; it takes seconds on one core. Out of fold, where many rows and labels would make its many classifiers
too slow, a ridge regression to all labels at once does as well.
"""

from __future__ import annotations

import random
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from trainers.dataset.near_duplicates import question_text
from trainers.dataset.rows import Example, question_keys
from trainers.evaluation.results import Reply

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Margins = NDArray[np.float64]
    Scores = NDArray[np.float32]

LONGEST_TEXT = 4_000  # characters; what decides stands early, and a manual pasted in must not fill the memory
# Characters in all: about ten seconds and 400 MB; four times as many take that in words.
MOST_IN_PIECES = 4_000_000
MOST_FEATURES = 100_000  # of words, and again of pieces
WORDS = r"(?u)\w+|[^\w\s]"


@dataclass(frozen=True)
class Classifier:
    """A fitted classifier. `labels` by name. `machine` is None where there was nothing to tell apart: every answer is
    then `usual`, the most frequent label."""

    labels: tuple[str, ...]
    usual: str
    features: Any
    machine: Any


def classify_holdout(train: Sequence[Example], examples: Sequence[Example], seed: int) -> tuple[Reply, ...]:
    """Returns a label for each of `examples`. Tokens are 0; `seconds` is a row's share of answering them all.

    Raises ValueError without rows to train on.
    """
    classifier = fit_classifier(train, seed)
    started = time.perf_counter()
    labels = classify(classifier, examples)
    seconds = (time.perf_counter() - started) / max(len(examples), 1)
    return tuple(Reply(label, 0, 0, seconds) for label in labels)


def fit_classifier(train: Sequence[Example], seed: int, *, in_pieces: bool | None = None) -> Classifier:
    """Fits a classifier: the same rows and seed give the same one. `in_pieces`: whether pieces of words are features
    too; None leaves it to the amount of text. Raises ValueError without rows."""
    if not train:
        raise ValueError("training the classical rung: there are no rows to train on")
    labels = [label_of(example) for example in train]
    texts = [text_of(example) for example in train]
    counts = Counter(labels)
    usual = min(counts, key=lambda label: (-counts[label], label))
    if len(counts) == 1 or not any(texts):
        return Classifier(tuple(sorted(counts)), usual, None, None)
    vectors = features(is_short(texts) if in_pieces is None else in_pieces)
    machine = _fitted_svm(vectors.fit_transform(texts), labels, 1.0, seed)
    return Classifier(tuple(map(str, machine.classes_)), usual, vectors, machine)


def _fitted_svm(rows: Any, labels: Any, c: float, seed: int) -> Any:
    from sklearn.svm import LinearSVC

    # converges in about 30 rounds on banking77; the default of 1,000 is at times too few for hard rows
    machine = LinearSVC(C=c, max_iter=20_000, random_state=seed % 2**32)
    with warnings.catch_warnings():
        # "could be a regression": many labels with hardly any rows
        warnings.simplefilter("ignore", UserWarning)
        return machine.fit(rows, labels)


def classify(classifier: Classifier, examples: Sequence[Example]) -> tuple[str, ...]:
    if classifier.machine is None or not examples:
        return (classifier.usual,) * len(examples)
    best = margins(classifier, examples).argmax(axis=1)
    return tuple(classifier.labels[place] for place in best)


def margins(classifier: Classifier, examples: Sequence[Example]) -> Margins:
    """Returns distances from each label's border, rows x labels. Zeros where there was nothing to tell apart."""
    import numpy as np

    if classifier.machine is None:
        return np.zeros((len(examples), len(classifier.labels)))
    rows = classifier.features.transform([text_of(example) for example in examples])
    distances: Margins = _distances(classifier.machine, rows)
    return distances


def _distances(machine: Any, rows: Any) -> Any:
    import numpy as np

    distances = machine.decision_function(rows)
    # of two labels scikit-learn gives one column: how far on the second one's side
    return np.column_stack([-distances, distances]) if distances.ndim == 1 else distances


def label_of(example: Example) -> str:
    return example.answer.strip()


def text_of(example: Example) -> str:
    """Returns all that stands before the answer, instructions left aside, cut to LONGEST_TEXT."""
    return question_text(example).strip()[:LONGEST_TEXT].strip()


def is_short(texts: Iterable[str]) -> bool:
    """Says whether there is little enough text, all together, for features of pieces of words."""
    return sum(map(len, texts)) <= MOST_IN_PIECES


def features(in_pieces: bool) -> Any:
    """Returns a vectoriser of texts to TF-IDF. Any text with a character that is no space has a feature."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    words = TfidfVectorizer(
        token_pattern=WORDS, ngram_range=(1, 2), sublinear_tf=True, max_features=MOST_FEATURES
    )
    if not in_pieces:
        return words
    pieces = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=MOST_FEATURES
    )
    return FeatureUnion([("words", words), ("pieces", pieces)])


FOLDS = 5
LETTERS = 2_500_000  # of all rows: a second of work
LETTERS_IN_PIECES = 1_000_000
# Up to so many a ridge regression by numpy alone finds more than the SVM does, and scikit-learn, whose import takes
# longer than the rest of a check, stays out.
FEW_ROWS, FEW_LETTERS = 150, 60_000
MOST_FOR_SVM = 65_000  # rows x labels: three seconds
# Rows that span the ridge's space. On 8,000 rows of banking77 1,000 find 75% of planted errors, 2,000 find 78%.
SPAN = 1_500
AT_ONCE = 1_000
# Softer than rung 0, which is there to be right: a classifier that fits a wrong label closely can't doubt it.
SVM_C, RIDGE, FEW_RIDGE = 0.1, 10.0, 1.0


@contextmanager
def without_pandas() -> Iterator[None]:
    """Keeps scikit-learn from importing pandas, whose types it wants to know: 40 MB and a quarter of a second."""
    modules: dict[str, Any] = sys.modules
    is_missing = "pandas" not in modules
    if is_missing:
        modules["pandas"] = None
    try:
        yield
    finally:
        if is_missing:
            del modules["pandas"]


def out_of_fold(examples: Sequence[Example], seed: int) -> tuple[tuple[str, ...], Scores]:
    """Returns labels by name, and scores, rows x labels, of each row by classifiers that were not trained on it.

    Copies of a question are in one fold. A row whose label is in its own fold only can't be judged by others: it has
    the score inf for that label. Raises ValueError without rows.
    """
    import numpy as np

    if not examples:
        raise ValueError("judging rows by the others: there are no rows")
    names = [label_of(example) for example in examples]
    labels = tuple(sorted(set(names)))
    column = {label: place for place, label in enumerate(labels)}
    own = np.array([column[label] for label in names], dtype=np.intp)
    first: dict[bytes, int] = {}  # copies of a question are in one fold
    copies = [first.setdefault(key, row) for row, key in enumerate(question_keys(examples))]
    fold = np.array(deal_folds(examples, copies, seed))
    letters = max(LETTERS // len(examples), 1)
    texts = [text_of(example)[:letters] for example in examples]
    rows = len(examples)
    del examples  # what else they hold is not needed, and their memory is
    if not any(texts) or len(labels) == 1 or len(set(fold)) == 1:
        scores: Scores = np.zeros((rows, len(labels)), np.float32)
    elif rows <= FEW_ROWS and sum(map(len, texts)) <= FEW_LETTERS:
        scores = _by_kernel(texts, own, fold, len(labels))
    elif rows * len(labels) <= MOST_FOR_SVM:
        scores = _by_svm(_features(texts), own, fold, len(labels), seed)
    else:
        scores = _by_ridge(_features(texts), own, fold, len(labels), seed)
    inside = np.zeros((fold.max() + 1, len(labels)))
    np.add.at(inside, (fold, own), 1)
    alone = inside[fold, own] == inside.sum(axis=0)[own]
    scores[alone, own[alone]] = np.inf
    return labels, scores


def deal_folds(examples: Sequence[Example], groups: Sequence[int], seed: int) -> list[int]:
    """Returns each row's fold, dealt out label by label, shuffled, so that all folds have their share of each. Rows of
    a group, which has its first row's place, are in one."""
    firsts = sorted(set(groups))
    random.Random(seed).shuffle(firsts)  # noqa: S311
    firsts.sort(key=lambda first: label_of(examples[first]))
    folds = {first: number % FOLDS for number, first in enumerate(firsts)}
    return [folds[group] for group in groups]


def _features(texts: Sequence[str]) -> Any:
    """Returns the features of all rows at once: how rare a word is can be known without labels."""
    import numpy as np
    from scipy.sparse import hstack

    with without_pandas():
        from sklearn.feature_extraction.text import TfidfVectorizer

    options = {"sublinear_tf": True, "max_features": MOST_FEATURES, "dtype": np.float32}
    words = TfidfVectorizer(token_pattern=WORDS, ngram_range=(1, 2), **options).fit_transform(texts)
    if sum(map(len, texts)) > LETTERS_IN_PIECES:
        return words
    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), **options).fit_transform(texts)
    return hstack([words, pieces]).tocsr()


def _by_kernel(texts: Sequence[str], own: NDArray[np.intp], fold: NDArray[np.intp], labels: int) -> Scores:
    """The ridge regression of `_by_ridge` on all features, by the rows' products."""
    import numpy as np

    products = _products(texts) + np.float32(1)  # 1: what all rows share
    ridge = np.float32(FEW_RIDGE) * np.eye(len(own), dtype=np.float32)
    hat: Scores = products @ np.linalg.inv(products + ridge).astype(np.float32)
    wanted = _wanted(own, labels)
    scores: Scores = hat @ wanted
    for number in np.unique(fold):
        inside = np.flatnonzero(fold == number)
        _leave_out(inside, hat[np.ix_(inside, inside)], wanted, scores)
    return scores


def _products(texts: Sequence[str]) -> Scores:
    """Returns the products of the rows' TF-IDF vectors, of words and of pieces as `_features` has them."""
    import numpy as np

    products = np.zeros((len(texts), len(texts)), np.float32)
    for terms_of in (_words_and_pairs, _pieces_of_words):
        counts = [Counter(terms_of(text.lower())) for text in texts]
        column = {term: place for place, term in enumerate({term for count in counts for term in count})}
        matrix = np.zeros((len(texts), len(column)), np.float32)
        for row, count in enumerate(counts):
            matrix[row, [column[term] for term in count]] = 1 + np.log(list(count.values()))
        matrix *= 1 + np.log((1 + len(texts)) / (1 + (matrix > 0).sum(axis=0, dtype=np.float32)))
        matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), np.float32(1e-9))
        products += matrix @ matrix.T
    return products


def _words_and_pairs(text: str) -> list[str]:
    words = re.findall(WORDS, text)
    return [*words, *(f"{word} {after}" for word, after in pairwise(words))]


def _pieces_of_words(text: str) -> list[str]:
    """Pieces of 3 and 4 letters, the spaces around a word among them."""
    words = [f" {word} " for word in text.split()]
    return [
        word[at : at + size]
        for size in (3, 4)
        for word in words
        for at in range(max(len(word) - size, 0) + 1)
    ]


def _wanted(own: NDArray[np.intp], labels: int) -> Scores:
    import numpy as np

    wanted: Scores = np.zeros((len(own), labels), np.float32)
    wanted[np.arange(len(own)), own] = 1
    wanted -= wanted.mean(axis=0)
    return wanted


def _leave_out(inside: NDArray[np.intp], hat: Scores, wanted: Scores, scores: Scores) -> None:
    """Makes the scores of a fold those of a fit without it, in closed form: with residuals r of a fit to all rows and
    the fold's part H of its hat matrix, those of a fit without the fold are (I - H)⁻¹ r."""
    import numpy as np

    left = np.eye(len(inside), dtype=np.float32) - hat
    scores[inside] = wanted[inside] - np.linalg.solve(left, wanted[inside] - scores[inside])


def _by_svm(rows: Any, own: NDArray[np.intp], fold: NDArray[np.intp], labels: int, seed: int) -> Scores:
    import numpy as np

    scores = np.full((len(own), labels), -1.0, np.float32)
    for number in np.unique(fold):
        inside = fold == number
        trained = np.unique(own[~inside])  # labels that the other folds have
        if len(trained) == 1:
            scores[np.ix_(inside, trained)] = 1.0
            continue
        machine = _fitted_svm(rows[~inside], own[~inside], SVM_C, seed)
        scores[np.ix_(inside, trained)] = _distances(machine, rows[inside])
    return scores


def _by_ridge(rows: Any, own: NDArray[np.intp], fold: NDArray[np.intp], labels: int, seed: int) -> Scores:
    import numpy as np
    from scipy.linalg import cho_factor, cho_solve

    spanned, wanted = _spanned(rows, seed), _wanted(own, labels)
    squares = spanned.T @ spanned
    squares[np.diag_indices_from(squares)] += RIDGE
    factor = cho_factor(squares, overwrite_a=True, check_finite=False)
    scores: Scores = spanned @ cho_solve(factor, spanned.T @ wanted, check_finite=False)
    for number in np.unique(fold):
        inside = np.flatnonzero(fold == number)
        part = spanned[inside]
        _leave_out(inside, part @ cho_solve(factor, part.T, check_finite=False), wanted, scores)
    return scores


def _spanned(rows: Any, seed: int) -> Scores:
    """Returns the rows in the space of SPAN of them (Nyström): rows x SPAN, whose products are near those of all
    features. Computed some at a time, for what lies between is several times as large."""
    import numpy as np
    from scipy.linalg import cholesky, solve_triangular

    drawn = np.random.default_rng(seed).permutation(rows.shape[0])[:SPAN]
    basis = rows[drawn].T.tocsr()

    def products(part: Any) -> Scores:
        result: Scores = (part @ basis).toarray() + np.float32(1)  # 1: what all rows share
        return result

    gram = products(rows[drawn])
    gram[np.diag_indices_from(gram)] += np.float32(0.01)  # copies of a row span nothing more
    lower = cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    spanned = np.empty((rows.shape[0], len(drawn)), np.float32)
    for begin in range(0, len(spanned), AT_ONCE):
        part = products(rows[begin : begin + AT_ONCE])
        spanned[begin : begin + AT_ONCE] = solve_triangular(lower, part.T, lower=True, check_finite=False).T
    return spanned
