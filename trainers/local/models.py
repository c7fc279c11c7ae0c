"""Finds the models that this trainer can answer with: base models named at its start, tuned models of finished jobs,
their checkpoints, and aliases of all of these. Loads no weights.

A program asks for the alias `team/tickets`, and the model behind it can change without a change in the program. Aliases
are stored in aliases.json in the data folder: {"team/tickets": {"model": "ft:…", "set_at": 1790000000}}. Model names
don't begin with `team/`; if a base model's does, it takes precedence over an alias of that name."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.http.errors import ApiError, invalid, not_found
from trainers.local.job_directory import read_json, replace_json, with_winning_settings
from trainers.local.jobs.records import JobRecord, Jobs, StartingPoint, TunedModel, mark
from trainers.local.serving.values import Target
from trainers.methods import METHODS

ALIAS_NAME = re.compile(r"team/[a-z0-9][a-z0-9_-]{0,39}", re.ASCII)
ALIASES_FILE = "aliases.json"
CHECKPOINT = re.compile(r"(.+):ckpt-step-(\d{1,9})")


@dataclass(frozen=True)
class Model:
    name: str
    created: int
    owner: str


class Models:
    """`bases` and `encoders` map names to local folders or hub ids. Encoders compute vectors and write no text. No
    other base model is ever loaded."""

    def __init__(
        self, bases: Mapping[str, str], jobs: Jobs, encoders: Mapping[str, str] | None = None
    ) -> None:
        self._encoders = encoders or {}
        self._bases = {**bases, **self._encoders}
        self._jobs = jobs
        self._started = int(time.time())

    def is_base(self, name: str) -> bool:
        return name in self._bases

    def all(self) -> list[Model]:
        """Returns the base models, then the tuned ones, newest first, without their checkpoints."""
        models = [self._base_model(name) for name in self._bases]
        for record in self._jobs.all():
            if record.has_model:
                models.append(_tuned_model(record, record.model_name))
        return models

    def get(self, name: str) -> Model:
        """Raises ApiError (404)."""
        if name in self._bases:
            return self._base_model(name)
        record, _ = self._find_tuned(name)
        return _tuned_model(record, name)

    def _base_model(self, name: str) -> Model:
        return Model(name, self._started, "local")

    def starting_point(self, name: str) -> StartingPoint:
        """Returns what a training of this model begins with. Raises ApiError (404)."""
        if name in self._bases:
            return StartingPoint(self._bases[name], name, is_encoder=name in self._encoders)
        tuned = self._look_up_tuned(name)
        if tuned is not None:
            record, adapter = tuned
            job = record.job
            if METHODS[job.method].is_for_encoders:
                text = f"A trained encoder can't be trained further. Name its base {job.base_name}, and send all rows."
                raise invalid(text, "model")
            if METHODS[job.method].leaves_model:
                text = (
                    f"'{name}' was trained with all its weights, and here only an adapter can be trained further. Name "
                    f"its base {job.base_name}, and send all rows."
                )
                raise invalid(text, "model")
            settings = with_winning_settings(record.folder, job).settings
            model = TunedModel(name, adapter, record.folder, settings)
            return StartingPoint(job.base, job.base_name, model)
        existing = ", ".join(self._bases) or "none; start it with --model NAME=FOLDER"
        text = (
            f"There is no model '{name}' here to fine-tune. "
            f"This trainer has: {existing}; and the models tuned here."
        )
        raise ApiError(404, text, "model_not_found", "model")

    def target(self, name: str) -> Target:
        """Returns what has to be loaded to answer as `name`. Raises ApiError (404)."""
        if name in self._bases:
            return Target(self._bases[name], None, is_encoder=name in self._encoders)
        record, adapter = self._find_tuned(name)
        job = record.job
        if METHODS[job.method].leaves_model:
            return Target(str(adapter), None)
        is_encoder = METHODS[job.method].is_for_encoders
        return Target(job.base, adapter, job.settings.quantization, is_encoder)

    def folder_of(self, name: str) -> Path:
        """Returns the folder of a tuned model or checkpoint. Raises ApiError (404)."""
        _, folder = self._find_tuned(name)
        return folder

    def _find_tuned(self, name: str) -> tuple[JobRecord, Path]:
        """Returns the job and the adapter's folder of a tuned model or checkpoint. Raises ApiError (404)."""
        tuned = self._look_up_tuned(name)
        if tuned is None:
            raise not_found("model", name, "model_not_found", "model")
        return tuned

    def _look_up_tuned(self, name: str) -> tuple[JobRecord, Path] | None:
        record = self._jobs.find_by_model(name)
        if record is None:
            return None
        adapter = _adapter(record, name)
        if adapter is None:
            return None
        return record, adapter

    def delete(self, name: str) -> None:
        """Removes a tuned model and its checkpoints from disk. Raises ApiError (403 for a base model, 404)."""
        if name in self._bases:
            text = f"'{name}' is a base model. Only fine-tuned models can be deleted here."
            raise ApiError(403, text, "model_not_deletable", "model")
        record = self._jobs.find_by_model(name)
        if record is None or not record.has_model or record.model_name != name:
            raise not_found("fine-tuned model", name, "model_not_found", "model")
        mark(record.folder, "MODEL_DELETED")  # first, so that nobody loads a model that is half deleted
        for part in ("adapter", "checkpoints", "engine/output"):  # the last one is another engine's copy
            shutil.rmtree(record.folder / part, ignore_errors=True)


def _tuned_model(record: JobRecord, name: str) -> Model:
    return Model(name, record.finished_at or record.job.created_at, "local-finetuned")


def _adapter(record: JobRecord, name: str) -> Path | None:
    match = CHECKPOINT.fullmatch(name)
    if match is None:
        if not record.has_model:
            return None
        return record.folder / "adapter"
    step = int(match[2])
    folder = record.folder / "checkpoints" / f"step-{step:06d}"
    if not folder.exists():
        return None
    return folder


@dataclass(frozen=True)
class Alias:
    """`set_at` is when it was pointed at this model, in unix seconds."""

    name: str
    model: str
    set_at: int


class Aliases:
    """The aliases of this trainer's models. Models are deleted through this class, so that none is deleted while an
    alias points at it."""

    def __init__(self, path: Path, models: Models) -> None:
        self._path = path
        self._models = models
        self._lock = threading.Lock()

    def all(self) -> list[Alias]:
        """Returns all aliases, sorted by name."""
        aliases = self._read().values()
        return sorted(aliases, key=lambda alias: alias.name)

    def get(self, name: str) -> Alias | None:
        """Returns None if there is no such alias, or a base model has this name."""
        if not ALIAS_NAME.fullmatch(name) or self._models.is_base(name):
            return None
        return self._read().get(name)

    def point(self, name: str, model: str) -> Alias:
        """Points the alias at `model`; repeating it changes nothing. Raises ApiError (400, 404)."""
        if not ALIAS_NAME.fullmatch(name):
            text = (
                f"'{name[:80]}' can't be an alias: it must be 'team/' and 1 to 40 lower-case letters, digits, _ or -, "
                "like team/tickets."
            )
            raise invalid(text, "name", "alias_name_invalid")
        if self._models.is_base(name):
            text = f"'{name}' is a base model of this trainer, so it can't be an alias of another model."
            raise invalid(text, "name", "alias_name_taken")
        with self._lock:
            self._models.target(model)  # raises if there is no such model
            aliases_by_name = self._read()
            present = aliases_by_name.get(name)
            if present is not None and present.model == model:
                return present
            alias = Alias(name, model, int(time.time()))
            aliases_by_name[name] = alias
            self._write(aliases_by_name)
            return alias

    def remove(self, name: str) -> None:
        """Raises ApiError (404)."""
        with self._lock:
            aliases_by_name = self._read()
            if aliases_by_name.pop(name, None) is None:
                raise not_found("alias", name, "alias_not_found", "name")
            self._write(aliases_by_name)

    def find(self, name: str) -> tuple[str, Target]:
        """Returns the name of the model that answers to `name`, and what has to be loaded for it. Raises ApiError
        (404)."""
        alias = self.get(name)
        if alias is None:
            return name, self._models.target(name)
        try:
            return alias.model, self._models.target(alias.model)
        except ApiError as problem:
            text = f"'{name}' points at '{alias.model}', which is no longer on this trainer. Point it at another model."
            raise ApiError(404, text, "model_not_found", "model") from problem

    def delete_model(self, model: str) -> None:
        """Raises ApiError: 400 if an alias points at it, else like Models.delete."""
        with self._lock:
            self._refuse_in_use(model)
            self._models.delete(model)

    def delete_job(self, jobs: Jobs, record: JobRecord) -> None:
        """Deletes a job with its model. Raises ApiError (400) if an alias points at the model."""
        with self._lock:
            self._refuse_in_use(record.model_name)
            jobs.delete(record.job.id)

    def _refuse_in_use(self, model: str) -> None:
        """Raises ApiError (400) if an alias points at the model, or at a checkpoint, which would be deleted with it."""
        checkpoint_prefix = f"{model}:ckpt-step-"
        names = []
        for alias in self.all():
            if alias.model == model or alias.model.startswith(checkpoint_prefix):
                names.append(alias.name)
        if names:
            users = " and ".join(names)
            text = (
                f"'{model}' is in use by {users}. Point that at another model first, or delete it with DELETE "
                "/v1/aliases/NAME."
            )
            raise invalid(text, "model", "model_in_use")

    def _read(self) -> dict[str, Alias]:
        raw: Mapping[str, Mapping[str, Any]] = read_json(self._path) or {}
        aliases_by_name = {}
        for name, values in raw.items():
            aliases_by_name[name] = Alias(name, str(values["model"]), int(values["set_at"]))
        return aliases_by_name

    def _write(self, aliases_by_name: Mapping[str, Alias]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        raw = {}
        for name, alias in aliases_by_name.items():
            raw[name] = {"model": alias.model, "set_at": alias.set_at}
        replace_json(self._path, raw)
