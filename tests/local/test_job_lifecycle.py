"""A job paused, resumed, killed with its trainer and taken up again, with nothing but the openai package."""

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
QUESTION: list[Any] = [{"role": "user", "content": "Ticket 4: my card was charged for the parcel."}]


@pytest.fixture
def model(tiny_model_dir: Path) -> str:
    return f"local/tiny={tiny_model_dir}"


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


@pytest.fixture
def served(tmp_path: Path, model: str) -> Iterator[TrainerServer]:
    with serve_in_process(tmp_path / "undisturbed", model) as served:
        yield served


def test_paused_resumed_and_killed_with_its_trainer_it_ends_like_an_undisturbed_one(
    tmp_path: Path, model: str, served: TrainerServer
) -> None:
    with served.client() as client:
        twin = create(client)
        wait_for_status(client, twin, "succeeded", "failed", seconds=180)
    data = tmp_path / "disturbed"
    process = start_process(data, model)
    with TrainerServer(ready_url(process)).client() as client:
        job = create(client)
        folder = data / "jobs" / job
        wait_for(lambda: client.fine_tuning.jobs.checkpoints.list(job).data, bool, seconds=120)
        began = time.monotonic()
        assert client.fine_tuning.jobs.pause(job).status == "paused"
        assert time.monotonic() - began < 8
        paused_at = steps(client, job)
        newest = client.fine_tuning.jobs.checkpoints.list(job).data[0]
        assert newest.step_number == paused_at < 120
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
        wait_for(lambda: events(client, job), lambda told: "was killed" in told)
        wait_for(lambda: is_locked(folder), bool)
        process.kill()
        process.wait(10)
    close(process)
    with serve_in_process(data, model) as again, again.client() as client:
        done = wait_for_status(client, job, "succeeded", "failed", seconds=180)
        assert done.status == "succeeded"
        assert events(client, job).count("adapter saved") == 1
    assert adapter_bytes(folder) == adapter_bytes(tmp_path / "undisturbed" / "jobs" / twin)


def events(client: openai.OpenAI, job_id: str) -> str:
    return " / ".join(e.message for e in client.fine_tuning.jobs.list_events(job_id, limit=100))


def test_a_job_that_stopped_early_says_why_and_serves_its_best_checkpoint(served: TrainerServer) -> None:
    with served.client() as client:
        job = create(client, patience=1, eval_steps=5, learning_rate=0.05, n_epochs=50)
        done = wait_for_status(client, job, "succeeded", "failed", seconds=120)
        extra = done.model_extra or {}
        assert done.status == "succeeded"
        assert extra["stopped_early"].startswith(
            f"Stopped at step {extra['trained_steps']}/2000: 1 validation in"
        )
        assert extra["result_step"] == extra["trained_steps"] - 5
        asked = {"messages": QUESTION, "temperature": 0, "max_tokens": 8}
        best = f"{done.fine_tuned_model}:ckpt-step-{extra['result_step']}"
        answers = [
            client.chat.completions.create(model=name, **asked)
            for name in (best, done.fine_tuned_model or "")
        ]
        assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
