"""What a job goes through with an engine that is really installed, told over HTTP with the openai client."""

from __future__ import annotations

import csv
import io
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
from openai.types.fine_tuning import FineTuningJob

from tests.local.served import examples, served_process, upload, wait_for, wait_for_status

QUESTION: list[Any] = [
    {"role": "system", "content": "Sort this support ticket."},
    {"role": "user", "content": "Ticket 4: my card was charged for the parcel."},
]
LABELS = ("billing", "shipping", "login")
PLAN = {"n_epochs": 5, "batch_size": 4, "learning_rate": 0.02, "lora_r": 8, "lora_dropout": 0.0}
PATIENCE_S = 540  # an engine needs 20 to 120 s to load, by how busy two cores are


@contextmanager
def trainer_with(data: Path, engines: Path, model: Path) -> Iterator[openai.OpenAI]:
    """A trainer with its own data folder, and the engines of another."""
    data.mkdir(exist_ok=True)
    if not (data / "engines").exists():
        (data / "engines").symlink_to(engines)
    with served_process(data, f"local/tiny={model}") as served, served.client() as client:
        yield client


def start(client: openai.OpenAI, engine: str, **changed: object) -> FineTuningJob:
    return client.fine_tuning.jobs.create(
        model="local/tiny",
        training_file=upload(client, examples(24)),
        validation_file=upload(client, examples(6), "valid.jsonl"),
        extra_body={"hyperparameters": {**PLAN, "engine": engine, **changed}},
        seed=3,
    )


def finish(client: openai.OpenAI, job: FineTuningJob) -> FineTuningJob:
    ended = wait_for_status(client, job.id, "succeeded", "failed", "cancelled", seconds=PATIENCE_S)
    assert ended.status == "succeeded", ended.error
    return ended


def answer(client: openai.OpenAI, model: str | None) -> str:
    said = client.chat.completions.create(model=model or "", messages=QUESTION, temperature=0, max_tokens=8)
    return said.choices[0].message.content or ""


def results(client: openai.OpenAI, job: FineTuningJob) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(client.files.content(job.result_files[0]).text)))


def said(client: openai.OpenAI, job: FineTuningJob) -> str:
    return "\n".join(event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100))


def engine_pid(data: Path, job: FineTuningJob) -> int:
    return int((data / "jobs" / job.id / "engine" / "pid").read_text())


def is_gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def same_plan_as_builtin(client: openai.OpenAI, engine: str) -> FineTuningJob:
    """Both learn the same: the loss before any learning, the validation loss afterwards, the answers' kind."""
    own, other = finish(client, start(client, "builtin")), finish(client, start(client, engine))
    ours, theirs = results(client, own), results(client, other)
    assert [row["step"] for row in theirs] == [row["step"] for row in ours]
    first, last = [float(row["train_loss"]) for row in (theirs[0], ours[0])], theirs[-1]["valid_loss"]
    assert abs(first[0] - first[1]) < 0.6  # other rows come first, no more
    assert abs(float(last) - float(ours[-1]["valid_loss"])) < 0.25
    assert answer(client, other.fine_tuned_model).startswith(LABELS)
    assert other.trained_tokens == own.trained_tokens
    return other


def a_kill_goes_on_from_the_checkpoint(client: openai.OpenAI, data: Path, engine: str) -> None:
    """The process that trains and the one that drives it, both with SIGKILL."""
    job = start(client, engine, n_epochs=8, batch_size=1)
    wait_for(lambda: client.fine_tuning.jobs.checkpoints.list(job.id).data, bool, seconds=PATIENCE_S)
    engines_process, driver = engine_pid(data, job), int((data / "jobs" / job.id / "pid").read_text())
    os.kill(driver, signal.SIGKILL)
    ended = finish(client, job)
    assert is_gone(engines_process)
    assert "It starts again from its last checkpoint." in said(client, job)
    assert "Going on from the checkpoint of step" in said(client, job)
    assert [int(row["step"]) for row in results(client, ended)] == list(range(1, 193))


def a_cancelled_job_leaves_no_process(client: openai.OpenAI, data: Path, engine: str) -> None:
    job = start(client, engine, n_epochs=50, batch_size=1)
    wait_for(lambda: (data / "jobs" / job.id / "engine" / "pid").exists(), bool, seconds=PATIENCE_S)
    pid = engine_pid(data, job)
    began = time.monotonic()
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert time.monotonic() - began < 10
    assert is_gone(pid)
