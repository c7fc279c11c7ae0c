"""A sweep through the openai package alone: paused, resumed, and killed with its trainer."""

from __future__ import annotations

import csv
import os
import signal
import time
from pathlib import Path
from typing import Any

import openai
import pytest

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
from trainers.local.jobs.job_queue import steps_in_checkpoints

pytestmark = pytest.mark.slow
SWEEP = {"lora_r": [2, 4], "learning_rate": [2e-3, 1e-2]}
COURSE = 200


def create(client: openai.OpenAI, **hyperparameters: Any) -> Any:
    return client.fine_tuning.jobs.create(
        model="local/tiny",
        training_file=upload(client, examples(40)),
        validation_file=upload(client, examples(6), "valid.jsonl"),
        seed=3,
        extra_body={"hyperparameters": {"n_epochs": 5, "batch_size": 1, "sweep": SWEEP} | hyperparameters},
    )


def steps(client: openai.OpenAI, job_id: str) -> int:
    return int((client.fine_tuning.jobs.retrieve(job_id).model_extra or {}).get("trained_steps") or 0)


def test_a_sweep_that_was_paused_and_killed_with_its_trainer_ends(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    model = f"local/tiny={tiny_model_dir}"
    process = start_process(tmp_path, model)
    with TrainerServer(ready_url(process)).client() as client:
        job = create(client)
        shown = job.hyperparameters.model_extra or {}
        assert shown["sweep"] == SWEEP
        assert not {"lora_r", "lora_alpha", "learning_rate"} & shown.keys()
        folder = tmp_path / "jobs" / job.id
        wait_for(lambda: steps(client, job.id), lambda done: done > 60, seconds=120)
        began = time.monotonic()
        assert client.fine_tuning.jobs.pause(job.id).status == "paused"
        assert time.monotonic() - began < 8
        paused_at = steps(client, job.id)
        assert paused_at == steps_in_checkpoints(folder) > 60
        client.fine_tuning.jobs.resume(job.id)
        running = wait_for(
            lambda: client.fine_tuning.jobs.retrieve(job.id),
            lambda job: int((job.model_extra or {})["trained_steps"]) > paused_at,
            seconds=120,
        )
        assert (running.model_extra or {})["total_steps"] == 2 * COURSE
        assert 0 <= (running.estimated_finish or 0) - time.time() < 300
        os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
        wait_for(lambda: events(client, job.id), lambda log: "was killed" in log)
        wait_for(lambda: is_locked(folder), bool)
        process.kill()
        process.wait(10)
    close(process)
    with serve_in_process(tmp_path, model) as again, again.client() as client:
        done = wait_for_status(client, job.id, "succeeded", "failed", seconds=180)
        assert done.status == "succeeded", done.error
        check_done(client, done)


def check_done(client: openai.OpenAI, done: Any) -> None:
    extra, shown = done.model_extra or {}, done.hyperparameters.model_extra or {}
    assert extra["trained_steps"] == extra["total_steps"] == 2 * COURSE
    names = [client.files.retrieve(file).filename for file in done.result_files]
    assert names == ["step_metrics.csv", "sweep.csv"]
    metrics, table = (client.files.content(file).text for file in done.result_files)
    assert metrics.count("\n") == COURSE + 1
    (won,) = [row for row in csv.DictReader(table.splitlines()) if row["outcome"] == "won"]
    assert (str(shown["lora_r"]), str(shown["learning_rate"])) == (won["lora_r"], won["learning_rate"])
    assert shown["sweep"] == SWEEP
    assert extra["result_step"] == int(won["best_step"])
    newest = client.fine_tuning.jobs.checkpoints.list(done.id).data[0]
    assert newest.step_number == COURSE
    assert newest.metrics.valid_loss == pytest.approx(float(last_validation(metrics)), rel=1e-3)
    question: list[Any] = [{"role": "user", "content": "Ticket 4: my card was charged for the parcel."}]
    for name in (done.fine_tuned_model, newest.fine_tuned_model_checkpoint):
        answer = client.chat.completions.create(model=name, messages=question, temperature=0, max_tokens=4)
        assert answer.choices[0].message.content


def last_validation(metrics: str) -> str:
    return [row["valid_loss"] for row in csv.DictReader(metrics.splitlines()) if row["valid_loss"]][-1]


def events(client: openai.OpenAI, job_id: str) -> str:
    return " / ".join(e.message for e in client.fine_tuning.jobs.list_events(job_id, limit=100))


def test_a_cancelled_sweep_ends_within_seconds_and_keeps_its_table(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    with serve_in_process(tmp_path, f"local/tiny={tiny_model_dir}") as served, served.client() as client:
        job = create(client, n_epochs=50)
        wait_for(lambda: steps(client, job.id), lambda done: done > 20, seconds=120)
        began = time.monotonic()
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
        assert time.monotonic() - began < 8
        files = client.fine_tuning.jobs.retrieve(job.id).result_files
        assert [client.files.retrieve(file).filename for file in files] == ["sweep.csv"]
