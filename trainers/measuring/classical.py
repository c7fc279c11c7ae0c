"""Rung 0: TF-IDF and a linear SVM, on one core in seconds, asking nobody. For labels only.

Words alone and in pairs and, unless there is very much text, pieces of words of 2 to 5 letters. For worker
processes and the terminal: scikit-learn is imported at use, it takes about a second.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.dataset.values import Example
from trainers.measuring.values import Reply

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

LONGEST_TEXT = 4_000  # characters; what decides stands early, and a manual pasted in must not fill the memory
MOST_IN_PIECES = (
    4_000_000  # characters in all: about ten seconds and 400 MB; four times as many take that in words
)
MOST_FEATURES = 100_000  # of words, and again of pieces
WORDS = r"(?u)\w+|[^\w\s]"


@dataclass(frozen=True)
class Classifier:
    """Fitted. `labels` by name. `machine` is None where there was nothing to tell apart: it then always says
    `usual`, the most frequent label."""

    labels: tuple[str, ...]
    usual: str
    features: Any
    machine: Any


def answer(train: Sequence[Example], asked: Sequence[Example], seed: int) -> tuple[Reply, ...]:
    """A label for each of `asked`. Tokens are 0; `seconds` is a row's share of answering them all.

    ValueError without rows to train on.
    """
    classifier = fit(train, seed)
    started = time.perf_counter()
    said = classify(classifier, asked)
    each = (time.perf_counter() - started) / max(len(asked), 1)
    return tuple(Reply(label, 0, 0, each) for label in said)


def fit(train: Sequence[Example], seed: int, *, in_pieces: bool | None = None) -> Classifier:
    """The same rows and seed give the same classifier. `in_pieces`: whether to look at pieces of words too; None
    leaves it to the amount of text. ValueError without rows."""
    if not train:
        raise ValueError("training the classical rung: there are no rows to train on")
    labels = [label_of(example) for example in train]
    texts = [text_of(example) for example in train]
    counts = Counter(labels)
    usual = min(counts, key=lambda label: (-counts[label], label))
    if len(counts) == 1 or not any(texts):
        return Classifier(tuple(sorted(counts)), usual, None, None)
    numbers, machine = features(is_short(texts) if in_pieces is None else in_pieces), _machine(seed)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # "could be a regression": many labels with hardly any rows
        machine.fit(numbers.fit_transform(texts), labels)
    return Classifier(tuple(map(str, machine.classes_)), usual, numbers, machine)


def classify(classifier: Classifier, asked: Sequence[Example]) -> tuple[str, ...]:
    if classifier.machine is None or not asked:
        return (classifier.usual,) * len(asked)
    best = margins(classifier, asked).argmax(axis=1)
    return tuple(classifier.labels[place] for place in best)


def margins(classifier: Classifier, asked: Sequence[Example]) -> Numbers:
    """Distances from each label's border, rows x labels. Zeros where there was nothing to tell apart."""
    import numpy as np

    if classifier.machine is None:
        return np.zeros((len(asked), len(classifier.labels)))
    rows = classifier.features.transform([text_of(example) for example in asked])
    distances: Numbers = classifier.machine.decision_function(rows)
    # of two labels scikit-learn gives one column: how far on the second one's side
    return np.column_stack([-distances, distances]) if distances.ndim == 1 else distances


def label_of(example: Example) -> str:
    return example.answer.strip()


def text_of(example: Example) -> str:
    """All that is said before the answer, instructions left aside."""
    said = (m.content for m in example.prompt if m.role not in ("system", "developer"))
    return "\n".join(said).strip()[:LONGEST_TEXT].strip()


def is_short(texts: Iterable[str]) -> bool:
    """Little enough text, all together, to look at pieces of words?"""
    return sum(map(len, texts)) <= MOST_IN_PIECES


def features(in_pieces: bool) -> Any:
    """Texts → TF-IDF. Any text with a character that is no space has a feature."""
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


def _machine(seed: int) -> Any:
    from sklearn.svm import LinearSVC

    # converges in about 30 rounds on banking77; the default of 1,000 is at times too few for hard rows
    return LinearSVC(C=1.0, max_iter=20_000, random_state=seed % 2**32)
