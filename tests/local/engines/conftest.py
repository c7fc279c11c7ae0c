"""An installed LLaMA-Factory, as far as its driver can tell: its Python runs fake_engine.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.local.trainer_server import examples
from trainers.local.engines.catalog import LLAMAFACTORY
from trainers.local.engines.plan import EnginePlan
from trainers.local.engines.runner import build_config
from trainers.local.job_directory import TrainingJob, read_job, write_job
from trainers.methods import Parameters

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")


Behave = Callable[[str], None]


@pytest.fixture
def behave(monkeypatch: pytest.MonkeyPatch) -> Behave:
    """Sets how the fake engine behaves, in one of its docstring's words."""
    return lambda behaviour: monkeypatch.setenv("FINETUNE_FAKE_ENGINE", behaviour)


@pytest.fixture(autouse=True)
def quick_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake engine's steps are shorter than real ones."""
    monkeypatch.setattr("trainers.local.engines.process.POLL_INTERVAL_S", 0.03)


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    """A trainer's folder of engines, with llamafactory installed."""
    root = tmp_path / "engines"
    home = root / "llamafactory"
    (home / "env" / "bin").mkdir(parents=True)
    write_tool(
        home / "env" / "bin" / "python",
        f'test "$1" = train.py || exit 0; exec {sys.executable} {FAKE_ENGINE}',
    )
    (home / "env" / "lib" / "python3.11" / "site-packages" / "llamafactory-0.9.5.dist-info").mkdir(
        parents=True
    )
    (home / "engine.json").write_text(json.dumps(facts()))
    return root


def facts(without: str = "") -> dict[str, object]:
    settings = Parameters(quantization="nf4")
    plan = EnginePlan("base", settings, 0, ("q_proj",), 10, True, "cpu", False)
    keys = sorted(build_config(LLAMAFACTORY, plan, Path("env")).keys["config"] - {without})
    return {
        "version": "0.9.5",
        "versions": {"torch": "2.13.0", "bitsandbytes": "0.50.2"},
        "has_cuda": False,
        "bytes": 2_100_000_000,
        "seconds": 120.0,
        "keys": {"config": keys},
    }


@pytest.fixture
def job_folder(engines: Path, tiny_model_dir: Path) -> Path:
    """A job with 24 training rows, 6 validation rows, and 2 epochs of 6 steps."""
    folder = engines.parent / "jobs" / "ftjob-1"
    for name, count in (("train", 24), ("valid", 6)):
        (engines.parent / f"{name}.jsonl").write_bytes(examples(count))
    job = TrainingJob(
        id="ftjob-1",
        base=str(tiny_model_dir),
        base_name="local/tiny",
        training_file=str(engines.parent / "train.jsonl"),
        validation_file=str(engines.parent / "valid.jsonl"),
        seed=3,
        settings=Parameters(n_epochs=2, batch_size=4, lora_r=8, engine="llamafactory"),
        suffix=None,
        metadata={},
        created_at=1,
    )
    write_job(folder, job)
    return folder


def change_settings(folder: Path, **settings: Any) -> None:
    job = read_job(folder)
    write_job(folder, replace(job, settings=replace(job.settings, **settings)))


def write_tool(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o700)
