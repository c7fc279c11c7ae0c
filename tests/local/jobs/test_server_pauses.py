"""Pausing and resuming jobs, slots and GPUs, automatic settings and integrations, with a stand-in for training."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import openai
import pytest

from tests.local.runs import limit_file_size
from tests.local.trainer_server import (
    TrainerServer,
    examples,
    serve_in_thread,
    upload,
    wait_for,
    wait_for_status,
)
from trainers.hyperparameters import batch_for, epochs_for, rate_for
from trainers.local.jobs.backends import LocalBackend, job_environment, pick_gpus, visible_gpus
from trainers.local.jobs.job_queue import TICK_S
from trainers.local.jobs.records import JobRecord
from trainers.local.jobs.requests import Hyperparameters
from trainers.methods import Parameters

MODELS = {"local/toy": "/nowhere"}
RECORD_GPUS = (
    "import os, pathlib, sys, time; folder = pathlib.Path(sys.argv[1]);"
    "(folder / 'gpus').write_text(os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')); time.sleep(600)"
)


@pytest.fixture(scope="module", autouse=True)
def short_grace_period() -> Iterator[None]:
    """The stand-in doesn't look for the mark of a pause, so it is ended like a process that computes too long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainers.local.jobs.job_queue.PAUSE_S", 0.2)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trainer")


@pytest.fixture(scope="module")
def trainer(data: Path) -> Iterator[TrainerServer]:
    with serve_in_thread(data, MODELS) as served:
        yield served


@pytest.fixture
def client(trainer: TrainerServer) -> Iterator[openai.OpenAI]:
    with trainer.client() as client:
        yield client


def create_job(client: openai.OpenAI, **more: Any) -> Any:
    return client.fine_tuning.jobs.create(model="local/toy", training_file=upload(client), **more)


def status_of(client: openai.OpenAI, job_id: str) -> str:
    return str(client.fine_tuning.jobs.retrieve(job_id).status)


def pause(client: openai.OpenAI, job_id: str) -> str:
    """Returns the job's new status."""
    return str(client.fine_tuning.jobs.pause(job_id).status)


def event_messages(client: openai.OpenAI, job_id: str) -> list[str]:
    return [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=100)]


def test_a_paused_job_frees_its_slot_until_it_is_resumed(client: openai.OpenAI, data: Path) -> None:
    first = create_job(client, metadata={"stub": "slow"})
    wait_for((data / "jobs" / first.id / "sleeping").exists, bool)
    second = create_job(client)
    wait_for_status(client, second.id, "queued")
    assert pause(client, first.id) == "paused"
    paused = client.fine_tuning.jobs.retrieve(first.id)
    assert (paused.status, paused.estimated_finish, paused.finished_at) == ("paused", None, None)
    wait_for_status(client, second.id, "succeeded")
    assert status_of(client, first.id) == "paused"
    assert client.fine_tuning.jobs.resume(first.id).status in ("queued", "running")
    wait_for((data / "jobs" / first.id / "starts").read_text, lambda starts: starts == "xx")
    messages = event_messages(client, first.id)
    assert "The job was resumed." in messages
    assert not any("again" in message for message in messages)  # a pause is no crash
    assert client.fine_tuning.jobs.cancel(first.id).status == "cancelled"


def test_a_job_short_of_memory_is_restarted_as_long_as_it_uses_less(
    client: openai.OpenAI, data: Path
) -> None:
    job = create_job(client, metadata={"stub": "short"})
    wait_for_status(client, job.id, "succeeded")
    assert (data / "jobs" / job.id / "starts").read_text() == "xxxxx"
    assert not any("training process" in message for message in event_messages(client, job.id))


def test_pausing_or_resuming_twice_changes_nothing(client: openai.OpenAI) -> None:
    job = create_job(client, metadata={"stub": "slow"})
    wait_for_status(client, job.id, "running")
    assert [pause(client, job.id), pause(client, job.id)] == ["paused", "paused"]
    assert sum("was paused" in message for message in event_messages(client, job.id)) == 1
    for _ in range(2):
        client.fine_tuning.jobs.resume(job.id)
    assert event_messages(client, job.id).count("The job was resumed.") == 1
    client.fine_tuning.jobs.cancel(job.id)


def test_a_queued_job_can_be_paused_and_is_passed_over(client: openai.OpenAI) -> None:
    blocker = create_job(client, metadata={"stub": "slow"})
    wait_for_status(client, blocker.id, "running")
    waiting, last = create_job(client), create_job(client)
    assert pause(client, waiting.id) == "paused"
    client.fine_tuning.jobs.cancel(blocker.id)
    wait_for_status(client, last.id, "succeeded")
    assert status_of(client, waiting.id) == "paused"
    client.fine_tuning.jobs.resume(waiting.id)
    wait_for_status(client, waiting.id, "succeeded")


def test_a_paused_job_can_be_cancelled(client: openai.OpenAI) -> None:
    job = create_job(client, metadata={"stub": "slow"})
    wait_for_status(client, job.id, "running")
    pause(client, job.id)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.resume(job.id)
    assert caught.value.code == "job_already_final"


def test_a_finished_job_can_be_neither_paused_nor_resumed(client: openai.OpenAI) -> None:
    job = create_job(client)
    wait_for_status(client, job.id, "succeeded")
    for act in (client.fine_tuning.jobs.pause, client.fine_tuning.jobs.resume):
        with pytest.raises(openai.BadRequestError) as caught:
            act(job.id)
        assert caught.value.code == "job_already_final"


def test_a_job_stays_paused_after_a_restart(tmp_path: Path) -> None:
    with serve_in_thread(tmp_path, MODELS) as served, served.client() as client:
        job = create_job(client, metadata={"stub": "slow"})
        wait_for((tmp_path / "jobs" / job.id / "sleeping").exists, bool)
        pause(client, job.id)
    with serve_in_thread(tmp_path, MODELS) as served, served.client() as client:
        other = create_job(client)
        wait_for_status(client, other.id, "succeeded")
        assert status_of(client, job.id) == "paused"
        assert (tmp_path / "jobs" / job.id / "starts").read_text() == "x"
        client.fine_tuning.jobs.resume(job.id)
        wait_for_status(client, job.id, "running")
        client.fine_tuning.jobs.cancel(job.id)


def test_as_many_jobs_run_as_there_are_slots_each_on_its_own_gpu(tmp_path: Path) -> None:
    command = (sys.executable, "-c", RECORD_GPUS)
    with (
        serve_in_thread(tmp_path, MODELS, command, slots=2, gpus=("0", "3")) as served,
        served.client() as client,
    ):
        jobs = [create_job(client) for _ in range(3)]
        for job in jobs[:2]:
            wait_for_status(client, job.id, "running")
        assert sorted(gpus_of(tmp_path, job.id) for job in jobs[:2]) == ["0", "3"]
        assert status_of(client, jobs[2].id) == "queued"
        freed_gpu = gpus_of(tmp_path, jobs[0].id)
        pause(client, jobs[0].id)
        wait_for_status(client, jobs[2].id, "running")
        assert gpus_of(tmp_path, jobs[2].id) == freed_gpu
        for job in jobs:
            client.fine_tuning.jobs.cancel(job.id)


def test_without_gpus_a_process_gets_the_trainers_environment(tmp_path: Path) -> None:
    command = (sys.executable, "-c", RECORD_GPUS)
    with serve_in_thread(tmp_path, MODELS, command) as served, served.client() as client:
        job = create_job(client)
        assert gpus_of(tmp_path, job.id) == "unset"
        client.fine_tuning.jobs.cancel(job.id)


def gpus_of(data: Path, job_id: str) -> str:
    path = data / "jobs" / job_id / "gpus"
    return wait_for(lambda: path.read_text() if path.exists() else "", bool)


def test_gpus_come_from_the_environment_or_else_from_nvidia_smi(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 0\necho 1\n")
    tool.chmod(0o700)
    assert visible_gpus({"PATH": str(tmp_path)}) == ("0", "1")
    assert visible_gpus({"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "GPU-5a, 7"}) == ("GPU-5a", "7")
    assert visible_gpus({"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}) == ()
    assert visible_gpus({"PATH": str(tmp_path / "nothing")}) == ()
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
    assert visible_gpus({"PATH": str(tmp_path)}) == ()


def test_more_slots_than_gpus_share_them_evenly() -> None:
    assert pick_gpus(("0", "1"), ["0"], 1) == ("1",)
    assert pick_gpus(("0", "1"), ["0", "1", "1"], 1) == ("0",)
    assert pick_gpus((), [], 1) == ()
    assert pick_gpus(("0", "1", "2"), ["0"], 2) == ("1", "2")


def test_jobs_leave_the_serving_gpu_free_while_there_is_another(tmp_path: Path) -> None:
    assert pick_gpus(("0", "1"), [], 1) == ("1",)
    assert pick_gpus(("0", "1"), ["1"], 1) == ("0",)
    assert pick_gpus(("3", "5", "7"), [], 2) == ("5", "7")
    assert pick_gpus(("0",), [], 1) == ("0",)
    command = (sys.executable, "-c", RECORD_GPUS)
    backend = LocalBackend(command, ("0", "3"))
    supervised = SimpleNamespace(method="supervised", settings=Parameters())
    jobs = [SimpleNamespace(folder=tmp_path / name, job=supervised) for name in ("first", "second")]
    for job in jobs:
        job.folder.mkdir()
    attempts = [backend.start(cast(JobRecord, job)) for job in jobs]
    assert [attempt.is_beside_serving for attempt in attempts] == [False, True]
    for attempt in attempts:
        attempt.release()
    without_gpus = LocalBackend(command).start(cast(JobRecord, jobs[0]))
    assert without_gpus.is_beside_serving
    without_gpus.release()


def test_processes_number_gpus_like_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    assert job_environment(("1",)).items() >= {
        ("CUDA_VISIBLE_DEVICES", "1"),
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
    }
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert job_environment(())["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_only_a_job_at_tinker_gets_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-1")
    assert "TINKER_API_KEY" not in job_environment((), "unsloth")
    assert job_environment((), "tinker")["TINKER_API_KEY"] == "tml-1"


@pytest.mark.deep
def test_a_full_disk_refuses_new_jobs_and_stops_no_thread(tmp_path: Path) -> None:
    with serve_in_thread(tmp_path, MODELS) as served, served.client() as client:
        file_id = upload(client)
        job = client.fine_tuning.jobs.create(
            model="local/toy", training_file=file_id, metadata={"stub": "slow"}
        )
        wait_for((tmp_path / "jobs" / job.id / "sleeping").exists, bool)
        pid = int((tmp_path / "jobs" / job.id / "pid").read_text())
        with limit_file_size(0):
            with pytest.raises(openai.InternalServerError) as caught:
                client.fine_tuning.jobs.create(model="local/toy", training_file=file_id)
            os.kill(pid, signal.SIGKILL)
            time.sleep(5 * TICK_S)
        assert (caught.value.status_code, caught.value.code) == (507, "disk_full")
        wait_for((tmp_path / "jobs" / job.id / "starts").read_text, lambda starts: starts == "xx")
        assert [other.id for other in client.fine_tuning.jobs.list()] == [job.id]
        client.fine_tuning.jobs.cancel(job.id)


@pytest.mark.parametrize(
    ("rows", "epochs", "batch"),
    [(12, 10, 4), (100, 6, 4), (200, 3, 8), (1000, 2, 8), (5000, 1, 8), (9000, 1, 16), (50_000, 1, 32)],
)
def test_automatic_epochs_and_batch_size_depend_on_the_rows(rows: int, epochs: int, batch: int) -> None:
    assert (epochs_for(rows), batch_for(rows)) == (epochs, batch)


@pytest.mark.parametrize(
    ("rows", "processes", "batch"),
    [(1_000, 1, 8), (1_000, 2, 8), (1_000, 8, 32), (400, 8, 20), (40, 8, 4), (10**6, 128, 256)],
)
def test_each_of_several_gpus_gets_rows_of_a_step(rows: int, processes: int, batch: int) -> None:
    values = {"n_epochs": 1}
    assert Hyperparameters(values).resolve(rows, 1e-3, processes).batch_size == batch
    assert Hyperparameters({**values, "batch_size": 8}).resolve(rows, 1e-3, processes).batch_size == 8


@pytest.mark.parametrize(
    ("hidden", "family", "rate"),
    [(576, "llama", 1e-3), (4096, "llama", 2.9e-4), (4096, "qwen3", 4.7e-4), (None, "", 3e-4)],
)
def test_the_automatic_rate_falls_with_the_hidden_size(hidden: int | None, family: str, rate: float) -> None:
    assert rate_for(hidden, family) == rate


def test_a_job_shows_automatic_settings_as_numbers(tmp_path: Path, tiny_model_dir: Path) -> None:
    with serve_in_thread(tmp_path, {"tiny": str(tiny_model_dir)}) as served, served.client() as client:
        job = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=upload(client, examples(250)),
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto"}}},
            extra_body={"hyperparameters": {"learning_rate_multiplier": 0.5, "batch_size": "auto"}},
        )
        resolved = job.hyperparameters.model_dump()
    assert (resolved["n_epochs"], resolved["batch_size"]) == (3, 8)
    assert (resolved["learning_rate"], resolved["learning_rate_multiplier"]) == (5e-4, 0.5)


def test_a_job_shows_its_ceilings_and_patience(client: openai.OpenAI) -> None:
    limits = {"patience": 2, "eval_steps": 50, "max_seconds": 3600, "max_usd": 1.5, "usd_per_hour": "0.75"}
    job = create_job(client, validation_file=upload(client), extra_body={"hyperparameters": limits})
    resolved = job.hyperparameters.model_dump()
    assert {name: resolved[name] for name in limits} == {**limits, "max_usd": "1.5"}


@pytest.mark.parametrize(
    ("hyperparameters", "param", "message"),
    [
        ({"patience": 2}, "patience", "'patience' needs a validation file."),
        ({"eval_steps": 9}, "eval_steps", "'eval_steps' needs a validation file."),
        ({"max_usd": 1}, "usd_per_hour", "'max_usd' is a limit at the price 'usd_per_hour': give both."),
        ({"usd_per_hour": 1}, "max_usd", "'max_usd' is a limit at the price 'usd_per_hour': give both."),
        ({"max_usd": -1}, "max_usd", "'max_usd' is -1; it must be dollars"),
        ({"max_usd": "1e3"}, "max_usd", "'max_usd' is '1e3'; it must be dollars"),
        ({"max_seconds": 0}, "max_seconds", "'max_seconds' is 0; it must be a whole number"),
        ({"too_long": "cut"}, "too_long", "'too_long' is 'cut'; it must be 'leave_out', 'truncate' or"),
    ],
)
def test_invalid_ceilings_are_refused(
    client: openai.OpenAI, hyperparameters: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create_job(client, extra_body={"hyperparameters": hyperparameters})
    assert caught.value.param == f"hyperparameters.{param}"
    assert message in str(caught.value)


def mlflow(**fields: Any) -> list[dict[str, Any]]:
    return [{"type": "mlflow", "mlflow": {"experiment": "tickets", **fields}}]


@pytest.mark.parametrize(
    ("integrations", "param", "message"),
    [
        ("wandb", "integrations", "must be a list of objects"),
        ([{"type": "comet"}], "integrations[0].type", "is 'comet'; allowed are wandb and mlflow"),
        ([{"type": "wandb"}], "integrations[0]", "must have 'type' and an object 'wandb'"),
        ([{"type": "wandb", "wandb": {}}], "integrations[0].wandb.project", "Missing required parameter"),
        (mlflow(tracking_uri="http://10.0.0.1"), "integrations[0].mlflow.tracking_uri", "Unknown parameter"),
        (mlflow(name=7), "integrations[0].mlflow.name", "must be 1 to 128 letters"),
        (mlflow(tags=["x" * 65]), "integrations[0].mlflow.tags", "at most 16 texts of 1 to 64 characters"),
        (mlflow() + mlflow(), "integrations", "names a service twice"),
    ],
)
def test_invalid_integrations_are_refused(
    client: openai.OpenAI, integrations: Any, param: str, message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create_job(client, extra_body={"integrations": integrations})
    assert caught.value.param == param
    assert message in str(caught.value)


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed here")
def test_an_integration_without_its_package_is_refused(
    client: openai.OpenAI,
) -> None:
    before = len(list(client.fine_tuning.jobs.list()))
    with pytest.raises(openai.BadRequestError) as caught:
        create_job(client, integrations=[{"type": "wandb", "wandb": {"project": "tickets"}}])
    assert (caught.value.code, caught.value.param) == ("integration_not_installed", "integrations")
    assert "needs the package wandb, which this trainer's environment lacks. Install it there" in str(
        caught.value
    )
    assert len(list(client.fine_tuning.jobs.list())) == before
