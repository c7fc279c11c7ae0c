"""Trainers whose jobs run on a real Ray, and helpers to create, observe and kill those jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
from safetensors.torch import load_file

from tests.local.ray.ray_cluster import Cluster
from tests.local.trainer_server import KEY, ROOT, TrainerServer, close, examples, ready_url, upload
from tests.peers.s3 import KEYS

LONG = {"n_epochs": 25, "batch_size": 1, "learning_rate": 0.001}  # of 40 rows: 1,000 steps, about 20 s


@contextmanager
def trainer(
    data: Path, cluster: Cluster, model: Path, *options: str
) -> Iterator[tuple[openai.OpenAI, subprocess.Popen[str]]]:
    """Its storage is the folder `storage` beside `data`, unless `options` name another."""
    process = start_trainer(data, cluster, model, *options)
    try:
        with TrainerServer(ready_url(process), process).client() as client:
            yield client, process
    finally:
        process.terminate()
        process.wait(30)
        close(process)


def start_trainer(data: Path, cluster: Cluster, model: Path, *options: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        **KEYS,
        "FINETUNE_TRAINER_KEY": KEY,
        "FINETUNE_DTYPE": "fp32",
        "OMP_NUM_THREADS": "1",
    }
    arguments = ["--port", "0", "--data", str(data), f"--model=tiny={model}", "--executor", "ray"]
    arguments += ["--ray-address", cluster.address, "--ray-python", sys.executable, "--gpus-per-job", "0"]
    if "--storage" not in options:
        arguments += ["--storage", f"file://{data.with_name('storage')}"]
    return subprocess.Popen(
        [sys.executable, "-m", "trainers.local", *arguments, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def create(client: openai.OpenAI, **hyperparameters: Any) -> str:
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=upload(client, examples(40)),
        seed=7,
        extra_body={"hyperparameters": hyperparameters},
    )
    return job.id


def messages(client: openai.OpenAI, job_id: str) -> list[str]:
    """Oldest first."""
    return [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=100)][::-1]


def steps(client: openai.OpenAI, job_id: str) -> int:
    return int((client.fine_tuning.jobs.retrieve(job_id).model_extra or {}).get("trained_steps") or 0)


def has_checkpoint(client: openai.OpenAI, job_id: str) -> bool:
    return bool(client.fine_tuning.jobs.checkpoints.list(job_id).data)


def ray_jobs(cluster: Cluster, job_id: str) -> list[dict[str, Any]]:
    jobs = httpx2.get(f"{cluster.address}/api/jobs/").json()
    return [job for job in jobs if str(job["submission_id"]).startswith(job_id)]


def training_processes(job_id: str) -> list[int]:
    """Of `python -m trainers.local.train …/JOB_ID`."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"trainers.local.train" in words and any(word.endswith(job_id.encode()) for word in words):
            processes.append(int(path.parent.name))
    return processes


def largest_difference(folder: Path, other: Path) -> float:
    """The largest difference of a number between the adapters of two jobs' folders."""
    first, second = (load_file(each / "adapter" / "adapter_model.safetensors") for each in (folder, other))
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def kill_training(job_id: str) -> None:
    (process,) = training_processes(job_id)
    os.kill(process, signal.SIGKILL)
