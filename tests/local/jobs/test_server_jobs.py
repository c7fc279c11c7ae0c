"""Files and jobs over HTTP, with a stand-in for the training process: storing, listing, queueing and ending them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.local.runs import limit_file_size
from tests.local.trainer_server import (
    STUB,
    TrainerServer,
    examples,
    serve_in_thread,
    upload,
    wait_for,
    wait_for_status,
)
from trainers.local.job_directory import append_event
from trainers.local.jobs.job_queue import TICK_S

MODELS = {"local/toy": "/nowhere"}


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


def create_job(client: openai.OpenAI, file_id: str | None = None, **more: Any) -> Any:
    return client.fine_tuning.jobs.create(model="local/toy", training_file=file_id or upload(client), **more)


def create_finished_job(client: openai.OpenAI) -> Any:
    return wait_for_status(client, create_job(client).id, "succeeded")


def folder_of(root: Path, job_id: str) -> Path:
    return root / "jobs" / job_id


def event_messages(client: openai.OpenAI, job_id: str) -> list[str]:
    return [event.message for event in client.fine_tuning.jobs.list_events(job_id)]


def test_a_file_is_returned_byte_for_byte_with_its_sha256(client: openai.OpenAI) -> None:
    content = examples(11).rstrip(b"\n")
    file = client.files.create(file=("../../etc/tickets.jsonl", content), purpose="fine-tune")
    assert file.filename == "../../etc/tickets.jsonl"
    assert file.bytes == len(content)
    assert (file.model_extra or {})["sha256"] == sha256(content).hexdigest()
    assert client.files.content(file.id).read() == content
    assert client.files.retrieve(file.id) == file
    assert file.id in [other.id for other in client.files.list(purpose="fine-tune", limit=2)]


def test_a_deleted_file_is_gone_but_its_job_still_trains(client: openai.OpenAI) -> None:
    file_id = upload(client)
    job = create_job(client, file_id)
    assert client.files.delete(file_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file_id)
    assert wait_for_status(client, job.id, "succeeded").training_file == file_id


def test_an_expiring_file_has_its_expiry_time(client: openai.OpenAI) -> None:
    file = client.files.create(
        file=("a.jsonl", examples()),
        purpose="fine-tune",
        expires_after={"anchor": "created_at", "seconds": 7200},
    )
    assert file.expires_at == file.created_at + 7200


def test_a_finished_job_has_a_model_results_events_and_checkpoints(client: openai.OpenAI) -> None:
    job = create_job(
        client,
        suffix="Support v2!",
        seed=7,
        metadata={"run": "R-1"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        extra_body={"hyperparameters": {"lora_r": 4}},
    )
    assert job.status in ("validating_files", "queued", "running")
    assert job.fine_tuned_model is None
    done = wait_for_status(client, job.id, "succeeded", "failed")
    assert done.error is None
    assert done.fine_tuned_model == f"ft:local/toy:local:support-v2:{job.id[-8:]}"
    assert (done.seed, done.metadata, done.trained_tokens) == (7, {"run": "R-1"}, 120)
    assert done.hyperparameters.model_dump() == {
        "n_epochs": 2,
        "batch_size": 4,
        "learning_rate": 0.0003,
        "learning_rate_multiplier": 1.0,
        "weight_decay": 0.0,
        "lora_r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
        "max_length": 1024,
        "too_long": "leave_out",
        "quantization": "none",
        "engine": "builtin",
        "sharding": "auto",
    }
    assert client.files.content(done.result_files[0]).text.startswith("step,train_loss,")
    assert client.files.retrieve(done.result_files[0]).purpose == "fine-tune-results"
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=2)]
    assert messages[0] == "Step 1/2"
    assert messages[-1] == f"Created fine-tuning job: {job.id}"
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [checkpoint.fine_tuned_model_checkpoint for checkpoint in checkpoints] == [
        f"{done.fine_tuned_model}:ckpt-step-1"
    ]
    assert checkpoints[0].metrics.train_loss == 2.5
    assert done.fine_tuned_model in [model.id for model in client.models.list()]


def test_checkpoints_are_listed_newest_first_with_their_times(client: openai.OpenAI, data: Path) -> None:
    job = create_finished_job(client)
    first = folder_of(data, job.id) / "checkpoints" / "step-000001"
    os.utime(first / "adapter_config.json", (1_790_000_000, 1_790_000_000))
    (first / "state.pt").touch()
    (first / "state.pt").unlink()  # as the server does when a job ends
    first.with_name("step-000000").mkdir()  # half deleted
    for name in ("step-999999", "step-1000000"):
        shutil.copytree(first, first.with_name(name))
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [checkpoint.step_number for checkpoint in checkpoints] == [1_000_000, 999_999, 1]
    assert checkpoints[-1].created_at == 1_790_000_000


def test_an_event_torn_by_a_full_disk_hides_no_other_event(client: openai.OpenAI, data: Path) -> None:
    job = create_finished_job(client)
    folder = folder_of(data, job.id)
    before = event_messages(client, job.id)
    with limit_file_size((folder / "events.jsonl").stat().st_size + 20), pytest.raises(OSError):
        append_event(folder, "The disk is full.")
    append_event(folder, "The job was resumed.")
    assert event_messages(client, job.id) == ["The job was resumed.", *before]


def test_a_running_job_shows_its_progress(client: openai.OpenAI) -> None:
    job = create_job(client, metadata={"stub": "slow"})
    running = wait_for(
        lambda: client.fine_tuning.jobs.retrieve(job.id),
        lambda job: bool((job.model_extra or {})["trained_steps"]),
    )
    assert running.status == "running"
    assert running.trained_tokens is None
    assert running.estimated_finish is not None
    assert (running.model_extra or {})["total_steps"] == 2
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"


def test_jobs_are_listed_newest_first_by_page_and_metadata(client: openai.OpenAI) -> None:
    file_id = upload(client)
    ids = [create_job(client, file_id, metadata={"batch": "b7", "n": str(n)}).id for n in range(4)]
    page = client.fine_tuning.jobs.list(limit=2, metadata={"batch": "b7"})
    assert page.has_more
    assert [job.id for job in page] == ids[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"batch": "b7", "n": "3"})] == [ids[3]]
    assert list(client.fine_tuning.jobs.list(metadata={"batch": "b8"})) == []


def test_one_job_runs_at_a_time_oldest_first(client: openai.OpenAI) -> None:
    first = create_job(client, metadata={"stub": "slow"})
    others = [create_job(client) for _ in range(2)]
    wait_for_status(client, first.id, "running")
    for other in others:
        wait_for_status(client, other.id, "queued")
    client.fine_tuning.jobs.cancel(others[0].id)
    client.fine_tuning.jobs.cancel(first.id)
    wait_for_status(client, others[1].id, "succeeded")
    assert client.fine_tuning.jobs.retrieve(others[0].id).status == "cancelled"
    assert client.fine_tuning.jobs.retrieve(first.id).status == "cancelled"


def test_a_process_that_was_told_to_end_is_not_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # so that the end is seen before the mark
    monkeypatch.setattr("trainers.local.jobs.job_queue.TICK_S", 0.001)
    with serve_in_thread(tmp_path, MODELS) as served, served.client() as client:
        job = create_job(client, metadata={"stub": "slow"})
        wait_for((folder_of(tmp_path, job.id) / "sleeping").exists, bool)
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
        assert "again" not in " ".join(event_messages(client, job.id))
    assert (folder_of(tmp_path, job.id) / "starts").read_text() == "x"


@pytest.mark.deep
def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    with serve_in_thread(tmp_path, MODELS) as served, served.client() as client:
        job = create_job(client, metadata={"stub": "stubborn"})
        wait_for((folder_of(tmp_path, job.id) / "sleeping").exists, bool)
        pid = int((folder_of(tmp_path, job.id) / "pid").read_text())
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_idempotency_key_returns_its_job_and_refuses_another_body(client: openai.OpenAI) -> None:
    file_id, headers = upload(client), {"Idempotency-Key": "plan-17"}
    first = create_job(client, file_id, extra_headers=headers)
    assert create_job(client, file_id, extra_headers=headers).id == first.id
    client.files.delete(file_id)
    assert create_job(client, file_id, extra_headers=headers).id == first.id
    with pytest.raises(openai.ConflictError) as caught:
        create_job(client, file_id, suffix="other", extra_headers=headers)
    assert caught.value.code == "idempotency_conflict"
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_an_idempotency_key_survives_a_restart(tmp_path: Path) -> None:
    headers = {"Idempotency-Key": "plan-18"}
    with serve_in_thread(tmp_path, MODELS) as served, served.client() as client:
        file_id = upload(client)
        first = create_job(client, file_id, extra_headers=headers)
        wait_for_status(client, first.id, "succeeded")
    with serve_in_thread(tmp_path, MODELS) as served, served.client() as client:
        again = create_job(client, file_id, extra_headers=headers)
        assert (again.id, again.status) == (first.id, "succeeded")
        assert len(list(client.fine_tuning.jobs.list())) == 1


def test_many_callers_with_one_idempotency_key_create_one_job(client: openai.OpenAI) -> None:
    file_id = upload(client)
    with ThreadPoolExecutor(8) as pool:
        jobs = pool.map(
            lambda _: create_job(client, file_id, extra_headers={"Idempotency-Key": "race"}), range(16)
        )
    assert len({job.id for job in jobs}) == 1


def test_a_process_that_crashes_once_is_restarted(client: openai.OpenAI) -> None:
    job = create_job(client, metadata={"stub": "crash_once"})
    wait_for_status(client, job.id, "succeeded")
    text = "The training process ended with exit code 1. It starts again from its last checkpoint."
    assert text in event_messages(client, job.id)


def test_a_process_that_crashes_three_times_fails_the_job_with_its_log(client: openai.OpenAI) -> None:
    job = create_job(client, metadata={"stub": "crash"})
    failed = wait_for_status(client, job.id, "failed")
    assert failed.error is not None
    assert failed.error.code == "training_crashed"
    assert failed.error.message == (
        "Training crashed 3 times before its first checkpoint: the process ended with exit code 1. "
        "Its log ends with: RuntimeError: the disk of the toy is full"
    )


def test_a_refusal_of_the_training_process_is_the_jobs_error(client: openai.OpenAI) -> None:
    failed = wait_for_status(client, create_job(client, metadata={"stub": "refuse"}).id, "failed")
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("too_long", "Line 3 is too long.")
    assert failed.result_files == []


def test_a_restart_resumes_an_unfinished_job(tmp_path: Path) -> None:
    with serve_in_thread(tmp_path, MODELS) as served, served.client() as client:
        job = create_job(client, metadata={"stub": "slow"})
        wait_for((folder_of(tmp_path, job.id) / "sleeping").exists, bool)
    pid = int((folder_of(tmp_path, job.id) / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with serve_in_thread(tmp_path, MODELS) as served, served.client() as client:
        wait_for_status(client, job.id, "running")
        wait_for((folder_of(tmp_path, job.id) / "starts").read_text, lambda text: text == "xx")
        client.fine_tuning.jobs.cancel(job.id)


def test_a_process_that_outlived_its_server_is_awaited_and_not_doubled(tmp_path: Path) -> None:
    with serve_in_thread(tmp_path, MODELS) as served, served.client() as client:
        blocker = create_job(client, metadata={"stub": "slow"})
        job = create_job(client, metadata={"stub": "slow"})
        wait_for_status(client, job.id, "queued")
        wait_for_status(client, blocker.id, "running")
    folder = folder_of(tmp_path, job.id)
    (folder_of(tmp_path, blocker.id) / "CANCELLED").write_text("{}")
    survivor = subprocess.Popen([*STUB, str(folder)], start_new_session=True)
    (folder / "pid").write_text(str(survivor.pid))
    wait_for((folder / "sleeping").exists, bool)
    with serve_in_thread(tmp_path, MODELS) as served, served.client() as client:
        assert wait_for_status(client, job.id, "running").status == "running"
        time.sleep(3 * TICK_S)
        assert (folder / "starts").read_text() == "x"
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
        assert survivor.wait(5) == -signal.SIGTERM


def test_a_deleted_model_is_gone_from_lists_and_disk(client: openai.OpenAI, data: Path) -> None:
    job = create_finished_job(client)
    name = job.fine_tuned_model
    assert client.models.retrieve(name).id == name
    assert client.models.delete(name).deleted
    assert not (folder_of(data, job.id) / "adapter").exists()
    assert name not in [model.id for model in client.models.list()]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(name)
    with pytest.raises(openai.PermissionDeniedError):
        client.models.delete("local/toy")


def test_a_deleted_job_is_gone_with_its_rows_and_its_model(client: openai.OpenAI, data: Path) -> None:
    job = create_job(client)
    with pytest.raises(openai.BadRequestError, match="has not ended"):
        client.delete(f"/fine_tuning/jobs/{job.id}", cast_to=bytes)
    name = wait_for_status(client, job.id, "succeeded").fine_tuned_model
    client.files.delete(job.training_file)
    wait_for(lambda: try_to_delete(client, job.id), bool)
    assert [path for path in folder_of(data, job.id).rglob("*") if path.is_file()] == []
    assert name not in [model.id for model in client.models.list()]
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.retrieve(job.id)


def try_to_delete(client: openai.OpenAI, job_id: str) -> bool:
    """Returns False while the job's process is being cleaned up."""
    try:
        client.delete(f"/fine_tuning/jobs/{job_id}", cast_to=bytes)
    except openai.BadRequestError:
        return False
    return True


def test_an_internal_error_has_the_reference_of_its_log_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr("trainers.local.serving.model_cache.ModelCache.base", broken)
    with (
        serve_in_thread(tmp_path / "data", MODELS, STUB) as served,
        served.client() as client,
        pytest.raises(openai.InternalServerError, match="under reference") as caught,
    ):
        client.chat.completions.create(model="local/toy", messages=[{"role": "user", "content": "hello"}])
    (record,) = [record for record in caplog.records if getattr(record, "ref", None)]
    assert f"under reference {record.__dict__['ref']}." in str(caught.value)
    assert record.exc_info and "no such luck" in str(record.exc_info[1])


def test_training_processes_get_no_key_in_their_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FINETUNE_TRAINER_KEY", "SLACK_BOT_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "X"):
        monkeypatch.setenv(name, "canary-key")
    monkeypatch.setenv("HF_TOKEN", "it fetches its base")
    code = "import sys; print(open('/proc/self/environ').read()); sys.exit(1)"
    command = (sys.executable, "-c", code)
    with serve_in_thread(tmp_path / "data", MODELS, command) as served, served.client() as client:
        job = create_job(client)
        wait_for_status(client, job.id, "failed")
    log = (folder_of(tmp_path / "data", job.id) / "train.log").read_text()
    assert "PATH=" in log
    assert "HF_TOKEN=it fetches its base" in log
    assert "canary-key" not in log
