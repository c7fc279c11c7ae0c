"""Classifiers on TF-IDF features: the classical candidate. For worker processes and the terminal; scikit-learn, which
takes about a second to import, and numpy are imported when needed.

It is a linear SVM on single words, pairs of words and, unless there is very much text, pieces of words of 2 to 5
letters, and takes seconds on one core. out_of_fold.py scores rows by classifiers that have not seen them.
"""

from __future__ import annotations

import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.dataset.near_duplicates import question_text
from trainers.dataset.rows import Example, most_frequent
from trainers.evaluation.results import Reply, free_replies
from trainers.evaluation.terms import PIECES, WORDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Margins = NDArray[np.float64]

# characters; the decisive words come early, and a pasted manual must not fill the memory
LONGEST_TEXT = 4_000
# Characters in total: about ten seconds and 400 MB. With words alone, four times as many take the same.
MOST_IN_PIECES = 4_000_000
MOST_FEATURES = 100_000  # for words, and the same number again for pieces
# Heads and classifiers of single fields learn from a fixed sample of more rows, which takes some minutes.
MOST_ROWS = 20_000


@dataclass(frozen=True)
class Classifier:
    """A fitted classifier. `labels` are sorted. `machine` is None if there was nothing to distinguish, and then every
    answer is `usual`, the most frequent label."""

    labels: tuple[str, ...]
    usual: str
    features: Any
    machine: Any


def classify_holdout(train: Sequence[Example], examples: Sequence[Example], seed: int) -> tuple[Reply, ...]:
    """Returns a label for each of `examples`. Tokens are 0, and `seconds` is the total time divided by the number of
    rows.

    Raises ValueError if there are no rows to train on.
    """
    classifier = fit_classifier(train, seed)
    started = time.perf_counter()
    labels = classify(classifier, examples)
    elapsed = time.perf_counter() - started
    return free_replies(labels, elapsed)


def fit_classifier(train: Sequence[Example], seed: int, *, in_pieces: bool | None = None) -> Classifier:
    """Fits a classifier; the same rows and seed give the same result. `in_pieces` adds pieces of words to the features;
    None decides by the amount of text. Raises ValueError if there are no rows."""
    if not train:
        raise ValueError("training the classical candidate: there are no rows to train on")
    labels = [label_of(example) for example in train]
    texts = [text_of(example) for example in train]
    counts = Counter(labels)
    usual = most_frequent(counts)
    if len(counts) == 1 or not any(texts):
        names = tuple(sorted(counts))
        return Classifier(names, usual, features=None, machine=None)
    if in_pieces is None:
        in_pieces = is_short_enough(texts)
    vectors = features(in_pieces)
    rows = vectors.fit_transform(texts)
    machine = fit_svm(rows, labels, 1.0, seed)
    names = tuple(map(str, machine.classes_))
    return Classifier(names, usual, vectors, machine)


def fit_svm(rows: Any, labels: Any, c: float, seed: int) -> Any:
    from sklearn.svm import LinearSVC

    # converges in about 30 iterations on banking77, but the default of 1,000 is sometimes not enough for hard rows
    machine = LinearSVC(C=c, max_iter=20_000, random_state=seed % 2**32)
    with warnings.catch_warnings():
        # "could be a regression", if there are many labels with few rows
        warnings.simplefilter("ignore", UserWarning)
        return machine.fit(rows, labels)


def classify(classifier: Classifier, examples: Sequence[Example]) -> tuple[str, ...]:
    if classifier.machine is None or not examples:
        return (classifier.usual,) * len(examples)
    distances = margins(classifier, examples)
    best = distances.argmax(axis=1)
    return tuple(classifier.labels[column] for column in best)


def margins(classifier: Classifier, examples: Sequence[Example]) -> Margins:
    """Returns the distances from each label's decision boundary, rows x labels; zeros if there is nothing to
    distinguish."""
    import numpy as np

    if classifier.machine is None:
        return np.zeros((len(examples), len(classifier.labels)))
    texts = [text_of(example) for example in examples]
    rows = classifier.features.transform(texts)
    distances: Margins = distances_of(classifier.machine, rows)
    return distances


def distances_of(machine: Any, rows: Any) -> Any:
    """Returns the distances of rows of features from each label's decision boundary, rows x labels."""
    import numpy as np

    distances = machine.decision_function(rows)
    if distances.ndim == 1:
        # For two labels scikit-learn returns one column: the distance on the side of the second.
        return np.column_stack([-distances, distances])
    return distances


def rows_to_learn(train: Sequence[Example], seed: int) -> Sequence[Example]:
    """Returns the training rows, or a fixed sample if there are too many. Raises ValueError if there are none."""
    if not train:
        raise ValueError("training a free candidate: there are no rows to train on")
    if len(train) <= MOST_ROWS:
        return train
    return random.Random(seed).sample(train, MOST_ROWS)  # noqa: S311


def label_of(example: Example) -> str:
    return example.answer.strip()


def text_of(example: Example) -> str:
    """Returns the text before the answer, without instructions, as far as it is read."""
    return beginning_of(question_text(example))


def beginning_of(text: str) -> str:
    """Returns the part of a text that the free candidates read, of at most LONGEST_TEXT characters."""
    return text.strip()[:LONGEST_TEXT].strip()


def is_short_enough(texts: Iterable[str]) -> bool:
    """True if there is little enough text in total to use pieces of words as features."""
    return sum(map(len, texts)) <= MOST_IN_PIECES


def features(in_pieces: bool) -> Any:
    """Returns a TF-IDF vectoriser. Every text with a non-space character has at least one feature."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    words = TfidfVectorizer(
        token_pattern=WORDS,
        ngram_range=(1, 2),
        sublinear_tf=True,
        max_features=MOST_FEATURES,
    )
    if not in_pieces:
        return words
    pieces = TfidfVectorizer(
        analyzer="char_wb",
        ngram_range=PIECES,
        sublinear_tf=True,
        max_features=MOST_FEATURES,
    )
    return FeatureUnion([("words", words), ("pieces", pieces)])


@contextmanager
def without_pandas() -> Iterator[None]:
    """Keeps scikit-learn from importing pandas only to check for its types, which would take 40 MB and 0.25 s."""
    modules: dict[str, Any] = sys.modules
    is_missing = "pandas" not in modules
    if is_missing:
        modules["pandas"] = None
    try:
        yield
    finally:
        if is_missing:
            del modules["pandas"]
