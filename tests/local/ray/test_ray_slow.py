"""Jobs on a real local Ray: trained, paused, cancelled, and resumed after kills. Needs Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local.ray.ray_cluster import Cluster, ray_cluster
from tests.local.ray.ray_trainer import (
    LONG,
    create,
    has_checkpoint,
    kill_training,
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

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster() as cluster:
        yield cluster


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "trainer"


def test_a_job_is_trained_on_the_cluster_and_its_model_answers_here(
    cluster: Cluster, data: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trainer(data, cluster, tiny_model_dir) as (client, _):
        job_id = create(client, n_epochs=2)
        job = wait_for_status(client, job_id, "succeeded", "failed", seconds=90)
        assert job.status == "succeeded", job.error
        assert job.fine_tuned_model is not None
        log = messages(client, job_id)
        assert log[0] == f"Created fine-tuning job: {job_id}"
        assert len(log) == len(set(log))
        answer = client.chat.completions.create(
            model=job.fine_tuned_model, messages=[{"role": "user", "content": "Ticket 3"}], max_tokens=3
        )
        assert answer.choices[0].message.role == "assistant"
    assert [each["status"] for each in ray_jobs(cluster, job_id)] == ["SUCCEEDED"]
    assert str(tiny_model_dir) in (data / "jobs" / job_id / "adapter" / "adapter_config.json").read_text()


def test_a_killed_trainer_resumes_following_its_job(
    cluster: Cluster, data: Path, tiny_model_dir: Path
) -> None:
    process = start_trainer(data, cluster, tiny_model_dir)
    with TrainerServer(ready_url(process), process).client() as client:
        job_id = create(client, **LONG)
        wait_for(lambda: steps(client, job_id), lambda done: done > 0)
    process.kill()
    process.wait(10)
    close(process)
    time.sleep(4)  # the attempt continues meanwhile
    with trainer(data, cluster, tiny_model_dir) as (client, _):
        assert client.fine_tuning.jobs.retrieve(job_id).status in ("queued", "running")
        job = wait_for_status(client, job_id, "succeeded", "failed", seconds=120)
        assert job.status == "succeeded", job.error
        log = messages(client, job_id)
    assert [each["status"] for each in ray_jobs(cluster, job_id)] == ["SUCCEEDED"]
    assert len([message for message in log if "adapter saved" in message]) == 1
    assert not any("again" in message for message in log)


def test_a_crashed_job_resumes_from_its_last_checkpoint(
    cluster: Cluster, data: Path, tiny_model_dir: Path
) -> None:
    with trainer(data, cluster, tiny_model_dir) as (client, _):
        job_id = create(client, **LONG)
        wait_for(lambda: has_checkpoint(client, job_id), bool)
        kill_training(job_id)
        job = wait_for_status(client, job_id, "succeeded", "failed", seconds=120)
        assert job.status == "succeeded", job.error
        log = messages(client, job_id)
    why = "The training process was killed, perhaps because the machine ran out of memory. It starts again"
    assert any(message.startswith(why) for message in log)
    assert any(message.startswith("Resuming from the checkpoint of step ") for message in log)
    assert sorted(each["status"] for each in ray_jobs(cluster, job_id)) == ["FAILED", "SUCCEEDED"]


def test_a_job_is_paused_resumed_and_cancelled(cluster: Cluster, data: Path, tiny_model_dir: Path) -> None:
    with trainer(data, cluster, tiny_model_dir) as (client, _):
        job_id = create(client, **LONG)
        wait_for(lambda: steps(client, job_id), lambda done: done > 0)
        assert client.fine_tuning.jobs.pause(job_id).status == "paused"
        assert has_checkpoint(client, job_id)
        client.fine_tuning.jobs.resume(job_id)
        wait_for(
            lambda: messages(client, job_id), lambda log: any("Resuming from" in message for message in log)
        )
        assert client.fine_tuning.jobs.cancel(job_id).status == "cancelled"
        wait_for(lambda: training_processes(job_id), lambda processes: not processes, seconds=10)
        assert client.fine_tuning.jobs.retrieve(job_id).status == "cancelled"


def test_a_sweep_trained_on_the_cluster_has_its_table_and_winner(
    cluster: Cluster, data: Path, tiny_model_dir: Path
) -> None:
    with trainer(data, cluster, tiny_model_dir) as (client, _):
        sweep = {"n_epochs": 2, "sweep": {"lora_r": [4, 8]}}
        job = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=upload(client, examples(40)),
            validation_file=upload(client, examples(20)),
            extra_body={"hyperparameters": sweep},
        )
        done = wait_for_status(client, job.id, "succeeded", "failed", seconds=90)
        assert done.status == "succeeded", done.error
        assert [name.split("-")[1] for name in done.result_files] == ["results", "sweep"]
        assert client.fine_tuning.jobs.checkpoints.list(job.id).data


def test_a_job_waiting_for_gpus_is_queued_and_can_be_cancelled(
    cluster: Cluster, data: Path, tiny_model_dir: Path
) -> None:
    with trainer(data, cluster, tiny_model_dir, "--gpus-per-job", "1") as (client, _):
        job_id = create(client)
        wait_for(lambda: ray_jobs(cluster, job_id), bool)
        lacking = "The job needs a machine with a GPU, and the Ray cluster has none."
        wait_for(
            lambda: messages(client, job_id)[-1], lambda message: message.startswith(lacking), seconds=60
        )
        assert client.fine_tuning.jobs.retrieve(job_id).status == "queued"
        assert client.fine_tuning.jobs.cancel(job_id).status == "cancelled"


def test_a_data_folder_that_all_nodes_can_access_is_the_storage(
    cluster: Cluster, data: Path, tiny_model_dir: Path
) -> None:
    with trainer(data, cluster, tiny_model_dir, "--storage", str(data)) as (client, _):
        job_id = create(client, n_epochs=1)
        job = wait_for_status(client, job_id, "succeeded", "failed", seconds=90)
        assert job.status == "succeeded", job.error
        second = create(client, **LONG)
        wait_for(lambda: steps(client, second), lambda done: done > 0)
        assert client.fine_tuning.jobs.cancel(second).status == "cancelled"


def test_a_job_survives_its_cluster_and_is_submitted_to_the_new_head(
    cluster: Cluster, data: Path, tiny_model_dir: Path
) -> None:
    with trainer(data, cluster, tiny_model_dir) as (client, _):
        job_id = create(client, **LONG)
        wait_for(lambda: has_checkpoint(client, job_id), bool)
        cluster.kill()
        wait_for(lambda: messages(client, job_id)[-1], lambda message: "has not answered since" in message)
        assert client.fine_tuning.jobs.retrieve(job_id).status == "running"
        cluster.start()
        job = wait_for_status(client, job_id, "succeeded", "failed", seconds=180)
        assert job.status == "succeeded", job.error
        log = messages(client, job_id)
    assert any("answers again after" in message for message in log)
    assert any("was lost: the Ray cluster no longer knows it" in message for message in log)
    assert any(message.startswith("Resuming from the checkpoint of step ") for message in log)
    assert len([message for message in log if "adapter saved" in message]) == 1
