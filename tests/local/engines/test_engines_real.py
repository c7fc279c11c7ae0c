"""Each engine for real, on the toy model, where it is installed: `FINETUNE_ENGINES=DATA/engines pytest …`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.local.engines import stories
from trainers.local.engines.catalog import ENGINES, find_installation
from trainers.methods import Quantization

VARIABLE = "FINETUNE_ENGINES"
NAMES = list(ENGINES)


@pytest.fixture(scope="module")
def folder() -> Path:
    given = os.environ.get(VARIABLE)
    if not given:
        pytest.skip(f"${VARIABLE} names no folder of engines (`finetune engines install NAME` makes one)")
    return Path(given)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines") / "data"


@pytest.fixture(scope="module")
def client(data: Path, folder: Path, tiny_model_dir: Path) -> Iterator[openai.OpenAI]:
    with stories.trainer_with(data, folder, tiny_model_dir) as client:
        yield client


@pytest.fixture(params=NAMES)
def engine(request: pytest.FixtureRequest, folder: Path) -> str:
    name = str(request.param)
    if find_installation(folder, ENGINES[name]) is None:
        pytest.skip(f"{name} is not installed in {folder}")
    return name


def test_the_same_plan_through_an_engine_gives_an_adapter_that_answers(
    client: openai.OpenAI, engine: str
) -> None:
    job = stories.same_plan_as_builtin(client, engine)
    assert [each.step_number for each in client.fine_tuning.jobs.checkpoints.list(job.id)] == [30, 24, 18]


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_base_in_fewer_bits_trains_and_its_adapter_is_served_over_the_same(
    client: openai.OpenAI, data: Path, tiny_model_dir: Path, engine: str, kind: Quantization
) -> None:
    if (engine, kind) == ("unsloth", "int8"):
        with pytest.raises(openai.BadRequestError, match="supports int8 only on a GPU"):
            stories.start(client, engine, quantization=kind)
        return
    stories.a_quantised_base_gets_an_adapter_that_fits_it(client, data, tiny_model_dir, engine, kind)


def test_a_ceiling_ends_an_engine_in_time(client: openai.OpenAI, data: Path, engine: str) -> None:
    stories.a_ceiling_ends_in_time_with_a_model(client, data, engine)


def test_lost_patience_ends_an_engine(client: openai.OpenAI, data: Path, engine: str) -> None:
    stories.lost_patience_ends_with_the_best(client, data, engine)


def test_a_killed_engine_goes_on_from_its_checkpoint(client: openai.OpenAI, data: Path, engine: str) -> None:
    stories.a_kill_goes_on_from_the_checkpoint(client, data, engine)


def test_a_cancelled_engine_ends_within_seconds(client: openai.OpenAI, data: Path, engine: str) -> None:
    stories.a_cancelled_job_leaves_no_process(client, data, engine)
