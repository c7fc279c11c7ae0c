"""Jobs on disk: files are replaced atomically, finished jobs are read once and keep little, and changes are noticed."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from trainers.local.job_directory import read_json, replace_json
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


def test_a_finished_job_is_not_read_again(tmp_path: Path, source: Path) -> None:
    jobs = Jobs(tmp_path / "jobs")
    ended, waiting = create(jobs, source), create(jobs, source)
    (ended.folder / "DONE").write_text("{}")
    assert [record.job.id for record in jobs.unfinished()] == [waiting.job.id]
    (ended.folder / "job.json").write_text("no JSON")  # anyone who reads it from here on fails
    assert ids(jobs) == {ended.job.id, waiting.job.id}
    assert [record.job.id for record in jobs.unfinished()] == [waiting.job.id]


def test_jobs_added_or_removed_by_others_are_noticed_at_once(tmp_path: Path, source: Path) -> None:
    jobs, other = Jobs(tmp_path / "jobs"), Jobs(tmp_path / "jobs")
    assert ids(jobs) == set()
    first = create(other, source)
    assert ids(jobs) == {first.job.id}
    incomplete = tmp_path / "jobs" / ("ftjob-" + "1" * 24)
    incomplete.mkdir()  # without job.json it is no job yet
    assert ids(jobs) == {first.job.id}
    second = create(other, source)
    shutil.rmtree(first.folder)
    assert ids(jobs) == {second.job.id}


def test_a_finished_job_keeps_its_adapters_but_no_optimizer_state(tmp_path: Path) -> None:
    for folder in ("checkpoints/step-000001", "arms/01/checkpoints/step-000002"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("state.pt", "adapter_model.safetensors"):
            (tmp_path / folder / name).touch()
    drop_training_state(tmp_path)
    files = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert files == ["adapter_model.safetensors"] * 2


def test_leftovers_of_an_interrupted_deletion_or_creation_are_removed(tmp_path: Path, source: Path) -> None:
    jobs = Jobs(tmp_path / "jobs")
    job = create(jobs, source)
    job.folder.with_name(f".{job.job.id}-1a2b3c4d").mkdir()
    incomplete = tmp_path / "jobs" / ("ftjob-" + "1" * 24)
    incomplete.mkdir()
    (incomplete / "train.jsonl").write_text("{}\n")  # a kill came before its job.json was written
    jobs.remove_leftovers()
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == [job.job.id]


def test_a_deleted_model_leaves_no_weights(tmp_path: Path, source: Path) -> None:
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


def test_a_file_is_complete_whenever_it_is_read(tmp_path: Path) -> None:
    """It is written beside its name and renamed, so a reader sees the previous or the new version."""
    path, stop = tmp_path / "DONE", threading.Event()
    replace_json(path, {"step": 0, "rest": "x" * 100_000})

    def write() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            replace_json(path, {"step": step, "rest": "x" * 100_000})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        versions = [read_json(path) or {} for _ in range(200)]
    finally:
        stop.set()
        writer.join()
    assert all(len(version["rest"]) == 100_000 for version in versions)
    steps = [version["step"] for version in versions]
    assert steps == sorted(steps)
