"""Fireworks' supervised fine-tuning: datasets, jobs and models are resources under an account.

We derive the job's id from our key, so that a repeated create doesn't start a second job, and a look-up by id tells
whether a create arrived. A dataset's id is derived from its content. The vendor has no events and no checkpoints.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlencode

from trainers.client import payloads, uploads
from trainers.client.dialects.dialect import Dialect, object_under, read_metrics, seconds
from trainers.client.payloads import Json
from trainers.client.uploads import HashingFile
from trainers.errors import InvalidResponse, TrainerError, Uncertain
from trainers.money import is_payable
from trainers.types import Event, Hyperparameter, Job, JobSpec, Metric, ModelInfo

STATUSES = {
    "CREATING": "validating_files",
    "VALIDATING": "validating_files",
    "CREATING_INPUT_DATASET": "validating_files",
    "PENDING": "queued",
    "RE_QUEUEING": "queued",
    "RUNNING": "running",
    "WRITING_RESULTS": "running",
    "CANCELLING": "running",
    "IDLE": "running",
    "PAUSED": "paused",
    "COMPLETED": "succeeded",
    "EARLY_STOPPED": "succeeded",
    "FAILED": "failed",
    "EXPIRED": "failed",
    "CANCELLED": "cancelled",
    # A job that is being deleted has no result any more, however it ended.
    "DELETING": "cancelled",
    "DELETING_CLEANING_UP": "cancelled",
    "DELETED": "cancelled",
}
RECHECK_S = 5.0
PAGE_SIZE = 200
# So that a list whose token never ends is reported instead of read for ever.
MAX_PAGES = 100


class Fireworks(Dialect):
    jobs_path = "/supervisedFineTuningJobs"

    @property
    def _account_name(self) -> str:
        """Returns "accounts/ID", the prefix of our resources' names."""
        *_, account = self.provider.base_url.rpartition("/accounts/")
        return f"accounts/{account}"

    def _resource_url(self, name: str) -> str:
        """Returns the URL of a resource, which may belong to another account."""
        root, *_ = self.provider.base_url.rpartition("/accounts/")
        return f"{root}/{quote(name, safe='/')}"

    def models(self) -> tuple[ModelInfo, ...]:
        """Returns the models without end dates: the vendor's deprecation date only ends serving by the token."""
        action = self._action("listing the models")
        # The vendor's own models belong to its account, tuned ones to ours.
        paths = (self._resource_url("accounts/fireworks/models"), "/models")
        models = []
        for path in paths:
            for raw in self._pages("models", path, action):
                name = payloads.required(raw, "name", action)
                models.append(ModelInfo(name))
        return tuple(models)

    def has_model(self, name: str) -> bool:
        action = self._action(f"looking for the model {name!r}")
        return self._look_up(action, self._resource_url(name)) is not None

    def delete_model(self, name: str) -> None:
        action = self._action(f"deleting the model {name!r}")
        delete = partial(self._client.delete, self._resource_url(name), cast_to=bytes)
        self._delete_if_present(action, delete)

    def upload(self, path: Path, sha256: str, key: str | None = None) -> str:
        """Raises Uncertain until the vendor has checked the file. The next call then looks for the file instead of
        sending it again."""
        action = self._action(f"uploading {path.name!r}")
        dataset = _dataset_id(sha256)
        # The vendor wants the number of rows before the file.
        rows = _count_rows(path, action)
        existing = self._look_up(action, f"/datasets/{dataset}")
        is_ready = existing is not None and existing.get("state") == "READY"
        if is_ready and (self._sent.get(dataset) == sha256 or self.has_content(dataset, sha256)):
            self._sent[dataset] = sha256
            return dataset
        if is_ready:  # a dataset with this id and other content
            self.delete_file(dataset)
        # One that exists but isn't ready lacks its file, or is being checked.
        if is_ready or existing is None:
            record = {"userUploaded": {}, "exampleCount": str(rows)}
            self._post(action, "/datasets", {"datasetId": dataset, "dataset": record})
        # What this process has sent is being checked, so it is not sent again.
        if self._sent.get(dataset) != sha256:
            self._send_file(path, f"{sha256}.jsonl", sha256, action)
            if not self._is_ready(action, dataset):  # the vendor may check a one-request upload unasked
                self._post(action, f"/datasets/{dataset}:validateUpload", {})
        if not self._is_ready(action, dataset):
            raise Uncertain(f"{action}: {self.provider.name} is still checking it.", retry_after=RECHECK_S)
        return dataset

    def _is_ready(self, action: str, dataset: str) -> bool:
        stored = self._look_up(action, f"/datasets/{dataset}") or {}
        return stored.get("state") == "READY"

    def delete_file(self, file_id: str) -> None:
        self._delete_dataset(file_id)

    def delete_uploads(self, hashes: Collection[str]) -> int:
        deleted = [self._delete_dataset(_dataset_id(sha256)) for sha256 in hashes]
        return sum(deleted)

    def download_file(self, file_id: str) -> bytes:
        action = self._action(f"downloading the file {file_id!r}")
        answer = self._read(action, f"/datasets/{quote(file_id)}:getDownloadEndpoint")
        links = object_under(answer, "filenameToSignedUrls")
        return b"".join(self._download(action, str(link)) for link in links.values())

    def find_jobs(self, key: str) -> tuple[Job, ...]:
        """Looks the job up by its id, which finds it at once where a list could lag."""
        action = self._action(f"looking for the job with key {key!r}")
        path = self._job_path(_job_id(key))
        raw = self._look_up(action, path)
        if raw is None:
            return ()
        return (self._job(raw, action),)

    def describe_exceeded_limit(
        self, model: str, hyperparameters: Mapping[str, Hyperparameter], *, has_tools: bool = False
    ) -> str | None:
        action = self._action(f"asking for the model {model!r}")
        base = self._look_up(action, self._resource_url(model))
        # A missing field must not stop a plan.
        if base is None or base.get("tunable") is False or base.get("supportsLora") is False:
            return f"{self.provider.name} can't train a model named {model}."
        if has_tools and base.get("supportsTools") is False:
            return self._no_tools_text(model)
        return None

    def create(self, spec: JobSpec) -> Job:
        action = self._action(f"creating the job for {spec.suffix!r}")
        job_id = _job_id(spec.key)
        parameters = urlencode({"supervisedFineTuningJobId": job_id})
        body = self._body(spec, job_id)
        try:
            raw = self._post(action, f"{self.jobs_path}?{parameters}", body)
            return self._job(raw, action)
        except Uncertain as error:
            if error.status != 409:
                raise
        return self.job(job_id)  # HTTP 409: an earlier create has arrived

    def cancel(self, job_id: str) -> Job:
        action = self._action(f"cancelling job {job_id!r}")
        self._post(action, f"{self._job_path(job_id)}:cancel", {})
        # The answer to a cancel has no job in it.
        return self.job(job_id)

    def events(self, job_id: str, limit: int = 20) -> tuple[Event, ...]:
        return ()

    def events_since(self, job_id: str, since: float, pages: int) -> tuple[tuple[Event, ...], bool]:
        # False, since there being no events says nothing about the job.
        return (), False

    def metrics(self, job: Job) -> tuple[Metric, ...]:
        """Downloads the metrics by a fresh link, since links expire."""
        action = self._action(f"reading the results of job {job.id!r}")
        raw = self._read(action, self._job_path(job.id))
        link = raw.get("metricsFileSignedUrl")
        if not isinstance(link, str) or not link:
            return ()
        lines = self._download(action, link).splitlines()
        losses = []
        for line in lines:
            if line.strip():
                row = payloads.read_object(line, action)
                losses.append((row.get("step"), {**row, **object_under(row, "data")}))
        return read_metrics(losses)

    def _list_raw_jobs(self, action: str) -> Iterator[Json]:
        jobs = self._pages("supervisedFineTuningJobs", self.jobs_path, action)
        yield from sorted(jobs, key=lambda raw: seconds(raw, "createTime") or 0, reverse=True)

    def _to_openai_shape(self, raw: Json, action: str) -> Json:
        state = payloads.required(raw, "state", action).removeprefix("JOB_STATE_")
        status = STATUSES.get(state, state)
        model = None
        billed_usd = None
        if status == "succeeded":
            model = raw.get("outputModel")
            # Only after a success: what a cancelled job costs is not stated.
            billed_usd = _usd(object_under(raw, "estimatedCost"))
        progress = object_under(raw, "jobProgress")
        *_, job_id = payloads.required(raw, "name", action).rpartition("/")
        *_, training_file = str(raw.get("dataset", "")).rpartition("/")
        return {
            "id": job_id,
            "suffix": job_id,  # ends in our mark, like the suffix elsewhere
            "status": status,
            "model": raw.get("baseModel"),
            "created_at": seconds(raw, "createTime"),
            "finished_at": seconds(raw, "completedTime"),
            "fine_tuned_model": model,
            "trained_tokens": progress.get("inputTokens"),
            "percent": progress.get("percent"),
            "billed_usd": billed_usd,
            "training_file": training_file,
            "hyperparameters": self._our_hyperparameters(raw),
            # The vendor calls the status `state` and the error `status`.
            "error": object_under(raw, "status"),
        }

    def _body(self, spec: JobSpec, job_id: str) -> Json:
        body = {
            **self.provider.create_extra,
            **self._vendor_hyperparameters(spec),
            "displayName": spec.suffix,
            "baseModel": spec.model,
            "dataset": f"{self._account_name}/datasets/{spec.training_file}",
            "outputModel": f"{self._account_name}/models/{job_id}",
        }
        if spec.validation_file:
            body["evaluationDataset"] = f"{self._account_name}/datasets/{spec.validation_file}"
        return body

    def _post_file(self, action: str, name: str, file: HashingFile) -> Json:
        dataset = _dataset_id(name.removesuffix(".jsonl"))

        def send() -> bytes:
            return self._client.post(
                f"/datasets/{dataset}:upload",
                files={"file": (name, file)},
                options={"headers": {"Content-Type": "multipart/form-data"}},
                cast_to=bytes,
            )

        return payloads.read_object(self._send_once(action, send), action)

    def _delete_dataset(self, dataset: str) -> bool:
        """Returns False if the dataset didn't exist."""
        action = self._action(f"deleting the file {dataset!r}")
        self._sent.pop(dataset, None)
        path = f"/datasets/{quote(dataset)}"
        return self._delete_if_present(action, lambda: self._client.delete(path, cast_to=bytes))

    def _pages(self, key: str, path: str, action: str) -> Iterator[Json]:
        """Yields every row of every page."""
        token = ""
        for _ in range(MAX_PAGES):
            parameters = {"pageSize": str(PAGE_SIZE)}
            if token:
                parameters["pageToken"] = token
            page = self._read(action, f"{path}?{urlencode(parameters)}")
            yield from payloads.optional_rows(page, key, action)
            token = str(page.get("nextPageToken") or "")
            if not token:
                return
        raise InvalidResponse(f"{action}: the list does not end.")

    def _download(self, action: str, link: str) -> bytes:
        """Downloads a signed link, without our key: the link alone gives access."""
        unsigned = self._unsigned()
        return self._get(
            action,
            lambda: self._client.get(link, cast_to=bytes, options={"headers": unsigned}),
        )


def _count_rows(path: Path, action: str) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except OSError as error:
        raise TrainerError(f"{action}: the file can't be read: {error.strerror}.") from error


def _job_id(key: str) -> str:
    return f"ft-{uploads.key_mark(key)}"


def _dataset_id(sha256: str) -> str:
    """Cuts the hash, since ids have at most 63 characters."""
    return f"ft-{sha256[:40]}"


def _usd(money: Json) -> Decimal | None:
    """Reads the vendor's money: 1 unit and 750000000 nanos are 1.75 dollars. None if it can't be read."""
    # An amount in another currency can't be compared with a budget in dollars.
    if not money or money.get("currencyCode", "USD") != "USD":
        return None
    try:
        units = Decimal(str(money.get("units") or 0))
        nanos = Decimal(str(money.get("nanos") or 0))
        amount = units + nanos.scaleb(-9)
    except InvalidOperation:
        return None
    if not is_payable(amount):
        return None
    return amount
