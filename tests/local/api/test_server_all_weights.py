"""All weights of a model over HTTP: the job's numbers, a model that answers, its checkpoint, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.local.conftest import tiny_model_dir as tiny_model_dir
from tests.local.trainer_server import TrainerServer, examples, serve_in_process, upload, wait_for_status

QUESTION: list[Any] = [{"role": "user", "content": "Where is my parcel?"}]
SETTINGS = {"n_epochs": 2, "batch_size": 4, "max_length": 256}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Iterator[TrainerServer]:
    with serve_in_process(tmp_path_factory.mktemp("trainer"), f"tiny={tiny_model_dir}") as served:
        yield served


@pytest.fixture(scope="module")
def client(trainer: TrainerServer) -> Iterator[openai.OpenAI]:
    with trainer.client() as client:
        yield client


def create(
    client: openai.OpenAI, method: str, settings: dict[str, Any], model: str = "tiny"
) -> FineTuningJob:
    file = upload(client, examples(12))
    body: Any = {"method": {"type": method, method: {"hyperparameters": settings}}}
    return client.fine_tuning.jobs.create(model=model, training_file=file, extra_body=body)


@pytest.fixture(scope="module")
def trained(client: openai.OpenAI) -> FineTuningJob:
    job = create(client, "all_weights", SETTINGS)
    return wait_for_status(client, job.id, "succeeded", "failed")


@pytest.mark.deep
def test_a_job_shows_the_numbers_that_it_used(client: openai.OpenAI, trained: FineTuningJob) -> None:
    assert trained.status == "succeeded", trained.error
    assert trained.method and trained.method.model_dump()["type"] == "all_weights"
    shown = trained.hyperparameters.model_dump(exclude_none=True)
    assert {name: shown[name] for name in SETTINGS} == SETTINGS
    assert not {"lora_r", "quantization", "engine"} & shown.keys()


@pytest.mark.deep
def test_its_model_and_its_checkpoint_answer(client: openai.OpenAI, trained: FineTuningJob) -> None:
    name = str(trained.fine_tuned_model)
    checkpoints = client.fine_tuning.jobs.checkpoints.list(trained.id).data
    last = checkpoints[0].fine_tuned_model_checkpoint
    answers = []
    for model in (name, last):
        answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=5)
        answers.append(answer.choices[0].message.content)
    assert answers[0] == answers[1], "the last step is the result"


@pytest.mark.deep
def test_full_means_all_weights_of_a_chat_model(client: openai.OpenAI) -> None:
    job = create(client, "full", {"n_epochs": 1, "max_length": 128})
    assert job.method and job.method.model_dump()["type"] == "all_weights"
    assert client.fine_tuning.jobs.cancel(job.id).id == job.id


@pytest.mark.deep
def test_what_it_cannot_do_is_refused(client: openai.OpenAI, trained: FineTuningJob) -> None:
    for settings, about in (
        ({"lora_r": 8}, "'lora_r' belongs to the method supervised"),
        ({"quantization": "nf4"}, "'quantization' belongs to the method supervised"),
        ({"sweep": {"learning_rate": [1e-4, 2e-4]}}, "A sweep compares supervised trainings"),
    ):
        with pytest.raises(openai.BadRequestError, match=about):
            create(client, "all_weights", settings)
    name = str(trained.fine_tuned_model)
    with pytest.raises(
        openai.BadRequestError, match="trained with all its weights, and here only an adapter"
    ):
        create(client, "supervised", {"n_epochs": 1}, name)
