"""Jobs on a Ray cluster. Each attempt is a Ray job that a thread here submits, with our source code as its package, and
follows to its end.

The attempt's files are taken over from the storage (takeover.py), or are already in the job's folder on a shared disk.
If the head or the storage doesn't answer, it is asked again. If the head has forgotten the job, the attempt ends and
the queue starts the next one. `check_options` checks both before the trainer starts.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shlex
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trainers.local.jobs.backends import Exit, exit_from_code, exits_within
from trainers.local.jobs.records import JobRecord
from trainers.local.ray.head import RayAway, RayError, RayHead, RayJob, RayRefused
from trainers.local.ray.job_files import (
    AttemptRecord,
    close_attempt,
    has_open_attempts,
    mark_submitted,
    open_attempt,
    read_attempt,
)
from trainers.local.ray.launcher import NodesRequest
from trainers.local.ray.storage import Stopped, Storage, StorageAway, local_folder, url_refusal
from trainers.local.ray.takeover import Cleaner, Takeover
from trainers.local.ray.wait_events import Need, Outage, Waiting
from trainers.providers.providers import is_loopback

NODE = "trainers.local.ray.node"
LAUNCHER = "trainers.local.ray.launcher"
ROOT = Path(__file__).resolve().parents[3]
PACKAGE = "trainers"
ENDINGS = (".py", ".toml", ".txt")
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # fixed, so that the same source gives the same bytes
POLL_S = 1.0
ENDING_POLL_S = 0.2
LOG_EVERY_S = 5.0
END_S = 10.0
RELEASE_S = 5.0  # a request to the head may take longer
NEVER_BEGAN = Exit(None, None)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RayOptions:
    """`storage` is the URL of a folder that the nodes can access, or None if they share the trainer's data folder.

    `python` is the nodes' interpreter, with the extra 'local'. Ray reserves `gpus` GPUs for a job, divided evenly among
    its `nodes` machines, and one CPU on each. `passed` are environment variables for the nodes.
    """

    address: str
    storage: str | None
    python: str = "python"
    gpus: int = 1
    passed: Mapping[str, str] = field(default_factory=dict)
    nodes: int = 1

    @property
    def gpus_a_node(self) -> int:
        return self.gpus // self.nodes

    @property
    def processes_a_node(self) -> int:
        return max(1, self.gpus_a_node)

    @property
    def need(self) -> Need:
        return Need(self.nodes, self.gpus_a_node)


class RayBackend:
    lag_s = 20.0
    is_here = rents = False

    def __init__(self, head: RayHead, options: RayOptions, jobs: Path) -> None:
        self._head = head
        self._storage: Storage | None = None
        self._cleaner: Cleaner | None = None
        if options.storage is not None:
            self._storage = Storage(options.storage)
            self._cleaner = Cleaner(self._storage, jobs)
            self._cleaner.start()
        self._options = options
        self.nodes = options.nodes
        self.processes = options.nodes * options.processes_a_node
        self._package = pack_source()
        self._attempts: list[RayAttempt] = []

    def start(self, record: JobRecord) -> RayAttempt:
        return self._follow(record, open_attempt(record.folder))

    def adopt(self, record: JobRecord) -> RayAttempt | None:
        attempt = read_attempt(record.folder)
        if attempt is None or not attempt.is_open:
            return None
        return self._follow(record, attempt)

    def discard(self, record: JobRecord) -> str | None:
        """Deletes an ended job's files in the storage. Returns a message if that is not possible now."""
        try:
            if self._cleaner is not None:
                self._cleaner.clean(record.folder)
        except StorageAway as error:
            job_id = record.job.id
            return f"The files of {job_id} in the storage can't be deleted: {error}. Try again in a minute."
        return None

    def shortage(self) -> str | None:
        """Returns why a job over several nodes can never start, or None. A job waits for a head that doesn't answer,
        and for a single node's GPUs."""
        gpus = self._options.gpus_a_node
        if self.nodes == 1:
            return None
        try:
            nodes = self._head.nodes_with(gpus)
            may_grow = self._head.may_grow
        except (RayAway, RayRefused) as error:
            log.warning("counting the nodes of the cluster: %s", error)
            return None
        if nodes >= self.nodes or may_grow:
            return None
        each = f"{gpus} GPUs each" if gpus else "a CPU each"
        return (
            f"This trainer trains each job on {self.nodes} nodes with {each}, and the Ray cluster at "
            f"{self._head.address} has {nodes}. Add nodes, or start the trainer with a lower --nodes-per-job."
        )

    def close(self) -> None:
        # Those that were ended while the head didn't answer; the queue has released the others.
        followed = [attempt for attempt in self._attempts if not attempt.is_released]
        for attempt in followed:
            attempt.stop_following()
        until = time.monotonic() + RELEASE_S
        for attempt in followed:
            attempt.thread.join(max(until - time.monotonic(), 0.0))
        if self._cleaner is not None:
            self._cleaner.stop()
        self._head.close()

    def _follow(self, record: JobRecord, entry: AttemptRecord) -> RayAttempt:
        attempt = RayAttempt(record, entry, self._head, self._options, self._package, self._storage)
        attempt.thread.start()
        followed = [each for each in self._attempts if each.thread.is_alive()]
        self._attempts = [*followed, attempt]
        return attempt


class RayAttempt:
    """Follows one attempt in its own thread. Only that thread sets `exit` and `has_begun`."""

    def __init__(
        self,
        record: JobRecord,
        entry: AttemptRecord,
        head: RayHead,
        options: RayOptions,
        package: Package,
        storage: Storage | None,
    ) -> None:
        self.record = record
        self.is_being_cancelled = self.is_beside_serving = False
        self.exit: Exit | None = None
        self.has_begun = False
        self._entry = entry
        self._head = head
        self._options = options
        self._package = package
        self._outage = Outage(record.folder, "The Ray cluster", "the cluster")
        self._storage_outage = Outage(record.folder, "The storage", "it")
        self._waiting = Waiting(record.folder, head, options.need)
        self._is_unwanted = threading.Event()
        self._released = threading.Event()
        self._turn = threading.Lock()
        self._files = None
        if storage is not None:
            self._files = Takeover(
                storage,
                record.folder,
                entry,
                is_wanted=lambda: not self._is_unwanted.is_set() and not self._released.is_set(),
                turn=self._turn,
            )
        self._log_at = 0.0
        self.thread = threading.Thread(target=self.follow, name=entry.submission, daemon=True)

    def follow(self) -> None:
        """Runs in the thread until the attempt has ended or is released."""
        while self.exit is None and not self._released.is_set():
            attempt_exit = self._try_step(self._check_job)
            if attempt_exit is not None:
                close_attempt(self.record.folder, self._entry)
                self.exit = attempt_exit
            elif self._entry.is_submitted:
                self._try_step(self._sync_files)
            pause_s = max(POLL_S, self._outage.pause_s, self._storage_outage.pause_s)
            if self._is_unwanted.is_set():
                pause_s = ENDING_POLL_S  # somebody waits for the end
            self._released.wait(pause_s)

    def _try_step(self, step: Callable[[], Exit | None]) -> Exit | None:
        """Calls `step`. Returns None if the head or the storage doesn't answer; the caller then tries again."""
        try:
            return step()
        except (RayAway, RayRefused) as error:
            self._outage.record(str(error))
        except StorageAway as error:
            self._storage_outage.record(str(error))
        except Stopped:  # the next _check_job finds out why
            return None
        except OSError as error:  # e.g. a full disk
            log.error("following %s: %s. Trying again.", self._entry.submission, error)
        return None

    def end(self) -> bool:
        """Ends the attempt. From now on none of its files are taken over, even if the head and the storage can't be
        reached."""
        close_attempt(self.record.folder, self._entry)
        with self._turn:
            self._is_unwanted.set()
        # Without an answer from the head, or before the job has begun, more patience would bring nothing.
        wait_s = 2 * ENDING_POLL_S
        if self.has_begun and not self._outage.pause_s:
            wait_s = END_S
        if exits_within(self, wait_s):
            return True
        return self._files is not None or not self.has_begun

    @property
    def is_released(self) -> bool:
        return self._released.is_set()

    def stop_following(self) -> None:
        """Tells the thread to end after its step. The Ray job itself goes on."""
        self._released.set()

    def release(self) -> None:
        """Stops following. A step that waits for the head or the storage is abandoned, as by a kill: each of its
        records is replaced as a whole, and the next start goes on from them."""
        self.stop_following()
        self.thread.join(RELEASE_S)

    def _sync_files(self) -> None:
        """Tells the attempt to run, pause or end, and takes over its new files."""
        if self._files is None:
            return
        if self._is_unwanted.is_set():
            return self._files.control("end")
        wanted = "run"
        if (self.record.folder / "PAUSED").exists():
            wanted = "pause"
        self._files.control(wanted)
        self._files.download_new_files()
        self._storage_outage.end()

    def _check_job(self) -> Exit | None:
        job = self._head.find_job(self._entry.submission)
        self._outage.end()
        if job is None:
            return self._submit()
        if not self._entry.is_submitted:  # the answer to the submission was lost
            self._entry = mark_submitted(self.record.folder, self._entry)
        is_waiting = job.status == "PENDING"
        if job.is_final:
            self._keep_log()
            if not self._is_unwanted.is_set():
                self._sync_files()
            return describe_exit(job)
        if not self.has_begun and not is_waiting:
            # A job over several nodes has status RUNNING before it has them: the launcher runs and requests them.
            self.has_begun = self._options.nodes == 1 or self._head.has_placed(self._entry.submission)
        if self.has_begun:
            self._waiting.end()
        elif not self._is_unwanted.is_set():
            self._waiting.record()
        if self._is_unwanted.is_set():
            self._head.stop(self._entry.submission)
            if is_waiting:  # Ray keeps a stopped job PENDING until it has a machine
                return NEVER_BEGAN
            return None
        if self.has_begun and time.monotonic() - self._log_at > LOG_EVERY_S:
            self._keep_log()
        return None

    def _submit(self) -> Exit | None:
        """Submits the attempt. If it was submitted before, the head has lost it, which is its end."""
        if self._is_unwanted.is_set():
            return NEVER_BEGAN
        if self._entry.is_submitted:
            self._sync_files()
            why = "was lost: the Ray cluster no longer knows it, perhaps because its head was restarted"
            return Exit(None, why)
        if self._files is not None:
            self._files.upload_inputs()
            self._files.control("run")
            self._storage_outage.end()
        try:
            self._head.upload_package(self._package.name, self._package.content)
            self._head.submit(build_submission(self._entry, self.record, self._package, self._options))
        except RayRefused as error:
            return Exit(None, f"was refused by the Ray cluster: {error}")
        self._entry = mark_submitted(self.record.folder, self._entry)
        return None

    def _keep_log(self) -> None:
        """Saves the process's output, which may explain a crash."""
        self._log_at = time.monotonic()
        try:
            text = self._head.logs(self._entry.submission)
        except (RayAway, RayRefused) as error:  # e.g. its node is gone
            return log.warning("reading the log of %s: %s", self._entry.submission, error)
        (self.record.folder / "train.log").write_text(text, encoding="utf-8")


def build_submission(
    entry: AttemptRecord, record: JobRecord, package: Package, options: RayOptions
) -> dict[str, Any]:
    """Returns the body of POST /api/jobs/. It must not hold secrets, since Ray shows it to everybody."""
    job_id = record.job.id
    environment = dict(options.passed)
    if options.storage is None:
        environment["FINETUNE_JOB"] = str(record.folder.resolve())
    else:
        environment |= {"FINETUNE_JOB": job_id, "FINETUNE_STORAGE": options.storage}
    environment["FINETUNE_ATTEMPT"] = entry.key
    environment["FINETUNE_PROCESSES"] = str(options.processes_a_node)

    if options.nodes == 1:
        command = [options.python, "-m", NODE]
        resources = {"entrypoint_num_cpus": 1, "entrypoint_num_gpus": options.gpus}
    else:  # the launcher itself reserves nothing; it requests the resources of each node
        request = NodesRequest(options.nodes, options.gpus_a_node, options.python, entry.submission)
        command = [options.python, "-m", LAUNCHER, *request.arguments]
        resources = {}
    return {
        "submission_id": entry.submission,
        "metadata": {"finetune_job": job_id, "attempt": str(entry.attempt)},
        "runtime_env": {"working_dir": f"gcs://{package.name}", "env_vars": environment},
        "entrypoint": f"exec {shlex.join(command)}",
        **resources,
    }


def describe_exit(job: RayJob) -> Exit:
    """Returns how an ended job ended."""
    if job.status == "STOPPED":
        return Exit(None, "was stopped on the Ray cluster")
    if job.exit_code is not None:
        return exit_from_code(job.exit_code)
    reason = " ".join(job.message.split())[:300] or "Ray does not say why"
    return Exit(None, f"ended on the Ray cluster: {reason}")


@dataclass(frozen=True)
class Package:
    """Our source code, so that nodes run the same version as the trainer. It is named by its content."""

    name: str
    content: bytes


def pack_source() -> Package:
    """Returns a zip file with `trainers/…`, of about 0.3 MB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((ROOT / PACKAGE).rglob("*")):
            if path.suffix in ENDINGS and path.is_file():
                # A fixed time, since the same source must have the same name.
                entry = zipfile.ZipInfo(path.relative_to(ROOT).as_posix(), ZIP_TIME)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, path.read_bytes())
    content = buffer.getvalue()
    return Package(f"_ray_pkg_{hashlib.sha256(content).hexdigest()[:16]}.zip", content)


# Environment variables that are passed to the nodes. No keys, since Ray shows these to everybody.
PASSED_VARIABLES = (
    *("FINETUNE_DTYPE", "HF_ENDPOINT", "MLFLOW_TRACKING_URI", "OMP_NUM_THREADS"),
    *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"),
)


class RayUnusable(Exception):
    """The cluster or the storage can't be used. The message is a sentence for the user."""


def check_options(options: RayOptions, data: Path) -> RayOptions:
    """Returns the options, with storage None if the nodes share the data folder. Raises RayUnusable. A head or a
    storage that doesn't answer is accepted if our jobs may be running there."""
    storage = _storage(options, data)
    head = RayHead(options.address)
    has_jobs = has_open_attempts(data / "jobs")
    try:
        log.info("Ray %s at %s", head.check(), options.address)
        if storage is not None:
            Storage(storage).check()
    except RayAway as error:
        if not has_jobs:
            text = "Start it with `ray start --head`, or set --ray-address to its dashboard."
            raise RayUnusable(f"the Ray cluster can't be used: {error}. {text}") from error
        log.warning("%s. Waiting for it, because it may be running our jobs.", error)
    except RayError as error:
        raise RayUnusable(f"the Ray cluster can't be used: {error}") from error
    except StorageAway as error:
        if not has_jobs:
            raise RayUnusable(f"the storage can't be used: {error}.") from error
        log.warning("%s. Waiting for it, because our jobs may be using it.", error)
    finally:
        head.close()
    passed = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    return replace(options, storage=storage, passed=passed)


def _storage(options: RayOptions, data: Path) -> str | None:
    """Returns None if the nodes share the data folder. Raises RayUnusable."""
    if options.storage is None:
        if is_loopback(options.address):
            return None
        raise RayUnusable(
            f"the nodes of {options.address} can't access this machine's disk. Set --storage ([trainer] storage in "
            "finetune.toml) to a folder that both can access: a path on a shared disk, s3://bucket/folder or "
            "gs://bucket/folder."
        )
    refusal = url_refusal(options.storage)
    if refusal is not None:
        raise RayUnusable(refusal)
    folder = local_folder(options.storage)
    if folder is not None and data.resolve().is_relative_to(folder.resolve()):
        return None
    return options.storage
