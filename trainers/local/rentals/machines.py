"""Calls of Hugging Face's API: machines, found by the labels of their jobs, and the private repository by which a job's
files travel there and back. All methods may raise TrainerError.

The request that starts a machine has no idempotency key, so after a lost answer the machine is looked up by its labels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.local.job_directory import read_job
from trainers.local.ray.backend import pack_source
from trainers.local.ray.job_files import needed_files
from trainers.local.ray.takeover import BASE_FILE_ENDINGS
from trainers.rentals.prices import Rental, hub_api, translate_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub._jobs_api import JobInfo

# Labels of a machine.
OWNER = "finetune-trainer"
JOB = "finetune-job"
# Folders of a job's repository.
RESULT = "result"
RESUME = "resume"
ENDED = frozenset({"COMPLETED", "CANCELED", "ERROR", "DELETED"})
# The image has the packages of the extra [local]. Our source comes with the job, so that both sides have one version.
COMMAND = (
    'cd "$(mktemp -d)" && hf download "$FINETUNE_REPO" --revision "$FINETUNE_REVISION" --local-dir . >/dev/null'
    " && python -m zipfile -e source.zip source"
    " && PYTHONPATH=$PWD/source exec python -m trainers.local.rentals.attempt"
)


@dataclass(frozen=True)
class RentingOptions:
    """`namespace` is the account that pays and owns the repositories; '' is the token's account. A machine that does
    not start within `wait_minutes` is given up. With `keeps_files` jobs' repositories are not deleted."""

    image: str
    namespace: str = ""
    wait_minutes: int = 60
    keeps_files: bool = False


@dataclass(frozen=True)
class Machine:
    """A rented machine, as it was last seen. `running_seconds` are those it is billed for, `created_at` is in unix
    seconds."""

    id: str
    job: str
    stage: str
    message: str
    running_seconds: int
    created_at: float

    @property
    def has_ended(self) -> bool:
        return self.stage in ENDED

    @property
    def is_waiting(self) -> bool:
        return self.stage == "SCHEDULING"


class Machines:
    """`owner` is a label that distinguishes this trainer's machines from those of others with the same account."""

    def __init__(self, options: RentingOptions, owner: str) -> None:
        self._options = options
        self._owner = owner

    def find(self, job_id: str) -> list[Machine]:
        """Returns a job's machines, oldest first."""
        return self._list({OWNER: self._owner, JOB: job_id})

    def list_live(self) -> list[Machine]:
        return [machine for machine in self._list({OWNER: self._owner}) if not machine.has_ended]

    def get(self, machine_id: str) -> Machine:
        with translate_errors("asking for a machine"):
            return _machine(self._api.inspect_job(job_id=machine_id, namespace=self._namespace))

    def start(self, job_id: str, revision: str, terms: Rental, seconds: int) -> Machine:
        """Starts a machine, which the provider ends after `seconds`. If this raises Refused, nothing was started. After
        any other TrainerError a machine may have been started, so get for it first."""
        environment = {
            "FINETUNE_REPO": self.repository(job_id),
            "FINETUNE_REVISION": revision,
            "FINETUNE_SECONDS": str(seconds),
        }
        if "HF_ENDPOINT" in os.environ:
            environment["HF_ENDPOINT"] = os.environ["HF_ENDPOINT"]
        with translate_errors("starting a machine"):
            job = self._api.run_job(
                image=self._options.image,
                command=["sh", "-c", COMMAND],
                env=environment,
                secrets={"HF_TOKEN": str(self._api.token)},
                flavor=terms.hardware,
                timeout=seconds,  # else the provider's default applies
                attempts=1,  # each further attempt would cost as much again
                labels={OWNER: self._owner, JOB: job_id, "name": job_id},
                namespace=self._namespace,
            )
            return _machine(job)

    def cancel(self, machine_id: str) -> None:
        with translate_errors("ending a machine"):
            self._api.cancel_job(job_id=machine_id, namespace=self._namespace)

    def upload(self, folder: Path) -> str:
        """Uploads the job, its rows, our source and a base that is a local folder to the job's repository. Returns the
        commit's id."""
        from huggingface_hub import CommitOperationAdd

        contents: dict[str, Path | bytes] = {}
        for name in needed_files(folder):
            contents[f"job/{name}"] = folder / name
        base = Path(read_job(folder).base)
        if base.is_dir():
            for path in base.iterdir():
                if path.name.endswith(BASE_FILE_ENDINGS):
                    contents[f"base/{path.name}"] = path
        # Our source too, so that the machine trains with this version, whatever the image holds.
        contents["source.zip"] = pack_source().content

        repository = self.repository(folder.name)
        with translate_errors("uploading a job's files"):
            self._api.create_repo(repository, private=True, exist_ok=True)
            added = [CommitOperationAdd(name, content) for name, content in contents.items()]
            commit = self._api.create_commit(repository, added, commit_message="A job's files")
            return str(commit.oid)

    def download(self, job_id: str, target: Path, names: Iterable[str]) -> Path:
        """Downloads those of the files `names` that the machine has uploaded so far. Returns their folder."""
        repository = self.repository(job_id)
        patterns = [f"{RESULT}/{name}" for name in names]
        with translate_errors("fetching a job's result"):
            self._api.snapshot_download(repository, local_dir=target, allow_patterns=patterns)
        return target / RESULT

    def has_checkpoint(self, job_id: str) -> bool:
        with translate_errors("looking for a job's checkpoint"):
            files = self._api.list_repo_files(self.repository(job_id))
            return any(path.startswith(f"{RESUME}/") for path in files)

    def delete_repository(self, job_id: str) -> None:
        """Deletes the job's repository, unless the options keep it."""
        if not self._options.keeps_files:
            with translate_errors("deleting a job's repository"):
                self._api.delete_repo(self.repository(job_id), missing_ok=True)

    def logs(self, machine_id: str) -> str:
        with translate_errors("reading a machine's log"):
            lines = self._api.fetch_job_logs(job_id=machine_id, namespace=self._namespace, tail=50)
            return "\n".join(lines)

    def repository(self, job_id: str) -> str:
        return f"{self._namespace}/finetune-{job_id}"

    def _list(self, labels: dict[str, str]) -> list[Machine]:
        ours = []
        with translate_errors("looking for machines"):
            for job in self._api.list_jobs(labels=labels, namespace=self._namespace):
                # Compared here too: if the server ignored the filter, it would list everybody's machines.
                present = job.labels or {}
                if labels.items() <= present.items():
                    ours.append(_machine(job))
        return sorted(ours, key=lambda machine: (machine.created_at, machine.id))

    @cached_property
    def _api(self) -> HfApi:
        return hub_api()

    @cached_property
    def _namespace(self) -> str:
        return self._options.namespace or str(self._api.whoami()["name"])


def _machine(job: JobInfo) -> Machine:
    labels = job.labels or {}
    stage = job.status.stage  # a stage that huggingface_hub doesn't know yet is a plain string
    running_seconds = 0
    if job.durations:
        running_seconds = job.durations.running_secs or 0
    created_at = 0.0
    if job.created_at:
        created_at = job.created_at.timestamp()
    return Machine(
        id=job.id,
        job=labels.get(JOB, ""),
        stage=str(getattr(stage, "value", stage)),
        message=job.status.message or "",
        running_seconds=running_seconds,
        created_at=created_at,
    )


def set_adapter_base(path: Path, base: str) -> None:
    """Replaces the container's path by the trainer's base in an adapter's config."""
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "base_model_name_or_path": base}, indent=2), encoding="utf-8")
