"""Rung 0: TF-IDF and a linear SVM, on one core in seconds, asking nobody. For labels only.

Words alone and in pairs and, unless there is very much text, pieces of words of 2 to 5 letters. For worker
processes and the terminal: scikit-learn is imported at use, it takes about a second.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.dataset.values import Example, question_keys
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
_WORDS = r"(?u)\w+|[^\w\s]"


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


def out_of_fold(examples: Sequence[Example], seed: int, folds: int = 5) -> tuple[tuple[str, ...], Numbers]:
    """What each row is by those who never saw it: labels by name, and probabilities, rows x labels.

    Copies of a question are in one fold. A row whose label is in its own fold only can't be judged by others:
    its own label gets probability 1, so that nobody doubts it. The margins become probabilities by softmax
    with one temperature for all, the one of the least log loss (Guo and others, On calibration of modern
    neural networks, 2017). ValueError without rows.
    """
    import numpy as np

    if not examples:
        raise ValueError("judging rows by the others: there are no rows")
    given = [label_of(example) for example in examples]
    labels = tuple(sorted(set(given)))
    column = {label: place for place, label in enumerate(labels)}
    own = np.array([column[label] for label in given], dtype=np.intp)
    fold = _folds(examples, seed, folds)
    in_pieces = is_short(text_of(example) for example in examples)
    distances = np.full((len(examples), len(labels)), -np.inf)
    for number in sorted(set(fold)):
        train = [example for example, at in zip(examples, fold, strict=True) if at != number]
        if not train:
            continue
        classifier = fit(train, seed, in_pieces=in_pieces)
        inside = [row for row, at in enumerate(fold) if at == number]
        places = np.array([column[label] for label in classifier.labels])
        distances[np.array(inside)[:, None], places] = margins(classifier, [examples[i] for i in inside])
    return labels, _probabilities(distances, own)


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
        token_pattern=_WORDS, ngram_range=(1, 2), sublinear_tf=True, max_features=MOST_FEATURES
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


def _folds(examples: Sequence[Example], seed: int, folds: int) -> list[int]:
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
            fold[row] = number % folds
    return fold


def _probabilities(distances: Numbers, own: NDArray[np.intp]) -> Numbers:
    import numpy as np

    rows = np.arange(len(own))
    unjudged = np.isinf(distances[rows, own])
    distances[unjudged] = -np.inf
    distances[rows[unjudged], own[unjudged]] = 0.0
    return _softmax(distances / _temperature(distances[~unjudged], own[~unjudged]))


def _temperature(distances: Numbers, own: NDArray[np.intp]) -> float:
    import numpy as np
    from scipy.optimize import minimize_scalar

    if len(own) == 0:
        return 1.0
    rows = np.arange(len(own))

    def loss(logarithm: float) -> float:
        likely = _softmax(distances / np.exp(logarithm))[rows, own]
        return float(-np.log(np.maximum(likely, 1e-12)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 2.0), method="bounded").x))


def _softmax(scores: Numbers) -> Numbers:
    import numpy as np

    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    softened: Numbers = raised / raised.sum(axis=1, keepdims=True)
    return softened
