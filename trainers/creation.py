"""What a trainer is sent to create a job, and how that job is known again as ours. Sends nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping

from trainers import answers
from trainers.answers import Json
from trainers.sweeps import as_lists
from trainers.types import Hyperparameter, Job, JobSpec, Provider

KEY = "finetune_key"
PLAIN_HYPERPARAMETERS = frozenset({"n_epochs", "batch_size", "learning_rate_multiplier"})


def sent_hyperparameters(
    provider: Provider, wanted: Mapping[str, Hyperparameter]
) -> dict[str, Hyperparameter]:
    """What of `wanted` this provider is told; a plan freezes this, so that people approve what is trained."""
    takes_all = provider.can("extra_hyperparameters")
    return {key: value for key, value in wanted.items() if takes_all or key in PLAIN_HYPERPARAMETERS}


def job_body(provider: Provider, spec: JobSpec) -> dict[str, object]:
    """All of the request but model and training_file, in the shape that this provider takes."""
    hyperparameters: dict[str, object] = {**sent_hyperparameters(provider, spec.hyperparameters)}
    if spec.sweep:
        hyperparameters["sweep"] = as_lists(spec.sweep)
    body: dict[str, object] = {"seed": spec.seed}
    if provider.can("method"):
        body["method"] = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    else:
        body["hyperparameters"] = hyperparameters
    if provider.can("metadata"):
        body["metadata"] = {**spec.metadata, KEY: spec.key}
    if provider.can("suffix"):
        body["suffix"] = spec.suffix if provider.can("metadata") else _marked(spec.suffix, spec.key)
    if spec.validation_file:
        body["validation_file"] = spec.validation_file
    return body


def _marked(suffix: str, key: str) -> str:
    """A suffix (at most 64 characters) that says whose job it is, for a trainer that keeps no metadata."""
    return f"{suffix[:47]}-{_mark(key)}"


def _mark(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def key_reader(keys: Collection[str]) -> Callable[[Json], str | None]:
    """Reads a listed job's key: whatever its metadata says, else which of `keys` its suffix is marked with."""
    marks = {_mark(key): key for key in keys}

    def read(row: Json) -> str | None:
        said = answers.metadata(row).get(KEY)
        suffix = row.get("suffix")
        mark = suffix.rpartition("-")[2] if isinstance(suffix, str) else ""
        return said if said is not None else marks.get(mark)

    return read


def carries(row: Json, key: str) -> bool:
    suffix = row.get("suffix")
    return _carry(answers.metadata(row), suffix if isinstance(suffix, str) else None, key)


def job_carries(job: Job, key: str) -> bool:
    return _carry(job.metadata, job.suffix, key)


def _carry(metadata: Mapping[str, str], suffix: str | None, key: str) -> bool:
    is_marked = suffix is not None and suffix.endswith("-" + _mark(key))
    return is_marked or metadata.get(KEY) == key
