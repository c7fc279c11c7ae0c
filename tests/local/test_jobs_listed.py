"""Many jobs on one disk: ended ones are read once and keep little; what is added or taken away is seen at
once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trainers.local.jobs.job_queue import drop_training_state
from trainers.local.jobs.records import JobRecord, Jobs, StartingPoint
from trainers.local.jobs.requests import parse_job_request
from trainers.local.models import Models
from trainers.methods import Parameters


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    return tmp_path / "rows.jsonl"


def create(jobs: Jobs, source: Path) -> JobRecord:
    order = parse_job_request({"model": "m", "training_file": "f"})
    return jobs.create(order, StartingPoint("m", "m"), Parameters(), source)


def ids(jobs: Jobs) -> set[str]:
    return {record.job.id for record in jobs.all()}


def test_a_job_that_ended_is_not_read_again(tmp_path: Path, source: Path) -> None:
    jobs = Jobs(tmp_path / "jobs")
    ended, waiting = create(jobs, source), create(jobs, source)
    (ended.folder / "DONE").write_text("{}")
    assert [record.job.id for record in jobs.unfinished()] == [waiting.job.id]
    (ended.folder / "job.json").write_text("no JSON")  # anyone who reads it from here on fails
    assert ids(jobs) == {ended.job.id, waiting.job.id}
    assert [record.job.id for record in jobs.unfinished()] == [waiting.job.id]


def test_jobs_that_others_add_or_take_away_are_seen_at_once(tmp_path: Path, source: Path) -> None:
    jobs, other = Jobs(tmp_path / "jobs"), Jobs(tmp_path / "jobs")
    assert ids(jobs) == set()
    first = create(other, source)
    assert ids(jobs) == {first.job.id}
    half = tmp_path / "jobs" / ("ftjob-" + "1" * 24)
    half.mkdir()  # as long as it has no job.json it is no job
    assert ids(jobs) == {first.job.id}
    second = create(other, source)
    shutil.rmtree(first.folder)
    assert ids(jobs) == {second.job.id}


def test_a_job_that_ended_keeps_its_adapters_and_not_what_training_on_needs(tmp_path: Path) -> None:
    for folder in ("checkpoints/step-000001", "arms/01/checkpoints/step-000002"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("state.pt", "adapter_model.safetensors"):
            (tmp_path / folder / name).touch()
    drop_training_state(tmp_path)
    kept = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert kept == ["adapter_model.safetensors"] * 2


def test_what_an_interrupted_deletion_or_creation_left_goes_at_the_next_start(
    tmp_path: Path, source: Path
) -> None:
    jobs = Jobs(tmp_path / "jobs")
    kept = create(jobs, source)
    kept.folder.with_name(f".{kept.job.id}-1a2b3c4d").mkdir()
    half = tmp_path / "jobs" / ("ftjob-" + "1" * 24)
    half.mkdir()
    (half / "train.jsonl").write_text("{}\n")  # a kill came before its job.json was written
    jobs.remove_leftovers()
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == [kept.job.id]


def test_of_a_deleted_model_no_weights_are_left(tmp_path: Path, source: Path) -> None:
    jobs = Jobs(tmp_path / "jobs")
    record = create(jobs, source)
    for folder in ("adapter", "checkpoints/step-000001", "engine/output/checkpoint-1"):
        (record.folder / folder).mkdir(parents=True)
        (record.folder / folder / "adapter_model.safetensors").touch()
    (record.folder / "engine" / "log.txt").touch()
    (record.folder / "DONE").write_text("{}")
    Models({}, jobs).delete(record.model_name)
    assert not list(record.folder.rglob("*.safetensors"))
    assert (record.folder / "engine" / "log.txt").exists()
