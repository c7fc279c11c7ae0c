"""Together's fine-tuning (/fine-tunes): chat as at OpenAI, jobs in a format of its own.

A job's price is in nano-dollars, includes validation tokens, and is final once the job is over. Our mark is at the end
of the suffix, and jobs can't be filtered in the list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import quote, urlencode

from trainers.client import payloads
from trainers.client.dialects.dialect import object_under, read_metrics, seconds
from trainers.client.dialects.together_uploads import TogetherUploads
from trainers.client.payloads import Json
from trainers.errors import InvalidResponse, Refused
from trainers.types import (
    FINAL_STATUSES,
    Event,
    Hyperparameter,
    Job,
    JobEstimate,
    JobSpec,
    Metric,
    ModelInfo,
)

STATUSES = {
    "pending": "queued",
    "queued": "queued",
    "running": "running",
    "compressing": "running",
    "uploading": "running",
    # Not over yet: the price is final only once the job has stopped.
    "cancel_requested": "running",
    "completed": "succeeded",
    "error": "failed",
    "cancelled": "cancelled",
}
UNREADY = {
    "train_file_not_validated": "the file of training rows is still being checked",
    "eval_file_not_validated": "the file of validation rows is still being checked",
    "train_file_invalid": "the file of training rows is invalid",
    "eval_file_invalid": "the file of validation rows is invalid",
    "multimodal_dataset": "it gives no estimate for rows with pictures",
}
PRICE_FIELDS = {
    "model",
    "training_file",
    "validation_file",
    "n_epochs",
    "n_evals",
    "training_type",
    "training_method",
}
LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_trainable_modules")
ALL_MODULES = "all-linear"
NANO = Decimal(10) ** -9
LATEST_EVENTS = 100


class Together(TogetherUploads):
    jobs_path = "/fine-tunes"

    def models(self) -> tuple[ModelInfo, ...]:
        action = self._action("listing the models")
        content = self._get(action, lambda: self._client.get("/models", cast_to=bytes))
        if content.lstrip().startswith(b"["):
            # A bare list instead of OpenAI's object with the list under "data".
            content = b'{"data":' + content + b"}"
        rows, _ = payloads.read_list(content, action)
        return tuple(payloads.model_info(row, action) for row in rows)

    def has_model(self, name: str) -> bool:
        """Asks the registry first: a tuned model is not in the list of models until it is deployed, and rows of jobs
        name no model."""
        action = self._action(f"looking for the model {name!r}")
        *_, model_id = name.rpartition("/")
        if self._look_up(action, f"{self._registry}/models/{quote(model_id)}") is not None:
            return True
        return any(model.id == name for model in self.models())

    @property
    def _registry(self) -> str:
        """Where models are kept: the API for deployments, not the one for jobs."""
        return self.provider.deploy_base_url or self.provider.base_url

    def estimate(self, spec: JobSpec) -> JobEstimate:
        """Returns an estimate without a price until the vendor has checked the file."""
        action = self._action("asking what the job would cost")
        body = self._body(spec)
        sent = {name: value for name, value in body.items() if name in PRICE_FIELDS}
        raw = self._post(action, f"{self.jobs_path}/estimate-price", sent)
        if raw.get("estimation_available") is False:
            reason = str(raw.get("unavailable_reason"))
            why = UNREADY.get(reason, f"its reason is {reason!r}")
            return JobEstimate(None, why=why)
        tokens = 0
        for part in ("train", "eval"):
            count = raw.get(f"estimated_{part}_token_count")
            if isinstance(count, int | float):
                tokens += int(count)
        return replace(
            payloads.job_estimate(raw, action),
            training_tokens=tokens,
            # Only an explicit false forbids it: a missing field must not stop a plan.
            is_affordable=raw.get("allowed_to_proceed") is not False,
        )

    def describe_exceeded_limit(
        self, model: str, hyperparameters: Mapping[str, Hyperparameter], *, has_tools: bool = False
    ) -> str | None:
        action = self._action(f"asking for the limits of {model!r}")
        parameters = urlencode({"model_name": model})
        limits = self._look_up(action, f"{self.jobs_path}/models/limits?{parameters}")
        if limits is None:
            return f"{self.provider.name} can't train a model named {model}."
        if limits.get("merge_output_lora") is False:
            return (
                f"{self.provider.name} trains {model}, but keeps only the adapter and merges it into no model, and a "
                "deployment there needs one. Choose another base."
            )
        if has_tools and limits.get("supports_tools") is False:
            return self._no_tools_text(model)
        for name, (least, most) in _ranges(limits).items():
            fault = _range_fault(hyperparameters.get(name), least, most)
            if fault:
                return f"{self.provider.name} trains {model} with {name} of {fault}"
        return self._unknown_module(model, limits, hyperparameters)

    def _unknown_module(
        self, model: str, limits: Json, hyperparameters: Mapping[str, Hyperparameter]
    ) -> str | None:
        modules = object_under(limits, "lora_training").get("target_modules")
        chosen = hyperparameters.get("target_modules", ALL_MODULES)
        if not isinstance(modules, list) or chosen == ALL_MODULES:
            return None
        others = [name for name in str(chosen).split(",") if name not in modules]
        if not others:
            return None
        allowed = ", ".join(str(name) for name in modules)
        return (
            f"{self.provider.name} trains these layers of {model}: {allowed}, but not {others[0]}. Start again with "
            f"other target_modules, or with {ALL_MODULES}."
        )

    def create(self, spec: JobSpec) -> Job:
        action = self._action(f"creating the job for {spec.suffix!r}")
        raw = self._post(action, self.jobs_path, self._body(spec))
        return self._job(raw, action)

    def job(self, job_id: str) -> Job:
        """Adds the steps, and the reason of a failure, which the vendor gives only in the job's events."""
        job = super().job(job_id)
        if job.status not in ("running", "succeeded", "failed"):
            return job
        try:
            events = self.events(job_id, LATEST_EVENTS)
        except (Refused, InvalidResponse):  # report the state even if nothing more can be read
            return job
        if job.status == "failed":
            errors = [event.message for event in events if event.level == "error"]
            return replace(job, error_message=errors[0] if errors else job.error_message)
        return _with_steps(job, events)

    def cancel(self, job_id: str) -> Job:
        action = self._action(f"cancelling job {job_id!r}")
        raw = self._post(action, f"{self._job_path(job_id)}/cancel", {})
        return self._job(raw, action)

    def delete_job(self, job_id: str) -> None:
        """Deletes the job and its weights, which the vendor would keep in the project's registry."""
        action = self._action(f"deleting job {job_id!r}")
        raw = self._look_up(action, self._job_path(job_id)) or {}
        # The weights first: without the job nobody would know their ids.
        for model in filter(None, (raw.get("model_object_id"), raw.get("adapter_object_id"))):
            delete = partial(self._client.delete, f"{self._registry}/models/{model}", cast_to=bytes)
            self._delete_if_present(action, delete)
        delete_job = partial(self._client.delete, self._job_path(job_id), cast_to=bytes)
        self._delete_if_present(action, delete_job)

    def events(self, job_id: str, limit: int = 20) -> tuple[Event, ...]:
        action = self._action(f"asking for the events of job {job_id!r}")
        latest = islice(self._event_rows(job_id, action), limit)
        return tuple(payloads.event(row, action) for row in latest)

    def metrics(self, job: Job) -> tuple[Metric, ...]:
        action = self._action(f"reading the results of job {job.id!r}")
        rows = self._rows_under("metrics", f"{self._job_path(job.id)}/metrics", action)
        return read_metrics((row.get("train/global_step"), row) for row in rows)

    def _list_raw_jobs(self, action: str) -> Iterator[Json]:
        """Sorts the jobs here, since the list has neither pages nor an order parameter."""
        rows = self._rows_under("data", self.jobs_path, action)
        yield from sorted(rows, key=lambda raw: seconds(raw, "created_at") or 0, reverse=True)

    def _to_openai_shape(self, raw: Json, action: str) -> Json:
        word = payloads.required(raw, "status", action)
        status = STATUSES.get(word, word)
        shared = ("id", "model", "suffix", "training_file")
        same = {name: raw.get(name) for name in shared}
        # LoRA's values are nested under the training type.
        chosen = {**raw, **object_under(raw, "training_type")}
        shape: dict[str, object] = {
            **same,
            "status": status,
            "created_at": seconds(raw, "created_at"),
            "hyperparameters": self._our_hyperparameters(chosen),
        }
        if status == "succeeded":
            # A model is deployed by its id in the registry. Older jobs have only a name.
            shape["fine_tuned_model"] = raw.get("model_object_id") or raw.get("model_output_name")
        if status in FINAL_STATUSES:
            # There is no field for the end, but a job that is over is not updated any more.
            shape["finished_at"] = seconds(raw, "updated_at")
            # While the job runs this is the expected total, not the tokens trained so far.
            shape["trained_tokens"] = raw.get("token_count")
            price = raw.get("total_price")
            if isinstance(price, int):
                shape["billed_usd"] = price * NANO
        return shape

    def _body(self, spec: JobSpec) -> Json:
        chosen = self._vendor_hyperparameters(spec)
        # Taken out, since the request nests them under the training type.
        lora = {name: chosen.pop(name) for name in LORA if name in chosen}
        body = {
            **self.provider.create_extra,
            **chosen,
            "model": spec.model,
            "training_file": spec.training_file,
            "suffix": payloads.fit_suffix(self.provider, spec.suffix, spec.key),
            "random_seed": spec.seed,
            "training_method": {"method": "sft", "train_on_inputs": "auto"},
        }
        if "lora_r" in lora:
            # `lora` comes last, so that an alpha that somebody chose replaces twice the rank.
            body["training_type"] = {
                "type": "Lora",
                "lora_alpha": 2 * int(lora["lora_r"]),
                **lora,
            }
        if spec.validation_file:  # one validation per epoch, since validation tokens are billed too
            body["validation_file"] = spec.validation_file
            body["n_evals"] = chosen.get("n_epochs", 1)
        return body

    def _event_rows(self, job_id: str, action: str) -> Iterator[Json]:
        rows: list[dict[str, Any]] = []
        for raw in self._rows_under("data", f"{self._job_path(job_id)}/events", action):
            level = str(raw.get("level") or "info").removeprefix("legacy_")
            if level != "info":
                level = level.removeprefix("i")  # e.g. "legacy_ierror"
            details = {name: raw[name] for name in ("step", "total_steps") if raw.get(name)}
            created_at = seconds(raw, "created_at") or 0
            rows.append({**raw, "created_at": created_at, "level": level, "data": details})
        yield from sorted(rows, key=lambda row: row["created_at"], reverse=True)


def _with_steps(job: Job, events: Sequence[Event]) -> Job:
    """Adds the steps of the newest event that has them; a job that has succeeded has trained all. `events` are newest
    first."""
    for event in events:
        total = event.data.get("total_steps")
        done = event.data.get("step")
        if isinstance(total, int) and isinstance(done, int):
            if job.status == "succeeded":
                done = total
            return replace(job, trained_steps=done, total_steps=total)
    return job


def _ranges(limits: Json) -> Mapping[str, tuple[object, object]]:
    """Returns the least and the most of each hyperparameter that a base has limits for."""
    lora = object_under(limits, "lora_training")
    return {
        "n_epochs": (None, limits.get("max_num_epochs")),
        "lora_r": (None, lora.get("max_rank")),
        "learning_rate": (limits.get("min_learning_rate"), limits.get("max_learning_rate")),
        "batch_size": (lora.get("min_batch_size"), lora.get("max_batch_size")),
        "max_length": (limits.get("min_max_seq_length"), limits.get("max_seq_length_sft")),
    }


def _range_fault(value: object, least: object, most: object) -> str | None:
    """Returns the end of a sentence if the value is outside. Neither "auto" nor a missing limit can be compared."""
    if not isinstance(value, int | float):
        return None
    if isinstance(most, int | float) and value > most:
        return f"at most {most:g}, and the plan has {value:g}. Start again with a smaller value."
    if isinstance(least, int | float) and value < least:
        return f"at least {least:g}, and the plan has {value:g}. Start again with a larger value."
    return None
