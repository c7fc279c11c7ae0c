"""Which tuned model is meant (a name, a checkpoint's name or a job's folder), and questions from its own
rows to check the export with. Reads only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.local.api_errors import ApiError
from trainers.local.export.output import ExportRefused
from trainers.local.job_directory import TrainingJob, as_trained, read_job
from trainers.local.jobs.records import JobRecord, Jobs
from trainers.local.models import Models
from trainers.local.serving.values import ChatMessage
from trainers.local.tool_calls import tools_for_template

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class Source:
    """A tuned model: the job that made it, and the folder of its adapter. `step` is a checkpoint's."""

    name: str
    job: TrainingJob
    folder: Path
    adapter: Path
    step: int | None = None


def find_source(model: str, data: Sequence[Path]) -> Source:
    """`data`: data folders of trainers. Raises ExportRefused."""
    folder = Path(model).expanduser()
    if (folder / "job.json").is_file():
        return _in_folder(folder.resolve())
    if folder.is_dir():
        raise ExportRefused(f"The folder {model} holds no job.json, so it is no training job's folder.")
    for root in data:
        if (root / "jobs").is_dir() and (source := _by_name(model, Jobs(root / "jobs"))):
            return source
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
    except ApiError as problem:
        steps = sorted(int(path.name[5:]) for path in record.folder.glob("checkpoints/step-*"))
        stored = ", ".join(f"{record.model_name}:ckpt-step-{step}" for step in steps) or "none"
        raise ExportRefused(f"{problem.message} Checkpoints that are kept: {stored}.") from problem
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
    existing = f"There are: {', '.join(names[:10])}." if names else "There is none yet."
    where = ", ".join(str(root) for root in data) or "nowhere"
    return (
        f"There is no tuned model '{model}' (looked in {where}), and no job's folder of that name. {existing}"
    )


QUESTIONS = 10
ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True)
class Question:
    """`tools` as the row has them."""

    messages: Sequence[ChatMessage]
    tools: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Questions:
    """Conversations up to where the model answers, spread evenly over the file. `system`: the first message of
    every row, where it is the same system message in all of them."""

    file: Path
    asked: Sequence[Question]
    system: str | None


@dataclass(frozen=True)
class DataFile:
    """`sha256` in hex over the bytes."""

    rows: int
    sha256: str


def questions_of(source: Source, value: Path | None) -> Questions:
    """From `value`, else from what the job was validated on, else from what it was trained on.

    Raises ExportRefused where there is no file, or nothing in it to ask.
    """
    path = (
        value
        or _rows_file(source, source.job.validation_file)
        or _rows_file(source, source.job.training_file)
    )
    if path is None:
        raise ExportRefused(
            f"The rows of the job in {source.folder} are gone, so its export could not be checked. "
            "Name a chat JSONL file with questions: --rows FILE."
        )
    rows = _read_rows(path)
    questions = list({repr(question): question for row in rows if (question := _question(row))}.values())
    if not questions:
        raise ExportRefused(
            f"{path} has no plain question and answer to check the export with. Give --rows FILE."
        )
    return Questions(path, _spread(questions), _shared_system(rows))


def _rows_file(source: Source, named: str | None) -> Path | None:
    """Where the job wrote it, or beside the job.json of a folder that was moved."""
    candidates = [Path(named), source.folder / Path(named).name] if named else []
    return next((path for path in candidates if path.is_file()), None)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportRefused(f"Reading the rows in {path}: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise ExportRefused(f"Line {number} of {path} is no JSON: {error}. Give chat JSONL.") from error
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _question(row: dict[str, Any]) -> Question | None:
    """Up to the last answer that only plain text is before; None where there is none."""
    messages = row.get("messages") or []
    places = [place for place, each in enumerate(messages) if each.get("role") == "assistant"]
    plain = [place for place in places if place and all(map(_is_plain, messages[:place]))]
    if not plain:
        return None
    chat_messages = [ChatMessage(each["role"], each["content"]) for each in messages[: plain[-1]]]
    return Question(chat_messages, tools_for_template(row) or ())


def _is_plain(message: dict[str, Any]) -> bool:
    """No result of a tool, no call, picture or parts."""
    calls = message.get("tool_calls") or message.get("function_call")
    return message.get("role") in ROLES and isinstance(message.get("content"), str) and not calls


def _spread(questions: Sequence[Question]) -> list[Question]:
    wanted = min(QUESTIONS, len(questions))
    return [questions[place * len(questions) // wanted] for place in range(wanted)]


def _shared_system(rows: Sequence[dict[str, Any]]) -> str | None:
    firsts = {json.dumps((row.get("messages") or [None])[0], sort_keys=True) for row in rows}
    first = json.loads(firsts.pop()) if len(firsts) == 1 else None
    if first and first.get("role") in ("system", "developer") and isinstance(first.get("content"), str):
        return str(first["content"])
    return None


def describe(source: Source, named: str | None) -> DataFile | None:
    """None where the job had no such file, or it is gone."""
    path = _rows_file(source, named)
    if path is None:
        return None
    content = path.read_bytes()
    return DataFile(
        sum(1 for line in content.split(b"\n") if line.strip()), hashlib.sha256(content).hexdigest()
    )
