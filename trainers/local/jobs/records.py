"""The jobs of this trainer. They are read from their folders whenever they are needed; ended ones are cached.

Besides the files listed in job_directory.py, the server writes into a job's folder:
    request.json             Request, before job.json; a folder without job.json is not a job yet
    train.jsonl valid.jsonl  links to the uploaded bytes, so that the upload may be deleted
    CHECKED                  the files can be trained on
    rented.json              RentedMachine (rentals/backend.py), if a machine is rented for the job
    ray.json                 on a cluster: the newest attempt
    IN_STORAGE               on a cluster: the job has files in the storage, which are deleted once it has ended
    MODEL_DELETED            the tuned model was deleted by a client
    PAUSED                   a client paused the job; removed when it is resumed"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from trainers.http.errors import ApiError, invalid
from trainers.local.job_directory import (
    TrainingJob,
    append_event,
    delete_folder,
    read_job,
    read_json,
    replace_json,
    write_job,
)
from trainers.local.jobs.requests import MAX_SEED, Hyperparameters, JobRequest
from trainers.methods import ADAPTER_SETTINGS, BUILTIN, VLLM, Parameters

SETTLED_NS = 2_000_000_000  # modification times of folders are coarse: two changes may share one
JOB_ID = re.compile(r"ftjob-[0-9a-f]{24}")
RESULT_ID = re.compile(r"file-(?:results|sweep)-([0-9a-f]{24})")
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
END_MARKS = ("DONE", "FAILED", "CANCELLED")

Status = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True)
class Request:
    """The parts of a client's request that job.json doesn't store. The files are ids of uploads."""

    training_file: str
    validation_file: str | None
    fingerprint: str


@dataclass(frozen=True)
class Failure:
    code: str
    message: str
    param: str | None


@dataclass(frozen=True)
class Progress:
    """`stopped_early` is a sentence that says why the job ended before its last step. `result_step` is the step whose
    checkpoint is the result, and `winner` the number of the sweep's trial that it belongs to."""

    step: int
    total_steps: int | None
    trained_tokens: int | None
    estimated_finish: int | None
    stopped_early: str | None = None
    result_step: int | None = None
    winner: int | None = None


@dataclass(frozen=True)
class ResultFile:
    """A file that a job writes for clients."""

    id: str
    path: Path
    filename: str


@dataclass(frozen=True)
class JobRecord:
    """`status` is never 'running': only the queue of jobs knows whether a queued job has a process. `sort_key` sorts
    jobs by their time of creation. `billed_seconds` are those of a rented machine, None without one."""

    folder: Path
    job: TrainingJob
    request: Request
    status: Status
    sort_key: tuple[int, int, str]
    finished_at: int | None
    failure: Failure | None
    progress: Progress | None
    billed_seconds: int | None = None

    @property
    def model_name(self) -> str:
        suffix = re.sub(r"[^a-z0-9._-]+", "-", (self.job.suffix or "").lower()).strip("-")
        return f"ft:{self.job.base_name}:local:{suffix}:{self.job.id[-8:]}"

    @property
    def dataset(self) -> str:
        """What the job belongs to, as far as the queue knows: the bot sends a dataset's name as the suffix. Jobs
        without one belong together if they learn from the same file."""
        return self.job.suffix or self.request.training_file

    @property
    def has_model(self) -> bool:
        return self.status == "succeeded" and not (self.folder / "MODEL_DELETED").exists()

    @property
    def result_files(self) -> tuple[ResultFile, ...]:
        """The metrics of each step and a sweep's table of trials, once the job has ended."""
        if not self.is_final:
            return ()
        short = self.job.id.removeprefix("ftjob-")
        files = (
            ResultFile(f"file-results-{short}", self.folder / "results.csv", "step_metrics.csv"),
            ResultFile(f"file-sweep-{short}", self.folder / "sweep.csv", "sweep.csv"),
        )
        return tuple(file for file in files if file.path.exists())

    @property
    def is_final(self) -> bool:
        return self.status in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class TunedModel:
    """A tuned model or one of its checkpoints. `folder` and `settings` are those of the job that trained it."""

    name: str
    adapter: Path
    folder: Path
    settings: Parameters


@dataclass(frozen=True)
class StartingPoint:
    """The model that a training begins with. `base` is a local folder or a hub id; for an encoder, the name that
    trainers/encoders uses. `tuned` is the tuned model that is trained further, if any."""

    base: str
    base_name: str
    tuned: TunedModel | None = None
    is_encoder: bool = False

    @property
    def continues(self) -> str | None:
        if self.tuned is None:
            return None
        return self.tuned.name

    def settings(self, hyperparameters: Hyperparameters, resolved: Parameters) -> Parameters:
        """Returns the job's settings. An adapter that is trained further keeps its shape, so ApiError (400) is raised
        if the request asks for another shape."""
        if self.tuned is None:
            return resolved
        if resolved.engine not in (BUILTIN, VLLM):
            text = f"The engine {resolved.engine} trains base models only. Leave 'engine' out, or name a base model."
            raise invalid(text, "hyperparameters.engine", "engine_cannot")
        if resolved.sweep:
            text = "A sweep trains base models only. Leave 'sweep' out, or name a base model."
            raise invalid(text, "hyperparameters.sweep")
        tuned = asdict(self.tuned.settings)
        shape = {name: tuned[name] for name in ADAPTER_SETTINGS if name in tuned}
        for name, value in shape.items():
            if hyperparameters.values.get(name, value) != value:
                text = (
                    f"{self.tuned.name} has {name} {value}, and training it further can't change that. Leave '{name}' "
                    f"out, or name its base model {self.base_name}."
                )
                raise invalid(text, f"hyperparameters.{name}")
        return replace(resolved, **shape)

    def link_into(self, folder: Path) -> None:
        """Links the adapter into the new job's folder, so that the tuned model can be deleted meanwhile."""
        if self.tuned is None:
            return
        linked = folder / "tuned"
        linked.mkdir()
        for name in ADAPTER_FILES:
            os.link(self.tuned.adapter / name, linked / name)
        base = self.tuned.folder / "base.json"
        if base.exists():
            os.link(base, folder / "base.json")


class Jobs:
    """Creates, finds and deletes jobs. Each is a folder in `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._creating = threading.Lock()
        self._final: dict[str, JobRecord] = {}
        self._folders = JobFolders(root)
        root.mkdir(parents=True, exist_ok=True)

    def remove_leftovers(self) -> None:
        """Removes what interrupted deletions and creations left, which may include training rows. Only a server that
        starts may do so: a running one may be deleting or creating jobs while another process, such as an export, reads
        them."""
        for folder in (*self._root.glob(".ftjob-*"), *self._root.glob("ftjob-*")):
            if folder.name.startswith(".") or not (folder / "job.json").exists():
                shutil.rmtree(folder)

    def find_by_key(self, key: str, fingerprint: str) -> JobRecord | None:
        """Returns the job that this Idempotency-Key created, or None. Raises ApiError (409) if its body was another."""
        record = self.get(_id_from_key(key))
        if record is None or record.request.fingerprint == fingerprint:
            return record
        text = f"Idempotency-Key '{key}' was used for another request, which created {record.job.id}. Use a new key."
        headers = {"x-should-retry": "false"}
        raise ApiError(409, text, "idempotency_conflict", "Idempotency-Key", headers=headers)

    def create(
        self,
        job_request: JobRequest,
        start: StartingPoint,
        settings: Parameters,
        training: Path,
        validation: Path | None = None,
        *,
        key: str | None = None,
        trials: tuple[Parameters, ...] = (),
    ) -> JobRecord:
        """Creates a job, which is durable when this returns. A second call with the same `key` returns the same job.
        `training` and `validation` are the files behind the request's ids."""
        if key:
            job_id = _id_from_key(key)
        else:
            job_id = "ftjob-" + secrets.token_hex(12)
        seed = job_request.seed
        if seed is None:
            seed = secrets.randbelow(MAX_SEED)
        with self._creating:
            if key:
                earlier = self.find_by_key(key, job_request.fingerprint)
                if earlier:
                    return earlier
            folder = self._root / job_id
            shutil.rmtree(folder, ignore_errors=True)  # of an interrupted creation, which no client knows of
            folder.mkdir()
            start.link_into(folder)
            # Links, so that the uploads can be deleted meanwhile.
            training_file = str(folder.resolve() / "train.jsonl")
            os.link(training, training_file)
            validation_file = None
            if validation:
                validation_file = str(folder.resolve() / "valid.jsonl")
                os.link(validation, validation_file)
            job = TrainingJob(
                id=job_id,
                base=start.base,
                base_name=start.base_name,
                training_file=training_file,
                validation_file=validation_file,
                seed=seed,
                settings=settings,
                suffix=job_request.suffix,
                metadata=job_request.metadata,
                created_at=int(time.time()),
                integrations=job_request.integrations,
                trials=trials,
                method=job_request.method,
                continues=start.continues,
            )
            request = Request(job_request.training_file, job_request.validation_file, job_request.fingerprint)
            replace_json(folder / "request.json", asdict(request))
            append_event(folder, f"Created fine-tuning job: {job_id}")
            write_job(folder, job)
        return self._load(job_id)

    def get(self, job_id: str) -> JobRecord | None:
        if not JOB_ID.fullmatch(job_id) or not (self._root / job_id / "job.json").exists():
            return None
        return self._load(job_id)

    def all(self) -> list[JobRecord]:
        """Returns all jobs, newest first."""
        records = (self._read(job_id) for job_id in self._folders.names())
        return sorted(records, key=lambda record: record.sort_key, reverse=True)

    def unfinished(self) -> list[JobRecord]:
        """Returns the jobs that have not ended, oldest first."""
        unfinished = []
        for job_id in self._folders.names():
            if job_id in self._final:  # without reading the ended jobs, of which there may be thousands
                continue
            record = self._read(job_id)
            if not record.is_final:
                unfinished.append(record)
        return sorted(unfinished, key=lambda record: record.sort_key)

    def find_by_model(self, name: str) -> JobRecord | None:
        """Returns the job whose tuned model or checkpoint has this name, whatever its status, or None."""
        plain = name.partition(":ckpt-step-")[0]
        short = plain[-8:]  # of the job's id, see model_name: so only few jobs have to be read
        if not re.fullmatch(r"[0-9a-f]{8}", short):
            return None
        for job_id in self._folders.names():
            if job_id.endswith(short):
                record = self.get(job_id)
                if record and record.model_name == plain:
                    return record
        return None

    def find_result_file(self, file_id: str) -> ResultFile | None:
        match = RESULT_ID.fullmatch(file_id)
        if match is None:
            return None
        record = self.get(f"ftjob-{match[1]}")
        if record is None:
            return None
        return next((file for file in record.result_files if file.id == file_id), None)

    def delete(self, job_id: str) -> None:
        """Deletes the folder of a job that has ended: rows, events, checkpoints, curves and model."""
        delete_folder(self._root / job_id)
        self._final.pop(job_id, None)

    def _read(self, job_id: str) -> JobRecord:
        """Reads a job, or returns it from the cache if it has ended: end marks are never removed."""
        record = self._final.get(job_id) or self._load(job_id)
        if record.is_final:
            self._final[job_id] = record
        return record

    def _load(self, job_id: str) -> JobRecord:
        folder = self._root / job_id
        job = read_job(folder)
        status, finished_at = _status(folder)
        failure = None
        if status == "failed":
            failure = _failure(folder)
        rented = read_json(folder / "rented.json") or {}
        return JobRecord(
            folder=folder,
            job=job,
            request=Request(**(read_json(folder / "request.json") or {})),
            status=status,
            sort_key=(job.created_at, (folder / "job.json").stat().st_mtime_ns, job_id),
            finished_at=finished_at,
            failure=failure,
            progress=_progress(folder),
            billed_seconds=rented.get("running_seconds"),
        )


def mark(folder: Path, name: Literal["CHECKED", "CANCELLED", "MODEL_DELETED", "PAUSED"]) -> None:
    replace_json(folder / name, {"at": int(time.time())})


def fail(folder: Path, failure: Failure) -> None:
    append_event(folder, f"The job failed: {failure.message}", level="error")
    replace_json(folder / "FAILED", asdict(failure))


def has_ended(folder: Path) -> bool:
    return any((folder / name).exists() for name in END_MARKS)


def _id_from_key(key: str) -> str:
    """Derives the job's id from the key, so that no index of keys is needed."""
    return "ftjob-" + hashlib.sha256(b"idempotency-key:" + key.encode()).hexdigest()[:24]


def _status(folder: Path) -> tuple[Status, int | None]:
    """Returns the status and when the job ended. DONE and FAILED take precedence over CANCELLED, since what the
    training process finished before it was stopped counts."""
    ends: list[tuple[str, Status]] = [("DONE", "succeeded"), ("FAILED", "failed"), ("CANCELLED", "cancelled")]
    for name, status in ends:
        try:
            return status, int((folder / name).stat().st_mtime)
        except FileNotFoundError:
            continue
    if (folder / "PAUSED").exists():
        return "paused", None
    if (folder / "CHECKED").exists():
        return "queued", None
    return "validating_files", None


def _failure(folder: Path) -> Failure | None:
    raw = read_json(folder / "FAILED")
    if not raw:
        return None
    return Failure(str(raw["code"]), str(raw["message"]), raw.get("param"))


def _progress(folder: Path) -> Progress | None:
    progress = read_json(folder / "progress.json") or {}
    done = read_json(folder / "DONE") or {}
    raw: dict[str, Any] = {**progress, **done}
    if not raw:
        return None
    return Progress(
        step=int(raw.get("step") or 0),
        total_steps=raw.get("total_steps"),
        trained_tokens=raw.get("trained_tokens"),
        estimated_finish=raw.get("estimated_finish"),
        stopped_early=raw.get("stopped"),
        result_step=raw.get("result_step"),
        winner=raw.get("winner"),
    )


class JobFolders:
    """The names of the folders in `root` that have a job.json, which is never removed. Listing 10,000 folders took 40
    ms and the queue needs the names five times a second, so they are listed again only after `root` has changed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._changed_at = -1
        self._complete: set[str] = set()
        self._incomplete: set[str] = set()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        with self._lock:
            changed_at = self._root.stat().st_mtime_ns
            if changed_at != self._changed_at:
                with os.scandir(self._root) as entries:
                    names = {entry.name for entry in entries if entry.name.startswith("ftjob-")}
                self._complete &= names
                self._incomplete = names - self._complete
                # Clocks of file systems tick slowly: another change may follow with the same time.
                is_settled = time.time_ns() - changed_at > SETTLED_NS
                self._changed_at = -1
                if is_settled:
                    self._changed_at = changed_at
            # A job.json appears inside its folder, so it doesn't change the time of `root`.
            completed = {name for name in self._incomplete if (self._root / name / "job.json").exists()}
            self._incomplete -= completed
            self._complete |= completed
            return list(self._complete)
