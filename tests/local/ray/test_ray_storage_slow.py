"""Jobs on a real local Ray whose S3 storage answers late, with 500, or not at all: each ends once, with the adapter of
an undisturbed run. Needs Ray and moto."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local.ray.ray_cluster import Cluster, python_with_ray, ray_cluster
from tests.local.ray.ray_trainer import (
    LONG,
    create,
    has_checkpoint,
    kill_training,
    largest_difference,
    messages,
    ray_jobs,
    trainer,
)
from tests.local.trainer_server import wait_for, wait_for_status
from tests.peers.s3 import KEYS, faulty_proxy, s3_server, s3_url
from trainers.local.ray.job_files import STORED_MARK
from trainers.local.ray.storage import Storage, StorageAway

pytestmark = pytest.mark.slow
SECOND = "127.0.0.2"
START_S, END_S = 300, 500  # on a busy machine
LONGER = {**LONG, "n_epochs": 40}


@pytest.fixture(scope="module")
def s3() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster() as cluster:
        cluster.add_node(SECOND)
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """The folder of a job whose storage was the trainer's data folder."""
    data = tmp_path_factory.mktemp("undisturbed")
    with trainer(data, cluster, tiny_model_dir, "--storage", str(data)) as (client, _):
        job_id = create(client, **LONGER)
        job = wait_for_status(client, job_id, "succeeded", "failed", seconds=END_S)
        assert job.status == "succeeded", job.error
    return data / "jobs" / job_id


def test_a_job_survives_a_failing_storage_and_a_killed_training(
    s3: int, cluster: Cluster, tmp_path: Path, tiny_model_dir: Path, undisturbed: Path
) -> None:
    data = tmp_path / "trainer"
    with faulty_proxy(s3) as proxy:
        storage = ("--storage", s3_url(proxy.port, "one"))
        with trainer(data, cluster, tiny_model_dir, *storage) as (client, _):
            job_id = create(client, **LONGER)
            wait_for(lambda: has_checkpoint(client, job_id), bool, seconds=START_S)
            proxy.is_away = True
            kill_training(job_id)
            silent = "The storage has not answered since"
            wait_for(
                lambda: messages(client, job_id)[-1], lambda message: message.startswith(silent), seconds=60
            )
            assert client.fine_tuning.jobs.retrieve(job_id).status == "running"
            proxy.is_away = False
            job = wait_for_status(client, job_id, "succeeded", "failed", seconds=END_S)
            assert job.status == "succeeded", job.error
            log = messages(client, job_id)
            folder = data / "jobs" / job_id
            wait_for(lambda: (folder / STORED_MARK).exists(), lambda is_there: not is_there, seconds=120)
        assert proxy.failed > 5
    assert any("The storage answers again after" in message for message in log)
    assert any(message.startswith("Resuming from the checkpoint of step ") for message in log)
    assert len([message for message in log if "adapter saved" in message]) == 1
    assert sorted(each["status"] for each in ray_jobs(cluster, job_id)) == ["FAILED", "SUCCEEDED"]
    assert largest_difference(undisturbed, folder) < 1e-4


def test_two_nodes_share_the_storage(
    s3: int,
    cluster: Cluster,
    tmp_path: Path,
    tiny_model_dir: Path,
) -> None:
    python = python_with_ray(tmp_path)
    more = ("--nodes-per-job", "2", "--ray-python", str(python), "--storage", s3_url(s3, "two"))
    with trainer(tmp_path / "trainer", cluster, tiny_model_dir, *more) as (client, _):
        job_id = create(client, **{**LONG, "n_epochs": 1, "batch_size": 2})
        job = wait_for_status(client, job_id, "succeeded", "failed", seconds=END_S)
        assert job.status == "succeeded", job.error
        assert any(text.startswith("2 processes share each batch") for text in messages(client, job_id))
    alone = ("--storage", s3_url(s3, "alone"))
    with trainer(tmp_path / "alone", cluster, tiny_model_dir, *alone) as (client, _):
        other = create(client, **{**LONG, "n_epochs": 1, "batch_size": 2})
        assert wait_for_status(client, other, "succeeded", "failed", seconds=END_S).status == "succeeded"
    assert (
        largest_difference(tmp_path / "trainer" / "jobs" / job_id, tmp_path / "alone" / "jobs" / other) < 1e-4
    )


def test_a_bucket_stores_files_and_an_unreachable_server_is_reported(
    s3: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    storage = Storage(s3_url(s3, "plain"))
    storage.check()
    large = tmp_path / "large"
    large.write_bytes(b"0123456789" * 2_000_000)
    assert storage.upload("a/large", large) == 20_000_000
    storage.download("a/large", tmp_path / "back", 20_000_000)
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    storage.write_json("a/b/small.json", {"x": 1})
    assert storage.read_json("a/b/small.json") == {"x": 1}
    storage.delete("a/b/nothing")
    storage.delete_folder("a")
    assert storage.read("a/large") is None
    with pytest.raises(StorageAway, match="NO_SUCH_BUCKET"):
        Storage(s3_url(s3, "x").replace("training", "other")).check()
    with pytest.raises(StorageAway, match="NETWORK_CONNECTION"):
        Storage(s3_url(9, "plain")).check()
