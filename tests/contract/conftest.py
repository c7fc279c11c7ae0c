"""The trainers under the contract: a real server on loopback for each, with a client and a model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.local.conftest import tiny_model_dir  # noqa: F401 (a fixture)
from tests.peers.azure import Azure
from tests.peers.crusoe import LLAMA, Crusoe
from tests.peers.fireworks import Fireworks
from tests.peers.hosted import Hosted, SigningHosted
from tests.peers.service import Service
from tests.peers.together import Together
from tests.peers.vendors import Vendor
from trainers.client.client import Trainer
from trainers.client.dialects import open_trainer
from trainers.client.payloads import accepted_hyperparameters
from trainers.providers.providers import fit_hyperparameters, load_providers
from trainers.types import Hyperparameter, Provider

ROOT = Path(__file__).parents[2]
LOCAL_KEY = "contract-key-0123456789"
READY_S = 60


@dataclass(frozen=True)
class Site:
    """A trainer and a model on it. A small job may take `finish_s` seconds."""

    trainer: Trainer
    key: str
    model: str
    hyperparameters: dict[str, Hyperparameter]
    finish_s: float

    @property
    def provider(self) -> Provider:
        return self.trainer.provider


MODELS = {
    "openai": "gpt-4.1-mini-2025-04-14",
    "nebius": "meta-llama/Llama-3.1-8B-Instruct",
    "crusoe": LLAMA,
    "azure": "gpt-oss-20b",
    "fireworks": "accounts/fireworks/models/llama-v3p1-8b-instruct",
    "together": "meta-llama/Meta-Llama-3.1-8B-Instruct-Reference",
}


@pytest.fixture(scope="module", params=[*MODELS, "local"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if request.param == "local":
        model: Path = request.getfixturevalue("tiny_model_dir")
        with _local_site(tmp_path_factory.mktemp("trainer"), model) as local:
            yield local
        return
    name, model_name = request.param, MODELS[request.param]
    with fake_server(name, model_name) as server:
        url = server.url + (server.service.path if isinstance(server.service, Vendor) else "")
        yield from _site(name, url, server.key, model_name, finish_s=5)


def fake_server(name: str, model: str) -> Hosted:
    """Returns a server that behaves as this vendor's does."""
    match name:
        case "fireworks":
            return SigningHosted(Fireworks(models=(model,)))
        case "together":
            return SigningHosted(Together(models=(model,)))
        case "crusoe":
            return Hosted(Crusoe(models=(model,)))
        case "azure":
            return Hosted(Azure(models=(model,)))
        case "openai" | "nebius" as shape:
            return Hosted(Service(shape, models=(model,)))
    raise ValueError(name)


@pytest.fixture(scope="module")
def training_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(24):
            question = {"role": "user", "content": f"where is order {number} — “soon”?"}
            answer = {"role": "assistant", "content": "shipping" if number % 2 else "billing"}
            file.write(json.dumps({"messages": [question, answer]}, ensure_ascii=False) + "\n")
    return path


def _site(name: str, url: str, key: str, model: str, finish_s: float) -> Iterator[Site]:
    row = next(row for row in load_providers() if row.name == name).at_address(url)
    chat = f"{url}/inference" if name == "crusoe" else ""
    provider = replace(row.provider, timeout_s=20, chat_base_url=chat)
    wanted = {**row.defaults, "n_epochs": 1, "batch_size": 4, "lora_r": 4}
    with open_trainer(provider, key) as trainer:
        model = trainer.catalogue_id([model]) or model
        yield Site(
            trainer,
            key,
            model,
            fit_hyperparameters(provider, accepted_hyperparameters(provider, wanted)),
            finish_s,
        )


@contextmanager
def _local_site(folder: Path, model: Path) -> Iterator[Site]:
    command = [sys.executable, "-m", "trainers.local", "--port", "0", "--data", str(folder / "data")]
    environment = {**os.environ, "FINETUNE_TRAINER_KEY": LOCAL_KEY, "OMP_NUM_THREADS": "1"}
    output = folder / "output.txt"  # a pipe that nobody reads would block the server once full
    with (
        output.open("w") as file,
        subprocess.Popen(
            [*command, "--model", f"tiny={model}"], cwd=ROOT, env=environment, stdout=file, stderr=file
        ) as server,
    ):
        try:
            yield from _site("local", _ready_address(server, output), LOCAL_KEY, "tiny", finish_s=120)
        finally:
            server.terminate()


def _ready_address(server: subprocess.Popen[bytes], output: Path) -> str:
    """Returns the address from the line that says it is ready; an error shows the server's output."""
    deadline = time.monotonic() + READY_S
    while server.poll() is None and time.monotonic() < deadline:
        if ready := re.search(r"ready on (http://\S+/v1)", output.read_text(encoding="utf-8")):
            return ready[1]
        time.sleep(0.05)
    raise RuntimeError("the trainer was not ready:\n" + output.read_text(encoding="utf-8"))
