"""Fixtures: a hosted service, a client of it, and a file to train on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.peers.hosted import Hosted
from trainers.client.client import Trainer
from trainers.providers.providers import load_providers
from trainers.types import JobSpec, Provider

MODEL = "gpt-4o-mini-2024-07-18"


@pytest.fixture
def server() -> Iterator[Hosted]:
    with Hosted() as running:
        yield running


@pytest.fixture
def trainer(server: Hosted) -> Iterator[Trainer]:
    with Trainer(provider(server), server.key) as client:
        yield client


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    line = json.dumps(
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]}
    )
    path.write_text(f"{line}\n" * 12, encoding="utf-8")
    return path


def provider(server: Hosted, **changes: float) -> Provider:
    row = next(row for row in load_providers() if row.name == "openai").at_address(server.url)
    return replace(row.provider, **{"timeout_s": 0.4, **changes})  # type: ignore[arg-type]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def spec(trainer: Trainer, data: Path, key: str = "run-1") -> JobSpec:
    file_id = trainer.upload(data, digest(data))
    return JobSpec(key, MODEL, file_id, {"n_epochs": 2}, seed=7, suffix="tickets", metadata={"run": "1"})
