"""A frozen free candidate answers as the measured one, without scikit-learn, scipy or torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.trainers.evaluation.builders import make_example, make_orders, make_rows
from tests.trainers.recipes.builders import ROOT, SEED, SNIPPETS, odd_texts, read_tickets
from trainers.dataset import Example
from trainers.encoders import EncoderError, classifier
from trainers.encoders import json_fields as encoder_fields
from trainers.encoders.embedding import TextEncoder, load_encoder
from trainers.evaluation import json_fields, tfidf
from trainers.recipes.classical import freeze_classical
from trainers.recipes.encoder import freeze_encoder
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.free import FreeAnswerer, open_free
from trainers.recipes.frozen import DESCRIPTION, FrozenClassifier
from trainers.recipes.values import Recipe

CLASSICAL = Recipe(kind="classical", dataset="tickets", version=1, task="labels", scoring="label")


@pytest.fixture(scope="module")
def tickets() -> tuple[Example, ...]:
    return read_tickets()


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_encoder()


def opened(tmp_path: Path, files: dict[str, bytes]) -> FreeAnswerer:
    folder = RecipeFolder(tmp_path / "serving")
    return open_free(folder, folder.add(CLASSICAL, files))


def texts_of(answerer: FreeAnswerer, texts: Sequence[str]) -> list[str]:
    return [answer.text for answer in answerer.answer(texts)]


@pytest.mark.deep
@pytest.mark.parametrize("labels", [1, 2, 10])
@pytest.mark.parametrize("in_pieces", [True, False])
def test_the_classical_candidate_gives_the_measured_labels_to_1000_texts(
    tickets: tuple[Example, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    labels: int,
    in_pieces: bool,
) -> None:
    if not in_pieces:
        monkeypatch.setattr(tfidf, "MOST_IN_PIECES", 0)
    names = sorted({row.answer for row in tickets})[:labels]
    train = [row for row in tickets if row.answer in names][:200]
    texts = [*(tfidf.text_of(row) for row in tickets[-300:]), *odd_texts(tickets, 700)]
    measured = tfidf.classify_holdout(train, [make_example(text, "") for text in texts], SEED)

    answerer = opened(tmp_path, freeze_classical(train, SEED, has_labels=True))
    assert texts_of(answerer, texts) == [reply.text for reply in measured]
    assert len({reply.text for reply in measured}) == labels


def test_a_classical_candidate_of_rows_without_text_gives_the_usual_label(tmp_path: Path) -> None:
    train = [make_example("", label) for label in ("spam", "ham", "spam")]
    answerer = opened(tmp_path, freeze_classical(train, SEED, has_labels=True))
    assert texts_of(answerer, ["", "where is my parcel?"]) == ["spam", "spam"]
    assert answerer.answer([]) == ()
    assert texts_of(answerer, ["half of a pair: \ud83d"]) == ["spam"]


@pytest.mark.slow
def test_the_classical_candidate_gives_the_measured_objects(tmp_path: Path) -> None:
    train = make_orders(300)
    texts = [*(tfidf.text_of(row) for row in make_orders(500, seed=1)), *odd_texts(train, 500)]
    measured = json_fields.classify_holdout(train, [make_example(text, "") for text in texts], SEED)

    files = freeze_classical(train, SEED, has_labels=False)
    answers = texts_of(opened(tmp_path, files), texts)
    assert answers == [reply.text for reply in measured]
    assert json.loads(answers[0])["order"] == json.loads(make_orders(1, seed=1)[0].answer)["order"]


@pytest.mark.parametrize("answers", [["{}", "{}"], ['{"a": 1}', '{"a": 1}'], ['{"a": 1}', '{"a": 2}']])
@pytest.mark.parametrize("question", ["", "a question"])
def test_objects_without_anything_to_learn_are_the_usual_one(
    tmp_path: Path, question: str, answers: list[str]
) -> None:
    train = [make_example(question, answer) for answer in answers]
    measured = json_fields.classify_holdout(train, train[:1], SEED)
    answerer = opened(tmp_path, freeze_classical(train, SEED, has_labels=False))
    assert texts_of(answerer, [question]) == [measured[0].text]


@pytest.mark.deep
def test_the_encoder_gives_the_measured_labels(
    tickets: tuple[Example, ...], encoder: TextEncoder, tmp_path: Path
) -> None:
    train = tickets[:40]
    texts = [tfidf.text_of(row)[:80] for row in tickets[300:330]]
    measured = classifier.classify_holdout(encoder, train, [make_example(text, "") for text in texts], SEED)
    answerer = opened(tmp_path, freeze_encoder(encoder, train, SEED, has_labels=True))
    assert texts_of(answerer, texts) == [reply.text for reply in measured]
    assert len(texts_of(answerer, [*SNIPPETS, "", "half of a pair: \ud83d"])) == len(SNIPPETS) + 2


@pytest.mark.deep
def test_the_encoder_gives_the_measured_objects(encoder: TextEncoder, tmp_path: Path) -> None:
    train = make_orders(40)
    texts = [tfidf.text_of(row) for row in make_orders(30, seed=1)]
    rows = [make_example(text, "") for text in texts]
    measured = encoder_fields.classify_holdout(encoder, train, rows, SEED)
    answerer = opened(tmp_path, freeze_encoder(encoder, train, SEED, has_labels=False))
    assert texts_of(answerer, texts) == [reply.text for reply in measured]


@pytest.mark.deep
def test_probabilities_are_those_of_all_labels_and_only_where_they_were_calibrated(
    tickets: tuple[Example, ...], tmp_path: Path
) -> None:
    texts = [tfidf.text_of(row) for row in tickets[500:600]]
    files = freeze_classical(tickets[:500], SEED, has_labels=True)
    for answer in opened(tmp_path, files).answer(texts):
        assert answer.probabilities is not None
        labels = [label for label, _ in answer.probabilities]
        shares = [share for _, share in answer.probabilities]
        assert len(set(labels)) == 10
        assert labels[0] == answer.text
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1)
    calibration = FrozenClassifier.from_json(files[DESCRIPTION]).calibration
    assert calibration is not None and calibration.error is not None and calibration.error_before is not None
    assert calibration.error < 0.1 < calibration.error_before

    few = freeze_classical(tickets[:150], SEED, has_labels=True)
    assert opened(tmp_path, few).answer(texts[:1])[0].probabilities is None


def test_an_encoder_of_another_hash_is_refused(encoder: TextEncoder, tmp_path: Path) -> None:
    files = freeze_encoder(encoder, make_rows(6), SEED, has_labels=True)
    described = json.loads(files[DESCRIPTION])
    files[DESCRIPTION] = json.dumps({**described, "encoder_sha256": "0" * 64}).encode()
    with pytest.raises(EncoderError, match="have changed"):
        opened(tmp_path, files)


@pytest.mark.deep
def test_the_same_rows_and_seed_give_the_same_bytes(encoder: TextEncoder) -> None:
    train = make_rows(30)
    assert freeze_classical(train, SEED, has_labels=True) == freeze_classical(train, SEED, has_labels=True)
    first = freeze_encoder(encoder, train, SEED, has_labels=True)
    assert freeze_encoder(encoder, train, SEED, has_labels=True) == first


READS = """
import sys
from pathlib import Path
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.free import open_free

folder = RecipeFolder(Path(sys.argv[1]))
for sha256 in sorted(folder.hashes()):
    answers = open_free(folder, folder.read(sha256)).answer(["my card was stolen, block it"])
    print(answers[0].text)
loaded = {name.split(".")[0] for name in sys.modules}
heavy = {"sklearn", "scipy", "torch", "pandas", "transformers", "bot", "storage"}
assert not loaded & heavy, loaded & heavy
"""


@pytest.mark.deep
def test_answering_loads_no_heavy_library(encoder: TextEncoder, tmp_path: Path) -> None:
    folder = RecipeFolder(tmp_path / "serving")
    folder.add(CLASSICAL, freeze_classical(make_rows(30), SEED, has_labels=True))
    folder.add(CLASSICAL, freeze_classical(make_orders(30), SEED, has_labels=False))
    folder.add(CLASSICAL, freeze_encoder(encoder, make_rows(30), SEED, has_labels=True))
    command = [sys.executable, "-c", READS, str(folder.root)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("card") == 2
