"""Uploads of an exported folder to a model hub on loopback."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.peers.model_hub import TOKEN, model_hub
from trainers.export_folder import ExportRefused
from trainers.local.export.hub import upload
from trainers.local.export.order import ExportOrder, Upload

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content:DeprecationWarning"
)  # huggingface_hub's, to httpx2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights" * 100)
    (tmp_path / "adapter_config.json").write_text('{"r": 4}')
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# tickets-7\n")
    return tmp_path


def order_of(folder: Path) -> ExportOrder:
    return ExportOrder("tickets-7", "hub", folder, [], Path(), upload=Upload("team/tickets-7"))


def test_every_file_is_uploaded_to_a_private_repo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with model_hub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        messages = list[str]()
        upload(order_of(folder), messages.append)
    assert messages[-1].startswith(f"Uploaded: {hub.url}/team/tickets-7/commit/")
    assert hub.repos == {"team/tickets-7": True}
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_refused_token_leaves_the_folder_complete(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with model_hub() as hub, pytest.raises(ExportRefused) as refused:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        upload(order_of(folder), print)
    assert f"Uploading {folder} to team/tickets-7: " in str(refused.value)
    assert "The folder is complete" in str(refused.value)
    assert hub.files == {}
