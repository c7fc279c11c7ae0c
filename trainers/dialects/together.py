"""Together's fine-tuning (/fine-tunes): OpenAI's files and chats, jobs of its own.

A job's price is in nano-dollars and final once the job is over; the tokens of validations are in it. Our mark is at the
end of the suffix, the list has no filter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Any, BinaryIO
from urllib.parse import urlencode

from trainers import payloads
from trainers.dialects.dialect import Dialect, object_under, read_metrics, seconds
from trainers.errors import InvalidResponse, Refused
from trainers.payloads import Json
from trainers.types import (
    FINAL_STATUSES,
    Checkpoint,
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
    "cancel_requested": "running",
    "completed": "succeeded",
    "error": "failed",
    "cancelled": "cancelled",
}
UNREADY = {
    "train_file_not_validated": "the file of training rows is still being checked",
    "eval_file_not_validated": "the file of validation rows is still being checked",
    "train_file_invalid": "the file of training rows was found invalid",
    "eval_file_invalid": "the file of validation rows was found invalid",
    "multimodal_dataset": "rows with pictures are not priced beforehand",
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
LORA = ("lora_r", "lora_alpha", "lora_dropout")
NANO = Decimal(10) ** -9


class Together(Dialect):
    jobs_path = "/fine-tunes"

    def models(self) -> tuple[ModelInfo, ...]:
        action = self._action("listing the models")
        content = self._get(action, lambda: self._client.get("/models", cast_to=bytes))
        if content.lstrip().startswith(b"["):  # a bare list, without OpenAI's object around it
            content = b'{"data":' + content + b"}"
        return tuple(payloads.model_info(row, action) for row in payloads.read_list(content, action)[0])

    def has_model(self, name: str) -> bool:
        """Among the models, or as the result of a job: those stand in no list until they are deployed."""
        action = self._action(f"looking for the model {name!r}")
        results = {row.get("fine_tuned_model") for row in self._jobs(action, None)}
        return name in results or name in {model.id for model in self.models()}

    def estimate(self, spec: JobSpec) -> JobEstimate:
        """Until it has checked the file it names no price."""
        action = self._action("asking what the job would cost")
        body = {name: value for name, value in self._body(spec).items() if name in PRICE_FIELDS}
        raw = self._post(action, f"{self.jobs_path}/estimate-price", body)
        if raw.get("estimation_available") is False:
            reason = str(raw.get("unavailable_reason"))
            return JobEstimate(None, why=UNREADY.get(reason, f"its reason is {reason!r}"))
        tokens = (raw.get(f"estimated_{part}_token_count") for part in ("train", "eval"))
        return replace(
            payloads.job_estimate(raw, action),
            training_tokens=sum(int(count) for count in tokens if isinstance(count, int | float)),
            is_affordable=raw.get("allowed_to_proceed") is not False,
        )

    def describe_exceeded_limit(
        self, model: str, hyperparameters: Mapping[str, Hyperparameter]
    ) -> str | None:
        action = self._action(f"asking for the limits of {model!r}")
        limits = self._look_up(action, f"{self.jobs_path}/models/limits?{urlencode({'model_name': model})}")
        if limits is None:
            return f"{self.provider.name} trains no model of the name {model}."
        most = {
            "n_epochs": limits.get("max_num_epochs"),
            "lora_r": object_under(limits, "lora_training").get("max_rank"),
            "learning_rate": limits.get("max_learning_rate"),
        }
        for name, high in most.items():
            value = hyperparameters.get(name)
            if isinstance(value, int | float) and isinstance(high, int | float) and value > high:
                return (
                    f"{self.provider.name} trains {model} with {name} of at most {high:g}, and the plan has {value:g}. "
                    "Start it again with a smaller one."
                )
        return None

    def create(self, spec: JobSpec) -> Job:
        action = self._action(f"creating the job for {spec.suffix!r}")
        return self._job(self._post(action, self.jobs_path, self._body(spec)), action)

    def job(self, job_id: str) -> Job:
        """One that failed says why in its events alone."""
        job = super().job(job_id)
        if job.status != "failed":
            return job
        try:
            errors = [event.message for event in self.events(job_id, 100) if event.level == "error"]
        except (Refused, InvalidResponse):  # it has failed, with or without a reason
            return job
        return replace(job, error_message=errors[0]) if errors else job

    def cancel(self, job_id: str) -> Job:
        action = self._action(f"cancelling job {job_id!r}")
        return self._job(self._post(action, f"{self._job_path(job_id)}/cancel", {}), action)

    def delete_job(self, job_id: str) -> None:
        """Its weights lie in the project's registry, and stay there when the job goes."""
        action = self._action(f"deleting job {job_id!r}")
        raw = self._look_up(action, self._job_path(job_id)) or {}
        registry = self.provider.deploy_base_url or self.provider.base_url
        for model in filter(None, (raw.get("model_object_id"), raw.get("adapter_object_id"))):
            self._delete_if_present(
                action, partial(self._client.delete, f"{registry}/models/{model}", cast_to=bytes)
            )
        self._delete_if_present(action, lambda: self._client.delete(self._job_path(job_id), cast_to=bytes))

    def events(self, job_id: str, limit: int = 20) -> tuple[Event, ...]:
        action = self._action(f"asking for the events of job {job_id!r}")
        return tuple(payloads.event(row, action) for row in islice(self._event_rows(job_id, action), limit))

    def checkpoints(self, job_id: str) -> tuple[Checkpoint, ...]:
        action = self._action(f"asking for the checkpoints of job {job_id!r}")
        rows = self._rows_under("data", f"{self._job_path(job_id)}/checkpoints", action)
        ours = (
            {
                "id": raw.get("object_id") or raw.get("path"),
                "step_number": raw.get("step"),
                "created_at": seconds(raw, "created_at"),
                "fine_tuned_model_checkpoint": raw.get("object_name"),
                "result_files": [raw.get("path")],
            }
            for raw in rows
        )
        return tuple(payloads.checkpoint(row, action) for row in ours)

    def metrics(self, job: Job) -> tuple[Metric, ...]:
        action = self._action(f"reading the results of job {job.id!r}")
        rows = self._rows_under("metrics", f"{self._job_path(job.id)}/metrics", action)
        return read_metrics((row.get("train/global_step"), row) for row in rows)

    def _list_raw_jobs(self, action: str) -> Iterator[Json]:
        """The list has no pages and no order that could be asked for."""
        rows = self._rows_under("data", self.jobs_path, action)
        yield from sorted(rows, key=lambda raw: seconds(raw, "created_at") or 0, reverse=True)

    def _to_openai_shape(self, raw: Json, action: str) -> Json:
        word = payloads.required(raw, "status", action)
        status = STATUSES.get(word, word)
        is_final, price = status in FINAL_STATUSES, raw.get("total_price")
        return {
            **{name: raw.get(name) for name in ("id", "model", "suffix", "training_file", "total_steps")},
            "status": status,
            "created_at": seconds(raw, "created_at"),
            "finished_at": seconds(raw, "updated_at") if is_final else None,
            # By its id in their registry it is deployed; the name is an older kind's.
            "fine_tuned_model": (raw.get("model_object_id") or raw.get("model_output_name"))
            if status == "succeeded"
            else None,
            # From the beginning on these say what the whole training will take.
            "trained_tokens": raw.get("token_count") if is_final else None,
            "billed_usd": price * NANO if is_final and isinstance(price, int) else None,
            "trained_steps": raw.get("steps_completed"),
            "hyperparameters": self._our_hyperparameters({**raw, **object_under(raw, "training_type")}),
        }

    def _body(self, spec: JobSpec) -> Json:
        chosen = self._vendor_hyperparameters(spec)
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
            body["training_type"] = {"type": "Lora", "lora_alpha": 2 * int(lora["lora_r"]), **lora}
        if spec.validation_file:  # after each epoch; these tokens are billed, too
            body |= {"validation_file": spec.validation_file, "n_evals": chosen.get("n_epochs", 1)}
        return body

    def _event_rows(self, job_id: str, action: str) -> Iterator[Json]:
        rows: list[dict[str, Any]] = []
        for raw in self._rows_under("data", f"{self._job_path(job_id)}/events", action):
            level = str(raw.get("level") or "info").removeprefix("legacy_")  # and then may be 'ierror'
            level = level if level == "info" else level.removeprefix("i")
            details = {name: raw[name] for name in ("step", "total_steps") if raw.get(name)}
            created_at = seconds(raw, "created_at") or 0
            rows.append({**raw, "created_at": created_at, "level": level, "data": details})
        yield from sorted(rows, key=lambda row: row["created_at"], reverse=True)

    def _post_file(self, name: str, file: BinaryIO) -> bytes:
        """In one request; their own client sends files of any size in parts, by addresses that it asks for first."""
        return self._client.post(
            "/files/upload",
            body={"file_name": name, "purpose": "fine-tune"},
            files={"file": (name, file)},
            options={"headers": {"Content-Type": "multipart/form-data"}},
            cast_to=bytes,
        )
