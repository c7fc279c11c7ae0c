"""A recipe's library shows each question the same rows and passages as the measurement did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainers.evaluation.builders import make_example, make_rows
from trainers.encoders import DEFAULT_ENCODER, EncoderError
from trainers.encoders.embedding import StoredVectors, load_encoder
from trainers.evaluation.prompts import k_shot
from trainers.evaluation.retrieval import nearest_examples, nearest_passages
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.library import (
    ENCODER,
    RecipeLibrary,
    example_of,
    freeze_examples,
    freeze_passages,
    longest_shown,
    open_recipe_library,
    shot_of,
)
from trainers.recipes.values import Recipe
from trainers.types import Message

RECIPE = Recipe("retrieval", "tickets", 1, "labels", "label", retrieved="examples", encoder=DEFAULT_ENCODER)
LONG = replace(make_example("x" * 5_000, "long"), line=3)
SEVERAL_TURNS = replace(
    LONG,
    messages=(
        Message("system", "Be brief."),
        Message("user", "Hello"),
        Message("assistant", "Hi"),
        Message("user", "Where is my parcel?"),
        Message("assistant", "delivery"),
    ),
)
ROWS = (*make_rows(36), LONG, SEVERAL_TURNS)
QUESTIONS = make_rows(12, seed=2)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> StoredVectors:
    return StoredVectors(load_encoder(), tmp_path_factory.mktemp("vectors") / "vectors.npz")


def opened(folder: RecipeFolder, recipe: Recipe, files: dict[str, bytes]) -> RecipeLibrary:
    return open_recipe_library(folder, folder.add(recipe, files))


@pytest.mark.deep
def test_the_same_rows_are_shown_as_were_measured(tmp_path: Path, encoder: StoredVectors) -> None:
    measured = nearest_examples(ROWS, QUESTIONS, encoder, has_labels=True)
    recipe = replace(RECIPE, nearest=measured.retrieval.k)
    library = opened(RecipeFolder(tmp_path), recipe, dict(freeze_examples(ROWS, encoder.encoder)))
    for question, rows in zip(QUESTIONS, measured.rows, strict=True):
        shots = [example_of(shot) for shot in library.show(question).shots]
        assert k_shot(question, ("a", "b"), None, shots) == k_shot(question, ("a", "b"), None, rows)


def test_the_same_passages_are_shown_as_were_measured(tmp_path: Path, encoder: StoredVectors) -> None:
    passages = [f"Shop {n} in street\u2028{n}:\nopen." for n in range(30)]
    measured = nearest_passages(passages, ROWS, QUESTIONS, encoder, has_labels=True)
    recipe = replace(RECIPE, retrieved="passages", nearest=measured.retrieval.k)
    library = opened(RecipeFolder(tmp_path), recipe, dict(freeze_passages(passages, encoder.encoder)))
    assert [library.show(question).passages for question in QUESTIONS] == list(measured.passages)


def test_no_question_is_shown_more_than_the_longest_texts(tmp_path: Path, encoder: StoredVectors) -> None:
    folder = RecipeFolder(tmp_path)
    recipe = folder.add(replace(RECIPE, nearest=3), dict(freeze_examples(ROWS, encoder.encoder)))
    longest = longest_shown(folder, recipe)
    assert len(longest.shots) == 3 and longest.shots[0] == shot_of(LONG)
    passages = ["b" * 3, "a" * 9, "c" * 5]
    recipe = folder.add(
        replace(RECIPE, retrieved="passages", nearest=2), dict(freeze_passages(passages, encoder.encoder))
    )
    assert longest_shown(folder, recipe).passages == (passages[1], passages[2])


def test_long_rows_and_rows_of_several_turns_are_shown_like_their_shots() -> None:
    question = make_example("hello", "?")
    shots = [example_of(shot_of(row)) for row in (LONG, SEVERAL_TURNS)]
    assert k_shot(question, (), None, shots) == k_shot(question, (), None, (LONG, SEVERAL_TURNS))


def test_another_encoder_than_the_measured_one_is_refused(tmp_path: Path, encoder: StoredVectors) -> None:
    files = {**freeze_examples(ROWS, encoder.encoder), ENCODER: b'{"sha256": "0"}'}
    with pytest.raises(EncoderError, match="was replaced"):
        opened(RecipeFolder(tmp_path), RECIPE, files)
