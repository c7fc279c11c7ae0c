"""A trained classifier: a linear head on an encoder's vectors, its folder, and the rung of the ladder that answers by
it. scikit-learn and numpy are imported at use.

classifier.json   {"encoder", "sha256", "labels"}: the encoder by the name that load_encoder takes, None where it was
                  trained too and lies here, and the sha256 of all that its vectors depend on
head.npz          weights (dimensions x labels) and biases; of a head that sees words, those of WORD_COLUMNS behind
model.onnx        the trained encoder, and
tokenizer.json    what goes with it: where it was trained as a whole
"""

from __future__ import annotations

import json
import random
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.dataset.rows import Example
from trainers.encoders.embedding import EncoderError, StoredVectors, TextEncoder, load_encoder
from trainers.evaluation.results import Reply
from trainers.evaluation.tfidf import label_of, text_of, without_pandas

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainers.encoders.embedding import Vectors

    Probabilities = NDArray[np.float64]

DESCRIPTION, HEAD = "classifier.json", "head.npz"
ALTERNATIVES = 3
# How closely a head follows its rows, and whether it sees their words beside their meaning, is chosen on folds of the
# training rows, where that takes seconds. 745 support tickets, whose labels are hard to tell, want 3 and the words
# (77.0% right beside 75.3%, mean of 8 draws); banking77 with 10 rows a label wants 30 and no words.
INVERSE_PENALTIES = (1.0, 3.0, 10.0, 30.0)
DEFAULT_INVERSE_PENALTY = 20.0
FOLDS = 5
MIN_ROWS_TO_CHOOSE, MAX_SIZE_TO_CHOOSE = 30, 200_000  # rows; rows x labels
MAX_ROWS_WITH_WORDS = 2_000  # rows
MAX_ROWS = 20_000  # to learn from: of more a fixed sample, which takes some minutes


@dataclass(frozen=True)
class LinearHead:
    """`labels` by name. A text's scores are vector @ `weights` + `biases`, of which softmax makes probabilities. A head
    that sees words has weights for their columns, too, behind those of the vector."""

    labels: tuple[str, ...]
    weights: Vectors
    biases: Vectors

    def uses_words(self, dims: int) -> bool:
        return len(self.weights) > dims

    def probabilities(self, vectors: Vectors) -> Probabilities:
        """Returns rows x labels, each row's sum 1."""
        import numpy as np

        scores = (vectors @ self.weights + self.biases).astype(np.float64)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        result: Probabilities = scores / scores.sum(axis=1, keepdims=True)
        return result

    def answers(self, vectors: Vectors) -> tuple[str, ...]:
        return tuple(self.labels[place] for place in self.probabilities(vectors).argmax(axis=1))


def head_inputs(encoder: TextEncoder, head: LinearHead, texts: Sequence[str], vectors: Vectors) -> Vectors:
    """Returns what `head` needs of texts with these vectors."""
    import numpy as np

    return np.hstack([vectors, encoder.words(texts)]) if head.uses_words(encoder.dims) else vectors


def learn(
    encoder: TextEncoder, texts: Sequence[str], labels: Sequence[str], vectors: Vectors, *, seed: int
) -> LinearHead:
    """Fits a head to texts with these vectors; it sees their words, too, where that is better on folds of them."""
    import numpy as np

    if not can_use_words(len(labels), len(set(labels))):
        return fit_head(vectors, labels, seed=seed)
    both = np.hstack([vectors, encoder.words(texts)])
    # n rows span n dimensions at most: a head in these is the same, and is fitted many times as fast.
    basis = np.linalg.qr(both.T)[0]
    alone, beside = _best_penalty(vectors, labels, seed), _best_penalty(both @ basis, labels, seed)
    if beside.right <= alone.right:
        return _fit(vectors, labels, alone.inverse_penalty, seed)
    head = _fit(both @ basis, labels, beside.inverse_penalty, seed)
    return LinearHead(head.labels, basis @ head.weights, head.biases)


def fit_head(vectors: Vectors, labels: Sequence[str], *, seed: int) -> LinearHead:
    """Fits logistic regression: the same rows and seed give the same head. Of one label it always says that one.
    Raises ValueError without rows."""
    if not labels:
        raise ValueError("training a linear head: there are no rows to train on")
    can_choose = _can_choose(len(labels), len(set(labels)))
    inverse_penalty = (
        _best_penalty(vectors, labels, seed).inverse_penalty if can_choose else DEFAULT_INVERSE_PENALTY
    )
    return _fit(vectors, labels, inverse_penalty, seed)


def can_use_words(rows: int, labels: int) -> bool:
    """Whether folds of the rows say if it does; with few or very many rows it doesn't."""
    return _can_choose(rows, labels) and rows <= MAX_ROWS_WITH_WORDS


def _can_choose(rows: int, labels: int) -> bool:
    return rows >= MIN_ROWS_TO_CHOOSE and rows * labels <= MAX_SIZE_TO_CHOOSE


@dataclass(frozen=True)
class _PenaltyScore:
    """`right`: of the rows that heads were not fitted to."""

    inverse_penalty: float
    right: int


def _best_penalty(vectors: Vectors, labels: Sequence[str], seed: int) -> _PenaltyScore:
    """Returns that of INVERSE_PENALTIES with which heads have most rows right, of equals the smallest."""
    import numpy as np

    names = np.array(labels)
    fold = np.random.default_rng(seed).permutation(len(names)) % FOLDS

    def right(inverse_penalty: float) -> int:
        count = 0
        for number in range(FOLDS):
            inside = fold == number
            head = _fit(vectors[~inside], names[~inside].tolist(), inverse_penalty, seed)
            count += int((np.array(head.answers(vectors[inside])) == names[inside]).sum())
        return count

    return max(
        (_PenaltyScore(each, right(each)) for each in INVERSE_PENALTIES), key=lambda choice: choice.right
    )


def _fit(vectors: Vectors, labels: Sequence[str], inverse_penalty: float, seed: int) -> LinearHead:
    import numpy as np

    names = tuple(sorted(set(labels)))
    if len(names) == 1:
        return LinearHead(names, np.zeros((vectors.shape[1], 1), np.float32), np.zeros(1, np.float32))
    with without_pandas():
        from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    machine = LogisticRegression(C=inverse_penalty, max_iter=1_000, random_state=seed % 2**32)
    # On a busy machine threads that spin for each other take 20 times the processor time of one.
    with warnings.catch_warnings(), threadpool_limits(1):
        # "could be a regression": many labels with hardly any rows
        warnings.simplefilter("ignore", UserWarning)
        machine.fit(vectors, labels)
    weights, biases = machine.coef_.T, machine.intercept_
    if len(names) == 2:  # scikit-learn has the second label's scores alone
        weights, biases = np.hstack([np.zeros_like(weights), weights]), np.array([0.0, biases[0]])
    return LinearHead(
        tuple(map(str, machine.classes_)), weights.astype(np.float32), biases.astype(np.float32)
    )


def classify_holdout(
    encoder: TextEncoder,
    train: Sequence[Example],
    examples: Sequence[Example],
    seed: int,
    stored: StoredVectors | None = None,
) -> tuple[Reply, ...]:
    """Returns a label for each of `examples`, asked one after the other as a program would: `seconds` is what each
    took, so only the training rows' vectors are taken from `stored`. Tokens are 0. Raises ValueError without rows to
    train on."""
    if len(train) > MAX_ROWS:
        train = random.Random(seed).sample(train, MAX_ROWS)  # noqa: S311
    texts = [text_of(example) for example in train]
    vectors = (stored or encoder).embed(texts)
    head = learn(encoder, texts, [label_of(example) for example in train], vectors, seed=seed)
    encoder.embed(["warm up"])
    replies = []
    for example in examples:
        started = time.perf_counter()
        text = [text_of(example)]
        (label,) = head.answers(head_inputs(encoder, head, text, encoder.embed(text)))
        replies.append(Reply(label, 0, 0, time.perf_counter() - started))
    return tuple(replies)


@dataclass(frozen=True)
class Classification:
    """A text's label with its probability, and the likeliest others with theirs."""

    label: str
    probability: float
    others: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Classifier:
    encoder: TextEncoder
    head: LinearHead

    def classify(self, texts: Sequence[str]) -> tuple[Classification, ...]:
        columns = head_inputs(self.encoder, self.head, texts, self.encoder.embed(texts))
        shares = self.head.probabilities(columns)
        results = []
        for row in shares.tolist():
            ranked = sorted(zip(self.head.labels, row, strict=True), key=lambda pair: -pair[1])
            (label, share), others = ranked[0], ranked[1 : 1 + ALTERNATIVES]
            results.append(
                Classification(
                    label, round(share, 6), tuple((name, round(other, 6)) for name, other in others)
                )
            )
        return tuple(results)


def save_head(folder: Path, head: LinearHead, *, encoder: str | None, sha256: str) -> None:
    """Writes all but the files of an encoder that was trained too, of which `encoder` is None."""
    import numpy as np

    np.savez(folder / HEAD, weights=head.weights, biases=head.biases)
    described = {"encoder": encoder, "sha256": sha256, "labels": head.labels}
    (folder / DESCRIPTION).write_text(json.dumps(described, ensure_ascii=False, indent=1), encoding="utf-8")


def load_classifier(folder: Path, load: Callable[[str], TextEncoder] = load_encoder) -> Classifier:
    """`load` gives encoders by name. Raises EncoderError, also where the encoder's files have changed since, and
    FileNotFoundError where the folder is gone."""
    import numpy as np

    described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    with np.load(folder / HEAD) as arrays:
        head = LinearHead(tuple(described["labels"]), arrays["weights"], arrays["biases"])
    name = described["encoder"]
    encoder = load(name or str(folder))
    if encoder.sha256 != described["sha256"]:
        raise EncoderError(
            f"The files of the encoder {name or folder} have changed since this classifier was trained on it. Put the "
            "former ones back, or train again."
        )
    return Classifier(encoder, head)
