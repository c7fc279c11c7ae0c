"""Adapters on W&B's serverless inference, by W&B's own package against a stand-in of its servers: each is uploaded
once, whatever is lost on the way, and deleted completely. Also what can't be served."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from bot.cli import main
from tests.peers import wandb_company
from tests.peers.wandb_company import KEY, LLAMA, PROJECT, Company
from trainers.deployments import open_deployments
from trainers.deployments.adapters import AdapterUnusable, rank_problem, read_adapter
from trainers.deployments.port import Deployments
from trainers.errors import Refused, Uncertain
from trainers.local.job_directory import TrainingJob, write_job
from trainers.methods import METHODS
from trainers.types import Provider

needs_package = pytest.mark.skipif(find_spec("wandb") is None, reason="needs the extra [coreweave]")
NAME = "ft-run1-abcdef01-1"


def write_adapter(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"peft_type": "LORA", "r": 16, "base_model_name_or_path": "/models/llama", **config}
    (folder / "adapter_config.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"weights" * 1_000)
    return folder


@pytest.fixture
def company() -> Iterator[Company]:
    with wandb_company.serve(Company(lambda model, messages: "billing")) as company:
        yield company


def write_ended_job(folder: Path, base: str) -> Path:
    settings = METHODS["supervised"].parameters()
    write_job(
        folder, TrainingJob("ftjob-1", base, "llama", "rows.jsonl", None, 1, settings, "tickets", {}, 1)
    )
    (folder / "DONE").write_text("{}", encoding="utf-8")
    write_adapter(folder / "adapter")
    return folder


def kill_uploads() -> None:
    """Kills the uploading process and what it has started, and no other child of the tests."""
    for child in psutil.Process().children():
        if "trainers.deployments.wandb_artifacts" in child.cmdline():
            for process in (*child.children(recursive=True), child):
                os.kill(process.pid, signal.SIGKILL)


def vendor_at(company: Company, key: str = KEY, project: str = PROJECT) -> Deployments:
    provider = Provider(
        "coreweave",
        f"{company.url}/v1",
        "WANDB_API_KEY",
        frozenset({"chat", "adapters"}),
        deploy_base_url=company.url,
        deploy_api="coreweave",
        account_env="COREWEAVE_PROJECT",
        account=project,
    )
    vendor = open_deployments(provider, key)
    assert vendor is not None
    return vendor


@needs_package
@pytest.mark.deep
def test_an_adapter_is_uploaded_once_called_by_its_version_and_deleted(
    company: Company, tmp_path: Path
) -> None:
    vendor = vendor_at(company)
    folder = str(write_adapter(tmp_path / "adapter"))
    assert vendor.find(NAME) == []
    started = vendor.start(NAME, folder, LLAMA, 0)
    assert (started.state, started.is_billed) == ("ready", False)
    assert started.chat_model == f"wandb-artifact:///{PROJECT}/{NAME}:v0"
    (version,) = company.versions
    assert version.files == ["adapter_config.json", "adapter_model.safetensors"]
    assert (version.metadata["wandb.base_model"], version.region) == (LLAMA, "coreweave-us")
    stored = [content for content in company.storage.values() if content == b"weights" * 1_000]
    assert len(stored) == 1

    again = vendor.start(NAME, folder, LLAMA, 0)
    assert again == started and company.names == [f"{NAME}:v0"]
    assert vendor.list_running() == [started] == vendor.find(NAME)
    vendor.stop(started)
    vendor.stop(started)
    assert (company.names, company.runs) == ([], [])


@needs_package
@pytest.mark.deep
@pytest.mark.parametrize("lost", ["CreateArtifact", "CreateArtifactFiles", "CommitArtifact"])
def test_a_lost_answer_makes_no_second_version(company: Company, tmp_path: Path, lost: str) -> None:
    company.lost = [lost]
    vendor = vendor_at(company)
    folder = str(write_adapter(tmp_path / "adapter"))
    started = vendor.start(NAME, folder, LLAMA, 0)
    assert company.names == [f"{NAME}:v0"] and started.id == f"{NAME}:v0"
    assert company.operations.count(lost) == 2, "the package asks again"


@needs_package
@pytest.mark.deep
@pytest.mark.parametrize("moment", ["CreateArtifact", "CreateArtifactFiles", "CommitArtifact"])
def test_an_upload_that_is_killed_is_repeated_without_a_second_version(
    company: Company, tmp_path: Path, moment: str
) -> None:
    vendor = vendor_at(company)
    folder = str(write_adapter(tmp_path / "adapter"))
    killed = threading.Event()

    def kill(operation: str) -> None:
        if operation == moment and not killed.is_set():
            killed.set()
            kill_uploads()

    company.at = kill
    with pytest.raises(Uncertain, match="wandb ended with exit status -9"):
        vendor.start(NAME, folder, LLAMA, 0)
    started = vendor.start(NAME, folder, LLAMA, 0)
    assert started.id == f"{NAME}:v0"
    assert company.names == [f"{NAME}:v0"] and company.runs == [NAME]


@needs_package
@pytest.mark.deep
def test_a_wrong_key_and_a_wrong_project_are_refused_with_the_cure(company: Company) -> None:
    with pytest.raises(Refused, match="Check WANDB_API_KEY and COREWEAVE_PROJECT") as wrong_key:
        vendor_at(company, key=40 * "x").find(NAME)
    assert wrong_key.value.status == 401 and 40 * "x" not in str(wrong_key.value)
    with pytest.raises(Refused, match="COREWEAVE_PROJECT must be ENTITY/PROJECT"):
        vendor_at(company, project="serving").find(NAME)
    company.refused = 403
    with pytest.raises(Refused, match="HTTP 403"):
        vendor_at(company).find(NAME)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"peft_type": "IA3"}, "has no LoRA adapter"),
        ({"modules_to_save": ["lm_head"]}, "changes more than LoRA's matrices"),
        ({"use_dora": True}, "uses DoRA"),
    ],
)
def test_what_can_not_be_served_is_said(tmp_path: Path, config: dict[str, Any], why: str) -> None:
    with pytest.raises(AdapterUnusable, match=why):
        read_adapter(write_adapter(tmp_path / "adapter", **config))


def test_the_largest_rank_counts_and_the_digest_follows_the_files(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", rank_pattern={"q_proj": 32})
    adapter = read_adapter(folder)
    assert adapter.rank == 32
    problem = rank_problem(adapter.rank, 16, "W&B", LLAMA)
    assert problem is not None and "up to rank 16" in problem and "lora_r=16" in problem
    assert rank_problem(16, 16, "W&B", LLAMA) is None and rank_problem(99, None, "W&B", LLAMA) is None
    (folder / "adapter_model.safetensors").write_bytes(b"other")
    assert read_adapter(folder).digest != adapter.digest
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterUnusable, match=r"has no adapter_model\.safetensors"):
        read_adapter(folder)


@needs_package
@pytest.mark.deep
def test_the_terminal_uploads_a_job_and_prints_what_programs_ask(
    company: Company, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tmp_path / "trainer"
    job = write_ended_job(trainer, LLAMA)
    config = tmp_path / "finetune.toml"
    config.write_text(
        f'[providers.coreweave]\nbase_url = "{company.url}/v1"\ndeploy_base_url = "{company.url}"\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("FINETUNE_CONFIG", str(config))
    words = ["export", str(job), "--to", "coreweave"]
    monkeypatch.setenv("COREWEAVE_PROJECT", PROJECT)
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2 and "set WANDB_API_KEY and COREWEAVE_PROJECT" in result.output
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    (name,) = company.names
    assert result.output.splitlines()[-1] == f"wandb-artifact:///{PROJECT}/{name}"
    assert "$0.22 per million tokens" in result.output and name.startswith("finetune-")
    other = write_ended_job(tmp_path / "other", "some/base")
    result = CliRunner().invoke(main, ["export", str(other), "--to", "coreweave"])
    assert result.exit_code == 2 and "and not of llama" in result.output
