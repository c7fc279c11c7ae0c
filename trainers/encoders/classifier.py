"""A classifier of texts: a linear head on an encoder's vectors, its files, and the comparison's candidate "encoder".
scikit-learn and numpy are imported inside functions.

classifier.json   {"encoder", "sha256", "labels"}: the encoder's name for load_encoder, or null if the encoder was
                  trained too and is in this folder; and the sha256 of everything that its vectors depend on
head.npz          weights (dimensions x labels) and biases; a head that uses words has WORD_COLUMNS more dimensions
model.onnx        the trained encoder and its tokenizer, only if the encoder was trained too
tokenizer.json
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.dataset.rows import Example
from trainers.encoders import EncoderError
from trainers.encoders.embedding import StoredVectors, TextEncoder, load_encoder
from trainers.evaluation.results import Reply
from trainers.evaluation.tfidf import label_of, rows_to_learn, text_of, without_pandas

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainers.encoders.embedding import Vectors

    Probabilities = NDArray[np.float64]

DESCRIPTION = "classifier.json"
HEAD = "head.npz"
ALTERNATIVES = 3
# The penalty of a head, and whether it uses words besides the encoder's vectors, are chosen by cross-validation if that
# takes only seconds. For 745 support tickets with similar labels 3 with words is best (77.0% right against 75.3%, mean
# of 8 draws); for banking77 with 10 rows per label 30 without words.
INVERSE_PENALTIES = (1.0, 3.0, 10.0, 30.0)
INVERSE_PENALTY_WITH_WORDS = 3.0  # where choosing would take too long
DEFAULT_INVERSE_PENALTY = 20.0
FOLDS = 5
MIN_ROWS_TO_CHOOSE = 30
MAX_SIZE_TO_CHOOSE = 200_000  # rows x labels
MAX_ROWS_WITH_WORDS = 2_000


@dataclass(frozen=True)
class LinearHead:
    """`labels` are sorted. A text's scores are inputs @ `weights` + `biases`, which softmax turns into probabilities.
    The inputs are the text's vector, followed by its word columns if the head uses words."""

    labels: tuple[str, ...]
    weights: Vectors
    biases: Vectors

    def uses_words(self, dims: int) -> bool:
        return len(self.weights) > dims

    def scores(self, inputs: Vectors) -> Probabilities:
        """Returns rows x labels; the best label has the highest."""
        import numpy as np

        sums = inputs @ self.weights + self.biases
        scores: Probabilities = sums.astype(np.float64)
        return scores

    def probabilities(self, inputs: Vectors) -> Probabilities:
        """Returns rows x labels; each row adds up to 1."""
        import numpy as np

        scores = self.scores(inputs)
        # Softmax doesn't change if a number is added to all scores of a row; with the best at 0, exp can't overflow.
        below_best = scores - scores.max(axis=1, keepdims=True)
        powers = np.exp(below_best)
        result: Probabilities = powers / powers.sum(axis=1, keepdims=True)
        return result

    def answers(self, inputs: Vectors) -> tuple[str, ...]:
        best = self.probabilities(inputs).argmax(axis=1)
        return tuple(self.labels[index] for index in best)


@dataclass(frozen=True)
class LearntHead:
    """A head, with what it takes to fit another like it to a part of the training rows: the penalty, and these rows'
    inputs, perhaps in a space of fewer dimensions."""

    head: LinearHead
    inverse_penalty: float
    inputs: Vectors


def head_inputs(encoder: TextEncoder, head: LinearHead, texts: Sequence[str], vectors: Vectors) -> Vectors:
    """Returns the inputs of `head` for texts with these vectors."""
    import numpy as np

    if not head.uses_words(encoder.dims):
        return vectors
    words = encoder.words(texts)
    return np.hstack([vectors, words])  # texts x (dimensions + WORD_COLUMNS)


def learn(
    encoder: TextEncoder,
    texts: Sequence[str],
    labels: Sequence[str],
    vectors: Vectors,
    *,
    seed: int,
) -> LearntHead:
    """Fits a head to texts with these vectors. It also uses their words if cross-validation shows that this helps."""
    import numpy as np

    n_labels = len(set(labels))
    if not can_use_words(len(labels), n_labels):
        return _learn_from_vectors(vectors, labels, seed)
    words = encoder.words(texts)
    both = np.hstack([vectors, words])  # rows x (dimensions + WORD_COLUMNS)
    # n rows span at most n dimensions. Fitting in these gives the same head, many times faster.
    basis, _ = np.linalg.qr(both.T)
    spanned = both @ basis  # rows x n

    without_words = _best_penalty(vectors, labels, seed)
    with_words = _best_penalty(spanned, labels, seed)
    if with_words.right <= without_words.right:
        head = fit_with_penalty(vectors, labels, without_words.inverse_penalty, seed)
        return LearntHead(head, without_words.inverse_penalty, vectors)
    head = fit_with_penalty(spanned, labels, with_words.inverse_penalty, seed)
    weights = basis @ head.weights  # back to the dimensions of the inputs
    full_head = LinearHead(head.labels, weights, head.biases)
    return LearntHead(full_head, with_words.inverse_penalty, spanned)


def fit_head(vectors: Vectors, labels: Sequence[str], *, seed: int) -> LinearHead:
    """Fits logistic regression. The same rows and seed give the same head. With a single label, the head always answers
    with it. Raises ValueError without rows."""
    return _learn_from_vectors(vectors, labels, seed).head


def _learn_from_vectors(vectors: Vectors, labels: Sequence[str], seed: int) -> LearntHead:
    if not labels:
        raise ValueError("training a linear head: there are no rows to train on")
    inverse_penalty = DEFAULT_INVERSE_PENALTY
    n_labels = len(set(labels))
    if _can_choose(len(labels), n_labels):
        best = _best_penalty(vectors, labels, seed)
        inverse_penalty = best.inverse_penalty
    head = fit_with_penalty(vectors, labels, inverse_penalty, seed)
    return LearntHead(head, inverse_penalty, vectors)


def can_use_words(rows: int, labels: int) -> bool:
    """True if `learn` tries words for this many rows and labels: not with few rows, nor with very many."""
    return _can_choose(rows, labels) and rows <= MAX_ROWS_WITH_WORDS


def _can_choose(rows: int, labels: int) -> bool:
    return rows >= MIN_ROWS_TO_CHOOSE and rows * labels <= MAX_SIZE_TO_CHOOSE


@dataclass(frozen=True)
class _PenaltyScore:
    """`right` is the number of held-out rows, over all folds, that the heads labelled correctly."""

    inverse_penalty: float
    right: int


def _best_penalty(vectors: Vectors, labels: Sequence[str], seed: int) -> _PenaltyScore:
    """Returns the best of INVERSE_PENALTIES by cross-validation; of equally good ones the smallest."""
    import numpy as np

    names = np.array(labels)
    generator = np.random.default_rng(seed)
    fold = generator.permutation(len(names)) % FOLDS

    def count_right(inverse_penalty: float) -> int:
        count = 0
        for number in range(FOLDS):
            inside = fold == number
            outside = ~inside
            learned = names[outside].tolist()
            head = fit_with_penalty(vectors[outside], learned, inverse_penalty, seed)
            answers = head.answers(vectors[inside])
            is_right = np.array(answers) == names[inside]
            count += int(is_right.sum())
        return count

    scores = [_PenaltyScore(penalty, count_right(penalty)) for penalty in INVERSE_PENALTIES]
    return max(scores, key=lambda score: score.right)


def fit_with_penalty(
    vectors: Vectors, labels: Sequence[str], inverse_penalty: float, seed: int
) -> LinearHead:
    """Fits logistic regression with this penalty. With a single label, the head always answers with it."""
    import numpy as np

    names = tuple(sorted(set(labels)))
    if len(names) == 1:
        dims = vectors.shape[1]
        weights = np.zeros((dims, 1), np.float32)
        biases = np.zeros(1, np.float32)
        return LinearHead(names, weights, biases)
    with without_pandas():
        from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    machine = LogisticRegression(C=inverse_penalty, max_iter=1_000, random_state=seed % 2**32)
    # With several threads that spin while they wait, a busy machine needs 20 times the processor time of one thread.
    with warnings.catch_warnings(), threadpool_limits(1):
        # With many labels and few rows, scikit-learn warns that this could be a regression.
        warnings.simplefilter("ignore", UserWarning)
        machine.fit(vectors, labels)
    labels_of_columns = tuple(map(str, machine.classes_))
    weights = machine.coef_.T
    biases = machine.intercept_
    if len(names) == 2:
        # scikit-learn returns scores of the second label only. Against scores of 0, softmax gives the same shares.
        nothing = np.zeros_like(weights)
        weights = np.hstack([nothing, weights])  # dimensions x 2
        biases = np.array([0.0, biases[0]])
    return LinearHead(
        labels=labels_of_columns,
        weights=weights.astype(np.float32),
        biases=biases.astype(np.float32),
    )


def classify_holdout(
    encoder: TextEncoder,
    train: Sequence[Example],
    examples: Sequence[Example],
    seed: int,
    stored: StoredVectors | None = None,
) -> tuple[Reply, ...]:
    """Trains on `train` and returns a label for each of `examples`, with 0 tokens. Each example is embedded on its own,
    as in production, so that `seconds` is realistic; only the training rows' vectors are taken from `stored`. Raises
    ValueError without rows to train on."""
    train = rows_to_learn(train, seed)
    texts = [text_of(example) for example in train]
    labels = [label_of(example) for example in train]
    vectors = (stored or encoder).embed(texts)
    head = learn(encoder, texts, labels, vectors, seed=seed).head

    encoder.embed(["warm up"])  # the first call is slower, and is not the example's time
    replies = []
    for example in examples:
        started = time.perf_counter()
        text = [text_of(example)]
        vector = encoder.embed(text)
        inputs = head_inputs(encoder, head, text, vector)
        (label,) = head.answers(inputs)
        seconds = time.perf_counter() - started
        replies.append(Reply(label, prompt_tokens=0, completion_tokens=0, seconds=seconds))
    return tuple(replies)


@dataclass(frozen=True)
class Classification:
    """A text's label with its probability, and the next likeliest labels (`others`) with theirs."""

    label: str
    probability: float
    others: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Classifier:
    encoder: TextEncoder
    head: LinearHead

    def classify(self, texts: Sequence[str]) -> tuple[Classification, ...]:
        vectors = self.encoder.embed(texts)
        inputs = head_inputs(self.encoder, self.head, texts, vectors)
        shares = self.head.probabilities(inputs)
        results = []
        for row in shares.tolist():
            pairs = zip(self.head.labels, row, strict=True)
            ranked = sorted(pairs, key=lambda pair: -pair[1])
            likeliest = ranked[: 1 + ALTERNATIVES]
            best, *others = [(label, round(share, 6)) for label, share in likeliest]
            label, share = best
            results.append(Classification(label, share, tuple(others)))
        return tuple(results)


def save_head(folder: Path, head: LinearHead, *, encoder: str | None, sha256: str) -> None:
    """Writes classifier.json and head.npz. `encoder` is None if the encoder was trained too; the caller writes its
    files."""
    import numpy as np

    np.savez(folder / HEAD, weights=head.weights, biases=head.biases)
    described = {"encoder": encoder, "sha256": sha256, "labels": head.labels}
    text = json.dumps(described, ensure_ascii=False, indent=1)
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def load_classifier(folder: Path, load: Callable[[str], TextEncoder] = load_encoder) -> Classifier:
    """Loads a classifier, whose encoder comes from `load`. Raises EncoderError if the encoder can't be loaded or its
    files have changed since the training, and FileNotFoundError if the folder is gone."""
    import numpy as np

    text = (folder / DESCRIPTION).read_text(encoding="utf-8")
    described = json.loads(text)
    labels = tuple(described["labels"])
    with np.load(folder / HEAD) as arrays:
        head = LinearHead(labels, arrays["weights"], arrays["biases"])
    name = described["encoder"]
    encoder = load(name or str(folder))
    if encoder.sha256 != described["sha256"]:
        raise EncoderError(
            f"The files of the encoder {name or folder} have changed since this classifier was trained on it. Restore "
            "the old files, or train again."
        )
    return Classifier(encoder, head)
