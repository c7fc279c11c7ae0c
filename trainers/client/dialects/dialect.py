"""The base class for vendors whose API is not OpenAI's: it sends plain HTTP and converts answers to OpenAI's format.

A subclass lists jobs and converts one; Trainer does the rest: finding jobs by our key, uploads and chat. Requests go
through OpenAI's SDK, so that errors, time-outs, redirects and retries are handled alike for every vendor.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeGuard
from urllib.parse import quote

from trainers.client import payloads
from trainers.client.client import Trainer
from trainers.client.payloads import Json
from trainers.methods import specs
from trainers.types import Hyperparameter, Job, JobSpec, Metric


class Dialect(Trainer):
    jobs_path: ClassVar[str]

    def _to_openai_shape(self, raw: Json, action: str) -> Json:
        """Converts a vendor's job to OpenAI's format. An unknown status is passed on unchanged."""
        raise NotImplementedError

    def _list_raw_jobs(self, action: str) -> Iterator[Json]:
        """Yields the vendor's jobs in its own format, newest first."""
        raise NotImplementedError

    def has_jobs(self, timeout_s: float) -> bool:
        action = self._action("asking whether we may train")
        newest = next(self._list_raw_jobs(action), None)
        return newest is not None

    def job(self, job_id: str) -> Job:
        action = self._action(f"asking for job {job_id!r}")
        raw = self._read(action, self._job_path(job_id))
        return self._job(raw, action)

    def _job(self, raw: Json, action: str) -> Job:
        shape = self._to_openai_shape(raw, action)
        return payloads.job(shape, action)

    def _jobs(self, action: str, filter_by: dict[str, str] | None) -> Iterator[Json]:
        # Without `filter_by`, which these lists don't have: the caller compares each job's key.
        for raw in self._list_raw_jobs(action):
            yield self._to_openai_shape(raw, action)

    def _job_path(self, job_id: str) -> str:
        return f"{self.jobs_path}/{quote(job_id, safe='')}"

    def _unsigned(self) -> dict[str, Any]:
        """Returns headers for a signed address, which alone gives access: without our key, our account's name, and the
        kind of content, which is part of some signatures."""
        from openai import omit

        ours = ("Authorization", "OpenAI-Organization", "OpenAI-Project", "Content-Type")
        return dict.fromkeys((*ours, *self.provider.headers), omit)

    def _rows_under(self, key: str, path: str, action: str) -> tuple[Json, ...]:
        page = self._read(action, path)
        return payloads.rows_under(page, key, action)

    def _no_tools_text(self, model: str) -> str:
        return (
            f"{self.provider.name} trains {model} without tools, and rows of this file offer or call functions. Choose "
            "another base, or train on rows without tools."
        )

    def _vendor_hyperparameters(self, spec: JobSpec) -> dict[str, Hyperparameter]:
        """Returns the hyperparameters under the vendor's names. Those set to "auto" are left out, so that the vendor
        chooses them."""
        names = self.provider.hyperparameter_names
        chosen = payloads.accepted_hyperparameters(self.provider, spec.hyperparameters)
        sent: dict[str, Hyperparameter] = {}
        for name, value in chosen.items():
            if value != "auto":
                vendors_name = names.get(name, name)
                sent[vendors_name] = value
        return sent

    def _our_hyperparameters(self, raw: Json) -> Json:
        """Returns a job's hyperparameters under our names."""
        names = self.provider.hyperparameter_names
        ours = {}
        for name in specs():
            vendors_name = names.get(name, name)
            if vendors_name in raw:
                ours[name] = raw[vendors_name]
        return ours


def object_under(raw: Json, key: str) -> Json:
    value = raw.get(key)
    if not isinstance(value, dict):
        return {}
    return value


def seconds(raw: Json, key: str) -> int | None:
    """Reads the ISO time under `key` as unix seconds (UTC if it names no zone). Returns None if there is none."""
    try:
        time = datetime.fromisoformat(str(raw.get(key)))
    except ValueError:
        return None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return int(time.timestamp())


def _is_finite(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and math.isfinite(value)


def read_metrics(rows: Iterable[tuple[object, Json]]) -> tuple[Metric, ...]:
    """Reads losses from pairs of a step and its row. Training and validation at the same step may be two rows."""
    losses: dict[int, dict[str, float]] = defaultdict(dict)
    for step, row in rows:
        if not _is_finite(step):
            continue
        for name in ("train", "eval"):
            value = row.get(f"{name}/loss")
            if _is_finite(value):
                losses[int(step)][name] = float(value)
    metrics = []
    for number, of_step in sorted(losses.items()):
        metrics.append(Metric(number, of_step.get("train"), valid_loss=of_step.get("eval")))
    return tuple(metrics)
