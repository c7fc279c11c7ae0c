"""Exports of a model that was trained with all its weights: they answer like our server, and nothing is merged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.local.export.exports import JOB, SETTINGS, order, run_export, tune
from trainers.export_folder import ExportRefused

pytestmark = pytest.mark.deep
SAME = "answers are the same, letter by letter"


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_DTYPE", "fp32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A trainer's data folder with one tuned model."""
    folder = tmp_path_factory.mktemp("trainer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_DTYPE", "fp32")
        settings = replace(SETTINGS, learning_rate=1e-3)
        tune(folder, tiny_model_dir, method="all_weights", settings=settings)
    return folder


def weights_of(folder: Path) -> dict[str, Any]:
    return dict(load_file(folder / "model.safetensors"))


def test_it_is_written_as_it_was_trained(data: Path, tmp_path: Path, tiny_model_dir: Path) -> None:
    folder, messages = run_export(order(data, tmp_path / "out", "merged"))
    assert messages[-1].endswith(SAME)
    trained = weights_of(data / "jobs" / JOB / "adapter")
    written = weights_of(folder)
    assert written.keys() == trained.keys()
    assert all(written[name].equal(weight) for name, weight in trained.items())
    assert not written["model.norm.weight"].equal(weights_of(tiny_model_dir)["model.norm.weight"])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "fine-tuned with all its weights by job" in card
    assert "all weights were trained, so no adapter had to be merged" in card
    assert "lora" not in card.lower()


def test_it_is_uploaded_whole(data: Path, tmp_path: Path) -> None:
    folder, messages = run_export(
        order(data, tmp_path / "out", "hub", base_id="acme/tiny", licence="apache-2.0")
    )
    assert messages[-1].endswith(SAME)
    fields: Any = ModelCard((folder / "README.md").read_text(encoding="utf-8")).data
    assert fields.to_dict()["base_model_relation"] == "finetune"
    assert fields.to_dict()["library_name"] == "transformers"
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.num_parameters() > 0


def test_there_is_no_adapter_for_vllm(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match=r"it has no adapter\. Export it with --to merged"):
        run_export(order(data, tmp_path / "out", "vllm"))
