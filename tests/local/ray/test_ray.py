"""The trainer with a fake head that speaks Ray's Jobs API: each job is submitted once, followed, or refused."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.local.api.test_server_process import refuse_to_start
from tests.local.trainer_server import STUB, TrainerServer, serve_in_thread, upload, wait_for, wait_for_status
from tests.peers.ray_head import Head, ray_head
from trainers.local.jobs.backends import Exit
from trainers.local.launch import PAUSED, shell_exit_code
from trainers.local.ray import attempt, backend, storage, takeover, wait_events
from trainers.local.ray.backend import RayOptions, RayUnusable, check_options, describe_exit, pack_source
from trainers.local.ray.head import RayJob
from trainers.local.ray.job_files import STORED_MARK, open_attempt, read_attempt
from trainers.local.ray.storage import Storage

MODELS = {"local/toy": "/nowhere"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "POLL_S", 0.05)
    monkeypatch.setattr(backend, "RELEASE_S", 0.2)
    monkeypatch.setattr(wait_events, "REPORT_OUTAGE_S", 0.0)
    monkeypatch.setattr(wait_events, "MAX_PAUSE_S", 0.2)
    monkeypatch.setattr(attempt, "TICK_S", 0.1)
    monkeypatch.setattr(takeover, "CLEAN_S", 0.1)
    monkeypatch.setattr(attempt, "train_command", lambda *_: STUB)


def train_from_storage(environment: Mapping[str, str]) -> int:
    """Does in this process what `python -m trainers.local.ray.node` does."""
    names = ("FINETUNE_STORAGE", "FINETUNE_JOB", "FINETUNE_ATTEMPT")
    url, job_id, key = (environment[name] for name in names)
    return attempt.train_from_storage(url, job_id, key, 1)


@contextmanager
def trainer(root: Path, head: Head) -> Iterator[TrainerServer]:
    """Its data folder is `root`/data, and the storage of its cluster `root`/storage."""
    options = RayOptions(head.address, str(root / "storage"), gpus=2)
    with serve_in_thread(root / "data", MODELS, ray=options, slots=4) as served:
        yield served


def create(client: openai.OpenAI, **metadata: str) -> Any:
    return client.fine_tuning.jobs.create(model="local/toy", training_file=upload(client), metadata=metadata)


def messages(client: openai.OpenAI, job_id: str) -> list[str]:
    """Oldest first."""
    return [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=100)][::-1]


def test_a_job_trained_on_a_node_returns_its_files_and_events(tmp_path: Path) -> None:
    with (
        ray_head(run=train_from_storage) as head,
        trainer(tmp_path, head) as served,
        served.client() as client,
    ):
        job = create(client)
        done = wait_for_status(client, job.id, "succeeded", "failed")
        folder = tmp_path / "data" / "jobs" / job.id
        assert done.status == "succeeded"
        assert messages(client, job.id).count("Step 1/2") == 1
        assert client.files.content(done.result_files[0]).text.endswith("2,1.5,0.2,,\n")
        assert (folder / "starts").read_text() == "x"
        wait_for(lambda: read_attempt(folder), lambda record: record is not None and not record.is_open)
        assert "/nowhere" in (folder / "adapter" / "adapter_config.json").read_text()
        assert (folder / "train.log").read_text() == f"the log of {job.id}-1\n"
        wait_for(lambda: (tmp_path / "storage" / job.id).exists(), lambda is_there: not is_there)
        wait_for(lambda: (folder / STORED_MARK).exists(), lambda is_there: not is_there)
    (body,) = head.bodies
    assert body["submission_id"] == f"{job.id}-1"
    assert body["entrypoint"] == "exec python -m trainers.local.ray.node"
    assert body["entrypoint_num_gpus"] == 2
    assert body["runtime_env"]["working_dir"].removeprefix("gcs://") in head.packages


def test_a_submission_whose_answer_was_lost_is_not_repeated(tmp_path: Path) -> None:
    with ray_head() as head, trainer(tmp_path, head) as served, served.client() as client:
        head.loses_answers = True
        job = create(client)
        wait_for(lambda: head.jobs, bool)
        head.loses_answers = False
        wait_for_status(client, job.id, "running")
        assert list(head.jobs) == [f"{job.id}-1"]
        assert len(head.bodies) == 1
        client.fine_tuning.jobs.cancel(job.id)


def test_a_restarted_trainer_follows_a_job_that_is_still_running(tmp_path: Path) -> None:
    with ray_head() as head:
        with trainer(tmp_path, head) as served, served.client() as client:
            job = create(client)
            wait_for_status(client, job.id, "running")
            head.answers.clear()
            wait_for(lambda: head.waiting, bool)
        # The stop has not waited for the thread that waits for the head.
        assert f"{job.id}-1" in [thread.name for thread in threading.enumerate()]
        head.answers.set()
        assert head.stops == []
        with trainer(tmp_path, head) as served, served.client() as client:
            wait_for_status(client, job.id, "running")
            head.finish(f"{job.id}-1", "FAILED", 137)
            wait_for(lambda: list(head.jobs), lambda submitted: submitted == [f"{job.id}-1", f"{job.id}-2"])
            reason = "The training process was killed, perhaps because the machine ran out of memory. It starts again"
            assert any(message.startswith(reason) for message in messages(client, job.id))
            client.fine_tuning.jobs.cancel(job.id)
        assert head.stops == [f"{job.id}-2"]


def test_a_job_stays_running_while_the_head_is_unreachable(tmp_path: Path) -> None:
    with ray_head() as head, trainer(tmp_path, head) as served, served.client() as client:
        job = create(client)
        wait_for_status(client, job.id, "running")
        head.go_away()
        wait_for(lambda: messages(client, job.id)[-1], lambda message: "has not answered since" in message)
        assert client.fine_tuning.jobs.retrieve(job.id).status == "running"
        head.come_back(knows_its_jobs=True)
        wait_for(lambda: messages(client, job.id)[-1], lambda message: "answers again after" in message)
        assert len(head.bodies) == 1
        client.fine_tuning.jobs.cancel(job.id)


def test_a_job_unknown_to_a_new_head_is_submitted_again(tmp_path: Path) -> None:
    with ray_head() as head, trainer(tmp_path, head) as served, served.client() as client:
        job = create(client)
        wait_for_status(client, job.id, "running")
        head.go_away()
        head.come_back(knows_its_jobs=False)
        wait_for(lambda: list(head.jobs), lambda submitted: submitted == [f"{job.id}-2"])
        assert any("the Ray cluster no longer knows it" in message for message in messages(client, job.id))
        client.fine_tuning.jobs.cancel(job.id)


def test_a_job_can_be_cancelled_while_the_head_is_unreachable(tmp_path: Path) -> None:
    with ray_head() as head, trainer(tmp_path, head) as served, served.client() as client:
        job = create(client)
        wait_for_status(client, job.id, "running")
        head.go_away()
        wait_for(lambda: messages(client, job.id)[-1], lambda message: "has not answered since" in message)
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
        head.come_back(knows_its_jobs=True)
        wait_for(lambda: head.stops, bool)


def test_three_crashes_fail_the_job_with_the_end_of_rays_log(tmp_path: Path) -> None:
    with (
        ray_head(run=lambda environment: 3) as head,
        trainer(tmp_path, head) as served,
        served.client() as client,
    ):
        job = wait_for_status(client, create(client).id, "failed")
        assert job.error is not None
        assert job.error.message == (
            "Training crashed 3 times before its first checkpoint: the process ended with exit code 3. Its log ends "
            f"with: the log of {job.id}-3"
        )
    assert len(head.bodies) == 3


def test_an_attempt_continues_from_what_a_crashed_one_stored(tmp_path: Path) -> None:
    with (
        ray_head(run=train_from_storage) as head,
        trainer(tmp_path, head) as served,
        served.client() as client,
    ):
        job = create(client, stub="crash_once")
        assert wait_for_status(client, job.id, "succeeded", "failed").status == "succeeded"
        log = messages(client, job.id)
        assert (tmp_path / "data" / "jobs" / job.id / "starts").read_text() == "xx"
    assert list(head.jobs) == [f"{job.id}-1", f"{job.id}-2"]
    assert log.count("Step 1/2") == 2
    assert sum(message.startswith("The training process ended with exit code 1.") for message in log) == 1


def test_pausing_and_cancelling_reach_the_attempt(tmp_path: Path) -> None:
    with ray_head() as head, trainer(tmp_path, head) as served, served.client() as client:
        job = create(client)
        wait_for_status(client, job.id, "running")
        storage = Storage(str(tmp_path / "storage"))
        wanted = lambda: (storage.read_json(f"{job.id}/control.json") or {}).get("wanted")  # noqa: E731
        pausing = threading.Thread(target=client.fine_tuning.jobs.pause, args=(job.id,))
        pausing.start()
        wait_for(wanted, lambda state: state == "pause")
        head.finish(f"{job.id}-1", "FAILED", PAUSED)
        pausing.join()
        assert client.fine_tuning.jobs.retrieve(job.id).status == "paused"
        client.fine_tuning.jobs.resume(job.id)
        wait_for(wanted, lambda state: state == "run")
        wait_for(lambda: list(head.jobs), lambda submitted: submitted == [f"{job.id}-1", f"{job.id}-2"])
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
        wait_for(wanted, lambda state: state in (None, "end"))


def test_an_engine_not_installed_on_the_cluster_is_refused(tmp_path: Path) -> None:
    with ray_head() as head, trainer(tmp_path, head) as served, served.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.fine_tuning.jobs.create(
                model="local/toy",
                training_file=upload(client),
                extra_body={"hyperparameters": {"engine": "unsloth"}},
            )
        assert "jobs run on a cluster, where the engine unsloth is not installed" in str(caught.value)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (RayJob("FAILED", "", 1), Exit(1, "ended with exit code 1")),
        (RayJob("FAILED", "", 143), Exit(-15, "was ended by signal 15")),
        (
            RayJob("FAILED", "", shell_exit_code(-9)),
            Exit(-9, "was killed, perhaps because the machine ran out of memory"),
        ),
        (RayJob("STOPPED", "", None), Exit(None, "was stopped on the Ray cluster")),
        (RayJob("FAILED", "its node\ndied", None), Exit(None, "ended on the Ray cluster: its node died")),
        (RayJob("SUCCEEDED", "", 0), Exit(0, "ended with exit code 0")),
    ],
)
def test_rays_exit_status_becomes_a_sentence(job: RayJob, expected: Exit) -> None:
    assert describe_exit(job) == expected


def check(address: str, data: Path, storage: str | None = None) -> RayOptions:
    return check_options(RayOptions(address, storage), data)


def test_an_unreachable_or_old_cluster_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        RayUnusable, match=r"no answer from http://127.0.0.1:9: .* Start it with `ray start --head`"
    ):
        check("http://127.0.0.1:9", tmp_path)
    with ray_head(version="1.13.0") as head, pytest.raises(RayUnusable, match=r"Ray 1.13.0 .* 2.30 or newer"):
        check(head.address, tmp_path)


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        (
            None,
            r"can't access this machine's disk. Set --storage .* to a folder that both can access: a path on",
        ),
        ("ftp://host/x", r"ftp://host/x is not a storage: give a path, file://, s3:// or gs://"),
        ("shared/x", r"shared/x is not a full path"),
        ("s3:///x", r"has no bucket: give one, such as s3://bucket/finetune"),
        (
            "s3://key:secret@bucket/x",
            r"holds credentials, .* Set them as environment variables and write s3://bucket/x",
        ),
        (
            "s3://bucket/x?zone=1",
            r"s3:// URLs have no option zone. The options are region, endpoint_override, scheme",
        ),
        ("gs://bucket/x?zone=1", r"gs:// URLs have no option zone. The options are project_id"),
    ],
)
def test_a_storage_that_nodes_cannot_access_is_refused(
    tmp_path: Path, storage: str | None, reason: str
) -> None:
    with pytest.raises(RayUnusable, match=reason):
        check("http://ray.example:8265", tmp_path, storage)


def test_a_data_folder_that_nodes_can_access_is_the_storage(tmp_path: Path) -> None:
    with ray_head() as head:
        for storage in (None, str(tmp_path)):
            assert check(head.address, tmp_path / "data", storage).storage is None
        elsewhere = check(head.address, tmp_path / "data", f"file://{tmp_path}/else")
        assert elsewhere.storage == f"file://{tmp_path}/else"


def test_a_google_bucket_that_cannot_be_reached_is_refused_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "REQUEST_S", 0.5)
    url = "gs://bucket/x?endpoint_override=127.0.0.1:9&scheme=http"
    with ray_head() as head, pytest.raises(RayUnusable, match="the storage can't be used: writing"):
        check(head.address, tmp_path / "data", url)


def test_a_storage_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with (
        ray_head() as head,
        pytest.raises(RayUnusable, match=r"the storage can't be used: writing .* directory"),
    ):
        check(head.address, tmp_path / "data", str(tmp_path / "file" / "x"))


def test_an_address_without_ray_is_refused(tmp_path: Path) -> None:
    with serve_in_thread(tmp_path / "other", MODELS) as other:
        message = refuse_to_start(
            *("--data", str(tmp_path / "data"), "--port", "0", "--executor", "ray"),
            *("--ray-address", other.url.removesuffix("/v1")),
        )
    assert message.startswith("trainer: the Ray cluster can't be used: GET /api/version at http://127.0.0.1:")


def test_a_trainer_with_open_jobs_starts_while_the_head_is_unreachable(tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / ("ftjob-" + "0" * 24)
    folder.mkdir(parents=True)
    open_attempt(folder)
    assert check("http://127.0.0.1:9", tmp_path).address == "http://127.0.0.1:9"


def test_the_package_holds_our_source_and_is_reproducible(tmp_path: Path) -> None:
    package = pack_source()
    assert package == pack_source()
    zipfile.ZipFile(io.BytesIO(package.content)).extractall(tmp_path)
    code = "import trainers.local.ray.node as node; print(node.__file__)"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={}
    )
    assert process.stdout.strip() == str(tmp_path / "trainers" / "local" / "ray" / "node.py")
