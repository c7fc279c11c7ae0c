"""A toy model that was really tuned, and its exports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.local.trainer_server import examples
from trainers.local.export.order import ExportOrder
from trainers.local.export.pipeline import export
from trainers.local.job_directory import TrainingJob, read_job, replace_json, write_job
from trainers.local.train import run_training
from trainers.methods import Parameters

JOB = "ftjob-" + "0" * 16 + "feedbeef"
MODEL = "ft:local/tiny:local:tickets:feedbeef"
SETTINGS = Parameters(n_epochs=5, batch_size=4, learning_rate=2e-2, lora_r=4, lora_alpha=8)


def tune(data: Path, base: Path, job_id: str = JOB, **changes: Any) -> Path:
    """Trains a job to its end. Returns its folder, where the trainer keeps it under `data`. `changes` are fields of the
    job."""
    folder = write_queued_job(data, base, job_id)
    if changes:
        write_job(folder, replace(read_job(folder), **changes))
    assert run_training(folder) == 0
    return folder


def write_queued_job(data: Path, base: Path, job_id: str = JOB) -> Path:
    folder = data / "jobs" / job_id
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(examples(24))
    job = TrainingJob(
        id=job_id,
        base=str(base),
        base_name="local/tiny",
        training_file=str(folder / "train.jsonl"),
        validation_file=None,
        seed=3,
        settings=SETTINGS,
        suffix="tickets",
        metadata={},
        created_at=0,
    )
    write_job(folder, job)
    replace_json(
        folder / "request.json", {"training_file": "file-1", "validation_file": None, "fingerprint": ""}
    )
    return folder


def order(data: Path, out: Path, to: str, tools: Path | None = None, **changes: Any) -> ExportOrder:
    return replace(ExportOrder(MODEL, to, out, (data,), tools or data / "tools"), **changes)


def run_export(export_order: ExportOrder) -> tuple[Path, list[str]]:
    """Returns the export's folder and its progress messages."""
    messages: list[str] = []
    return export(export_order, messages.append), messages


def write_questions(folder: Path, count: int = 2) -> Path:
    """Returns a file with few questions to compare answers on. By default ten training rows are taken."""
    (folder / "questions.jsonl").write_bytes(examples(count))
    return folder / "questions.jsonl"
