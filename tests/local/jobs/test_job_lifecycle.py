"""A job that is paused, resumed, killed with its trainer and resumed again, through the openai package alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.local.runs import adapter_bytes
from tests.local.trainer_server import (
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
from trainers.local.jobs.backends import is_locked

SETTINGS = {"n_epochs": 3, "batch_size": 1, "learning_rate": 2e-3, "lora_r": 4, "lora_dropout": 0.1}
STEPS = 120
QUESTION: list[Any] = [{"role": "user", "content": "Ticket 4: my card was charged for the parcel."}]


def create(client: openai.OpenAI, **hyperparameters: Any) -> str:
    return client.fine_tuning.jobs.create(
        model="local/tiny",
        training_file=upload(client, examples(40)),
        validation_file=upload(client, examples(6), "valid.jsonl"),
        seed=3,
        extra_body={"hyperparameters": SETTINGS | hyperparameters},
    ).id


def steps(client: openai.OpenAI, job_id: str) -> int:
    return int((client.fine_tuning.jobs.retrieve(job_id).model_extra or {}).get("trained_steps") or 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trainer")


@pytest.fixture(scope="module")
def served(data: Path, tiny_model_dir: Path) -> Iterator[TrainerServer]:
    with serve_in_process(data, f"local/tiny={tiny_model_dir}") as served:
        yield served


@pytest.mark.deep
def test_a_job_that_was_paused_and_killed_with_its_trainer_ends_like_an_undisturbed_one(
    tmp_path: Path, tiny_model_dir: Path, data: Path, served: TrainerServer
) -> None:
    model = f"local/tiny={tiny_model_dir}"
    with served.client() as client:
        undisturbed = create(client)
        wait_for_status(client, undisturbed, "succeeded", "failed", seconds=180)
    process = start_process(tmp_path, model)
    with TrainerServer(ready_url(process)).client() as client:
        job = create(client)
        folder = tmp_path / "jobs" / job
        wait_for(lambda: client.fine_tuning.jobs.checkpoints.list(job).data, bool, seconds=120)
        began = time.monotonic()
        assert client.fine_tuning.jobs.pause(job).status == "paused"
        assert time.monotonic() - began < 8
        paused_at = steps(client, job)
        newest = client.fine_tuning.jobs.checkpoints.list(job).data[0]
        assert newest.step_number == paused_at < STEPS
        answer = client.chat.completions.create(
            model=newest.fine_tuned_model_checkpoint, messages=QUESTION, temperature=0, max_tokens=4
        )
        assert answer.choices[0].message.content
        client.fine_tuning.jobs.resume(job)
        running = wait_for(
            lambda: client.fine_tuning.jobs.retrieve(job),
            lambda job: int((job.model_extra or {})["trained_steps"]) > paused_at,
            seconds=120,
        )
        assert running.status == "running"
        assert 0 <= (running.estimated_finish or 0) - time.time() < 300
        os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
        wait_for(lambda: messages(client, job), lambda text: "was killed" in text)
        wait_for(lambda: is_locked(folder), bool)
        process.kill()
        process.wait(10)
    close(process)
    with serve_in_process(tmp_path, model) as restarted, restarted.client() as client:
        done = wait_for_status(client, job, "succeeded", "failed", seconds=180)
        assert done.status == "succeeded"
        assert messages(client, job).count("adapter saved") == 1
    assert adapter_bytes(folder) == adapter_bytes(data / "jobs" / undisturbed)


def messages(client: openai.OpenAI, job_id: str) -> str:
    events = client.fine_tuning.jobs.list_events(job_id, limit=100)
    return " / ".join(event.message for event in events)


@pytest.mark.deep
def test_a_job_that_stopped_early_says_why_and_serves_its_best_checkpoint(served: TrainerServer) -> None:
    with served.client() as client:
        job = create(client, patience=1, eval_steps=5, learning_rate=0.05, n_epochs=50)
        done = wait_for_status(client, job, "succeeded", "failed", seconds=120)
        extra = done.model_extra or {}
        assert done.status == "succeeded"
        stopped = f"Stopped at step {extra['trained_steps']}/2000: 1 validation in"
        assert extra["stopped_early"].startswith(stopped)
        assert extra["result_step"] == extra["trained_steps"] - 5
        best = f"{done.fine_tuned_model}:ckpt-step-{extra['result_step']}"
        answers = [
            client.chat.completions.create(model=name, messages=QUESTION, temperature=0, max_tokens=8)
            for name in (best, done.fine_tuned_model or "")
        ]
        assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
