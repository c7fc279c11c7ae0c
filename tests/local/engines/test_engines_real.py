"""Each installed engine for real, on the toy model: `FINETUNE_ENGINES=DATA/engines pytest …`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.local.engines import stories
from trainers.local.engines.catalog import ENGINES, ON_THIS_MACHINE, find_installation
from trainers.methods import Quantization

VARIABLE = "FINETUNE_ENGINES"
NAMES = ON_THIS_MACHINE


@pytest.fixture(scope="module")
def folder() -> Path:
    path = os.environ.get(VARIABLE)
    if not path:
        pytest.skip(f"${VARIABLE} names no folder of engines (`finetune engines install NAME` makes one)")
    return Path(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines") / "data"


@pytest.fixture(scope="module")
def client(data: Path, folder: Path, tiny_model_dir: Path) -> Iterator[openai.OpenAI]:
    with stories.start_trainer(data, folder, tiny_model_dir) as client:
        yield client


@pytest.fixture(params=NAMES)
def engine(request: pytest.FixtureRequest, folder: Path) -> str:
    name = str(request.param)
    if find_installation(folder, ENGINES[name]) is None:
        pytest.skip(f"{name} is not installed in {folder}")
    return name


def test_an_engine_learns_the_same_as_the_builtin_one(client: openai.OpenAI, engine: str) -> None:
    job = stories.check_same_plan_as_builtin(client, engine)
    assert [checkpoint.step_number for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id)] == [
        30,
        24,
        18,
    ]


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantized_base_trains_and_serves_its_adapter(
    client: openai.OpenAI, data: Path, tiny_model_dir: Path, engine: str, kind: Quantization
) -> None:
    if (engine, kind) == ("unsloth", "int8"):
        with pytest.raises(openai.BadRequestError, match="supports int8 only on a GPU"):
            stories.start(client, engine, quantization=kind)
        return
    stories.check_quantized_training(client, data, tiny_model_dir, engine, kind)


def test_a_ceiling_ends_an_engine_in_time(client: openai.OpenAI, data: Path, engine: str) -> None:
    stories.check_ceiling(client, data, engine)


def test_lost_patience_ends_an_engine(client: openai.OpenAI, data: Path, engine: str) -> None:
    stories.check_lost_patience(client, data, engine)


def test_a_killed_engine_resumes_from_its_checkpoint(client: openai.OpenAI, data: Path, engine: str) -> None:
    stories.check_resume_after_kill(client, data, engine)


def test_a_cancelled_engine_ends_within_seconds(client: openai.OpenAI, data: Path, engine: str) -> None:
    stories.check_cancel_leaves_no_process(client, data, engine)
