"""Which tuned model is meant: by its name on the trainer, a checkpoint's name, or a job's folder. Reads only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.local.exporting.refusals import ExportRefused
from trainers.local.jobs import JobRecord, Jobs
from trainers.local.models import Models
from trainers.local.problems import Problem
from trainers.local.spool import TrainingJob, as_trained, read_job

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class Source:
    """A tuned model: the job that made it, and the folder of its adapter. `step` is a checkpoint's."""

    name: str
    job: TrainingJob
    folder: Path
    adapter: Path
    step: int | None = None


def find(model: str, data: Sequence[Path]) -> Source:
    """`data`: data folders of trainers. Raises ExportRefused."""
    folder = Path(model).expanduser()
    if (folder / "job.json").is_file():
        return _in_folder(folder.resolve())
    if folder.is_dir():
        raise ExportRefused(f"The folder {model} holds no job.json, so it is no training job's folder.")
    for root in data:
        if (root / "jobs").is_dir() and (found := _by_name(model, Jobs(root / "jobs"))):
            return found
    raise ExportRefused(_unknown(model, data))


def _in_folder(folder: Path) -> Source:
    job = as_trained(folder, read_job(folder))
    _check_ended(folder, f"The job in {folder}")
    _check_kept(folder, f"The tuned model of the job in {folder}")
    return _checked(Source(f"{job.base_name}:{job.suffix or job.id[-8:]}", job, folder, folder / "adapter"))


def _by_name(model: str, jobs: Jobs) -> Source | None:
    record = jobs.get(model) or jobs.of_model(model)
    if record is None:
        return None
    _check_kept(record.folder, f"The model {model}")
    name = record.model_name if model == record.job.id else model
    if name == record.model_name:
        _check_ended(record.folder, f"The job {record.job.id}")
    return _checked(_named(name, record, jobs))


def _named(name: str, record: JobRecord, jobs: Jobs) -> Source:
    try:
        adapter = Models({}, jobs).target(name).adapter
    except Problem as problem:
        steps = sorted(int(path.name[5:]) for path in record.folder.glob("checkpoints/step-*"))
        kept = ", ".join(f"{record.model_name}:ckpt-step-{step}" for step in steps) or "none"
        raise ExportRefused(f"{problem.message} Checkpoints that are kept: {kept}.") from problem
    assert adapter is not None  # noqa: S101  there are no base models among Models({})
    marked = name.rpartition(":ckpt-step-")[2]
    step = int(marked) if ":ckpt-step-" in name else None
    return Source(name, as_trained(record.folder, record.job), record.folder, adapter, step)


def _check_ended(folder: Path, what: str) -> None:
    if (folder / "DONE").exists():
        return
    if (folder / "FAILED").exists():
        why = json.loads((folder / "FAILED").read_text(encoding="utf-8")).get("message", "")
        raise ExportRefused(f"{what} failed, so there is no tuned model to export. It said: {why}")
    if (folder / "CANCELLED").exists():
        raise ExportRefused(
            f"{what} was cancelled, so there is no finished model. A checkpoint can be exported: MODEL:ckpt-step-N."
        )
    raise ExportRefused(
        f"{what} is not done. Export it when it has succeeded, or one of its checkpoints now."
    )


def _check_kept(folder: Path, what: str) -> None:
    if (folder / "MODEL_DELETED").exists():
        raise ExportRefused(f"{what} was deleted, its weights are gone. Train it again to export it.")


def _checked(source: Source) -> Source:
    for name in (WEIGHTS, CONFIG):
        if not (source.adapter / name).is_file():
            raise ExportRefused(f"The adapter in {source.adapter} has no {name}, so it can't be exported.")
    return source


def _unknown(model: str, data: Sequence[Path]) -> str:
    roots = [root / "jobs" for root in data if (root / "jobs").is_dir()]
    names = [record.model_name for root in roots for record in Jobs(root).all() if record.has_model]
    known = f"There are: {', '.join(names[:10])}." if names else "There is none yet."
    where = ", ".join(str(root) for root in data) or "nowhere"
    return f"There is no tuned model '{model}' (looked in {where}), and no job's folder of that name. {known}"
