"""Which job starts next: datasets take turns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai

from tests.local.jobs.test_server_jobs import MODELS
from tests.local.trainer_server import examples, serve_in_thread, upload, wait_for, wait_for_status
from trainers.local.job_directory import TrainingJob
from trainers.local.jobs.job_queue import next_job
from trainers.local.jobs.records import JobRecord, Progress, Request
from trainers.methods import Parameters


def record(number: int, suffix: str | None, *, file: str = "file-1", has_begun: bool = False) -> JobRecord:
    job = TrainingJob(
        id=f"ftjob-{number}",
        base="base",
        base_name="base",
        training_file="train.jsonl",
        validation_file=None,
        seed=1,
        settings=Parameters(),
        suffix=suffix,
        metadata={},
        created_at=number,
    )
    progress = None
    if has_begun:
        progress = Progress(1, 2, 60, None)
    request = Request(file, None, "")
    return JobRecord(Path(), job, request, "queued", (number, 0, ""), None, None, progress)


def order_of(jobs: Sequence[JobRecord]) -> list[str]:
    """The order in which the jobs run in one slot."""
    waiting = list(jobs)
    starts: dict[str, int] = {}
    order = []
    while waiting:
        chosen = next_job(waiting, {}, starts)
        waiting.remove(chosen)
        order.append(chosen.job.id.removeprefix("ftjob-"))
        starts[chosen.dataset] = len(order)
    return order


def test_datasets_take_turns_and_their_jobs_run_oldest_first() -> None:
    jobs = [record(1, "a"), record(2, "a"), record(3, "a"), record(4, "b"), record(5, "c"), record(6, "b")]
    assert order_of(jobs) == ["1", "4", "5", "2", "6", "3"]


def test_jobs_without_a_suffix_take_turns_by_their_files() -> None:
    jobs = [record(1, None), record(2, None), record(3, None, file="file-2")]
    assert order_of(jobs) == ["1", "3", "2"]


def test_a_job_that_has_begun_goes_on_first() -> None:
    jobs = [record(1, "a"), record(2, "b", has_begun=True)]
    assert next_job(jobs, {"b": 1}, {"b": 5}).job.id == "ftjob-2"


def test_a_dataset_with_a_running_job_waits_for_one_without() -> None:
    jobs = [record(1, "a"), record(2, "b")]
    assert next_job(jobs, {"a": 1}, {"a": 1, "b": 2}).job.id == "ftjob-2"


def test_many_jobs_of_one_dataset_let_another_in_between(tmp_path: Path) -> None:
    def create(client: openai.OpenAI, suffix: str, **more: Any) -> str:
        file_id = upload(client, examples())
        job = client.fine_tuning.jobs.create(model="local/toy", training_file=file_id, suffix=suffix, **more)
        return str(job.id)

    with serve_in_thread(tmp_path, MODELS) as served, served.client() as client:
        first = create(client, "sweep", metadata={"stub": "slow"})
        wait_for((tmp_path / "jobs" / first / "sleeping").exists, bool)
        second = create(client, "sweep", metadata={"stub": "slow"})
        other = create(client, "tickets", metadata={"stub": "slow"})
        for job in (second, other):
            wait_for_status(client, job, "queued")
        client.fine_tuning.jobs.cancel(first)
        wait_for((tmp_path / "jobs" / other / "sleeping").exists, bool)
        assert client.fine_tuning.jobs.retrieve(second).status == "queued"
