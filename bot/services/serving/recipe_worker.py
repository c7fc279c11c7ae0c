"""Builds the recipe of a measured candidate in a worker process, from the plan by which it was measured: with the same
rows, prompt and encoder, so that it asks exactly what was measured. Answers with a recipe, as the door does. Heavy
libraries are imported at use; no model is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bot.services.datasets.dataset_worker import SEED, examples
from bot.services.evidence.candidate_prompts import answer_format_of, read_instructions
from bot.services.evidence.evaluation_worker import plan_max_tokens
from bot.services.evidence.retrieved_texts import read_passages, visible_passages
from bot.values.evaluations import ComparisonPlan
from bot.values.runs import Refusal
from trainers.dataset import Example
from trainers.dataset.near_duplicates import question_text
from trainers.encoders import EncoderError
from trainers.encoders.embedding import load_encoder
from trainers.errors import FileChanged
from trainers.evaluation import prompts
from trainers.evaluation.results import Candidate, Scoring
from trainers.recipes.classical import freeze_classical
from trainers.recipes.encoder import freeze_encoder
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.free import FreeAnswer, open_free
from trainers.recipes.library import Shown, freeze_examples, freeze_passages, open_recipe_library, shot_of
from trainers.recipes.prompts import as_row
from trainers.recipes.values import Recipe


@dataclass(frozen=True)
class MeasuredParts:
    """What a measurement found out about one of its candidates while it ran: how its answers were scored, the
    `encoder` that the training rows chose, and how many texts a candidate with retrieval was shown."""

    scoring: Scoring
    encoder: str = ""
    nearest: int = 0


def build_recipe(
    candidate: Candidate, plan: ComparisonPlan, parts: MeasuredParts, files: Path, serving: Path
) -> str | Refusal:
    """Builds and stores a candidate's recipe in the folder `serving`. Returns its hash, or why it can't be built. The
    same plan gives the same recipe."""
    try:
        recipe, its_files = _freeze(candidate, plan, parts, files)
    except (FileChanged, FileNotFoundError):
        return Refusal(
            f"The rows or documents with which it was measured were deleted or changed. Measure {plan.dataset} again."
        )
    except EncoderError as error:
        return Refusal(str(error))
    return RecipeFolder(serving).add(recipe, its_files).sha256


def _freeze(
    candidate: Candidate, plan: ComparisonPlan, parts: MeasuredParts, files: Path
) -> tuple[Recipe, Mapping[str, bytes]]:
    recipe = _recipe_without_rows(candidate, plan, parts)
    if candidate.model is not None:
        recipe = replace(recipe, instructions=read_instructions(files, plan.holdout_sha256))
    match candidate.kind:
        case "tuned":
            return recipe, {}
        case "optimised":
            return replace(recipe, prompt=plan.optimised), {}
        case "zero":
            return replace(recipe, answer_format=answer_format_of(plan, files)), {}
        case "kshot":
            train = examples(files, plan.train_sha256)
            shots = tuple(map(shot_of, prompts.balanced_shots(train, candidate.examples, SEED)))
            return replace(recipe, answer_format=answer_format_of(plan, files), shots=shots), {}
        case "retrieval":
            recipe = replace(recipe, answer_format=answer_format_of(plan, files))
            return _with_library(recipe, candidate, plan, parts, files)
        case "classical":
            train = examples(files, plan.train_sha256)
            return recipe, freeze_classical(train, SEED, has_labels=bool(plan.labels))
        case "encoder":
            train = examples(files, plan.train_sha256)
            its_files = freeze_encoder(load_encoder(parts.encoder), train, SEED, has_labels=bool(plan.labels))
            return replace(recipe, encoder=parts.encoder), its_files


def _recipe_without_rows(candidate: Candidate, plan: ComparisonPlan, parts: MeasuredParts) -> Recipe:
    recipe = Recipe(
        kind=candidate.kind,
        dataset=plan.dataset,
        version=plan.version,
        task=plan.task,
        scoring=plan.scoring or parts.scoring,
        labels=plan.labels,
    )
    if candidate.model is None:
        return recipe
    provider, _, model = candidate.model.partition("/")
    recipe = replace(
        recipe,
        provider=provider,
        model=model,
        max_tokens=plan_max_tokens(plan),
        is_thinking=candidate.model in plan.thinking,
    )
    if candidate.kind == "tuned":  # it is asked with the row's own prompt, with which it was trained
        return recipe
    return replace(recipe, prompt=plan.prompt)


def _with_library(
    recipe: Recipe, candidate: Candidate, plan: ComparisonPlan, parts: MeasuredParts, files: Path
) -> tuple[Recipe, Mapping[str, bytes]]:
    """Adds the texts that a candidate with retrieval may be shown: as when it was measured, passages if it may see any
    of the team's documents, otherwise training rows."""
    encoder = load_encoder(parts.encoder)
    recipe = replace(recipe, encoder=parts.encoder, nearest=parts.nearest)
    passages = visible_passages(candidate, plan, read_passages(plan, files))
    if passages:
        return replace(recipe, retrieved="passages"), freeze_passages(passages, encoder)
    train = examples(files, plan.train_sha256)
    return replace(recipe, retrieved="examples"), freeze_examples(train, encoder)


def answer_free(folder: Path, recipe: Recipe, text: str) -> FreeAnswer | Refusal:
    """Runs in a worker, since an encoder takes 180 MB and half a second to load."""
    try:
        model = open_free(RecipeFolder(folder), recipe)
        question = question_text(_as_row(text))
        (answer,) = model.answer([question])
    except (OSError, ValueError, EncoderError) as error:
        return unreadable(error)
    return answer


def show(folder: Path, recipe: Recipe, text: str) -> Shown | Refusal:
    """Runs in a worker, as `answer_free` does."""
    try:
        return open_recipe_library(RecipeFolder(folder), recipe).show(_as_row(text))
    except (OSError, ValueError, EncoderError) as error:
        return unreadable(error)


def _as_row(text: str) -> Example:
    return as_row([{"role": "user", "content": text}])


def unreadable(error: Exception) -> Refusal:
    why = str(error)
    if isinstance(error, OSError):  # whose text would show a path of this machine
        why = f"a file can't be read ({error.strerror})."
    return Refusal(f"What is in use can't be read: {why}")
