"""Together's fine-tuning in memory, as its SDK and documentation describe it: times as text, prices in nano-dollars,
files that are validated after the upload, validations billed like training, a cancel that takes two looks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.peers.service import STEPS, Query, Reply, StoredJob, refusal
from tests.peers.together_uploads import TogetherUploads
from tests.peers.vendors import FINAL, VendorJob, iso

STAGES = ("pending", "queued", "running", "compressing", "uploading", "completed")
PLAIN = {
    "pending": "queued",
    "compressing": "running",
    "uploading": "running",
    "completed": "succeeded",
    "error": "failed",
}
WORDS = {"succeeded": "completed", "failed": "error", "validating_files": "pending"}
FIELDS = {
    "model", "training_file", "validation_file", "suffix", "n_epochs", "n_evals", "n_checkpoints", "batch_size",
    "learning_rate", "random_seed", "training_type", "training_method", "warmup_ratio", "weight_decay", "max_grad_norm",
    "packing", "max_seq_length",
}  # fmt: skip
LONGEST_SUFFIX = 40


@dataclass
class Together(TogetherUploads):
    stages: Sequence[str] = STAGES
    max_epochs: int = 20
    max_rank: int = 64
    merges_adapters: bool = True
    supports_tools: bool = True

    @property
    def create_route(self) -> str:
        return "POST /fine-tunes"

    def answer_to(
        self, method: str, path: str, query: Query, headers: Mapping[str, str], body: dict[str, Any]
    ) -> Reply:
        with self._lock:
            match (method, *path.strip("/").split("/")):
                case ("GET", "models"):
                    return 200, [self._model_body(model) for model in self.models]  # type: ignore[return-value]
                case ("PUT", "signed", "uploads", file_id):
                    return self._store(file_id, headers, body)
                case (_, "files", *rest):
                    reply = self._file_call(method, rest, headers, body)
                    if reply is not None:
                        return reply
                case ("GET", "fine-tunes", "models", "limits"):
                    return self._limits(query["model_name"])
                case ("POST", "fine-tunes", "estimate-price"):
                    return self._estimate(body)
                case (_, "fine-tunes", *rest):
                    return self._job_call(method, rest, query, headers, body)
        return super().answer_to(method, path, query, headers, body)

    def tuned_name(self, job: StoredJob) -> str:
        """Its id in the registry."""
        return f"ml_{job.id[3:]}"

    def _job_call(
        self, method: str, rest: list[str], query: Query, headers: Mapping[str, str], body: dict[str, Any]
    ) -> Reply:
        match (method, *rest):
            case ("POST",):
                return self._create(headers, body)
            case ("GET",):
                return 200, {"data": [self._row_of(job) for job in self._listed({})[::-1]]}
            case (_, job_id, *_) if job_id not in self.jobs:
                return refusal(404, "not_found", f"No fine-tune {job_id}.")
        job = self.jobs[rest[0]]
        match (method, *rest[1:]):
            case ("GET",):
                job.polls += 1
                return 200, self._body_of(job)
            case ("DELETE",):
                del self.jobs[job.id]
                return 200, {"message": "deleted"}
            case ("POST", "cancel"):
                return self._cancel(job)
            case ("GET", "events"):
                return 200, {"data": self._events_of(job)}
            case ("GET", "metrics"):
                return 200, {"metrics": _metrics() if self._status(job) == "succeeded" else []}
            case ("GET", "checkpoints"):
                return 200, {"data": self._checkpoints(job)}
        return refusal(404, "not_found", "There is no such call on a fine-tune.")

    def _problem(self, body: dict[str, Any]) -> Reply | None:
        unknown = sorted(set(body) - FIELDS)
        if unknown:
            return refusal(400, "unknown_parameter", f"Unknown parameter: {unknown[0]}.")
        if not self.credit:
            return refusal(402, "billing_limit", "Your credit does not cover this job.")
        if body.get("model") not in self.models:
            return refusal(404, "model_not_found", f"The model {body.get('model')} cannot be fine-tuned.")
        files = [body[key] for key in ("training_file", "validation_file") if key in body]
        if not all(self.is_usable(file) for file in files):
            return refusal(400, "invalid_file", "No such file, or its check was never requested.")
        if len(body.get("suffix") or "") > LONGEST_SUFFIX:
            return refusal(400, "invalid_value", f"suffix has {len(body['suffix'])} characters; 40 at most.")
        rank = (body.get("training_type") or {}).get("lora_r", 8)
        if not 1 <= body.get("n_epochs", 1) <= self.max_epochs or rank > self.max_rank:
            return refusal(400, "invalid_value", "n_epochs or lora_r is out of its range.")
        return None

    def _create(self, headers: Mapping[str, str], body: dict[str, Any]) -> Reply:
        problem = self._problem(body)
        if problem:
            return problem
        tokens = sum(self._parts(body))
        job = VendorJob(f"ft-{self.next_number():08d}", body, headers, time.time(), tokens=tokens)
        self.jobs[job.id] = job
        return 200, self._row_of(job)

    def _cancel(self, job: StoredJob) -> Reply:
        if self._status(job) in FINAL:
            return refusal(400, "invalid_state", f"The fine-tune {job.id} is {self._word(job)} already.")
        assert isinstance(job, VendorJob)
        self._end(job)
        return 200, self._row_of(job)

    def _limits(self, model: str) -> Reply:
        if model not in self.models:
            return refusal(404, "model_not_found", f"The model {model} cannot be fine-tuned.")
        lora = {
            "max_rank": self.max_rank,
            "min_batch_size": 8,
            "max_batch_size": 128,
            "max_batch_size_dpo": 64,
            "default_rank": 8,
            "target_modules": ["q_proj", "v_proj"],
        }
        return 200, {
            "model_name": model,
            "max_num_epochs": self.max_epochs,
            "max_learning_rate": 1.0,
            "min_learning_rate": 1e-8,
            "max_num_checkpoints": 10,
            "max_num_evals": 100,
            "max_seq_length_sft": 8192,
            "max_seq_length_dpo": 4096,
            "min_max_seq_length": 128,
            "default_gradient_accumulation_steps": 1,
            "supports_full_training": False,
            "supports_reasoning": False,
            "supports_tools": self.supports_tools,
            "supports_vision": False,
            "lora_training": lora,
            "merge_output_lora": self.merges_adapters,
        }

    def _estimate(self, body: dict[str, Any]) -> Reply:
        if body.get("training_file") not in self.files:
            return refusal(400, "invalid_file", "No such file.")
        file_id = body["training_file"]
        if not self.is_usable(file_id) or not self._is_checked(file_id):
            return 200, {"estimation_available": False, "unavailable_reason": "train_file_not_validated"}
        trained, validated = self._parts(body)
        price = (trained + validated) * self.usd_per_million / 1_000_000
        return 200, {
            "estimation_available": True,
            "allowed_to_proceed": self.credit,
            "estimated_total_price": float(price),
            "estimated_train_token_count": trained,
            "estimated_eval_token_count": validated,
            "user_limit": 100.0,
        }

    def _parts(self, request: Mapping[str, Any]) -> tuple[int, int]:
        """Returns the tokens of training and of validations, which cost the same."""
        trained = self.tokens_of_file(request["training_file"]) * request.get("n_epochs", 1)
        valid = request.get("validation_file")
        return trained, self.tokens_of_file(valid) * request.get("n_evals", 0) if valid else 0

    def _plain(self, stage: str) -> str:
        return PLAIN.get(stage, stage)

    def _word(self, job: StoredJob) -> str:
        if isinstance(job, VendorJob) and self._is_cancelling(job):
            return "cancel_requested"
        status = self._status(job)
        at = min(job.polls, len(self.stages) - 1)
        stage = self.stages[at] if self.stage_s is None and status != "cancelled" else status
        return WORDS.get(stage, stage)

    def _body_of(self, job: StoredJob) -> dict[str, Any]:
        """Returns a job as a look at it shows it: with the result's id in the registry."""
        is_trained = self._status(job) == "succeeded"
        model = self.tuned_name(job) if is_trained else None
        body = {**self._row_of(job), "model_object_id": model, "adapter_object_id": None}
        # A look at a job doesn't repeat these.
        for name in ("suffix", "random_seed", "packing"):
            body.pop(name, None)
        return body

    def _row_of(self, job: StoredJob) -> dict[str, Any]:
        """Returns a job as the list, a create and a cancel show it: without its result's id."""
        status, request = self._status(job), job.request
        ended = time.time() if status in FINAL else job.created
        return {
            **request,
            "batch_size": 128 if request.get("batch_size") == "max" else request.get("batch_size"),
            "id": job.id,
            "status": self._word(job),
            "user_id": "user-1",
            "created_at": iso(job.created),
            "updated_at": iso(ended),
            "model_output_name": f"team/{request['model']}-{request.get('suffix')}-{job.id[3:]}",
            "token_count": self.billed_tokens(job) if status in FINAL else self.tokens_of_job(job),
            "total_price": int(self.bill_of(job) * 10**9) if status in FINAL else 0,
            "events": [],
        }

    def _events_of(self, job: StoredJob) -> list[dict[str, Any]]:
        """Oldest first."""
        stages = self.stages[: min(job.polls, len(self.stages) - 1) + 1]
        failed = [("job_error", "error", self.failure["message"])] if self.failure else []
        events = [
            ("job_pending", "info", "Fine tune request created"),
            *(("warning", "legacy_info", f"Job is {stage}") for stage in stages),
            *failed,
        ]
        step = {"succeeded": STEPS, "running": STEPS // 2}.get(self._status(job), 0)
        return [
            {"object": "fine-tune-event", "created_at": iso(job.created + n), "type": kind, "level": level,
             "message": message, "step": step, "total_steps": STEPS}
            for n, (kind, level, message) in enumerate(events)
        ]  # fmt: skip

    def _checkpoints(self, job: StoredJob) -> list[dict[str, Any]]:
        if self._status(job) != "succeeded":
            return []
        name = self.tuned_name(job)
        return [
            {"step": STEPS, "created_at": iso(job.created), "path": f"s3://weights/{job.id}", "object_name": name,
             "checkpoint_type": "Final"}
        ]  # fmt: skip


def _metrics() -> list[dict[str, float]]:
    trained = [{"train/global_step": step, "train/loss": 2.0 / step} for step in range(1, STEPS + 1)]
    return [*trained, {"train/global_step": STEPS, "eval/loss": 2.5 / STEPS}]
