"""An exported folder answers as the frozen candidate, with nothing of this project, or asks what was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.peers.chat_vendor import KEY, ChatVendor, serve_vendor
from tests.trainers.evaluation.builders import make_example, make_orders, make_rows
from tests.trainers.recipes.builders import SEED, SNIPPETS, odd_texts, read_tickets
from trainers.encoders.embedding import load_encoder
from trainers.evaluation import prompts as measured
from trainers.evaluation import tfidf
from trainers.export_folder import AnswersDiffer, ExportRefused
from trainers.recipes import prompts
from trainers.recipes.classical import freeze_classical
from trainers.recipes.encoder import freeze_encoder
from trainers.recipes.export import CALLS, ask_program, export_free, export_prompt
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.free import FreeAnswer, open_free
from trainers.recipes.frozen import DESCRIPTION
from trainers.recipes.library import example_of
from trainers.recipes.values import Recipe, Shot, Upstream

FREE = Recipe(kind="classical", dataset="tickets", version=1, task="labels", scoring="label")
NUMPY = ("numpy", "numpy.libs")
ONNX = ("onnxruntime", "tokenizers")
# Only the folder, the named packages and Python's own library can be imported.
DRIVER = """
import importlib, json, sys
sys.path[:0] = sys.argv[1:3]
program = importlib.import_module(sys.argv[3])
answerer = getattr(program, sys.argv[4])()
answer = getattr(answerer, sys.argv[5])
texts = json.load(sys.stdin)
shares = getattr(answerer, "probabilities", lambda text: None)
json.dump([[answer(text), shares(text)] for text in texts], sys.stdout)
"""


def bare_packages(folder: Path, names: Sequence[str]) -> Path:
    spec = find_spec("numpy")
    assert spec is not None and spec.origin is not None
    installed = Path(spec.origin).parents[1]
    folder.mkdir()
    for name in names:
        if (installed / name).exists():  # numpy's wheels have no numpy.libs on every platform
            (folder / name).symlink_to(installed / name)
    return folder


def check_export(
    tmp_path: Path, files: Mapping[str, bytes], texts: Sequence[str], packages: Sequence[str]
) -> tuple[FreeAnswer, ...]:
    """Returns the frozen candidate's answers, which are also those of the folder."""
    recipes = RecipeFolder(tmp_path / "serving")
    frozen = open_free(recipes, recipes.add(FREE, files)).answer(texts)
    export = export_free(files)
    folder = tmp_path / "export"
    folder.mkdir()
    export.write(folder)
    bare = bare_packages(tmp_path / "packages", packages)
    kind, method = CALLS[export.program]
    words = [str(folder), str(bare), Path(export.program).stem, kind, method]
    process = subprocess.run(
        [sys.executable, "-I", "-S", "-c", DRIVER, *words],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    answers = json.loads(process.stdout)
    assert [answer for answer, _ in answers] == [answer.text for answer in frozen]
    for (_, shares), answer in zip(answers, frozen, strict=True):
        expected = answer.probabilities and dict(answer.probabilities)
        assert shares == (expected and pytest.approx(expected, abs=1e-6))
    return frozen


@pytest.mark.deep
def test_the_classical_folder_gives_the_same_labels_and_probabilities_to_500_texts(tmp_path: Path) -> None:
    tickets = read_tickets()
    files = freeze_classical(tickets[:500], SEED, has_labels=True)
    texts = [*(tfidf.text_of(row) for row in tickets[500:650]), *odd_texts(tickets, 350)]
    answers = check_export(tmp_path, files, texts, NUMPY)
    assert all(answer.probabilities for answer in answers)


@pytest.mark.slow
def test_the_classical_folder_gives_the_same_objects_to_1000_texts(tmp_path: Path) -> None:
    orders = make_orders(200)
    files = freeze_classical(orders, SEED, has_labels=False)
    texts = [*(tfidf.text_of(row) for row in make_orders(600, seed=1)), *odd_texts(orders, 400)]
    check_export(tmp_path, files, texts, NUMPY)


@pytest.mark.deep
def test_the_encoder_folder_gives_the_same_labels_and_probabilities(tmp_path: Path) -> None:
    files = freeze_encoder(load_encoder(), make_rows(200), SEED, has_labels=True)
    texts = [*SNIPPETS, "", "my card was stolen"]
    answers = check_export(tmp_path, files, texts, (*NUMPY, *ONNX))
    assert answers[-1].probabilities is not None and answers[-1].probabilities[0][0] == "card"


@pytest.mark.slow
def test_the_encoder_folder_gives_the_same_objects(tmp_path: Path) -> None:
    files = freeze_encoder(load_encoder(), make_orders(60), SEED, has_labels=False)
    texts = [tfidf.text_of(row) for row in make_orders(20, seed=1)]
    check_export(tmp_path, files, texts, (*NUMPY, *ONNX))


def test_a_program_that_fails_is_reported(tmp_path: Path) -> None:
    export = export_free(freeze_classical(make_rows(6), SEED, has_labels=True))
    export.write(tmp_path)
    assert ask_program(tmp_path, export.program, ["card stolen"]) == ("card",)
    (tmp_path / DESCRIPTION).unlink()
    with pytest.raises(AnswersDiffer, match=r"classify\.py ended with an error"):
        ask_program(tmp_path, export.program, ["card stolen"])


def test_an_encoder_without_an_onnx_file_is_refused() -> None:
    files = freeze_classical(make_rows(6), SEED, has_labels=True)
    described = {**json.loads(files[DESCRIPTION]), "encoder": "multilingual-e5-small"}
    with pytest.raises(ExportRefused, match="no ONNX file"):
        export_free({**files, DESCRIPTION: json.dumps(described).encode()})


PROMPT = Recipe(
    kind="kshot",
    dataset="tickets",
    version=1,
    task="labels",
    scoring="label",
    labels=("billing", "delivery"),
    provider="stand-in",
    model="gpt-4o-mini",
    prompt="Which team answers?",
    shots=(Shot("Where is my parcel?", "delivery"), Shot("Why was I charged twice?", "billing")),
    max_tokens=16,
)
QUESTION = "My \u201cinvoice\u201d is wrong\nsee below"


def measured_messages(recipe: Recipe) -> list[dict[str, str]]:
    """The prompt of a held-out row, as a measurement writes it."""
    system = recipe.instructions or "Classify the text. Answer with the label only."
    if recipe.instructions == "":
        system = ""
    row = make_example(QUESTION, "billing", system=system)
    if recipe.kind == "kshot":
        shots = [example_of(shot) for shot in recipe.shots]
        messages = measured.k_shot(row, recipe.labels, recipe.prompt, shots, recipe.answer_format)
    else:
        messages = measured.zero_shot(row, recipe.labels, recipe.prompt, recipe.answer_format)
    return [{"role": message.role, "content": message.content} for message in messages]


@pytest.mark.parametrize(
    "recipe",
    [
        PROMPT,
        replace(PROMPT, kind="zero", shots=()),
        replace(PROMPT, kind="optimised", shots=(), prompt="Sort it."),
        replace(PROMPT, prompt=None, instructions="Answer with a team."),
        replace(PROMPT, labels=(), task="free_text", prompt=None, instructions=""),
        replace(PROMPT, labels=(), task="free_text", scoring="json", answer_format="Answer in JSON."),
    ],
)
def test_a_prompts_folder_asks_what_was_measured(recipe: Recipe) -> None:
    prompt = json.loads(export_prompt(recipe, Upstream("stand-in", "http://x/v1")).files["prompt.json"])
    assert [*prompt["messages"], {"role": "user", "content": QUESTION}] == measured_messages(recipe)


@pytest.mark.deep
def test_a_prompts_program_sends_the_measured_request(tmp_path: Path) -> None:
    with serve_vendor(ChatVendor()) as vendor:
        upstream = Upstream("acme", vendor.url, "ACME_KEY", chat_extra='{"store": false}')
        export_prompt(PROMPT, upstream).write(tmp_path)
        environment = {**os.environ, "ACME_KEY": KEY}
        command = [sys.executable, str(tmp_path / "ask.py"), QUESTION]
        process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert process.stdout == "below\n", process.stderr
    assert vendor.requests == [
        {
            "model": "gpt-4o-mini",
            "messages": measured_messages(PROMPT),
            "store": False,
            **prompts.fill({}, prompts.measured_parameters(PROMPT)),
        }
    ]


def test_a_prompt_that_looks_rows_up_is_refused() -> None:
    retrieval = replace(PROMPT, kind="retrieval", retrieved="examples", nearest=3)
    with pytest.raises(ExportRefused, match="looks up examples"):
        export_prompt(retrieval, Upstream("stand-in", "http://x/v1"))
