"""Pause, resume, slots and GPUs, what 'auto' becomes, integrations: through the API, with a stand-in for
training."""

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

from tests.local.runs import files_of_at_most
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

MODELS = {"local/toy": "/nowhere"}
WHERE_ITS_GPU_IS = (
    "import os, pathlib, sys, time; folder = pathlib.Path(sys.argv[1]);"
    "(folder / 'sees').write_text(os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')); time.sleep(600)"
)


@pytest.fixture(scope="module", autouse=True)
def _no_long_grace() -> Iterator[None]:
    """The stand-in does not look for the mark of a pause, so it is ended like a process that computes too long."""
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


def create(client: openai.OpenAI, **more: Any) -> Any:
    return client.fine_tuning.jobs.create(model="local/toy", training_file=upload(client), **more)


def pause(client: openai.OpenAI, job_id: str) -> str:
    return str(client.fine_tuning.jobs.pause(job_id).status)


def messages(client: openai.OpenAI, job_id: str) -> list[str]:
    return [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=100)]


def test_a_paused_job_frees_its_slot_and_a_resumed_one_goes_on(client: openai.OpenAI, data: Path) -> None:
    first = create(client, metadata={"stub": "slow"})
    wait_for((data / "jobs" / first.id / "sleeping").exists, bool)
    second = create(client)
    wait_for_status(client, second.id, "queued")
    assert pause(client, first.id) == "paused"
    paused = client.fine_tuning.jobs.retrieve(first.id)
    assert (paused.status, paused.estimated_finish, paused.finished_at) == ("paused", None, None)
    wait_for_status(client, second.id, "succeeded")
    assert client.fine_tuning.jobs.retrieve(first.id).status == "paused"
    assert client.fine_tuning.jobs.resume(first.id).status in ("queued", "running")
    wait_for((data / "jobs" / first.id / "starts").read_text, lambda starts: starts == "xx")
    told = messages(client, first.id)
    assert "The job was resumed." in told
    assert not any("again" in said for said in told)  # a pause is no crash
    assert client.fine_tuning.jobs.cancel(first.id).status == "cancelled"


def test_a_job_short_of_memory_starts_again_as_often_as_it_takes_less(
    client: openai.OpenAI, data: Path
) -> None:
    job = create(client, metadata={"stub": "short"})
    wait_for_status(client, job.id, "succeeded")
    assert (data / "jobs" / job.id / "starts").read_text() == "xxxxx"
    assert not any("training process" in said for said in messages(client, job.id))


def test_a_second_pause_and_a_second_resume_change_nothing(client: openai.OpenAI) -> None:
    job = create(client, metadata={"stub": "slow"})
    wait_for_status(client, job.id, "running")
    assert [pause(client, job.id), pause(client, job.id)] == ["paused", "paused"]
    assert len([said for said in messages(client, job.id) if "was paused" in said]) == 1
    for _ in range(2):
        client.fine_tuning.jobs.resume(job.id)
    assert messages(client, job.id).count("The job was resumed.") == 1
    client.fine_tuning.jobs.cancel(job.id)


def test_a_job_that_waits_can_be_paused_and_is_passed_over(client: openai.OpenAI) -> None:
    blocker = create(client, metadata={"stub": "slow"})
    wait_for_status(client, blocker.id, "running")
    waiting, last = create(client), create(client)
    assert pause(client, waiting.id) == "paused"
    client.fine_tuning.jobs.cancel(blocker.id)
    wait_for_status(client, last.id, "succeeded")
    assert client.fine_tuning.jobs.retrieve(waiting.id).status == "paused"
    client.fine_tuning.jobs.resume(waiting.id)
    wait_for_status(client, waiting.id, "succeeded")


def test_a_paused_job_can_be_cancelled(client: openai.OpenAI) -> None:
    job = create(client, metadata={"stub": "slow"})
    wait_for_status(client, job.id, "running")
    pause(client, job.id)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.resume(job.id)
    assert caught.value.code == "job_already_final"


def test_a_job_that_has_ended_is_neither_paused_nor_resumed(client: openai.OpenAI) -> None:
    job = create(client)
    wait_for_status(client, job.id, "succeeded")
    for act in (client.fine_tuning.jobs.pause, client.fine_tuning.jobs.resume):
        with pytest.raises(openai.BadRequestError) as caught:
            act(job.id)
        assert caught.value.code == "job_already_final"


def test_a_job_stays_paused_over_a_restart(tmp_path: Path) -> None:
    with serve_in_thread(tmp_path, MODELS) as served, served.client() as client:
        job = create(client, metadata={"stub": "slow"})
        wait_for((tmp_path / "jobs" / job.id / "sleeping").exists, bool)
        pause(client, job.id)
    with serve_in_thread(tmp_path, MODELS) as served, served.client() as client:
        other = create(client)
        wait_for_status(client, other.id, "succeeded")
        assert client.fine_tuning.jobs.retrieve(job.id).status == "paused"
        assert (tmp_path / "jobs" / job.id / "starts").read_text() == "x"
        client.fine_tuning.jobs.resume(job.id)
        wait_for_status(client, job.id, "running")
        client.fine_tuning.jobs.cancel(job.id)


def test_as_many_jobs_run_as_there_are_slots_each_with_a_gpu_of_its_own(tmp_path: Path) -> None:
    command = (sys.executable, "-c", WHERE_ITS_GPU_IS)
    with (
        serve_in_thread(tmp_path, MODELS, command, slots=2, gpus=("0", "3")) as served,
        served.client() as client,
    ):
        jobs = [create(client) for _ in range(3)]
        for job in jobs[:2]:
            wait_for_status(client, job.id, "running")
        assert sorted(seen(tmp_path, job.id) for job in jobs[:2]) == ["0", "3"]
        assert client.fine_tuning.jobs.retrieve(jobs[2].id).status == "queued"
        freed = seen(tmp_path, jobs[0].id)
        pause(client, jobs[0].id)
        wait_for_status(client, jobs[2].id, "running")
        assert seen(tmp_path, jobs[2].id) == freed
        for job in jobs:
            client.fine_tuning.jobs.cancel(job.id)


def test_without_gpus_a_process_sees_what_the_trainer_sees(tmp_path: Path) -> None:
    command = (sys.executable, "-c", WHERE_ITS_GPU_IS)
    with serve_in_thread(tmp_path, MODELS, command) as served, served.client() as client:
        job = create(client)
        assert seen(tmp_path, job.id) == "unset"
        client.fine_tuning.jobs.cancel(job.id)


def seen(data: Path, job_id: str) -> str:
    path = data / "jobs" / job_id / "sees"
    return wait_for(lambda: path.read_text() if path.exists() else "", bool)


def test_gpus_are_what_the_variable_names_else_what_nvidia_smi_lists(tmp_path: Path) -> None:
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


def test_jobs_leave_the_gpu_that_answers_alone_while_there_is_another(tmp_path: Path) -> None:
    assert pick_gpus(("0", "1"), [], 1) == ("1",)
    assert pick_gpus(("0", "1"), ["1"], 1) == ("0",)
    assert pick_gpus(("3", "5", "7"), [], 2) == ("5", "7")
    assert pick_gpus(("0",), [], 1) == ("0",)
    command = (sys.executable, "-c", WHERE_ITS_GPU_IS)
    place = LocalBackend(command, ("0", "3"))
    job_of_chats = SimpleNamespace(method="supervised")
    jobs = [SimpleNamespace(folder=tmp_path / name, job=job_of_chats) for name in ("first", "second")]
    for job in jobs:
        job.folder.mkdir()
    attempts = [place.start(cast(JobRecord, job)) for job in jobs]
    assert [attempt.is_beside_serving for attempt in attempts] == [False, True]
    for attempt in attempts:
        attempt.release()
    alone = LocalBackend(command).start(cast(JobRecord, jobs[0]))
    assert alone.is_beside_serving
    alone.release()


def test_children_count_gpus_as_nvidia_smi_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    assert job_environment(("1",)).items() >= {
        ("CUDA_VISIBLE_DEVICES", "1"),
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
    }
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert job_environment(())["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_a_full_disk_is_a_sentence_and_ends_no_thread(tmp_path: Path) -> None:
    with serve_in_thread(tmp_path, MODELS) as served, served.client() as client:
        file_id = upload(client)
        job = client.fine_tuning.jobs.create(
            model="local/toy", training_file=file_id, metadata={"stub": "slow"}
        )
        wait_for((tmp_path / "jobs" / job.id / "sleeping").exists, bool)
        pid = int((tmp_path / "jobs" / job.id / "pid").read_text())
        with files_of_at_most(0):
            with pytest.raises(openai.InternalServerError) as caught:
                client.fine_tuning.jobs.create(model="local/toy", training_file=file_id)
            os.kill(pid, signal.SIGKILL)
            time.sleep(5 * TICK_S)
        assert (caught.value.status_code, caught.value.code) == (507, "disk_full")
        wait_for((tmp_path / "jobs" / job.id / "starts").read_text, lambda starts: starts == "xx")
        assert [each.id for each in client.fine_tuning.jobs.list()] == [job.id]
        client.fine_tuning.jobs.cancel(job.id)


@pytest.mark.parametrize(
    ("rows", "epochs", "batch"),
    [(12, 10, 4), (100, 6, 4), (200, 3, 8), (1000, 2, 8), (5000, 1, 8), (9000, 1, 16), (50_000, 1, 32)],
)
def test_auto_epochs_and_batch_follow_the_number_of_rows(rows: int, epochs: int, batch: int) -> None:
    assert (epochs_for(rows), batch_for(rows)) == (epochs, batch)


@pytest.mark.parametrize(
    ("hidden", "family", "rate"),
    [(576, "llama", 1e-3), (4096, "llama", 2.9e-4), (4096, "qwen3", 4.7e-4), (None, "", 3e-4)],
)
def test_the_auto_rate_falls_with_the_hidden_size(hidden: int | None, family: str, rate: float) -> None:
    assert rate_for(hidden, family) == rate


def test_the_answer_to_auto_is_a_number(tmp_path: Path, tiny_model_dir: Path) -> None:
    with serve_in_thread(tmp_path, {"tiny": str(tiny_model_dir)}) as served, served.client() as client:
        job = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=upload(client, examples(250)),
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto"}}},
            extra_body={"hyperparameters": {"learning_rate_multiplier": 0.5, "batch_size": "auto"}},
        )
        chosen = job.hyperparameters.model_dump()
    assert (chosen["n_epochs"], chosen["batch_size"]) == (3, 8)
    assert (chosen["learning_rate"], chosen["learning_rate_multiplier"]) == (5e-4, 0.5)


def test_ceilings_and_patience_come_back_as_they_were_said(client: openai.OpenAI) -> None:
    said = {"patience": 2, "eval_steps": 50, "max_seconds": 3600, "max_usd": 1.5, "usd_per_hour": "0.75"}
    job = create(client, validation_file=upload(client), extra_body={"hyperparameters": said})
    told = job.hyperparameters.model_dump()
    assert {name: told[name] for name in said} == {**said, "max_usd": "1.5"}


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
def test_ceilings_that_make_no_sense_are_refused(
    client: openai.OpenAI, hyperparameters: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, extra_body={"hyperparameters": hyperparameters})
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
def test_integrations_that_cannot_be_meant_are_refused(
    client: openai.OpenAI, integrations: Any, param: str, message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, extra_body={"integrations": integrations})
    assert caught.value.param == param
    assert message in str(caught.value)


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed here")
def test_an_integration_whose_package_is_missing_is_refused_before_anything_starts(
    client: openai.OpenAI,
) -> None:
    before = len(list(client.fine_tuning.jobs.list()))
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, integrations=[{"type": "wandb", "wandb": {"project": "tickets"}}])
    assert (caught.value.code, caught.value.param) == ("integration_not_installed", "integrations")
    assert "needs the package wandb, which this trainer's environment lacks. Install it there" in str(
        caught.value
    )
    assert len(list(client.fine_tuning.jobs.list())) == before
