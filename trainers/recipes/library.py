"""What a recipe with retrieval shows: rows or passages, found for each question by the ranking with which its candidate
was measured.

library.jsonl   the texts that are searched, one a line; a row has its question and its answer beside it
vectors.npy     their vectors, so that opening a library reads none of them again
encoder.json    the hash of everything that these vectors depend on
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from trainers.dataset.rows import Example, at
from trainers.encoders import EncoderError
from trainers.encoders.embedding import TextEncoder
from trainers.evaluation.prompts import question_of
from trainers.evaluation.retrieval import Library, open_library, showable_rows
from trainers.evaluation.tfidf import text_of
from trainers.recipes.encoder import shared_encoder
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.values import Recipe, Shot
from trainers.types import Message

LIBRARY = "library.jsonl"
VECTORS = "vectors.npy"
ENCODER = "encoder.json"


@dataclass(frozen=True)
class Shown:
    """What a recipe with retrieval shows with one question, the nearest first: rows, or passages."""

    shots: tuple[Shot, ...] = ()
    passages: tuple[str, ...] = ()


NOTHING_SHOWN = Shown()


@dataclass(frozen=True)
class RecipeLibrary:
    """The texts of a recipe, of which it shows the `nearest`. `shots` are empty if they are passages."""

    index: Library
    passages: tuple[str, ...]
    shots: tuple[Shot, ...]
    nearest: int

    def show(self, question: Example) -> Shown:
        """Returns what to show with a question, the nearest first. Its answer isn't read."""
        [order] = self.index.search([text_of(question)])
        nearest = order[: self.nearest]
        if self.shots:
            return Shown(shots=at(nearest, self.shots))
        return Shown(passages=at(nearest, self.passages))


def shot_of(row: Example) -> Shot:
    return Shot(question_of(row), row.answer)


def example_of(shot: Shot) -> Example:
    """Returns a row that is shown in a prompt exactly like the one that the shot was made from."""
    question = Message("user", shot.question)
    answer = Message("assistant", shot.answer)
    return Example(0, (question, answer))


def freeze_examples(train: Sequence[Example], encoder: TextEncoder) -> Mapping[str, bytes]:
    """Returns the files of a library of these rows, by their names. Rows with tools are left out, as in a
    measurement."""
    rows = showable_rows(train)
    lines = []
    for row in rows:
        shot = asdict(shot_of(row))
        lines.append({"text": text_of(row), **shot})
    return _freeze(lines, encoder)


def freeze_passages(passages: Sequence[str], encoder: TextEncoder) -> Mapping[str, bytes]:
    """Returns the files of a library of these passages, by their names."""
    lines = [{"text": passage} for passage in passages]
    return _freeze(lines, encoder)


def open_recipe_library(folder: RecipeFolder, recipe: Recipe) -> RecipeLibrary:
    """Opens the library of a stored recipe. Raises ValueError if a file was changed, OSError if one is gone, and
    EncoderError if its encoder is not the one that the candidate was measured with."""
    import numpy as np

    texts, shots = _read_texts(folder, recipe)
    stored_vectors = io.BytesIO(folder.read_file(recipe, VECTORS))
    vectors = np.load(stored_vectors, allow_pickle=False)
    encoder = shared_encoder(recipe.encoder)
    about = folder.read_file(recipe, ENCODER)
    _check_encoder(encoder, recipe, about)
    index = open_library(texts, encoder, vectors)
    return RecipeLibrary(index, texts, shots, recipe.nearest)


def longest_shown(folder: RecipeFolder, recipe: Recipe) -> Shown:
    """Returns the longest texts that a stored recipe can show with a question, by which its highest cost is known.
    Needs no encoder. Raises ValueError if a file was changed, OSError if one is gone."""
    texts, shots = _read_texts(folder, recipe)
    if shots:
        by_length = sorted(shots, key=lambda shot: _bytes_in(shot.question, shot.answer), reverse=True)
        return Shown(shots=tuple(by_length[: recipe.nearest]))
    longest = sorted(texts, key=_bytes_in, reverse=True)
    return Shown(passages=tuple(longest[: recipe.nearest]))


def _bytes_in(*texts: str) -> int:
    return sum(len(text.encode()) for text in texts)


def _read_texts(folder: RecipeFolder, recipe: Recipe) -> tuple[tuple[str, ...], tuple[Shot, ...]]:
    """Returns the texts that are searched, and the rows that they stand for, none for passages."""
    texts = []
    shots = []
    for line in folder.read_file(recipe, LIBRARY).splitlines():
        read = json.loads(line)
        texts.append(read["text"])
        if "question" in read:
            shots.append(Shot(read["question"], read["answer"]))
    return tuple(texts), tuple(shots)


def _freeze(lines: Sequence[Mapping[str, str]], encoder: TextEncoder) -> Mapping[str, bytes]:
    import numpy as np

    searched = [line["text"] for line in lines]
    index = open_library(searched, encoder)
    vectors = io.BytesIO()
    np.save(vectors, index.vectors)
    # json escapes every line separator that isn't \n, so that a row is one line wherever it is split.
    written = [json.dumps(line) + "\n" for line in lines]
    about = json.dumps({"name": encoder.name, "sha256": encoder.sha256})
    return {
        LIBRARY: "".join(written).encode(),
        VECTORS: vectors.getvalue(),
        ENCODER: about.encode(),
    }


def _check_encoder(encoder: TextEncoder, recipe: Recipe, about: bytes) -> None:
    measured_with = json.loads(about)["sha256"]
    if encoder.sha256 != measured_with:
        raise EncoderError(
            f"The encoder {recipe.encoder} was replaced since the candidate was measured. Measure and promote it again."
        )
