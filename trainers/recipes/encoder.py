"""The candidate "encoder" in files: its heads, fitted when it is frozen. The encoder itself is the installed one, whose
hash the files name. numpy is imported inside functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from trainers.dataset.rows import Example
from trainers.encoders import EncoderError, json_fields
from trainers.encoders.classifier import LearntHead, LinearHead, fit_with_penalty, head_inputs, learn
from trainers.encoders.embedding import StoredVectors, TextEncoder, load_encoder
from trainers.evaluation.tfidf import label_of, rows_to_learn, text_of
from trainers.recipes.calibration import Calibration, calibrate
from trainers.recipes.frozen import Arrays, FrozenClassifier, FrozenField, write_files

if TYPE_CHECKING:
    from trainers.recipes.calibration import Indices, Scores


def freeze_encoder(
    encoder: TextEncoder,
    train: Sequence[Example],
    seed: int,
    *,
    has_labels: bool,
    stored: StoredVectors | None = None,
) -> dict[str, bytes]:
    """Fits the candidate as a measurement does, and returns its files. Raises ValueError if there are no rows."""
    if has_labels:
        return _freeze_labels(encoder, train, seed, stored)
    return _freeze_fields(encoder, train, seed, stored)


def _freeze_labels(
    encoder: TextEncoder, train: Sequence[Example], seed: int, stored: StoredVectors | None
) -> dict[str, bytes]:
    rows = rows_to_learn(train, seed)
    texts = [text_of(row) for row in rows]
    labels = [label_of(row) for row in rows]
    vectors = (stored or encoder).embed(texts)
    learnt = learn(encoder, texts, labels, vectors, seed=seed)
    head = learnt.head
    frozen = FrozenClassifier(
        labels=head.labels,
        encoder=encoder.name,
        encoder_sha256=encoder.sha256,
        calibration=_calibrate(learnt, rows, seed),
    )
    return write_files(frozen, {"weights": head.weights, "biases": head.biases})


def _calibrate(learnt: LearntHead, rows: Sequence[Example], seed: int) -> Calibration:
    labels = [label_of(row) for row in rows]

    def fit_and_score(learned: Indices, judged: Indices) -> tuple[Sequence[str], Scores]:
        names = [labels[row] for row in learned]
        head = fit_with_penalty(learnt.inputs[learned], names, learnt.inverse_penalty, seed)
        scores = head.scores(learnt.inputs[judged])
        return head.labels, scores

    return calibrate(rows, seed, fit_and_score)


def _freeze_fields(
    encoder: TextEncoder, train: Sequence[Example], seed: int, stored: StoredVectors | None
) -> dict[str, bytes]:
    fitted = json_fields.fit_heads(encoder, train, seed, stored)
    table = fitted.classifier.table
    fields = []
    heads = []
    for field, predict in zip(table.fields, fitted.classifier.predict, strict=True):
        values: tuple[str, ...] = ()
        if predict is not None:
            heads.append(predict.head)
            values = predict.head.labels
        fields.append(FrozenField(field.path, field.usual, values))
    frozen = FrozenClassifier(
        fields=tuple(fields),
        without_fields=table.without_fields,
        encoder=encoder.name,
        encoder_sha256=encoder.sha256,
    )
    arrays = _joined(heads, fitted.basis, encoder.dims)
    return write_files(frozen, arrays)


def _joined(heads: Sequence[LinearHead], basis: Any, dims: int) -> dict[str, Any]:
    """Returns the weights of all heads side by side, in the dimensions of a text's inputs."""
    import numpy as np

    if not heads:
        return {"weights": np.zeros((dims, 0), np.float32), "biases": np.zeros(0, np.float32)}
    weights = np.hstack([head.weights for head in heads])
    if basis is not None:
        weights = basis @ weights
    biases = np.concatenate([head.biases for head in heads])
    return {"weights": weights.astype(np.float32), "biases": biases}


@dataclass(frozen=True)
class HeadScores:
    encoder: TextEncoder
    head: LinearHead

    def scores(self, texts: Sequence[str]) -> Scores:
        vectors = self.encoder.embed(texts)
        inputs = head_inputs(self.encoder, self.head, texts, vectors)
        return self.head.scores(inputs)


def read_head(frozen: FrozenClassifier, arrays: Arrays) -> HeadScores:
    """Raises EncoderError if the encoder is missing or is another than the head was fitted on."""
    name = str(frozen.encoder)
    encoder = shared_encoder(name)
    if encoder.sha256 != frozen.encoder_sha256:
        raise EncoderError(
            f"The files of the encoder {name} have changed since this candidate was frozen. Restore the old files, or "
            "measure and promote it again."
        )
    head = LinearHead(frozen.labels, arrays["weights"], arrays["biases"])
    return HeadScores(encoder, head)


@cache
def shared_encoder(name: str) -> TextEncoder:
    """Loads an encoder once for all recipes of a process: it takes about 200 MB. Raises EncoderError."""
    # A second thread costs processor time and makes a text no faster while others are read beside it.
    return load_encoder(name, threads=1)
