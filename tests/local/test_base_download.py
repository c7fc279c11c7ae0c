"""Base models from a hub: what is downloaded, and the errors when that isn't possible."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.local.hub_server import TERABYTES, Hub, serve_hub
from trainers.local.base_download import fetch_base
from trainers.local.training.base_model import load_config, load_model, load_tokenizer
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.model_structure import choose_class

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub(tmp_path: Path, tiny_model_dir: Path) -> Iterator[Hub]:
    """It has org/tiny, with a few files that must not be downloaded."""
    folder = tmp_path / "hub" / "org" / "tiny"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "modeling_tiny.py").write_text("raise SystemExit('executed')")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "consolidated.safetensors").write_bytes(b"the same once more")
    with serve_hub(tmp_path / "hub") as server:
        yield server


def failure(hub: Hub, source: str, cache: Path) -> TrainingFailed:
    with pytest.raises(TrainingFailed) as caught:
        fetch_base(source, endpoint=hub.url, cache=cache)
    assert caught.value.param == "model"
    return caught.value


def test_a_download_takes_weights_configuration_and_tokenizer_and_no_code(hub: Hub, tmp_path: Path) -> None:
    messages: list[str] = []
    folder = fetch_base("org/tiny", messages.append, endpoint=hub.url, cache=tmp_path / "cache")
    assert AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).config.hidden_size == 64
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert wanted <= set(hub.fetched)
    assert not set(hub.fetched) & {"modeling_tiny.py", "pytorch_model.bin", "consolidated.safetensors"}
    assert len(messages) == 1
    assert messages[0].startswith("Downloading org/tiny: 0.0 GB in ")


def test_a_downloaded_base_is_not_fetched_again_and_works_offline(hub: Hub, tmp_path: Path) -> None:
    first = fetch_base("org/tiny", endpoint=hub.url, cache=tmp_path / "cache")
    hub.fetched.clear()
    messages: list[str] = []
    assert fetch_base("org/tiny", messages.append, endpoint=hub.url, cache=tmp_path / "cache") == first
    assert (hub.fetched, messages) == ([], [])
    assert fetch_base("org/tiny", endpoint="http://127.0.0.1:9", cache=tmp_path / "cache") == first


def test_an_unknown_or_private_hub_id_is_an_error(hub: Hub, tmp_path: Path) -> None:
    failed = failure(hub, "org/nothing", tmp_path)
    assert failed.code == "base_not_found"
    assert failed.message == (
        "The hub has no model org/nothing. Check the spelling; a private one needs HF_TOKEN in the trainer's "
        "environment."
    )
    private = failure(hub, "org/private-one", tmp_path)
    assert private.message.startswith("The hub has no model org/private-one or it is private.")


def test_a_gated_model_is_an_error_that_says_how_to_get_access(hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(hub.root / "org" / "tiny", hub.root / "org" / "gated-tiny")
    failed = failure(hub, "org/gated-tiny", tmp_path / "cache")
    assert failed.code == "base_gated"
    assert "Accept it on the model's page" in failed.message
    assert "HF_TOKEN" in failed.message
    assert hub.fetched == []


def test_a_failing_or_unreachable_hub_is_an_error(hub: Hub, tmp_path: Path) -> None:
    broken = failure(hub, "org/broken", tmp_path)
    assert (broken.code, "HTTP 500" in broken.message) == ("hub_unreachable", True)
    unreachable = failure(Hub(hub.root, "http://127.0.0.1:9"), "org/tiny", tmp_path / "empty")
    assert unreachable.code == "hub_unreachable"
    assert "no complete copy of it is on this machine" in unreachable.message


def test_a_model_larger_than_the_disk_is_refused_before_downloading(hub: Hub, tmp_path: Path) -> None:
    hub.sizes["model.safetensors"] = TERABYTES
    failed = failure(hub, "org/tiny", tmp_path / "cache")
    assert failed.code == "disk_full"
    assert failed.message.startswith("Downloading org/tiny takes 1,000,000.0 GB, and the disk of ")
    assert hub.fetched == []


def test_pickled_weights_on_the_hub_are_not_fetched(hub: Hub, tmp_path: Path) -> None:
    (hub.root / "org" / "tiny" / "model.safetensors").unlink()
    (hub.root / "org" / "tiny" / "consolidated.safetensors").unlink()
    assert failure(hub, "org/tiny", tmp_path / "cache").code == "base_not_safetensors"
    assert hub.fetched == []


def test_a_name_that_is_neither_folder_nor_hub_id_is_an_error(hub: Hub, tmp_path: Path) -> None:
    for source in ("gpt-9", "../models", "org/tiny/more"):
        failed = failure(hub, source, tmp_path)
        assert failed.code == "base_not_loaded"
        assert "neither a folder nor a hub id such as org/name" in failed.message


def test_an_adapter_is_refused_as_a_base(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert failure(hub, str(tmp_path), tmp_path).code == "base_is_adapter"


def test_a_hub_id_is_loaded_from_the_hub_named_in_the_environment(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from trainers.local.base_download import fetch_base; print(fetch_base('org/tiny'))"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert process.stdout.startswith(str(tmp_path / "home" / "hub")), process.stderr
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    assert load_tokenizer("org/tiny").chat_template
    assert load_model("org/tiny", torch.device("cpu"), torch.float32).name_or_path == "org/tiny"


def copy_model(folder: Path, target: Path, **fields: object) -> str:
    """Copies a model, with other fields in its config."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **fields}))
    return str(target)


def test_a_base_with_code_of_its_own_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    own = {"model_type": "tiny", "auto_map": {"AutoConfig": "configuration_tiny.TinyConfig"}}
    with pytest.raises(TrainingFailed) as caught:
        load_config(copy_model(tiny_model_dir, tmp_path / "own", **own))
    assert caught.value.code == "base_needs_code"


@pytest.mark.parametrize(
    ("model_type", "architecture"), [("bert", "BertForMaskedLM"), ("t5", "T5ForConditionalGeneration")]
)
def test_a_model_that_generates_no_text_is_refused(
    model_type: str, architecture: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    source = copy_model(tiny_model_dir, tmp_path / "m", model_type=model_type, architectures=[architecture])
    with pytest.raises(TrainingFailed) as caught:
        choose_class(source, load_config(source))
    assert caught.value.code == "base_writes_no_text"
    assert architecture in caught.value.message


def test_a_template_beside_the_tokenizer_is_found(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "m")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    assert not load_tokenizer(str(folder)).chat_template
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert load_tokenizer(str(folder)).chat_template == template
