"""From the upload to a chat with the tuned model, with nothing but the openai package and a real training."""

from __future__ import annotations

import csv
import io
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.local.reference import load_reference
from tests.local.trainer_server import (
    SCHEMA,
    TrainerServer,
    close,
    examples,
    ready_url,
    serve_in_process,
    start_process,
    upload,
    wait_for,
    wait_for_status,
)
from trainers.local.job_directory import read_job

QUESTION: list[Any] = [
    {"role": "system", "content": "Sort this support ticket."},
    {"role": "user", "content": "Ticket 4: my card was charged for the parcel."},
]
SETTINGS = {"n_epochs": 5, "batch_size": 4, "learning_rate": 0.02, "lora_r": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trainer")


@pytest.fixture(scope="module")
def trainer(data: Path, tiny_model_dir: Path) -> Iterator[TrainerServer]:
    with serve_in_process(data, f"local/tiny={tiny_model_dir}") as served:
        yield served


@pytest.fixture(scope="module")
def client(trainer: TrainerServer) -> Iterator[openai.OpenAI]:
    with trainer.client() as client:
        yield client


@pytest.fixture(scope="module")
def trained(client: openai.OpenAI) -> FineTuningJob:
    """A finished job with 5 epochs of 6 steps."""
    job = client.fine_tuning.jobs.create(
        model="local/tiny",
        training_file=upload(client, examples(24)),
        validation_file=upload(client, examples(6), "valid.jsonl"),
        extra_body={"method": {"type": "supervised", "supervised": {"hyperparameters": SETTINGS}}},
        suffix="tickets",
        seed=3,
        metadata={"finetune_key": "story"},
    )
    return wait_for_status(client, job.id, "succeeded", "failed", "cancelled", seconds=120)


def chat(client: openai.OpenAI, model: str) -> str:
    answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=8)
    return answer.choices[0].message.content or ""


def test_a_training_succeeds_and_names_its_model(trained: FineTuningJob) -> None:
    assert trained.error is None
    assert trained.status == "succeeded"
    assert trained.fine_tuned_model == f"ft:local/tiny:local:tickets:{trained.id[-8:]}"
    assert trained.trained_tokens is not None
    assert trained.trained_tokens > 0
    assert (trained.model_extra or {})["trained_steps"] == (trained.model_extra or {})["total_steps"] == 30


def test_the_result_file_has_a_line_per_step(client: openai.OpenAI, trained: FineTuningJob) -> None:
    rows = list(csv.DictReader(io.StringIO(client.files.content(trained.result_files[0]).text)))
    assert [int(row["step"]) for row in rows] == list(range(1, 31))
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert rows[-1]["valid_loss"]


def test_events_are_listed_newest_first(client: openai.OpenAI, trained: FineTuningJob) -> None:
    events = list(client.fine_tuning.jobs.list_events(trained.id, limit=5))
    assert events[-1].message == f"Created fine-tuning job: {trained.id}"
    assert [event.created_at for event in events] == sorted(
        (event.created_at for event in events), reverse=True
    )
    assert len({event.id for event in events}) == len(events) > 5
    assert any(event.type == "metrics" for event in events)


def test_the_last_epochs_checkpoints_are_kept_and_answer(
    client: openai.OpenAI, trained: FineTuningJob
) -> None:
    checkpoints = client.fine_tuning.jobs.checkpoints.list(trained.id).data
    assert [checkpoint.step_number for checkpoint in checkpoints] == [30, 24, 18]
    assert checkpoints[0].metrics.valid_loss is not None
    last = chat(client, checkpoints[0].fine_tuned_model_checkpoint)
    assert last == chat(client, trained.fine_tuned_model or "")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # by peft
def test_the_tuned_model_answers_like_peft_and_unlike_its_base(
    client: openai.OpenAI, trained: FineTuningJob, data: Path
) -> None:
    base = chat(client, "local/tiny")
    tuned = chat(client, trained.fine_tuned_model or "")
    folder = data / "jobs" / trained.id
    by_peft = load_reference(read_job(folder).base, folder / "adapter")
    assert tuned == by_peft.reply(QUESTION, 8)[0]
    assert tuned.startswith(("billing", "shipping", "login"))
    assert base != tuned
    assert chat(client, "local/tiny") == base


def test_a_streamed_answer_of_the_tuned_model_is_the_same(
    client: openai.OpenAI, trained: FineTuningJob
) -> None:
    model = trained.fine_tuned_model or ""
    stream = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=8, stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == chat(client, model)


@pytest.mark.deep
def test_a_restarted_trainer_resumes_a_job_from_its_last_checkpoint(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    """SIGTERM also ends the training, and the next trainer with the same data resumes it."""
    process = start_process(tmp_path, f"local/tiny={tiny_model_dir}")
    with TrainerServer(ready_url(process)).client() as client:
        job = client.fine_tuning.jobs.create(
            model="local/tiny",
            training_file=upload(client, examples(20)),
            extra_body={"hyperparameters": {"n_epochs": 8, "batch_size": 1, "learning_rate": 1e-3}},
        )
        wait_for(lambda: client.fine_tuning.jobs.checkpoints.list(job.id).data, bool)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    close(process)
    folder = tmp_path / "jobs" / job.id
    assert not (folder / "DONE").exists()
    with serve_in_process(tmp_path, f"local/tiny={tiny_model_dir}") as served, served.client() as client:
        wait_for_status(client, job.id, "running")
        before = max(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))
        done = wait_for_status(client, job.id, "succeeded", "failed", seconds=120)
        assert done.status == "succeeded"
        messages = " ".join(event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100))
    assert before >= 20
    assert f"Resuming from the checkpoint of step {before}/160" in messages


def test_every_response_was_checked_against_openais_description(
    trainer: TrainerServer, trained: FineTuningJob
) -> None:
    if not SCHEMA.exists():
        pytest.skip(f"OpenAI's description of the API is not at {SCHEMA}")
    assert {
        "POST /files",
        "POST /fine_tuning/jobs",
        "GET /fine_tuning/jobs/{fine_tuning_job_id}",
    } <= set(trainer.checked)
    FineTuningJob.model_validate(trained.model_dump())
