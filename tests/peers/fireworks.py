"""Fireworks' control plane in memory, as its SDK and documentation describe it: datasets that must be READY, jobs with
ids that the caller chooses, money in units and nanos, signed links, no list of events."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.peers.service import STEPS, Query, Reply, StoredFile, StoredJob
from tests.peers.vendors import FINAL, Vendor, VendorJob, iso

ACCOUNT = "accounts/acme"
JOB_ID = "supervisedFineTuningJobId"
STAGES = ("JOB_STATE_VALIDATING", "JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_WRITING_RESULTS")
PLAIN = {
    "JOB_STATE_CREATING": "validating_files",
    "JOB_STATE_VALIDATING": "validating_files",
    "JOB_STATE_PENDING": "queued",
    "JOB_STATE_RUNNING": "running",
    "JOB_STATE_WRITING_RESULTS": "running",
    "JOB_STATE_COMPLETED": "succeeded",
    "JOB_STATE_EARLY_STOPPED": "succeeded",
    "JOB_STATE_FAILED": "failed",
}
WORDS = {
    "validating_files": "JOB_STATE_VALIDATING",
    "queued": "JOB_STATE_PENDING",
    "running": "JOB_STATE_RUNNING",
    "succeeded": "JOB_STATE_COMPLETED",
    "failed": "JOB_STATE_FAILED",
    "cancelled": "JOB_STATE_CANCELLED",
}
FIELDS = {
    "dataset", "baseModel", "outputModel", "displayName", "epochs", "loraRank", "learningRate", "batchSizeSamples",
    "learningRateWarmupSteps", "maxContextLength", "earlyStop", "evaluationDataset", "evalAutoCarveout",
    "optimizerWeightDecay", "region",
}  # fmt: skip


@dataclass
class Dataset(StoredFile):
    """`name` is its file's name. `is_whole` says that the upload was declared complete."""

    examples: str = "0"
    is_whole: bool = False


@dataclass
class Fireworks(Vendor):
    """With `says_cost` a job has its cost. With `links_live` signed links work. With `checks_itself` an upload in one
    request needn't be declared complete."""

    stages: Sequence[str] = (*STAGES, "JOB_STATE_COMPLETED")
    says_cost: bool = True
    links_live: bool = True
    checks_itself: bool = True
    supports_tools: bool = True

    path = f"/{ACCOUNT}"

    @property
    def create_route(self) -> str:
        return f"POST /{ACCOUNT}/supervisedFineTuningJobs"

    def answer_to(
        self, method: str, path: str, query: Query, headers: Mapping[str, str], body: dict[str, Any]
    ) -> Reply:
        with self._lock:
            match (method, *path.strip("/").split("/")):
                case ("GET", "accounts", account, "models"):
                    return 200, self._models_of(f"accounts/{account}")
                case (_, "accounts", _, "models", _) | ("GET", _):
                    return self._model_call(method, path.strip("/"))
                case ("GET", "signed", kind, name):
                    return self._signed(kind, name)
                case (_, "accounts", "acme", "datasets", *rest):
                    return self._dataset_call(method, *"/".join(rest).partition(":")[::2], body)
                case ("POST", "accounts", "acme", "supervisedFineTuningJobs"):
                    return self._create(headers, {**body, JOB_ID: query.get("supervisedFineTuningJobId", "")})
                case ("GET", "accounts", "acme", "supervisedFineTuningJobs"):
                    return self._list(query)
                case (_, "accounts", "acme", "supervisedFineTuningJobs", name):
                    return self._one_job(method, *name.partition(":")[::2])
                case ("POST", "inference", "v1", "chat", "completions"):
                    return self._chat(body)
        return 404, _status("NOT_FOUND", f"There is nothing at {path}.")

    def tuned_name(self, job: StoredJob) -> str:
        return str(job.request["outputModel"])

    def _models_of(self, account: str) -> dict[str, Any]:
        names = [name for name in self._served() if name.startswith(account + "/")]
        if account == "accounts/fireworks":
            names += [name for name in self.models if "/" not in name]
        return {"models": [{"name": name, "state": "READY"} for name in names]}

    def _model_call(self, method: str, name: str) -> Reply:
        tuned = {self.tuned_name(job) for job in self.jobs.values() if self._status(job) == "succeeded"}
        if name not in {*self.models, *tuned} - self.deleted_models:
            return 404, _status("NOT_FOUND", f"No model {name}.")
        if method == "DELETE":
            self.deleted_models.add(name)
        row = {
            "name": name,
            "state": "READY",
            "tunable": name in self.models,
            "supportsTools": self.supports_tools,
        }
        base = next(
            (job.request["baseModel"] for job in self.jobs.values() if self.tuned_name(job) == name), None
        )
        if base is not None:
            row["kind"] = "HF_PEFT_ADDON"
            row["peftDetails"] = {"baseModel": base, "r": 8, "targetModules": ["q_proj", "v_proj"]}
        return 200, row

    def _dataset_call(self, method: str, name: str, verb: str, body: dict[str, Any]) -> Reply:
        if method == "POST" and not name:
            return self._new_dataset(body)
        dataset = self.files.get(name)
        if not isinstance(dataset, Dataset):
            return 404, _status("NOT_FOUND", f"No dataset {name}.")
        match (method, verb):
            case ("GET", ""):
                return 200, self._dataset_body(dataset)
            case ("DELETE", ""):
                del self.files[name]
                return 200, {}
            case ("POST", "upload"):
                dataset.name, dataset.content = body["file"]
                if self.checks_itself and self._validate(dataset)[0] != 200:
                    return self._validate(dataset)
                return 200, {
                    "id": name,
                    "object": "file",
                    "bytes": len(dataset.content),
                    "filename": dataset.name,
                }
            case ("POST", "validateUpload"):
                return self._validate(dataset)
            case ("GET", "getDownloadEndpoint"):
                return 200, {"filenameToSignedUrls": {dataset.name: f"{self.address}/signed/dataset/{name}"}}
        return 404, _status("NOT_FOUND", f"A dataset has no {verb}.")

    def _new_dataset(self, body: dict[str, Any]) -> Reply:
        name, record = body["datasetId"], body["dataset"]
        if name in self.files:
            return 409, _status("ALREADY_EXISTS", f"The dataset {name} exists.")
        if not 1 <= len(name) <= 63:
            return 400, _status("INVALID_ARGUMENT", "datasetId has 1 to 63 characters.")
        self.files[name] = Dataset(name, "", b"", "fine-tune", time.time(), examples=record["exampleCount"])
        return 200, self._dataset_body(self.files[name])

    def _validate(self, dataset: Dataset) -> Reply:
        rows = len(dataset.content.splitlines())
        if str(rows) != dataset.examples or rows < 3:
            return 400, _status("INVALID_ARGUMENT", f"The file has {rows} rows, not {dataset.examples}.")
        dataset.is_whole = True
        return 200, {}

    def _dataset_body(self, dataset: StoredFile) -> dict[str, Any]:
        is_ready = isinstance(dataset, Dataset) and dataset.is_whole and self._is_checked(dataset.id)
        name = f"{ACCOUNT}/datasets/{dataset.id}"
        return {"name": name, "state": "READY" if is_ready else "UPLOADING", "format": "CHAT"}

    def _create(self, headers: Mapping[str, str], body: dict[str, Any]) -> Reply:
        job_id = body.pop(JOB_ID)
        if job_id in self.jobs:
            return 409, _status("ALREADY_EXISTS", f"The job {job_id} exists.")
        problem = self._problem(body)
        if problem:
            return problem
        tokens = self.tokens_of_file(body["dataset"].rpartition("/")[2]) * int(body.get("epochs", 1))
        self.jobs[job_id] = VendorJob(job_id, body, headers, time.time(), tokens=tokens)
        return 200, self._body_of(self.jobs[job_id])

    def _problem(self, body: dict[str, Any]) -> Reply | None:
        unknown = sorted(set(body) - FIELDS)
        if unknown:
            return 400, _status("INVALID_ARGUMENT", f"unknown field {unknown[0]}")
        if not self.credit:
            return 402, _status("FAILED_PRECONDITION", "The account has no credit.")
        if body.get("baseModel") not in self.models:
            return 400, _status("INVALID_ARGUMENT", f"{body.get('baseModel')} cannot be tuned.")
        names = [str(body[key]).rpartition("/")[2] for key in ("dataset", "evaluationDataset") if key in body]
        files = [self.files.get(name) for name in names]
        if any(not isinstance(file, Dataset) or not file.is_whole for file in files):
            return 400, _status("FAILED_PRECONDITION", "The dataset is not READY.")
        if not 4 <= int(body.get("loraRank", 8)) <= 64 or not 1 <= int(body.get("epochs", 1)) <= 50:
            return 400, _status("INVALID_ARGUMENT", "loraRank or epochs is out of its range.")
        return None

    def _list(self, query: Query) -> Reply:
        jobs = self._listed({})
        start, size = int(query.get("pageToken", "0")), int(query.get("pageSize", "50"))
        page = {"supervisedFineTuningJobs": [self._body_of(job) for job in jobs[start : start + size]]}
        if not page["supervisedFineTuningJobs"]:
            return 200, {}
        return 200, {**page, "nextPageToken": str(start + size) if start + size < len(jobs) else ""}

    def _one_job(self, method: str, name: str, verb: str) -> Reply:
        job = self.jobs.get(name)
        if job is None:
            return 404, _status("NOT_FOUND", f"No job {name}.")
        if (method, verb) == ("GET", ""):
            job.polls += 1
            return 200, self._body_of(job)
        if (method, verb) == ("POST", "cancel"):
            return self._cancel(job)
        return 404, _status("NOT_FOUND", f"A job has no {verb}.")

    def _cancel(self, job: StoredJob) -> Reply:
        if self._status(job) in FINAL:
            return 400, _status("FAILED_PRECONDITION", f"The job {job.id} is over.")
        assert isinstance(job, VendorJob)
        self._end(job)
        return 200, {}

    def _plain(self, stage: str) -> str:
        return PLAIN.get(stage, stage)

    def _word(self, job: StoredJob) -> str:
        if isinstance(job, VendorJob) and self._is_cancelling(job):
            return "JOB_STATE_CANCELLING"
        status = self._status(job)
        stage = self.stages[min(job.polls, len(self.stages) - 1)]
        is_shown = not self.stage_s and self._plain(stage) == status
        return WORDS.get(stage, stage) if is_shown else WORDS.get(status, status)

    def _body_of(self, job: StoredJob) -> dict[str, Any]:
        status, tokens = self._status(job), self.tokens_of_job(job)
        over = 50 if status == "cancelled" and self._is_begun(job) else 0
        done = {"succeeded": 100, "running": 50}.get(status, over)
        body = {
            **job.request,
            "name": f"{ACCOUNT}/supervisedFineTuningJobs/{job.id}",
            "state": self._word(job),
            "status": {"code": "OK", "message": ""},
            "createTime": iso(job.created),
            "updateTime": iso(time.time()),
            "completedTime": iso(time.time()) if status in FINAL else None,
            "jobProgress": {"percent": done, "epoch": 0, "inputTokens": tokens * done // 100},
            "metricsFileSignedUrl": f"{self.address}/signed/metrics/{job.id}"
            if status == "succeeded"
            else "",
        }
        if self.failure:
            body["status"] = {"code": "INVALID_ARGUMENT", **self.failure}
        if self.says_cost:
            nanos = int(tokens * self.usd_per_million * 1000)
            cost = {"units": str(nanos // 10**9), "nanos": nanos % 10**9, "currencyCode": "USD"}
            body["estimatedCost"] = cost
        return body

    def _signed(self, kind: str, name: str) -> Reply:
        if not self.links_live:
            return 403, b"<Error><Code>ExpiredToken</Code></Error>"
        if kind == "dataset":
            return 200, self.files[name].content
        steps = [{"step": n, "train/loss": 2.0 / n, "train/epoch": 0} for n in range(1, STEPS + 1)]
        rows = [*steps, {"step": STEPS, "data": {"eval/loss": 2.5 / STEPS}}]
        return 200, "\n".join(map(json.dumps, rows)).encode()


def _status(code: str, message: str) -> dict[str, Any]:
    """Returns an error as a gateway to gRPC writes it."""
    return {"code": code, "message": message, "details": []}
