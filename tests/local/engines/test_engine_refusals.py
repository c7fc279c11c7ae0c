"""Jobs for an engine that are refused before anything starts, over real HTTP with the openai client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import openai
import pytest

from tests.local.engines.conftest import facts
from tests.local.trainer_server import serve_in_thread, upload
from trainers import methods
from trainers.local.engines.catalog import ENGINES, INSTALLABLE, LLAMAFACTORY, UNSLOTH
from trainers.local.engines.compatibility import Refusal, find_refusal
from trainers.methods import Parameters

BY_LLAMAFACTORY = Parameters(engine="llamafactory")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    data = tmp_path_factory.mktemp("trainer")
    with serve_in_thread(data, {"local/toy": str(data)}) as served, served.client() as client:
        yield client


def refuse_job(client: openai.OpenAI, engine: object) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(
            model="local/toy",
            training_file=upload(client),
            extra_body={"hyperparameters": {"engine": engine}},
        )
    return caught.value


def test_an_engine_that_is_not_installed_is_refused_with_its_command(client: openai.OpenAI) -> None:
    error = refuse_job(client, "axolotl")
    assert (error.code, error.param) == ("engine_not_installed", "hyperparameters.engine")
    assert error.body["message"] == (  # type: ignore[index]
        "The engine axolotl is not installed on this trainer. Run `finetune engines install axolotl` "
        "(about 4.4 GB, 4.5 minutes), or leave 'engine' out."
    )
    assert list(client.fine_tuning.jobs.list()) == []


@pytest.mark.parametrize("engine", ["Axolotl", 3, ["unsloth"], ""])
def test_an_unknown_engine_is_refused_with_the_known_ones(client: openai.OpenAI, engine: object) -> None:
    error = refuse_job(client, engine)
    assert "it must be one of builtin, unsloth, axolotl, llamafactory" in error.message
    assert error.param == "hyperparameters.engine"


def test_a_job_shows_its_engine(client: openai.OpenAI) -> None:
    job = client.fine_tuning.jobs.create(
        model="local/toy", training_file=upload(client), extra_body={"hyperparameters": {"engine": "builtin"}}
    )
    assert job.hyperparameters.model_dump()["engine"] == "builtin"


def test_an_installed_unchanged_engine_may_train(engines: Path) -> None:
    assert find_refusal(engines, BY_LLAMAFACTORY) is None
    assert find_refusal(engines.parent / "elsewhere", Parameters()) is None


def test_an_engine_upgraded_by_hand_is_refused(engines: Path) -> None:
    packages = engines / "llamafactory" / "env" / "lib" / "python3.11" / "site-packages"
    (packages / "llamafactory-0.9.5.dist-info").rename(packages / "llamafactory-0.9.6.dist-info")
    refusal = find_refusal(engines, BY_LLAMAFACTORY)
    assert refusal is not None
    assert refusal.code == "engine_changed"
    assert "was installed in version 0.9.5, but its environment now has version 0.9.6" in refusal.message


def test_a_half_installed_engine_is_not_installed(engines: Path) -> None:
    (engines / "llamafactory" / "engine.json").unlink()
    refusal = find_refusal(engines, BY_LLAMAFACTORY)
    assert refusal == Refusal(
        "engine_not_installed",
        "The engine llamafactory is not installed on this trainer. Run `finetune engines install llamafactory` "
        f"(about {LLAMAFACTORY.gigabytes} GB, 2 minutes), or leave 'engine' out.",
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sweep", Parameters(engine="llamafactory", sweep=(("lora_r", (8, 16)),))),
        ("sharding", Parameters(engine="llamafactory", sharding="fsdp")),
    ],
)
def test_a_setting_of_the_builtin_engine_alone_is_refused(
    engines: Path, name: str, settings: Parameters
) -> None:
    assert find_refusal(engines, settings) == Refusal(
        "engine_cannot",
        f"The engine llamafactory does not support {name}. Leave {name} out, or set engine to builtin.",
        name,
    )


@pytest.mark.parametrize(
    "settings",
    [
        Parameters(engine="llamafactory", patience=2, eval_steps=5),
        Parameters(engine="llamafactory", max_seconds=60),
        Parameters(engine="llamafactory", max_usd_micros=5_000_000, usd_per_hour_micros=2_000_000),
        Parameters(engine="llamafactory", quantization="nf4"),
        Parameters(engine="llamafactory", quantization="int8"),
    ],
)
def test_limits_and_quantization_are_allowed(engines: Path, settings: Parameters) -> None:
    assert find_refusal(engines, settings) is None


def test_an_engine_without_bitsandbytes_does_not_quantise(engines: Path) -> None:
    home = engines / "llamafactory" / "engine.json"
    home.write_text(json.dumps({**facts(), "versions": {"torch": "2.13.0"}}))
    assert find_refusal(engines, BY_LLAMAFACTORY) is None
    refusal = find_refusal(engines, Parameters(engine="llamafactory", quantization="nf4"))
    assert refusal == Refusal(
        "quantization_unavailable",
        "quantization 'nf4' with the engine llamafactory needs the package bitsandbytes, which it lacks. "
        "Run `finetune engines install llamafactory` to add it, or leave quantization out.",
        "quantization",
    )


@pytest.mark.parametrize(("has_cuda", "is_refused"), [(False, True), (True, False)])
def test_unsloth_trains_in_8_bits_only_on_a_gpu(tmp_path: Path, has_cuda: bool, is_refused: bool) -> None:
    """On a CPU it only prints a line and loads full weights."""
    packages = tmp_path / "unsloth" / "env" / "lib" / "python3.11" / "site-packages"
    (packages / f"unsloth-{UNSLOTH.version}.dist-info").mkdir(parents=True)
    (tmp_path / "unsloth" / "env" / "bin").mkdir()
    (tmp_path / "unsloth" / "env" / "bin" / "python").touch()
    installation = {**facts(), "version": UNSLOTH.version, "has_cuda": has_cuda}
    (tmp_path / "unsloth" / "engine.json").write_text(json.dumps(installation))
    refusal = find_refusal(tmp_path, Parameters(engine="unsloth", quantization="int8"))
    assert (refusal is not None) == is_refused
    assert refusal is None or "supports int8 only on a GPU" in refusal.message
    assert find_refusal(tmp_path, Parameters(engine="unsloth", quantization="nf4")) is None


def test_requests_may_name_exactly_the_known_engines() -> None:
    assert (methods.BUILTIN, *ENGINES) == methods.TRAINING_ENGINES
    assert (methods.BUILTIN, *INSTALLABLE) == get_args(methods.EngineName)
