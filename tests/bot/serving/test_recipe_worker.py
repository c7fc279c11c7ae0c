"""A recipe asks, byte for byte, what its measurement asked, for each kind of candidate."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from bot.services.datasets.dataset_worker import SEED, examples
from bot.services.evidence import evaluation_worker
from bot.services.serving.recipe_worker import MeasuredParts, build_recipe, show
from bot.values.evaluations import ComparisonPlan
from bot.values.runs import Refusal
from trainers.dataset import Example
from trainers.evaluation.results import CLASSICAL, ENCODER, Candidate
from trainers.evaluation.tfidf import text_of
from trainers.providers.pricing import PriceList
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.free import open_free
from trainers.recipes.library import NOTHING_SHOWN, open_recipe_library
from trainers.recipes.prompts import write_prompt
from trainers.recipes.values import Recipe
from trainers.types import Message

MODEL = "acme/acme-small"
ZERO = Candidate("zero", MODEL)
SEARCHED = Candidate("retrieval", MODEL)
LABELS = ("billing", "delivery")
KINDS = (
    ZERO,
    Candidate("kshot", MODEL, 4),
    Candidate("optimised", MODEL),
    SEARCHED,
    Candidate("tuned", MODEL),
)
TICKETS = {"billing": "refund charged invoice money", "delivery": "parcel courier late lost"}
FACTS = "The parcel of Ada Lovelace, ada@example.com, was lost.\n\nA refund takes ten days."


def row(text: str, answer: str, system: str = "") -> str:
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    if system:
        turns.insert(0, {"role": "system", "content": system})
    return json.dumps({"messages": turns}) + "\n"


def put(files: Path, content: str, suffix: str = ".jsonl") -> str:
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    (files / f"{sha256}{suffix}").write_text(content)
    return sha256


def tickets(files: Path, count: int, system: str = "") -> str:
    rows = []
    for number in range(count):
        label = LABELS[number % 2]
        word = TICKETS[label].split()[number // 2 % 4]
        rows.append(row(f"{word} --- case {count} {number}", label, system))
    return put(files, "".join(rows))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture
def plan(files: Path, quick_encoder_dir: Path) -> ComparisonPlan:
    return ComparisonPlan(
        dataset="tickets",
        version=2,
        task="labels",
        train_sha256=tickets(files, 24),
        holdout_sha256=tickets(files, 6, system="Sort it."),
        n_holdout=6,
        labels=LABELS,
        candidates=KINDS,
        prompt=None,
        bar=0.85,
        documents=(),
        prices=PriceList((), date(2026, 12, 1)).to_json(),
        optimised="Sort this ticket: billing or delivery?",
        encoder=str(quick_encoder_dir),
        longest_answer=4,
        scoring="label",
    )


def as_objects(plan: ComparisonPlan, files: Path) -> ComparisonPlan:
    """The plan with answers in JSON, which have no labels."""
    rows = [row(f"order {number}", json.dumps({"city": "Ulm", "number": number})) for number in range(8)]
    train = put(files, "".join(rows[:5]))
    holdout = put(files, "".join(rows[5:]))
    return replace(
        plan,
        train_sha256=train,
        holdout_sha256=holdout,
        n_holdout=3,
        labels=(),
        task="free_text",
        scoring="json",
    )


def measured_prompts(
    plan: ComparisonPlan, files: Path, folder: Path
) -> dict[Candidate, list[tuple[Message, ...]]]:
    """The prompts that a measurement of this plan stores, by candidate."""
    keys = evaluation_worker.prepare(plan, files, folder, SEED)
    by_candidate = {}
    for candidate, its in keys.items():
        questions = evaluation_worker.read_questions(folder, plan, frozenset(its.keys))
        by_key = {question.key: question.messages for question in questions}
        by_candidate[candidate] = [by_key[key] for key in its.keys]
    return by_candidate


def prompts_of(folder: RecipeFolder, recipe: Recipe, rows: tuple[Example, ...]) -> list[tuple[Message, ...]]:
    """The prompts that a recipe gives for these rows, asked as a program would."""
    library = None
    if recipe.retrieved is not None:
        library = open_recipe_library(folder, recipe)
    prompts = []
    for row in rows:
        shown = NOTHING_SHOWN
        if library is not None:
            shown = library.show(row)
        turns = [{"role": turn.role, "content": turn.content} for turn in row.prompt]
        written = write_prompt(recipe, turns, shown)
        prompts.append(tuple(Message(turn["role"], turn["content"]) for turn in written))
    if library is not None:  # as `try` looks them up
        question = rows[0].prompt[-1].content
        assert show(folder.root, recipe, question) == library.show(rows[0])
    return prompts


def assert_asks_what_was_measured(plan: ComparisonPlan, files: Path, folder: Path) -> None:
    measured = measured_prompts(plan, files, folder / "m1")
    keys = evaluation_worker.read_keys(folder / "m1") or {}
    recipes = RecipeFolder(folder / "serving")
    rows = examples(files, plan.holdout_sha256)
    assert set(measured) == set(plan.candidates)
    for candidate, questions in measured.items():
        retrieval = keys[candidate].retrieval
        parts = MeasuredParts("label", plan.encoder, retrieval.k if retrieval else 0)
        built = build_recipe(candidate, plan, parts, files, recipes.root)
        assert isinstance(built, str)
        recipe = recipes.read(built)
        assert recipe is not None and recipe.instructions == ("Sort it." if plan.labels else "")
        assert recipe.max_tokens == evaluation_worker.plan_max_tokens(plan)
        assert prompts_of(recipes, recipe, rows) == questions, candidate
        assert build_recipe(candidate, plan, parts, files, recipes.root) == built


def test_labels_are_asked_for_as_measured(plan: ComparisonPlan, files: Path, tmp_path: Path) -> None:
    assert_asks_what_was_measured(plan, files, tmp_path)


def test_the_teams_own_prompt_is_a_part_of_the_recipe(
    plan: ComparisonPlan, files: Path, tmp_path: Path
) -> None:
    assert_asks_what_was_measured(replace(plan, prompt="Which team?"), files, tmp_path)


def test_objects_are_asked_for_as_measured(plan: ComparisonPlan, files: Path, tmp_path: Path) -> None:
    assert_asks_what_was_measured(as_objects(plan, files), files, tmp_path)


@pytest.mark.parametrize("candidate", [CLASSICAL, ENCODER])
@pytest.mark.parametrize("has_labels", [True, False])
def test_free_candidates_answer_as_measured(
    plan: ComparisonPlan, files: Path, tmp_path: Path, candidate: Candidate, has_labels: bool
) -> None:
    if not has_labels:
        plan = as_objects(plan, files)
    plan = replace(plan, candidates=(candidate,))
    evaluation_worker.prepare(plan, files, tmp_path, SEED)
    measured = evaluation_worker.free_answers(candidate, plan, files, tmp_path, SEED)
    assert not isinstance(measured, Refusal)
    recipes = RecipeFolder(tmp_path / "serving")
    built = build_recipe(candidate, plan, MeasuredParts("label", plan.encoder), files, recipes.root)
    recipe = recipes.read(str(built))
    assert recipe is not None and recipe.is_free
    texts = [text_of(each) for each in examples(files, plan.holdout_sha256)]
    answers = open_free(recipes, recipe).answer(texts)
    assert [answer.text for answer in answers] == [reply.text for reply in measured]


def test_passages_that_were_withheld_from_a_model_stay_withheld(
    plan: ComparisonPlan, files: Path, tmp_path: Path
) -> None:
    plan = replace(plan, documents=(put(files, FACTS, suffix=""),), candidates=(SEARCHED,))
    assert_asks_what_was_measured(plan, files, tmp_path / "shown")
    withheld = replace(plan, withheld_from=(MODEL,))
    assert_asks_what_was_measured(withheld, files, tmp_path / "withheld")
    shown, hidden = (
        b"".join(path.read_bytes() for path in (tmp_path / name / "serving").rglob("library.jsonl"))
        for name in ("shown", "withheld")
    )
    assert b"ada@example.com" in shown and b"ada@example.com" not in hidden


def test_without_its_rows_a_recipe_is_refused_with_the_cure(
    plan: ComparisonPlan, files: Path, tmp_path: Path
) -> None:
    (files / f"{plan.train_sha256}.jsonl").unlink()
    refusal = build_recipe(KINDS[1], plan, MeasuredParts("label"), files, tmp_path / "serving")
    assert isinstance(refusal, Refusal) and "Measure tickets again" in refusal.text
    assert RecipeFolder(tmp_path / "serving").hashes() == frozenset()
