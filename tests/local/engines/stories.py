"""What a job goes through with an engine that is really installed, over HTTP with the openai client."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import torch
from openai.types.fine_tuning import FineTuningJob
from peft import PeftModel

from tests.local.trainer_server import examples, serve_in_process, upload, wait_for, wait_for_status
from trainers.local.job_directory import read_json
from trainers.local.training.base_model import load_model, silence_peft_warning
from trainers.methods import Quantization

QUESTION: list[Any] = [
    {"role": "system", "content": "Sort this support ticket."},
    {"role": "user", "content": "Ticket 4: my card was charged for the parcel."},
]
LABELS = ("billing", "shipping", "login")
PLAN = {"n_epochs": 5, "batch_size": 4, "learning_rate": 0.02, "lora_r": 8, "lora_dropout": 0.0}
CEILING_S = 150
PATIENCE_S = 540  # an engine takes 20 to 120 s to load, depending on how busy two cores are


@contextmanager
def start_trainer(data: Path, engines: Path, model: Path) -> Iterator[openai.OpenAI]:
    """Starts a trainer with its own data folder and the engines of another."""
    data.mkdir(exist_ok=True)
    if not (data / "engines").exists():
        (data / "engines").symlink_to(engines)
    with serve_in_process(data, f"local/tiny={model}") as served, served.client() as client:
        yield client


def start(client: openai.OpenAI, engine: str, *, rows: int = 24, **changed: object) -> FineTuningJob:
    return client.fine_tuning.jobs.create(
        model="local/tiny",
        training_file=upload(client, examples(rows)),
        validation_file=upload(client, examples(6), "valid.jsonl"),
        extra_body={"hyperparameters": {**PLAN, "engine": engine, **changed}},
        seed=3,
    )


def finish(client: openai.OpenAI, job: FineTuningJob) -> FineTuningJob:
    ended = wait_for_status(client, job.id, "succeeded", "failed", "cancelled", seconds=PATIENCE_S)
    assert ended.status == "succeeded", ended.error
    return ended


def answer(client: openai.OpenAI, model: str | None) -> str:
    reply = client.chat.completions.create(model=model or "", messages=QUESTION, temperature=0, max_tokens=8)
    return reply.choices[0].message.content or ""


def results(client: openai.OpenAI, job: FineTuningJob) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(client.files.content(job.result_files[0]).text)))


def event_log(client: openai.OpenAI, job: FineTuningJob) -> str:
    return "\n".join(event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100))


def read_done(data: Path, job: FineTuningJob) -> dict[str, Any]:
    done = read_json(data / "jobs" / job.id / "DONE")
    assert done is not None
    return done


def engine_pid(data: Path, job: FineTuningJob) -> int:
    return int((data / "jobs" / job.id / "engine" / "pid").read_text())


def is_gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def check_same_plan_as_builtin(client: openai.OpenAI, engine: str) -> FineTuningJob:
    """Both engines learn the same: their first training loss, last validation loss and kind of answers agree."""
    own, other = finish(client, start(client, "builtin")), finish(client, start(client, engine))
    ours, theirs = results(client, own), results(client, other)
    assert [row["step"] for row in theirs] == [row["step"] for row in ours]
    first, last = [float(row["train_loss"]) for row in (theirs[0], ours[0])], theirs[-1]["valid_loss"]
    assert abs(first[0] - first[1]) < 0.6  # only the order of rows differs
    assert abs(float(last) - float(ours[-1]["valid_loss"])) < 0.25
    assert answer(client, other.fine_tuned_model).startswith(LABELS)
    assert other.trained_tokens == own.trained_tokens
    return other


def check_resume_after_kill(client: openai.OpenAI, data: Path, engine: str) -> None:
    """Kills the driver with SIGKILL, and the process that trains with it."""
    job = start(client, engine, n_epochs=8, batch_size=1)
    wait_for(lambda: client.fine_tuning.jobs.checkpoints.list(job.id).data, bool, seconds=PATIENCE_S)
    engines_process, driver = engine_pid(data, job), int((data / "jobs" / job.id / "pid").read_text())
    os.kill(driver, signal.SIGKILL)
    ended = finish(client, job)
    assert is_gone(engines_process)
    assert "It starts again from its last checkpoint." in event_log(client, job)
    assert "Resuming from the checkpoint of step" in event_log(client, job)
    assert [int(row["step"]) for row in results(client, ended)] == list(range(1, 193))


def check_cancel_leaves_no_process(client: openai.OpenAI, data: Path, engine: str) -> None:
    job = start(client, engine, n_epochs=50, batch_size=1)
    wait_for(lambda: (data / "jobs" / job.id / "engine" / "pid").exists(), bool, seconds=PATIENCE_S)
    pid = engine_pid(data, job)
    began = time.monotonic()
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert time.monotonic() - began < 10
    assert is_gone(pid)


def check_quantized_training(
    client: openai.OpenAI, data: Path, model: Path, engine: str, kind: Quantization
) -> None:
    """The engine's last validation loss is that of its adapter on our server's base in the same quantization."""
    job = finish(client, start(client, engine, quantization=kind))
    folder, rows = data / "jobs" / job.id, results(client, job)
    assert (
        f"The base's layers under LoRA: 14, quantization {kind}"
        in (folder / "engine" / "log.txt").read_text()
    )
    assert f"on cpu in fp32, the base in {kind}" in event_log(client, job)
    our_loss = validation_loss(folder, model, kind)
    assert abs(our_loss - float(rows[-1]["valid_loss"])) < 0.05  # engines weigh rows, not tokens
    assert our_loss < 3 < validation_loss(folder, model, kind, with_adapter=False)
    assert answer(client, job.fine_tuned_model).startswith(LABELS)


def validation_loss(folder: Path, model: Path, kind: Quantization, *, with_adapter: bool = True) -> float:
    """Returns the tuned model's loss on the job's validation rows, in nats per learned token."""
    tuned = load_model(str(model), torch.device("cpu"), torch.float32, kind)
    with silence_peft_warning():
        tuned = PeftModel.from_pretrained(tuned, folder / "adapter") if with_adapter else tuned
    total, tokens = 0.0, 0
    for line in (folder / "engine" / "rows" / "valid.jsonl").read_text().splitlines():
        row = json.loads(line)
        labels = torch.tensor(row["labels"][1:])
        with torch.no_grad():
            logits = tuned(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        tokens += int((labels != -100).sum())
    return total / tokens


def check_ceiling(client: openai.OpenAI, data: Path, engine: str) -> None:
    job = finish(client, start(client, engine, rows=480, n_epochs=50, batch_size=1, max_seconds=CEILING_S))
    ended = read_done(data, job)
    assert ended["step"] < 24_000
    assert ended["seconds"] <= CEILING_S
    assert f"Stopped at step {ended['step']}/24000: the ceiling of {CEILING_S} s leaves no time" in event_log(
        client, job
    )
    assert results(client, job)[-1]["valid_loss"]  # it was validated where it stopped
    assert answer(client, job.fine_tuned_model).startswith(LABELS)


def check_lost_patience(client: openai.OpenAI, data: Path, engine: str) -> None:
    """Validations come every 4 steps and after each epoch of 6 steps."""
    job = finish(client, start(client, engine, n_epochs=50, eval_steps=4, patience=1))
    ended, rows = read_done(data, job), results(client, job)
    losses = {int(row["step"]): float(row["valid_loss"]) for row in rows if row["valid_loss"]}
    assert list(losses) == [step for step in range(1, ended["step"] + 1) if step % 4 == 0 or step % 6 == 0]
    assert ended["result_step"] == min(losses, key=lambda step: losses[step])
    assert ended["result_step"] < ended["step"] < 300
    assert "1 validation in a row had no lower loss" in ended["stopped"]
