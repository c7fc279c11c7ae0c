"""The classical candidate in files: fitted with scikit-learn when it is frozen, read with numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.dataset.rows import Example
from trainers.evaluation import json_fields, tfidf
from trainers.evaluation.copied_values import SvmScorer
from trainers.evaluation.spans import Copier
from trainers.recipes.calibration import NOTHING_LEARNT, Calibration, calibrate
from trainers.recipes.frozen import (
    FrozenClassifier,
    FrozenCopier,
    FrozenField,
    pack_texts,
    write_files,
)

if TYPE_CHECKING:
    from trainers.recipes.calibration import Indices, Scores


@dataclass(frozen=True)
class _Columns:
    """Weights (terms x columns) and biases."""

    weights: Any
    biases: Any


def freeze_classical(train: Sequence[Example], seed: int, *, has_labels: bool) -> dict[str, bytes]:
    """Fits the candidate as a measurement does, and returns its files. Raises ValueError if there are no rows."""
    if has_labels:
        return _freeze_labels(train, seed)
    return _freeze_fields(train, seed)


def _freeze_labels(train: Sequence[Example], seed: int) -> dict[str, bytes]:
    classifier = tfidf.fit_classifier(train, seed)
    if classifier.machine is None:
        # Whatever the text, the answer is the usual one.
        frozen = FrozenClassifier(labels=(classifier.usual,), calibration=NOTHING_LEARNT)
        return write_files(frozen, _without_terms(1))
    calibration = _calibrate(classifier.features, train, seed)
    frozen = FrozenClassifier(labels=classifier.labels, calibration=calibration)
    columns = _columns(classifier.machine)
    arrays = _arrays(classifier.features, [columns])
    return write_files(frozen, arrays)


def _calibrate(features: Any, train: Sequence[Example], seed: int) -> Calibration:
    import numpy as np

    # Features of all rows together are no leak between folds: word frequencies don't depend on labels.
    texts = [tfidf.text_of(row) for row in train]
    inputs = features.transform(texts)
    labels = np.array([tfidf.label_of(row) for row in train])

    def fit_and_score(learned: Indices, judged: Indices) -> tuple[Sequence[str], Scores]:
        machine = tfidf.fit_svm(inputs[learned], labels[learned], 1.0, seed)
        distances = tfidf.distances_of(machine, inputs[judged])
        return machine.classes_.tolist(), distances

    return calibrate(train, seed, fit_and_score)


def _freeze_fields(train: Sequence[Example], seed: int) -> dict[str, bytes]:
    fitted = json_fields.fit_classical(train, seed)
    table = fitted.classifier.table
    fields = []
    columns = []
    copiers: dict[str, Any] = {}
    fitted_fields = zip(table.fields, fitted.classifier.predict, strict=True)
    for index, (field, predict) in enumerate(fitted_fields):
        values: tuple[str, ...] = ()
        if predict is not None:
            values = tuple(map(str, predict.machine.classes_))
            columns.append(_columns(predict.machine))
        frozen_copier = None
        if index in fitted.copiers:
            copier = fitted.copiers[index]
            frozen_copier = FrozenCopier(copier.absent, copier.is_number)
            copiers |= _copier_arrays(index, copier)
        fields.append(FrozenField(field.path, field.usual, values, frozen_copier))
    described = FrozenClassifier(fields=tuple(fields), without_fields=table.without_fields)
    arrays = _without_terms(0)
    if columns:
        arrays = _arrays(fitted.vectors, columns)
    return write_files(described, {**arrays, **copiers})


def _columns(machine: Any) -> _Columns:
    import numpy as np

    weights = machine.coef_.T
    biases = machine.intercept_
    if len(machine.classes_) == 2:
        # scikit-learn has one column for two classes, the distance on the side of the second.
        weights = np.hstack([-weights, weights])
        biases = np.concatenate([-biases, biases])
    return _Columns(weights, biases)


def _arrays(features: Any, columns: Sequence[_Columns]) -> dict[str, Any]:
    import numpy as np
    from sklearn.pipeline import FeatureUnion

    vectorisers = [features]
    if isinstance(features, FeatureUnion):
        vectorisers = [vectoriser for _, vectoriser in features.transformer_list]
    terms = [vectoriser.get_feature_names_out() for vectoriser in vectorisers]
    if len(terms) == 1:  # of much text only whole words count
        terms.append([])
    rarities = np.concatenate([vectoriser.idf_ for vectoriser in vectorisers])
    weights = np.hstack([each.weights for each in columns])
    biases = np.concatenate([each.biases for each in columns])
    return {
        "words": pack_texts(terms[0]),
        "pieces": pack_texts(terms[1]),
        "rarities": rarities.astype(np.float32),
        "weights": weights.astype(np.float32),
        "biases": biases,
    }


def _without_terms(columns: int) -> dict[str, Any]:
    import numpy as np

    return {
        "words": pack_texts([]),
        "pieces": pack_texts([]),
        "rarities": np.zeros(0, np.float32),
        "weights": np.zeros((0, columns), np.float32),
        "biases": np.zeros(columns),
    }


def _copier_arrays(field: int, copier: Copier[SvmScorer]) -> dict[str, Any]:
    """Returns the copier's weights under the names by which `spans.read_weights` finds those of the field."""
    import numpy as np

    machine = copier.scorer.machine
    [weights] = machine.coef_
    columns = np.flatnonzero(weights)  # most of the 2^18 have none
    return {
        f"copier_{field}_columns": columns.astype(np.int32),
        f"copier_{field}_weights": weights[columns],
        f"copier_{field}_bias": machine.intercept_[0],
    }
