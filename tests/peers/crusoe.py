"""Crusoe's fine-tuning service: OpenAI's API with a catalogue, other names and a ledger in dollars.

A job takes a model's id in the catalogue and not its name; a model is registered some looks after its job succeeded;
events come newest first or oldest first, in turn; instead of a result file there is /metrics; models answer at another
address (/v1/inference here), and tuned ones only after they are deployed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from tests.peers.service import (
    STEPS,
    Query,
    Reply,
    Service,
    StoredJob,
    hyperparameters_of,
    refusal,
)
from tests.peers.vendors import FINAL, Ledger

BATCHES = (16, 32, 64, 128, 256, 512, 1024)
RANKS = (2, 4, 8, 16, 32, 64, 128, 256)
ALPHAS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
KNOWN = {"n_epochs", "batch_size", "learning_rate_multiplier", "learning_rate", "lora_rank", "lora_alpha"} | {
    "lora_dropout",
    "lr_scheduler",
    "warmup_ratio",
    "weight_decay",
    "checkpoint_steps",
    "eval_steps_per_epoch",
    "overlong_row_behavior",
    "early_stopping_patience",
}
LLAMA, QWEN = "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3.5-9B"


@dataclass
class Crusoe(Service):
    """`usd_per_million` has the price of training tokens by model name. For `registering` looks a job that succeeded
    has no model yet. `deployed` maps the names that answer beside the base models to their bases."""

    models: tuple[str, ...] = (LLAMA, QWEN)
    usd_per_million: dict[str, Decimal] = field(
        default_factory=lambda: {LLAMA: Decimal("0.40"), QWEN: Decimal("0.55")}
    )
    registering: int = 3
    echoes_suffix: bool = False
    estimates_ready: bool = True
    thinks: dict[str, int] = field(default_factory=lambda: {QWEN: 512})
    deployed: dict[str, str] = field(default_factory=dict)
    serves_adapters: bool = False
    """Tuned models answer without a deployment, which works although it isn't documented."""
    path = ""
    _event_looks: int = 0
    _succeeded_looks: dict[str, int] = field(default_factory=dict)

    def answer_to(
        self, method: str, path: str, query: Query, headers: Mapping[str, str], body: dict[str, Any]
    ) -> Reply:
        match (method, *path.strip("/").split("/")):
            case ("POST", "inference", "chat", "completions"):
                return self._chat(body)
            case ("POST", "chat", "completions"):
                return refusal(404, "not_found", "Models don't answer at this address.")
            case ("POST", "fine_tuning", "jobs", "estimate_price"):
                return self._estimate(body)
            case ("GET", "fine_tuning", "jobs", job_id, "metrics") if job_id in self.jobs:
                return 200, {"metrics": self._metrics(self.jobs[job_id])}
        return super().answer_to(method, path, query, headers, body)

    @property
    def ledger(self) -> Ledger:
        live = sum(self._status(job) not in FINAL for job in self.jobs.values())
        return Ledger(len(self.jobs), live, len(self.files), self.billed_usd)

    @property
    def billed_usd(self) -> Decimal:
        """The price of all jobs that succeeded, to the cent."""
        done = [job for job in self.jobs.values() if self._status(job) == "succeeded"]
        return sum((self._price(job.request, self.trained_tokens) for job in done), Decimal(0))

    def _price(self, request: Mapping[str, Any], tokens: int) -> Decimal:
        rate = self.usd_per_million[self._name_of(request["model"])]
        return (rate * tokens / 1_000_000).quantize(Decimal("0.01"), ROUND_HALF_UP)

    def _estimate(self, body: dict[str, Any]) -> Reply:
        """Takes the body of a create, and creates nothing."""
        problem = self._problem(body)
        if problem:
            return problem
        if not self.estimates_ready:
            return refusal(425, "not_ready", "The file is still being validated.")
        content = self.files[body["training_file"]].content
        tokens = len(content.split()) * hyperparameters_of(body).get("n_epochs", 3)
        return 200, {"estimated_price": float(self._price(body, tokens)), "currency": "USD"}

    def _problem(self, body: dict[str, Any]) -> Reply | None:
        unknown = sorted(set(body) - {"model", "training_file", "validation_file", "suffix", "method"})
        hyperparameters = hyperparameters_of(body)
        unknown += sorted(set(hyperparameters) - KNOWN)
        if unknown:
            return refusal(400, "unknown_parameter", f"Unknown parameter: {unknown[0]}.")
        if body.get("model") not in list(map(_catalogue_id, self.models)):
            return refusal(404, "model_not_found", f"The catalogue has no model {body.get('model')}.")
        choices = {"batch_size": BATCHES, "lora_rank": RANKS, "lora_alpha": ALPHAS}
        wrong = [
            name for name, values in choices.items() if hyperparameters.get(name, values[0]) not in values
        ]
        if wrong or not 1 <= hyperparameters.get("n_epochs", 1) <= 50:
            return refusal(
                422, "invalid_value", f"{(wrong or ['n_epochs'])[0]} is none of the allowed values."
            )
        files = (body.get(key) for key in ("training_file", "validation_file") if key in body)
        if missing := [file for file in files if file not in self.files]:
            return refusal(400, "invalid_file", f"No such file: {missing[0]}.")
        return None

    def _name_of(self, model_id: str) -> str:
        return next(name for name in self.models if _catalogue_id(name) == model_id)

    def _served(self) -> list[str]:
        return [_catalogue_id(name) for name in self.models]

    def _model_body(self, model: str) -> dict[str, Any]:
        facts = {"model_type": "base_model", "fine_tuning_available": True, "inference_available": True}
        return {**super()._model_body(model), "model_name": self._name_of(model), **facts}

    def _job_body(self, job: StoredJob) -> dict[str, Any]:
        body = super()._job_body(job)
        looks = self._succeeded_looks.get(job.id, 0)
        if body["status"] == "succeeded":
            self._succeeded_looks[job.id] = looks + 1
        is_registered = body["status"] == "succeeded" and looks >= self.registering
        return {
            **body,
            "fine_tuned_model": model_id(job) if is_registered else None,
            "result_files": [],
            "suffix": job.request.get("suffix") if self.echoes_suffix else None,
            "metadata": None,
        }

    def _result_file(self, job: StoredJob) -> str:
        return ""  # there is none

    def _events(self, job: StoredJob) -> list[dict[str, Any]]:
        """Several events have the same second, and the order changes from call to call."""
        rows = super()._events(job)
        for row in rows:
            row["created_at"] = int(job.created) + int(row["id"].rpartition("-")[2]) // 3
        self._event_looks += 1
        return rows if self._event_looks % 2 else rows[::-1]

    def _checkpoint(self, job: StoredJob, step: int) -> dict[str, Any]:
        row = super()._checkpoint(job, step)
        return {
            **row,
            "fine_tuned_model_checkpoint": f"a name to show, step {step}",
            "fine_tuned_model_id": f"{model_id(job)}-{step}",
            "metrics": {"step": step, "train_loss": 2.0 / step, "valid_loss": 2.5 / step},
        }

    def _metrics(self, job: StoredJob) -> list[dict[str, Any]]:
        if self._status(job) not in ("running", "succeeded"):
            return []
        losses = [{"value": 2.0 / step} for step in range(1, STEPS + 1)]
        return [{"metric_name": "ev_loss", "data": losses}, {"metric_name": "ev_total_steps", "data": []}]

    def _chat(self, body: dict[str, Any]) -> Reply:
        """A thinking model spends tokens on thoughts unless thinking is switched off."""
        name = body["model"]
        base = self.deployed.get(name, name)
        is_adapter = self.serves_adapters and name in map(model_id, self.jobs.values())
        if name not in self.models and name not in self.deployed and not is_adapter:
            return refusal(404, "model_not_found", f"No deployment is called {name}.")
        template = body.get("chat_template_kwargs") or {}
        thoughts = 0 if template.get("enable_thinking") is False else self.thinks.get(base, 0)
        words = str(self.answer(name, body["messages"])).split()
        cap = body.get("max_completion_tokens", body.get("max_tokens", 1_000_000))
        content = " ".join(words[: max(cap - thoughts, 0)])
        prompt = sum(len((message["content"] or "").split()) for message in body["messages"])
        message = {"role": "assistant", "content": content or None}
        tokens = min(cap, thoughts + len(words))
        return 200, {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": name,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": tokens,
                "total_tokens": prompt + tokens,
            },
        }


def model_id(job: StoredJob) -> str:
    return f"ftmodel-{job.id}"


def _catalogue_id(name: str) -> str:
    return "model-" + name.lower().replace("/", "-").replace(".", "-")
