"""One training over two nodes of a real local Ray: it has the result of one process, also after kills."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.local.preferences import pairs
from tests.local.ray.ray_cluster import NODE_MARK, Cluster, python_with_ray, ray_cluster
from tests.local.ray.ray_trainer import (
    LONG,
    create,
    has_checkpoint,
    largest_difference,
    messages,
    ray_jobs,
    start_trainer,
    steps,
    trainer,
    training_processes,
)
from tests.local.trainer_server import (
    TrainerServer,
    close,
    examples,
    ready_url,
    upload,
    wait_for,
    wait_for_status,
)
from trainers.local.job_directory import read_json
from trainers.local.ray.head import RayHead

pytestmark = pytest.mark.slow
SECOND = "127.0.0.2"
WITH_GPUS = ("127.0.0.3", "127.0.0.4")
SHORT: dict[str, Any] = {"n_epochs": 2, "batch_size": 4}
START_S, END_S = 120, 240  # two processes that each load torch, on a busy machine
LONGER = {**LONG, "batch_size": 2, "n_epochs": 40}  # of 40 rows: 800 steps with a row for each process


@dataclass(frozen=True)
class SingleProcess:
    """A job with SHORT that one process has trained: its folder, and an answer of its model."""

    folder: Path
    answer: str | None


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster() as cluster:
        cluster.add_node(SECOND)
        yield cluster


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "trainer"


@pytest.fixture
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options of a trainer whose jobs take two nodes."""
    python = python_with_ray(tmp_path_factory.mktemp("python"))
    return ("--nodes-per-job", "2", "--ray-python", str(python))


def kill_process(job_id: str, rank: int) -> None:
    for number in training_processes(job_id):
        if f"RANK={rank}".encode() in Path(f"/proc/{number}/environ").read_bytes().split(b"\0"):
            return os.kill(number, signal.SIGKILL)
    raise AssertionError(f"no process of rank {rank}")


def statuses(cluster: Cluster, job_id: str) -> list[str]:
    """Of all its Ray jobs, once they have ended, some seconds after the job."""
    ended = wait_for(lambda: ray_jobs(cluster, job_id), lambda jobs: all(job["end_time"] for job in jobs))
    return sorted(each["status"] for each in ended)


def losses(folder: Path) -> list[float]:
    return [float(line.split(",")[1]) for line in (folder / "results.csv").read_text().splitlines()[1:]]


def answer(client: openai.OpenAI, model: str | None) -> str | None:
    chat: Any = [{"role": "user", "content": "Ticket 3"}]
    completion = client.chat.completions.create(model=model or "", messages=chat, max_tokens=8, temperature=0)
    return completion.choices[0].message.content


@pytest.fixture(scope="module")
def single(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> SingleProcess:
    root = tmp_path_factory.mktemp("single")
    with trainer(root, cluster, tiny_model_dir) as (client, _):
        job_id = create(client, **SHORT)
        job = wait_for_status(client, job_id, "succeeded", "failed", seconds=END_S)
        assert job.status == "succeeded", job.error
        return SingleProcess(root / "jobs" / job_id, answer(client, job.fine_tuned_model))


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_nodes_train_the_same_adapter_as_one(
    sharding: str,
    single: SingleProcess,
    cluster: Cluster,
    data: Path,
    tiny_model_dir: Path,
    two: tuple[str, ...],
) -> None:
    with trainer(data, cluster, tiny_model_dir, *two) as (client, _):
        job_id = create(client, **SHORT, sharding=sharding)
        job = wait_for_status(client, job_id, "succeeded", "failed", seconds=END_S)
        assert job.status == "succeeded", job.error
        log = messages(client, job_id)
        assert answer(client, job.fine_tuned_model) == single.answer
    how = "dividing the base among them" if sharding == "fsdp" else "each with the whole base"
    assert f"2 processes share each batch, {how}" in log
    assert len([message for message in log if "adapter saved" in message]) == 1
    assert statuses(cluster, job_id) == ["SUCCEEDED"]
    assert largest_difference(single.folder, data / "jobs" / job_id) < 1e-4
    assert losses(data / "jobs" / job_id) == pytest.approx(losses(single.folder), abs=1e-4)


def create_sweep(client: openai.OpenAI) -> str:
    hyperparameters = {**SHORT, "sweep": {"lora_r": [2, 4], "learning_rate": [0.001, 0.01]}}
    rows, held_out = upload(client, examples(40)), upload(client, examples(12))
    return client.fine_tuning.jobs.create(
        model="tiny",
        training_file=rows,
        validation_file=held_out,
        seed=7,
        extra_body={"hyperparameters": hyperparameters},
    ).id


def create_pairs(client: openai.OpenAI) -> str:
    method: Any = {"type": "dpo", "dpo": {"hyperparameters": {**SHORT, "beta": 0.1}}}
    rows, held_out = upload(client, pairs(21)), upload(client, pairs(10, 100))
    return client.fine_tuning.jobs.create(
        model="tiny", training_file=rows, validation_file=held_out, seed=7, method=method
    ).id


@pytest.mark.parametrize("create_job", [create_sweep, create_pairs])
def test_two_nodes_train_sweeps_and_pairs_as_one_does(
    create_job: Callable[[openai.OpenAI], str],
    cluster: Cluster,
    data: Path,
    tiny_model_dir: Path,
    two: tuple[str, ...],
) -> None:
    folders = []
    for name, more in (("one", ()), ("two", two)):
        with trainer(data / name, cluster, tiny_model_dir, *more) as (client, _):
            job_id = create_job(client)
            job = wait_for_status(client, job_id, "succeeded", "failed", seconds=END_S)
            assert job.status == "succeeded", job.error
        folders.append(data / name / "jobs" / job_id)
    single_done, done = ({**(read_json(folder / "DONE") or {}), "seconds": 0} for folder in folders)
    assert single_done == done
    assert largest_difference(*folders) < 1e-4


def test_each_node_gets_its_gpus_and_the_base_is_divided_among_all(
    single: SingleProcess, cluster: Cluster, data: Path, tiny_model_dir: Path, two: tuple[str, ...]
) -> None:
    for address in WITH_GPUS:
        cluster.add_node(address, gpus=2)
    try:
        with trainer(data, cluster, tiny_model_dir, *two, "--gpus-per-job", "4") as (client, _):
            job_id = create(client, **SHORT, sharding="fsdp")
            wait_for(lambda: len(training_processes(job_id)), lambda count: count == 4, seconds=START_S)
            there = set(training_processes(job_id))
            for address in WITH_GPUS:
                assert len(there & set(cluster.processes({NODE_MARK: address}))) == 2
            job = wait_for_status(client, job_id, "succeeded", "failed", seconds=END_S)
            assert job.status == "succeeded", job.error
            assert "4 processes share each batch, dividing the base among them" in messages(client, job_id)
    finally:
        for address in WITH_GPUS:
            cluster.kill_node(address)
    assert largest_difference(single.folder, data / "jobs" / job_id) < 1e-4


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_the_job_resumes_from_its_checkpoint(
    rank: int, cluster: Cluster, data: Path, tiny_model_dir: Path, two: tuple[str, ...]
) -> None:
    with trainer(data, cluster, tiny_model_dir, *two) as (client, _):
        job_id = create(client, **LONGER)
        wait_for(lambda: has_checkpoint(client, job_id), bool, seconds=START_S)
        kill_process(job_id, rank)
        job = wait_for_status(client, job_id, "succeeded", "failed", seconds=END_S)
        assert job.status == "succeeded", job.error
        log = messages(client, job_id)
    why = "The training process was killed, perhaps because the machine ran out of memory. It starts again"
    assert len([message for message in log if message.startswith(why)]) == 1
    assert any(message.startswith("Resuming from the checkpoint of step ") for message in log)
    assert len([message for message in log if "adapter saved" in message]) == 1
    assert statuses(cluster, job_id) == ["FAILED", "SUCCEEDED"]


def test_a_job_is_paused_resumed_and_cancelled(
    cluster: Cluster, data: Path, tiny_model_dir: Path, two: tuple[str, ...]
) -> None:
    with trainer(data, cluster, tiny_model_dir, *two) as (client, _):
        job_id = create(client, **LONGER)
        wait_for(lambda: steps(client, job_id), lambda done: done > 0, seconds=START_S)
        assert len(training_processes(job_id)) == 2
        assert client.fine_tuning.jobs.pause(job_id).status == "paused"
        assert has_checkpoint(client, job_id)
        wait_for(lambda: training_processes(job_id), lambda processes: not processes, seconds=10)
        client.fine_tuning.jobs.resume(job_id)
        wait_for(
            lambda: messages(client, job_id),
            lambda log: any("Resuming from" in message for message in log),
            seconds=START_S,
        )
        assert client.fine_tuning.jobs.cancel(job_id).status == "cancelled"
        wait_for(lambda: training_processes(job_id), lambda processes: not processes, seconds=10)
        assert client.fine_tuning.jobs.retrieve(job_id).status == "cancelled"


def test_a_killed_trainer_resumes_following_its_job(
    cluster: Cluster, data: Path, tiny_model_dir: Path, two: tuple[str, ...]
) -> None:
    process = start_trainer(data, cluster, tiny_model_dir, *two)
    with TrainerServer(ready_url(process), process).client() as client:
        job_id = create(client, **LONGER)
        wait_for(lambda: steps(client, job_id), lambda done: done > 0, seconds=START_S)
    process.kill()
    process.wait(10)
    close(process)
    time.sleep(4)  # the attempt goes on meanwhile
    with trainer(data, cluster, tiny_model_dir, *two) as (client, _):
        job = wait_for_status(client, job_id, "succeeded", "failed", seconds=END_S)
        assert job.status == "succeeded", job.error
        log = messages(client, job_id)
    assert statuses(cluster, job_id) == ["SUCCEEDED"]
    assert len([message for message in log if "adapter saved" in message]) == 1
    assert not any("again" in message for message in log)


def test_a_job_whose_node_is_lost_is_queued_until_there_is_another(
    cluster: Cluster, data: Path, tiny_model_dir: Path, two: tuple[str, ...]
) -> None:
    with trainer(data, cluster, tiny_model_dir, *two) as (client, _):
        job_id = create(client, **LONGER)
        wait_for(lambda: has_checkpoint(client, job_id), bool, seconds=START_S)
        cluster.kill_node(SECOND)
        head = RayHead(cluster.address)
        wait_for(lambda: head.nodes_with(0), lambda count: count == 1, seconds=END_S)
        head.close()
        wait_for_status(client, job_id, "queued", seconds=END_S)
        with pytest.raises(openai.BadRequestError, match=r"trains each job on 2 nodes .* has 1"):
            create(client)
        lacking = "The job needs 2 machines with a CPU each, and the Ray cluster has 1."
        wait_for(
            lambda: messages(client, job_id)[-1], lambda message: message.startswith(lacking), seconds=END_S
        )
        cluster.add_node(SECOND)
        job = wait_for_status(client, job_id, "succeeded", "failed", seconds=END_S)
        assert job.status == "succeeded", job.error
        assert any(
            each.startswith("Resuming from the checkpoint of step ") for each in messages(client, job_id)
        )


def test_a_data_folder_that_all_nodes_can_access_is_the_storage(
    cluster: Cluster, data: Path, tiny_model_dir: Path, two: tuple[str, ...]
) -> None:
    with trainer(data, cluster, tiny_model_dir, *two, "--storage", str(data)) as (client, _):
        job_id = create(client, n_epochs=1)
        job = wait_for_status(client, job_id, "succeeded", "failed", seconds=END_S)
        assert job.status == "succeeded", job.error


def test_a_job_fails_if_the_nodes_python_lacks_ray(
    cluster: Cluster, data: Path, tiny_model_dir: Path
) -> None:
    with trainer(data, cluster, tiny_model_dir, "--nodes-per-job", "2") as (client, _):
        job = wait_for_status(client, create(client), "failed", seconds=END_S)
        assert job.error is not None
        assert "A job over 2 nodes needs Ray in the nodes' Python" in str(job.error.message)
