"""Which models there are: base models allowed at start, tuned ones of finished jobs, their checkpoints."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainers.local.jobs import JobRecord, Jobs, mark
from trainers.local.problems import Problem, missing
from trainers.local.serving.values import Target
from trainers.local.starts import Start, start_of

CHECKPOINT = re.compile(r"(.+):ckpt-step-(\d{1,9})")


@dataclass(frozen=True)
class Model:
    name: str
    created: int
    owner: str


class Models:
    """`bases`: local folder or hub id by name. No other base model is ever loaded."""

    def __init__(self, bases: Mapping[str, str], jobs: Jobs) -> None:
        self._bases = bases
        self._jobs = jobs
        self._started = int(time.time())

    def is_base(self, name: str) -> bool:
        return name in self._bases

    def all(self) -> list[Model]:
        """Base models, then tuned ones, newest first. Checkpoints are listed with their jobs."""
        bases = [Model(name, self._started, "local") for name in self._bases]
        return bases + [_tuned(record) for record in self._jobs.all() if record.has_model]

    def get(self, name: str) -> Model:
        """Raises Problem (404)."""
        target = self.target(name)
        record = self._jobs.of_model(name)
        if target.adapter is None or record is None:
            return Model(name, self._started, "local")
        return Model(name, record.finished_at or record.job.created_at, "local-finetuned")

    def start(self, name: str) -> Start:
        """Of a training that names this model. Raises Problem (404)."""
        if name in self._bases:
            return Start(self._bases[name], name)
        record = self._jobs.of_model(name)
        adapter = _adapter(record, name) if record else None
        if record and adapter:
            return start_of(name, record.job, adapter, record.folder)
        known = ", ".join(self._bases) or "none; start it with --model NAME=FOLDER"
        text = f"There is no model '{name}' here to be fine-tuned. This trainer has: {known}; and what was tuned here."
        raise Problem(404, text, "model_not_found", "model")

    def target(self, name: str) -> Target:
        """What has to be loaded for `name`. Raises Problem (404)."""
        if name in self._bases:
            return Target(self._bases[name], None)
        record = self._jobs.of_model(name)
        adapter = _adapter(record, name) if record else None
        if record is None or adapter is None:
            raise missing("model", name, "model_not_found", "model")
        return Target(record.job.base, adapter, record.job.settings.quantization)

    def delete(self, name: str) -> None:
        """Remove a tuned model and its checkpoints from disk. Raises Problem (403 base model, 404)."""
        if name in self._bases:
            text = f"'{name}' is a base model. Only fine-tuned models can be deleted here."
            raise Problem(403, text, "model_not_deletable", "model")
        record = self._jobs.of_model(name)
        if record is None or not record.has_model or record.model_name != name:
            raise missing("fine-tuned model", name, "model_not_found", "model")
        mark(record.folder, "MODEL_DELETED")
        for part in ("adapter", "checkpoints"):
            shutil.rmtree(record.folder / part, ignore_errors=True)


def _tuned(record: JobRecord) -> Model:
    return Model(record.model_name, record.finished_at or record.job.created_at, "local-finetuned")


def _adapter(record: JobRecord, name: str) -> Path | None:
    match = CHECKPOINT.fullmatch(name)
    if match is None:
        return record.folder / "adapter" if record.has_model else None
    folder = record.folder / "checkpoints" / f"step-{int(match[2]):06d}"
    return folder if folder.exists() else None
