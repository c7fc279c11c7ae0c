"""TF-IDF without any service: the classical rung's classifier, out-of-fold margins of each label, and
retrieval of similar examples and passages. For worker processes and the terminal; scikit-learn is
imported at use."""

from __future__ import annotations

import random
import re
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.dataset.rows import Example, question_keys
from trainers.evaluation.results import Reply

# Rung 0: TF-IDF and a linear SVM, on one core in seconds, asking nobody. For labels only.
#
# Words alone and in pairs and, unless there is very much text, pieces of words of 2 to 5 letters. For
# worker processes and the terminal: scikit-learn is imported at use, it takes about a second.


if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Margins = NDArray[np.float64]

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


def classify_holdout(train: Sequence[Example], examples: Sequence[Example], seed: int) -> tuple[Reply, ...]:
    """A label for each of `examples`. Tokens are 0; `seconds` is a row's share of answering them all.

    ValueError without rows to train on.
    """
    classifier = fit(train, seed)
    started = time.perf_counter()
    lines = classify(classifier, examples)
    each = (time.perf_counter() - started) / max(len(examples), 1)
    return tuple(Reply(label, 0, 0, each) for label in lines)


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


def classify(classifier: Classifier, examples: Sequence[Example]) -> tuple[str, ...]:
    if classifier.machine is None or not examples:
        return (classifier.usual,) * len(examples)
    best = margins(classifier, examples).argmax(axis=1)
    return tuple(classifier.labels[place] for place in best)


def margins(classifier: Classifier, examples: Sequence[Example]) -> Margins:
    """Distances from each label's border, rows x labels. Zeros where there was nothing to tell apart."""
    import numpy as np

    if classifier.machine is None:
        return np.zeros((len(examples), len(classifier.labels)))
    rows = classifier.features.transform([text_of(example) for example in examples])
    distances: Margins = classifier.machine.decision_function(rows)
    # of two labels scikit-learn gives one column: how far on the second one's side
    return np.column_stack([-distances, distances]) if distances.ndim == 1 else distances


def label_of(example: Example) -> str:
    return example.answer.strip()


def text_of(example: Example) -> str:
    """All that is said before the answer, instructions left aside."""
    lines = (m.content for m in example.prompt if m.role not in ("system", "developer"))
    return "\n".join(lines).strip()[:LONGEST_TEXT].strip()


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


# How far each label fits each row, judged by the other rows alone. The rows with the worst margins are
# where wrong labels are to be looked for.
#
# A linear SVM where that is quick; with many rows and labels the time of its many classifiers is too
# long, and a ridge regression to all labels at once does as well. For worker processes: scikit-learn,
# scipy and numpy are imported at use.


if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float32]

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


def out_of_fold(examples: Sequence[Example], seed: int) -> tuple[tuple[str, ...], Scores]:
    """Labels by name, and scores, rows x labels, of each row by those who never saw it.

    Copies of a question are in one fold. A row whose label is in its own fold only can't be judged by others: it has
    the score inf for that label. ValueError without rows.
    """
    import numpy as np

    if not examples:
        raise ValueError("judging rows by the others: there are no rows")
    names = [label_of(example) for example in examples]
    labels = tuple(sorted(set(names)))
    column = {label: place for place, label in enumerate(labels)}
    own = np.array([column[label] for label in names], dtype=np.intp)
    fold = np.array(_folds(examples, seed))
    letters = max(LETTERS // len(examples), 1)
    texts = [text_of(example)[:letters] for example in examples]
    rows = len(examples)
    del examples  # what else they hold is not needed, and their memory is
    if not any(texts) or len(labels) == 1 or len(set(fold)) == 1:
        scores: Scores = np.zeros((rows, len(labels)), np.float32)
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


def _by_svm(rows: Any, own: NDArray[np.intp], fold: NDArray[np.intp], labels: int, seed: int) -> Scores:
    import numpy as np
    from sklearn.svm import LinearSVC

    scores = np.full((len(own), labels), -1.0, np.float32)
    for number in np.unique(fold):
        inside = fold == number
        existing = np.unique(own[~inside])
        if len(existing) == 1:
            scores[np.ix_(inside, existing)] = 1.0
            continue
        machine = LinearSVC(C=SVM_C, max_iter=20_000, random_state=seed % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # "could be a regression": labels with hardly any rows
            machine.fit(rows[~inside], own[~inside])
        result = machine.decision_function(rows[inside])
        # of two labels scikit-learn gives one column: how far on the second one's side
        scores[np.ix_(inside, existing)] = np.column_stack([-result, result]) if result.ndim == 1 else result
    return scores


def _by_ridge(rows: Any, own: NDArray[np.intp], fold: NDArray[np.intp], labels: int, seed: int) -> Scores:
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
    scores: Scores = spanned @ cho_solve(factor, spanned.T @ wanted, check_finite=False)
    for number in np.unique(fold):
        inside = np.flatnonzero(fold == number)
        part = spanned[inside]
        left = np.eye(len(inside), dtype=np.float32) - part @ cho_solve(factor, part.T, check_finite=False)
        scores[inside] = wanted[inside] - np.linalg.solve(left, wanted[inside] - scores[inside])
    return scores


def _spanned(rows: Any, seed: int) -> Scores:
    """The rows in the space of SPAN of them (Nyström): rows x SPAN, whose products are near those of all features.
    Some at a time, for what lies between is several times as large."""
    import numpy as np
    from scipy.linalg import cholesky, solve_triangular

    drawn = np.random.default_rng(seed).permutation(rows.shape[0])[:SPAN]
    those = rows[drawn].T.tocsr()

    def alike(some: Any) -> Scores:
        result: Scores = (some @ those).toarray() + np.float32(1)  # 1: what all rows share
        return result

    among = alike(rows[drawn])
    among[np.diag_indices_from(among)] += np.float32(0.01)  # copies of a row span nothing more
    lower = cholesky(among, lower=True, overwrite_a=True, check_finite=False)
    spanned = np.empty((rows.shape[0], len(drawn)), np.float32)
    for begin in range(0, len(spanned), AT_ONCE):
        part = alike(rows[begin : begin + AT_ONCE])
        spanned[begin : begin + AT_ONCE] = solve_triangular(lower, part.T, lower=True, check_finite=False).T
    return spanned


WORDS_A_PASSAGE = 120
_AT_ONCE = 5_000_000  # similarities held at a time: 40 MB
_PARAGRAPHS = re.compile(r"\n\s*\n")
_SENTENCES = re.compile(r"(?<=[.!?…。！？])\s+")


def nearest(train: Sequence[Example], examples: Sequence[Example], k: int) -> tuple[tuple[Example, ...], ...]:
    """For each of `examples` the k rows most like it, the nearest first; fewer where there are fewer. Rows with
    tools are left out: not every model can be shown them."""
    shown = [example for example in train if example.row is None]
    entries = _nearest([text_of(e) for e in shown], [text_of(e) for e in examples], k)
    return tuple(tuple(shown[i] for i in places) for places in entries)


def nearest_passages(
    passages: Sequence[str], examples: Sequence[Example], k: int
) -> tuple[tuple[str, ...], ...]:
    """For each of `examples` the k passages most like it, the nearest first."""
    entries = _nearest(passages, [text_of(e) for e in examples], k)
    return tuple(tuple(passages[i] for i in places) for places in entries)


def passages_of(text: str) -> tuple[str, ...]:
    """About 120 words each, in order, without overlap: whole paragraphs together while they fit, a longer one
    cut between sentences, a longer sentence between words."""
    passages: list[str] = []
    names: list[str] = []
    for paragraph in _PARAGRAPHS.split(text.replace("\r\n", "\n")):
        for piece in _pieces(paragraph.strip()):
            if names and sum(map(_words, names)) + _words(piece) > WORDS_A_PASSAGE:
                passages.append("\n\n".join(names))
                names = []
            names.append(piece)
    if names:
        passages.append("\n\n".join(names))
    return tuple(passages)


def _nearest(texts: Sequence[str], names: Sequence[str], k: int) -> list[tuple[int, ...]]:
    """Places in `names`, the most alike first; of equals the first."""
    import numpy as np

    if k < 1 or not any(text.strip() for text in texts):
        return [tuple(range(min(max(k, 0), len(texts))))] * len(names)
    vectors = features(is_short(texts))
    library = vectors.fit_transform(texts).T.tocsc()
    some = max(_AT_ONCE // len(texts), 1)
    entries: list[tuple[int, ...]] = []
    for start in range(0, len(names), some):
        alike = (vectors.transform(names[start : start + some]) @ library).toarray()
        order = np.argsort(-alike, axis=1, kind="stable")[:, :k]
        entries.extend(tuple(map(int, places)) for places in order)
    return entries


def _pieces(paragraph: str) -> Iterator[str]:
    """A paragraph, or its parts of at most 120 words."""
    if not paragraph:
        return
    if _words(paragraph) <= WORDS_A_PASSAGE:
        yield paragraph
        return
    names: list[str] = []
    for sentence in _SENTENCES.split(paragraph):
        words = sentence.split()
        if names and len(names) + len(words) > WORDS_A_PASSAGE:
            yield " ".join(names)
            names = []
        names.extend(words)
        while len(names) > WORDS_A_PASSAGE:
            yield " ".join(names[:WORDS_A_PASSAGE])
            names = names[WORDS_A_PASSAGE:]
    if names:
        yield " ".join(names)


def _words(text: str) -> int:
    return len(text.split())
