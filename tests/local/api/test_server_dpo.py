"""Jobs of the method dpo over HTTP with the openai client: replies and refusals, and a complete story (slow)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.local.preferences import pairs
from tests.local.trainer_server import (
    TrainerServer,
    examples,
    serve_in_process,
    serve_in_thread,
    upload,
    wait_for_status,
)
from trainers.http.errors import ApiError
from trainers.hyperparameters import BETA, rate_for
from trainers.local.jobs.records import StartingPoint, TunedModel
from trainers.local.jobs.requests import Hyperparameters
from trainers.methods import METHODS, DpoParameters, Parameters

BY_PAIRS: Any = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 2}}}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainerServer]:
    with serve_in_thread(tmp_path_factory.mktemp("trainer"), {"toy": "/nowhere"}) as served:
        yield served


@pytest.fixture(scope="module")
def client(trainer: TrainerServer) -> Iterator[openai.OpenAI]:
    with trainer.client() as client:
        yield client


def create(client: openai.OpenAI, content: bytes, **more: Any) -> Any:
    return client.fine_tuning.jobs.create(model="toy", training_file=upload(client, content), **more)


def test_a_job_shows_its_method_in_openais_form_with_all_numbers(client: openai.OpenAI) -> None:
    job = create(client, pairs(12), method=BY_PAIRS)
    assert job.method.type == "dpo"
    resolved = job.method.dpo.hyperparameters
    assert (resolved.beta, resolved.n_epochs, resolved.batch_size) == (0.2, 2, 4)
    assert resolved.learning_rate_multiplier == 1.0
    assert job.hyperparameters.model_dump()["learning_rate"] == METHODS["dpo"].rate(rate_for(None))
    assert wait_for_status(client, job.id, "succeeded", "failed").status == "succeeded"


def test_the_defaults_are_beta_0_1_and_a_fortieth_of_the_usual_rate(client: openai.OpenAI) -> None:
    job = create(client, pairs(12), method={"type": "dpo", "dpo": {"hyperparameters": {"beta": "auto"}}})
    resolved = job.hyperparameters.model_dump()
    assert (resolved["beta"], resolved["n_epochs"]) == (BETA, 3)
    assert METHODS["dpo"].rate(1e-3) == 2.5e-5
    assert [METHODS[method].epochs(100) for method in ("dpo", "supervised")] == [3, 6]


@pytest.mark.parametrize(
    ("training", "validation", "more", "param", "message"),
    [
        (pairs(12), None, {}, "training_file", "Line 1 is a preference pair, but the job's method"),
        (examples(), None, {"method": BY_PAIRS}, "training_file", "Line 1 is a chat, but the method dpo"),
        (pairs(12), examples(), {"method": BY_PAIRS}, "validation_file", "Line 1 is a chat, but the method"),
        (pairs(9), None, {"method": BY_PAIRS}, "training_file", "9 examples; at least 10 are needed."),
    ],
)
def test_a_file_for_another_method_fails_the_job(
    client: openai.OpenAI,
    training: bytes,
    validation: bytes | None,
    more: dict[str, Any],
    param: str,
    message: str,
) -> None:
    validation_file = upload(client, validation) if validation else openai.omit
    job = create(client, training, validation_file=validation_file, **more)
    job = wait_for_status(client, job.id, "failed", "succeeded")
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.param == param
    assert message in job.error.message


def test_without_trl_pairs_are_refused_before_anything_starts(
    client: openai.OpenAI, without_trl: None
) -> None:
    with pytest.raises(openai.BadRequestError, match="The method dpo needs the package trl") as caught:
        create(client, pairs(12), method=BY_PAIRS)
    assert (caught.value.code, caught.value.param) == ("method_unavailable", "method.type")


def starting_point(tuned: Parameters, tmp_path: Path) -> StartingPoint:
    return StartingPoint("/toy", "toy", TunedModel("ft:toy:local::12345678", tmp_path, tmp_path, tuned))


def test_further_training_keeps_the_adapters_form(tmp_path: Path) -> None:
    tuned = Parameters(
        lora_r=4, lora_alpha=8, target_modules="q_proj", quantization="nf4", learning_rate=1e-3
    )
    requested = Hyperparameters({"lora_r": 4, "learning_rate": 1e-5}, "dpo")
    settings = starting_point(tuned, tmp_path).settings(requested, requested.resolve(100, 1e-5))
    expected = {**asdict(tuned), "learning_rate": 1e-5, "n_epochs": 3, "batch_size": 4}
    assert settings == DpoParameters(**expected, beta=BETA)


def test_vllm_answers_for_a_tuned_model_that_is_trained_further(tmp_path: Path) -> None:
    requested = Hyperparameters({"engine": "vllm"}, "grpo")
    start = starting_point(Parameters(lora_r=4), tmp_path)
    settings = start.settings(requested, requested.resolve(100, 1e-5))
    assert (settings.engine, settings.lora_r) == ("vllm", 4)


@pytest.mark.parametrize(
    ("requested", "param", "message"),
    [
        ({"lora_r": 8}, "lora_r", "has lora_r 4, and training it further can't change that"),
        ({"quantization": "nf4"}, "quantization", "Leave 'quantization' out, or name its"),
        ({"engine": "unsloth"}, "engine", "The engine unsloth trains base models only."),
    ],
)
def test_further_training_cannot_change_the_adapters_form(
    tmp_path: Path, requested: dict[str, Any], param: str, message: str
) -> None:
    settings = Hyperparameters(requested)
    with pytest.raises(ApiError) as caught:
        starting_point(Parameters(lora_r=4), tmp_path).settings(settings, settings.resolve(100, 1e-5))
    assert (caught.value.status, caught.value.param) == (400, f"hyperparameters.{param}")
    assert message in caught.value.message


@pytest.mark.slow
def test_train_on_chats_then_on_pairs_then_chat(tiny_model_dir: Path, tmp_path: Path) -> None:
    """The usual recipe with a real trainer and only the openai package."""
    with serve_in_process(tmp_path, f"toy={tiny_model_dir}") as served, served.client() as client:
        extras = {"lora_r": 4, "learning_rate": 0.005}
        first = create(client, examples(), extra_body={"hyperparameters": {**extras, "n_epochs": 1}})
        tuned = wait_for_status(client, first.id, "succeeded", "failed", seconds=120).fine_tuned_model
        assert tuned
        job = client.fine_tuning.jobs.create(
            model=tuned,
            training_file=upload(client, pairs(20)),
            validation_file=upload(client, pairs(10, start=100)),
            suffix="polite",
            method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 3}}},
            extra_body={"hyperparameters": extras},
        )
        assert (job.model, job.hyperparameters.model_dump()["lora_r"]) == (tuned, 4)
        client.models.delete(tuned)  # the job has its own link to the adapter
        done = wait_for_status(client, job.id, "succeeded", "failed", seconds=120)
        assert done.status == "succeeded", done.error
        assert done.fine_tuned_model == f"ft:toy:local:polite:{job.id[-8:]}"
        newest = client.fine_tuning.jobs.checkpoints.list(job.id).data[0]
        assert (newest.metrics.model_extra or {})["valid_reward_accuracy"] == 1.0
        for name in (done.fine_tuned_model, newest.fine_tuned_model_checkpoint):
            messages: Any = [{"role": "user", "content": "my card was charged twice (7)"}]
            answer = client.chat.completions.create(model=name, messages=messages, max_tokens=8)
            assert answer.choices[0].message.content
        table = client.files.content(done.result_files[0]).read().decode()
        assert table.splitlines()[0].endswith("valid_reward_chosen,valid_reward_rejected")
