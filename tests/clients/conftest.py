"""A trainer in its own process, which serves the scripted model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.clients import scripted
from tests.local.trainer_server import TrainerServer, serve_in_process


@pytest.fixture(scope="session")
def scripted_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "scripted"
    scripted.make_model(folder)
    return folder


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory, scripted_dir: Path) -> Iterator[TrainerServer]:
    with serve_in_process(tmp_path_factory.mktemp("trainer"), f"scripted={scripted_dir}") as served:
        yield served


@pytest.fixture(scope="session")
def client(trainer: TrainerServer) -> Iterator[openai.OpenAI]:
    with trainer.client() as client:
        yield client
