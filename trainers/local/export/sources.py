"""Finds the tuned model to export (by its name, a checkpoint's name, or a job's id or folder), and questions from its
own rows to check the export with. Changes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.encoders.classifier import DESCRIPTION, HEAD
from trainers.export_folder import ExportRefused
from trainers.http.errors import ApiError
from trainers.local.chat_renderer import tools_for_template
from trainers.local.job_directory import TrainingJob, read_job, with_winning_settings
from trainers.local.jobs.records import Jobs
from trainers.local.models import Models
from trainers.local.serving.values import ChatMessage
from trainers.methods import METHODS

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MODEL_CONFIG = "config.json"
QUESTIONS = 10
ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True)
class Source:
    """A tuned model: the job that trained it, the job's folder, and the folder of its adapter or, if all its weights
    were trained, of the model. `step` is set only for a checkpoint."""

    name: str
    job: TrainingJob
    folder: Path
    adapter: Path
    step: int | None = None

    @property
    def is_encoder(self) -> bool:
        return METHODS[self.job.method].is_for_encoders

    @property
    def is_model(self) -> bool:
        return METHODS[self.job.method].leaves_model


def find_source(model: str, data: Sequence[Path]) -> Source:
    """Finds a tuned model by its name, a checkpoint's name, or a job's id or folder, in the trainers' data folders
    `data`. Raises ExportRefused."""
    folder = Path(model).expanduser()
    if (folder / "job.json").is_file():
        folder = folder.resolve()
        job = with_winning_settings(folder, read_job(folder))
        _check_ended(folder, f"The job in {folder}")
        _check_kept(folder, f"The tuned model of the job in {folder}")
        name = f"{job.base_name}:{job.suffix or job.id[-8:]}"
        return _with_files(Source(name, job, folder, folder / "adapter"))
    if folder.is_dir():
        raise ExportRefused(f"The folder {model} has no job.json, so it is not a training job's folder.")
    roots = [root / "jobs" for root in data if (root / "jobs").is_dir()]
    for root in roots:
        if source := _source_by_name(model, Jobs(root)):
            return source

    names = []
    for root in roots:
        names += [record.model_name for record in Jobs(root).all() if record.has_model]
    if names:
        existing = f"Available: {', '.join(names[:10])}."
    else:
        existing = (
            "There are no tuned models there. For a trainer that you started yourself, "
            "add --data ITS_DATA_FOLDER."
        )
    searched = ", ".join(str(root) for root in data) or "nowhere"
    raise ExportRefused(
        f"There is no tuned model '{model}' (looked in {searched}), and no job folder of that name. {existing}"
    )


def _source_by_name(model: str, jobs: Jobs) -> Source | None:
    record = jobs.get(model) or jobs.find_by_model(model)
    if record is None:
        return None
    _check_kept(record.folder, f"The model {model}")
    name = model
    if model == record.job.id:
        name = record.model_name
    if name == record.model_name:
        _check_ended(record.folder, f"The job {record.job.id}")
    try:
        adapter = Models({}, jobs).folder_of(name)
    except ApiError as problem:
        folders = record.folder.glob("checkpoints/step-*")
        steps = sorted(int(folder.name.removeprefix("step-")) for folder in folders)
        stored = ", ".join(f"{record.model_name}:ckpt-step-{step}" for step in steps) or "none"
        raise ExportRefused(f"{problem.message} Available checkpoints: {stored}.") from problem
    step = None
    if ":ckpt-step-" in name:
        step = int(name.rpartition(":ckpt-step-")[2])
    job = with_winning_settings(record.folder, record.job)
    return _with_files(Source(name, job, record.folder, adapter, step))


def _check_ended(folder: Path, subject: str) -> None:
    if (folder / "DONE").exists():
        return
    if (folder / "FAILED").exists():
        why = json.loads((folder / "FAILED").read_text(encoding="utf-8")).get("message", "")
        raise ExportRefused(f"{subject} failed, so there is no tuned model to export. The reason was: {why}")
    if (folder / "CANCELLED").exists():
        raise ExportRefused(
            f"{subject} was cancelled, so there is no finished model. You can export a checkpoint: MODEL:ckpt-step-N."
        )
    raise ExportRefused(
        f"{subject} has not ended. Export it when it has succeeded, or one of its checkpoints now."
    )


def _check_kept(folder: Path, subject: str) -> None:
    if (folder / "MODEL_DELETED").exists():
        raise ExportRefused(f"{subject} was deleted with its weights. Train it again to export it.")


def _with_files(source: Source) -> Source:
    """Raises ExportRefused if a file of the adapter is missing."""
    names: tuple[str, ...] = (WEIGHTS, CONFIG)
    if source.is_encoder:
        names = (DESCRIPTION, HEAD)
    elif source.is_model:
        names = (MODEL_CONFIG,)
    for name in names:
        if not (source.adapter / name).is_file():
            raise ExportRefused(f"The model in {source.adapter} has no {name}, so it can't be exported.")
    return source


@dataclass(frozen=True)
class Question:
    """A conversation up to where the model answers, with the tools of its row."""

    messages: Sequence[ChatMessage]
    tools: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Questions:
    """Questions spread evenly over the file. `system` is the system message that all rows begin with, None if they
    don't begin with the same one."""

    file: Path
    questions: Sequence[Question]
    system: str | None


@dataclass(frozen=True)
class DataFile:
    """`rows` is the number of lines that are not blank; `sha256` is in hex."""

    rows: int
    sha256: str


def read_questions(source: Source, file: Path | None) -> Questions:
    """Reads questions from `file`; without one, from the job's validation file, or else its training file.

    Raises ExportRefused if there is no such file, or no question in it.
    """
    job = source.job
    path = file or _rows_file(source, job.validation_file) or _rows_file(source, job.training_file)
    if path is None:
        raise ExportRefused(
            f"The rows of the job in {source.folder} are gone, so its export could not be checked. "
            "Give a chat JSONL file with questions: --rows FILE."
        )
    rows = _read_rows(path)
    by_content: dict[str, Question] = {}  # each question once, in the file's order
    for row in rows:
        question = _question(row)
        if question is not None:
            by_content[repr(question)] = question
    questions = list(by_content.values())
    if not questions:
        raise ExportRefused(
            f"{path} has no plain question with an answer to check the export with. Give --rows FILE."
        )
    # Spread over the file, since rows of one kind often stand together.
    count = min(QUESTIONS, len(questions))
    spread = [questions[index * len(questions) // count] for index in range(count)]
    return Questions(path, spread, _common_system(rows))


def _common_system(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns the system message that all rows begin with, or None."""
    openings = {json.dumps(row["messages"][:1], sort_keys=True) for row in rows}
    if len(openings) != 1:
        return None
    match json.loads(openings.pop()):
        case [{"role": "system" | "developer", "content": str(content)}]:
            return content
    return None


def _rows_file(source: Source, name: str | None) -> Path | None:
    """Returns a job's file: at the path in job.json or, if the job's folder was moved, next to job.json. Returns None
    if it is gone."""
    if not name:
        return None
    for path in (Path(name), source.folder / Path(name).name):
        if path.is_file():
            return path
    return None


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportRefused(f"Reading the rows in {path}: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                rows.append(_as_chat(json.loads(line)))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ExportRefused(
                f"Line {number} of {path} is not a chat ({error}). Name a chat JSONL file with --rows."
            ) from error
    return rows


def _as_chat(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a preference pair as the chat with its better answer, and other rows as they are.

    Raises TypeError, AttributeError or KeyError if the row is not a chat.
    """
    request = row.get("input")
    if isinstance(request, dict) and "preferred_output" in row:
        question = request.get("messages") or ()
        answer = row["preferred_output"] or ()
        row = {**request, "messages": [*question, *answer]}
    if not all(isinstance(message, dict) for message in row["messages"]):
        raise TypeError("a message is not an object")
    tools_for_template(row)  # raises if the tools are malformed
    return row


def _question(row: dict[str, Any]) -> Question | None:
    """Returns the messages before the last answer that follows only plain text, or None if there is no such answer."""

    question: list[ChatMessage] = []
    before: list[ChatMessage] = []
    for message in row["messages"]:
        if message.get("role") == "assistant":
            question = before.copy()
        if not _is_plain(message):
            break
        before.append(ChatMessage(message["role"], message["content"]))
    if not question:
        return None
    return Question(question, tools_for_template(row) or ())


def _is_plain(message: dict[str, Any]) -> bool:
    if message.get("tool_calls") or message.get("function_call"):
        return False
    return message.get("role") in ROLES and isinstance(message.get("content"), str)


def describe_file(source: Source, name: str | None) -> DataFile | None:
    """Returns None if the job had no such file, or it is gone."""
    path = _rows_file(source, name)
    if path is None:
        return None
    content = path.read_bytes()
    rows = sum(1 for line in content.split(b"\n") if line.strip())
    return DataFile(rows, hashlib.sha256(content).hexdigest())
