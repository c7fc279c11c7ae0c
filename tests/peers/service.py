"""A vendor's fine-tuning service in memory, with OpenAI's or Nebius' API: files, jobs, models, chat.

It answers with (status, body), and its files and jobs are what tests check. hosted.py adds HTTP and faults.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

Reply = tuple[int, dict[str, Any] | bytes]
Query = Mapping[str, str]

STAGES = ("validating_files", "queued", "running", "running", "succeeded")
PLAIN = {"n_epochs", "batch_size", "learning_rate_multiplier"}
NEBIUS_RANGES = {"n_epochs": (1, 20), "batch_size": (1, 64), "lora_r": (8, 128), "lora_alpha": (8, 512)}
EXTRAS = {"learning_rate", "warmup_ratio", "weight_decay", "lora", "lora_r", "lora_alpha", "lora_dropout"} | {
    "packing",
    "max_grad_norm",
    "context_length",
}
STEPS = 12
THINKERS_REFUSE = ("max_tokens", "temperature")


@dataclass
class StoredFile:
    id: str
    name: str
    content: bytes
    purpose: str
    created: float
    expires: int | None = None

    def body(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": int(self.created),
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
            **({"expires_at": self.expires} if self.expires else {}),
        }


@dataclass
class StoredJob:
    id: str
    request: dict[str, Any]
    headers: Mapping[str, str]
    created: float
    polls: int = 0
    is_cancelled: bool = False
    is_paused: bool = False


@dataclass
class Service:
    """Settings may be changed at any time. Without `stage_s` a job advances one stage at each look."""

    shape: Literal["openai", "nebius"] = "openai"
    models: Sequence[str] = ("gpt-4.1-mini-2025-04-14", "gpt-4o-mini-2024-07-18")
    shutdowns: Mapping[str, str | int] = field(default_factory=dict)
    answer: Callable[[str, list[dict[str, Any]]], Any] = lambda model, messages: f"{model} heard you"
    """Returns a text, or a list of tool calls."""
    thinks: dict[str, int] = field(default_factory=dict)
    """Hidden tokens before each answer, by model. Such a model refuses the parameters that OpenAI's refuse."""
    refuses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Parameters of a chat that a model does not accept."""
    stages: Sequence[str] = STAGES
    stage_s: float | None = None
    trained_tokens: Any = 4_200
    """None leaves the number out."""
    failure: dict[str, Any] | None = None
    """The `error` of every job, whatever its status; OpenAI's own example of success has {}."""
    ignores_metadata_filter: bool = False
    echoes_suffix: bool = True
    suffix_length: int = 64
    refuses_writes: bool = False
    """The key belongs to another project: reads are allowed, and every write is refused."""
    is_broke: bool = False
    """The account has no credit."""
    list_lag_s: float = 0.0
    base64_results: bool = False
    aliases: dict[str, str] = field(default_factory=dict)
    """Like our own trainer's."""
    deleted_models: set[str] = field(default_factory=set)
    results_csv: str | None = None
    warnings: Sequence[str] = ()
    """Warnings among the events of every job."""
    billed: list[dict[str, int]] = field(default_factory=list)
    """The usage of every answer to a chat, in order."""
    files: dict[str, StoredFile] = field(default_factory=dict)
    jobs: dict[str, StoredJob] = field(default_factory=dict)
    _uploads: int = 0
    _creates: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def create_route(self) -> str:
        """The route of the request that creates a job."""
        return "POST /fine_tuning/jobs"

    def answer_to(
        self, method: str, path: str, query: Query, headers: Mapping[str, str], body: dict[str, Any]
    ) -> Reply:
        """Answers one authorised request. `body` is parsed JSON, or a form with the upload under 'file'."""
        with self._lock:
            if self.refuses_writes and method != "GET":
                return refusal(403, "permission_denied", "The key is not of this project.")
            match (method, *path.strip("/").split("/")):
                case ("GET", "models"):
                    return 200, {
                        "object": "list",
                        "data": [self._model_body(model) for model in self._served()],
                    }
                case ("GET", "models", *name) if unquote("/".join(name)) in self._served():
                    return 200, self._model_body(unquote("/".join(name)))
                case ("GET", "aliases"):
                    return 200, {"object": "list", "data": [_alias(*item) for item in self.aliases.items()]}
                case ("PUT", "aliases", *name) if body.get("model") in self._served():
                    self.aliases["/".join(name)] = body["model"]
                    return 200, _alias("/".join(name), body["model"])
                case ("DELETE", "aliases", *name) if "/".join(name) in self.aliases:
                    del self.aliases["/".join(name)]
                    return 200, {"id": "/".join(name), "object": "alias", "deleted": True}
                case ("DELETE", "models", name) if name in self._served():
                    self.deleted_models.add(name)
                    return 200, {"id": name, "object": "model", "deleted": True}
                case ("POST", "files"):
                    return self._upload(body)
                case ("GET", "files"):
                    return self._page([file.body() for file in self._visible_files(query)], query)
                case ("GET", "files", file_id, "content") if file_id in self.files:
                    return 200, self.files[file_id].content
                case ("DELETE", "files", file_id) if file_id in self.files:
                    del self.files[file_id]
                    return 200, {"id": file_id, "object": "file", "deleted": True}
                case ("POST", "chat", "completions"):
                    return self._chat(body)
                case (_, "fine_tuning", "jobs", *rest):
                    return self._job_call(method, rest, query, headers, body)
        return refusal(404, "not_found", f"There is nothing at {path}.")

    def file_named(self, name: str) -> list[StoredFile]:
        return [file for file in self.files.values() if file.name == name]

    def _job_call(
        self,
        method: str,
        rest: list[str],
        query: Query,
        headers: Mapping[str, str],
        body: dict[str, Any],
    ) -> Reply:
        match (method, *rest):
            case ("POST",):
                return self._create(headers, body)
            case ("GET",):
                return self._page([self._job_body(job) for job in self._listed(query)], query)
            case (_, job_id, *_) if job_id not in self.jobs:
                return refusal(404, "not_found", f"No fine-tuning job {job_id}.")
            case ("GET", job_id):
                self.jobs[job_id].polls += not self.jobs[job_id].is_paused
                return 200, self._job_body(self.jobs[job_id])
            case ("DELETE", job_id):
                self.deleted_models.add(tuned_name(self.jobs.pop(job_id)))
                return 200, {"id": job_id, "object": "fine_tuning.job", "deleted": True}
            case ("POST", job_id, "cancel"):
                return self._cancel(self.jobs[job_id])
            case ("POST", job_id, "pause" | "resume" as verb):
                return self._hold(self.jobs[job_id], is_paused=verb == "pause")
            case ("GET", job_id, "events"):
                return self._page(self._events(self.jobs[job_id]), query)
            case ("GET", job_id, "checkpoints"):
                return self._page(self._checkpoints(self.jobs[job_id]), query)
        return refusal(404, "not_found", "There is no such call on a job.")

    def _upload(self, form: dict[str, Any]) -> Reply:
        name, content = form.get("file", ("", b""))
        if not name.endswith(".jsonl") or form.get("purpose") != "fine-tune":
            return refusal(400, "invalid_file", "Only .jsonl files for fine-tune are accepted.")
        life = form.get("expires_after[seconds]")
        if life and self.shape == "nebius":
            return refusal(422, "unknown_parameter", "Unknown parameter: expires_after.")
        expires = int(time.time()) + int(life) if life else None
        self._uploads += 1  # an id is never reused, also after a deletion
        file = StoredFile(f"file-{self._uploads}", name, content, "fine-tune", time.time(), expires)
        self.files[file.id] = file
        return 200, file.body()

    def _visible_files(self, query: Query) -> list[StoredFile]:
        purpose = query.get("purpose")
        return [file for file in reversed(self.files.values()) if purpose in (None, file.purpose)]

    def _create(self, headers: Mapping[str, str], body: dict[str, Any]) -> Reply:
        problem = self._problem(body)
        if problem:
            return problem
        if self.is_broke:
            return refusal(402, "insufficient_credit", "The account has no credit.")
        job_id = f"ftjob-{self.next_number()}"
        self.jobs[job_id] = StoredJob(job_id, body, headers, time.time())
        return 200, self._job_body(self.jobs[job_id])

    def next_number(self) -> int:
        """Returns a job's number, which is never reused, also if a job was deleted or added by a test."""
        self._creates = max(self._creates, len(self.jobs)) + 1
        return self._creates

    def _problem(self, body: dict[str, Any]) -> Reply | None:
        allowed = {"model", "training_file", "validation_file", "seed", "suffix", "hyperparameters"}
        allowed |= {"method", "metadata"} if self.shape == "openai" else set()
        unknown = sorted(set(body) - allowed)
        is_dpo = (body.get("method") or {}).get("type") == "dpo"
        more: set[str] = set()
        if self.shape == "nebius":
            more = EXTRAS
        elif is_dpo:
            more = {"beta"}
        hyperparameters = hyperparameters_of(body)
        unknown += sorted(set(hyperparameters) - PLAIN - more)
        if unknown:
            return refusal(400, "unknown_parameter", f"Unknown parameter: {unknown[0]}.")
        # OpenAI's trains its own tuned models further.
        trainable = self._served() if self.shape == "openai" else self.models
        if body.get("model") not in trainable:
            return refusal(404, "model_not_found", f"The model {body.get('model')} does not exist.")
        for key in ("training_file", "validation_file"):
            if key in body and body[key] not in self.files:
                return refusal(400, "invalid_file", f"No such file: {body[key]}.")
            if key in body and is_dpo != (b'"preferred_output"' in self.files[body[key]].content):
                return refusal(400, "invalid_training_file", "The file's rows don't fit the method.")
        ranges = NEBIUS_RANGES if self.shape == "nebius" else {"n_epochs": (1, 50)}
        outside = [
            name
            for name, (least, most) in ranges.items()
            if not least <= hyperparameters.get(name, least) <= most
        ]
        if self.shape == "nebius" and "learning_rate_multiplier" in hyperparameters:
            outside.append(
                "learning_rate_multiplier"
            )  # Nebius reads it as the rate itself, which nobody means
        if outside or len(body.get("suffix") or "") > self.suffix_length:
            return refusal(
                400, "invalid_value", f"{outside[0] if outside else 'suffix'} is out of its range."
            )
        return None

    def _listed(self, query: Query) -> list[StoredJob]:
        wanted = {k[9:-1]: v for k, v in query.items() if k.startswith("metadata[")}
        if self.ignores_metadata_filter or self.shape == "nebius":
            wanted = {}
        shown = [job for job in self.jobs.values() if time.time() - job.created >= self.list_lag_s]
        return [
            job for job in reversed(shown) if wanted.items() <= (job.request.get("metadata") or {}).items()
        ]

    def _cancel(self, job: StoredJob) -> Reply:
        if self._status(job) in ("succeeded", "failed", "cancelled"):
            return refusal(400, "invalid_state", f"Job {job.id} is {self._status(job)} already.")
        job.is_cancelled = True
        return 200, self._job_body(job)

    def _hold(self, job: StoredJob, *, is_paused: bool) -> Reply:
        if self._status(job) in ("succeeded", "failed", "cancelled"):
            return refusal(400, "invalid_state", f"Job {job.id} is {self._status(job)} already.")
        job.is_paused = is_paused
        return 200, self._job_body(job)

    def _status(self, job: StoredJob) -> str:
        if job.is_paused and not job.is_cancelled:
            return "paused"
        passed = job.polls if self.stage_s is None else int((time.time() - job.created) / self.stage_s)
        return "cancelled" if job.is_cancelled else self.stages[min(passed, len(self.stages) - 1)]

    def _job_body(self, job: StoredJob) -> dict[str, Any]:
        status = self._status(job)
        is_done = status == "succeeded"
        is_final = status in ("succeeded", "failed", "cancelled")
        request = job.request
        body = {
            "object": "fine_tuning.job",
            "id": job.id,
            "created_at": int(job.created),
            "finished_at": int(time.time()) if is_final else None,
            "model": request["model"],
            "organization_id": "org-1",
            "status": status,
            "training_file": request["training_file"],
            "validation_file": request.get("validation_file"),
            "hyperparameters": hyperparameters_of(request),
            "seed": request.get("seed", 1),
            "trained_tokens": self.trained_tokens if is_done else None,
            "result_files": [self._result_file(job)] if is_done else [],
            "error": self.failure,
        }
        return {**body, **(self._openai_part(job) if self.shape == "openai" else self._nebius_part(job))}

    def _openai_part(self, job: StoredJob) -> dict[str, Any]:
        is_done = self._status(job) == "succeeded"
        return {
            "fine_tuned_model": tuned_name(job) if is_done else None,
            "method": job.request.get("method"),
            "metadata": job.request.get("metadata") or {},
        }

    def _nebius_part(self, job: StoredJob) -> dict[str, Any]:
        done = {"succeeded": STEPS, "running": STEPS // 2}.get(self._status(job), 0)
        suffix = job.request.get("suffix") if self.echoes_suffix else None
        return {"suffix": suffix, "trained_steps": done, "total_steps": STEPS}

    def _result_file(self, job: StoredJob) -> str:
        csv = self.results_csv or results_csv()
        content = base64.b64encode(csv.encode()) if self.base64_results else csv.encode()
        file_id = f"file-results-{job.id}"
        self.files[file_id] = StoredFile(
            file_id, "step_metrics.csv", content, "fine-tune-results", time.time()
        )
        return file_id

    def _events(self, job: StoredJob) -> list[dict[str, Any]]:
        messages = ["Created fine-tuning job", *(f"Job is {stage}" for stage in self.stages[: job.polls + 1])]
        rows = [
            {
                "object": "fine_tuning.job.event",
                "id": f"ftevent-{job.id}-{number}",
                "created_at": int(job.created) + number,
                "level": "info",
                "message": message,
                "type": "message",
                "data": {},
            }
            for number, message in enumerate(messages)
        ]
        for number, warning in enumerate(self.warnings):
            rows.insert(
                1 + number,
                {**rows[0], "id": f"ftevent-{job.id}-w{number}", "level": "warn", "message": warning},
            )
        return rows[::-1]

    def _checkpoints(self, job: StoredJob) -> list[dict[str, Any]]:
        if self._status(job) != "succeeded":
            return []
        return [self._checkpoint(job, step) for step in (STEPS, STEPS * 2 // 3, STEPS // 3)]

    def _checkpoint(self, job: StoredJob, step: int) -> dict[str, Any]:
        row = {
            "object": "fine_tuning.job.checkpoint",
            "id": f"ftckpt-{job.id}-{step}",
            "created_at": int(job.created),
            "fine_tuning_job_id": job.id,
            "step_number": step,
            "metrics": {"step": step, "train_loss": 2.0 / step, "full_valid_loss": 2.5 / step},
        }
        if self.shape == "openai":
            return {**row, "fine_tuned_model_checkpoint": f"{tuned_name(job)}:ckpt-step-{step}"}
        return {**row, "result_files": [f"file-weights-{job.id}-{step}"]}

    def _served(self) -> list[str]:
        done = [job for job in self.jobs.values() if self._status(job) == "succeeded"]
        tuned = (tuned_name(job) for job in done if self.shape == "openai")
        return [*self.models, *(name for name in tuned if name not in self.deleted_models)]

    def _model_body(self, model: str) -> dict[str, Any]:
        end = {"shutdown_date": self.shutdowns[model]} if model in self.shutdowns else {}
        return {"id": model, "object": "model", "created": 1_700_000_000, "owned_by": "system", **end}

    def _chat(self, body: dict[str, Any]) -> Reply:
        if body["model"] not in self._served():
            return refusal(404, "model_not_found", f"The model {body['model']} does not exist.")
        model = body["model"]
        refused = list(self.refuses.get(model, ()))
        if model in self.thinks:
            refused += THINKERS_REFUSE
        problem = next((unsupported(name, body[name]) for name in refused if name in body), None)
        if problem:
            return problem
        text, tokens, reason = self._spoken(model, body)
        prompt = sum(len((message["content"] or "").split()) for message in body["messages"])
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if isinstance(text, list):
            message |= {"content": None, "tool_calls": text}
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
        self.billed.append(usage)
        return 200, {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}],
            "usage": usage,
        }

    def _spoken(self, model: str, body: dict[str, Any]) -> tuple[Any, int, str]:
        """Returns the text, its tokens including thoughts, and why it ended: thoughts may use up the whole cap."""
        cap = body.get("max_completion_tokens", body.get("max_tokens", 1_000_000))
        text = self.answer(model, body["messages"])
        if isinstance(text, list):
            return text, 1, "tool_calls"
        words, thoughts = text.split(), self.thinks.get(model, 0)
        if thoughts + len(words) <= cap:
            return text, thoughts + len(words), "stop"
        return " ".join(words[: max(cap - thoughts, 0)]), cap, "length"

    def _page(self, rows: list[dict[str, Any]], query: Query) -> Reply:
        ids = [row["id"] for row in rows]
        start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
        end = start + int(query.get("limit", "20"))
        page = rows[start:end]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        return 200, {"object": "list", "data": page, **ends, "has_more": end < len(rows)}


def _alias(name: str, model: str) -> dict[str, Any]:
    return {"id": name, "object": "alias", "model": model, "set_at": 1_700_000_000}


def refusal(status: int, code: str, message: str) -> Reply:
    return status, {
        "error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    }


def unsupported(name: str, value: object) -> Reply:
    """Refuses a parameter in OpenAI's words."""
    if name == "temperature":
        reason = f"'temperature' does not support {value} with this model. Only the default (1) value is supported."
        message, code = f"Unsupported value: {reason}", "unsupported_value"
    else:
        advice = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
        message = f"Unsupported parameter: '{name}' is not supported with this model.{advice}"
        code = "unsupported_parameter"
    return 400, {"error": {"message": message, "type": "invalid_request_error", "param": name, "code": code}}


def results_csv() -> str:
    lines = ["step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"]
    for step in range(1, STEPS + 1):
        valid = f"{2.5 / step:.4f},{1 - 0.6 / step:.4f}" if step % 4 == 0 else ","
        lines.append(f"{step},{2.0 / step:.4f},{1 - 0.5 / step:.4f},{valid}")
    return "\n".join(lines) + "\n"


def hyperparameters_of(request: dict[str, Any]) -> dict[str, Any]:
    method = request.get("method") or {}
    of_method: dict[str, Any] | None = method.get(method.get("type"), {}).get("hyperparameters")
    return of_method or request.get("hyperparameters") or {}


def tuned_name(job: StoredJob) -> str:
    """A model that was trained further is still named by its base."""
    base = job.request["model"].removeprefix("ft:").partition(":")[0]
    return f"ft:{base}:org:{job.request.get('suffix') or ''}:{job.id[6:]}"
