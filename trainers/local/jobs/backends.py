"""Backends, which run a job's training: their protocol, and the one that runs each job as a child process of this
server with its own GPUs. Ray's is in ray/backend.py, that of rented machines in rentals/backend.py.

A child that outlives a killed server still holds its job's lock, so the next server adopts it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trainers.host import HUB_KEYS, TINKER_SETTINGS, TRACKER_KEYS, child_environment
from trainers.local.engines.compatibility import Refusal
from trainers.local.engines.vendor_jobs import delete_at_vendor
from trainers.local.job_directory import lock_job
from trainers.local.jobs.records import JobRecord
from trainers.local.launch import train_command
from trainers.local.turns import VARIABLE
from trainers.methods import BUILTIN, METHODS, TINKER, Parameters

POLL_S = 0.05
GRACE_S = 5.0
GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Exit:
    """How an attempt ended. `why` completes a sentence that begins "the training process"; it is None if this server
    did not see the end. `code` is the exit code, None if unknown."""

    code: int | None
    why: str | None


class Attempt(Protocol):
    """One run of a job's training process, from its start to its exit."""

    record: JobRecord
    is_being_cancelled: bool
    is_beside_serving: bool  # uses the GPU that serving uses, or the CPU if this machine has no GPU

    @property
    def has_begun(self) -> bool:
        """False while it waits for a machine."""
        ...

    @property
    def exit(self) -> Exit | None:
        """None while it runs. Never blocks."""
        ...

    def end(self) -> bool:
        """Stops it within about 10 s. Returns False if it may still be running."""
        ...

    def release(self) -> None:
        """Called when the server stops. Returns as soon as no thread of this server follows the attempt."""
        ...


class Backend(Protocol):
    """`lag_s` is how much later than on this machine an exit may be noticed. `is_here` is true if jobs use this
    machine's memory, `rents` if each job has a machine rented for it. `processes` train one job, on `nodes` machines.
    """

    lag_s: float
    is_here: bool
    rents: bool
    processes: int
    nodes: int

    def shortage(self) -> str | None:
        """Returns a sentence that says why no job can start at present, or None if nothing is known to be missing."""
        ...

    def start(self, record: JobRecord) -> Attempt: ...

    def adopt(self, record: JobRecord) -> Attempt | None:
        """Returns the attempt that an earlier server or a person started and that may still be running, or None."""
        ...

    def discard(self, record: JobRecord) -> str | None:
        """Deletes the files that an ended job left at the backend. Returns None, or a sentence that says why it
        can't."""
        ...

    def close(self) -> None:
        """Called after all attempts have been released."""
        ...


def exits_within(attempt: Attempt, seconds: float) -> bool:
    """Waits for the attempt's exit. Returns False if it is still running after `seconds`."""
    deadline = time.monotonic() + seconds
    while attempt.exit is None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


@dataclass
class Child:
    """A training process on this machine. `process` is None if an earlier server started it."""

    record: JobRecord
    process: subprocess.Popen[bytes] | None
    pid: int | None
    gpus: tuple[str, ...] = ()
    is_beside_serving: bool = True
    is_being_cancelled: bool = False
    has_begun: bool = field(default=True, init=False)

    @property
    def exit(self) -> Exit | None:
        if self.process is None:
            # Not a child of this server, which therefore sees only that its lock is gone.
            if is_locked(self.record.folder):
                return None
            return Exit(None, None)
        code = self.process.poll()
        if code is None:
            return None
        return exit_from_code(code)

    def end(self) -> bool:
        """Sends SIGTERM to its process group, and SIGKILL after 5 s. Returns False if it still runs after 10 s."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.pid is not None:
                with suppress(ProcessLookupError):  # it has just exited
                    os.killpg(self.pid, number)
            if exits_within(self, GRACE_S):
                return True
        return self.exit is not None

    def release(self) -> None:
        self.end()


class LocalBackend:
    lag_s = 0.0
    is_here = True
    rents = False
    nodes = 1

    def __init__(
        self,
        command: tuple[str, ...] | None = None,
        gpus: tuple[str, ...] = (),
        gpus_per_job: int = 1,
        turns: Path | None = None,
    ) -> None:
        """`turns` is the folder of the locks by which a job takes turns with answers (trainers/local/turns.py)."""
        self.processes = gpus_per_job
        self._command = command or train_command(gpus_per_job)
        self._single_command = command or train_command(1)  # encoders are small
        self._gpus = gpus
        self._turns = turns
        self._children: list[Child] = []

    def start(self, record: JobRecord) -> Child:
        self._children = [child for child in self._children if child.exit is None]
        taken = [gpu for child in self._children for gpu in child.gpus]
        gpus = pick_gpus(self._gpus, taken, self.processes)
        command = self._command
        if METHODS[record.job.method].is_for_encoders:
            command = self._single_command
        environment = job_environment(gpus, record.job.settings.engine)
        if self._turns is not None and self._is_beside_serving(gpus):
            environment[VARIABLE] = str(self._turns)
        with (record.folder / "train.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, str(record.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        (record.folder / "gpu").write_text(",".join(gpus), encoding="ascii")
        (record.folder / "pid").write_text(str(process.pid), encoding="ascii")
        return self._add_child(record, process, process.pid, gpus)

    def adopt(self, record: JobRecord) -> Child | None:
        if not is_locked(record.folder):
            return None
        names = _read_text(record.folder / "gpu").split(",")
        gpus = tuple(name for name in names if name)
        pid = None  # the server died between starting the process and writing its id
        written = _read_text(record.folder / "pid")
        if written.isdigit():
            pid = int(written)
        return self._add_child(record, None, pid, gpus)

    def _add_child(
        self,
        record: JobRecord,
        process: subprocess.Popen[bytes] | None,
        pid: int | None,
        gpus: tuple[str, ...],
    ) -> Child:
        child = Child(record, process, pid, gpus, self._is_beside_serving(gpus))
        self._children.append(child)
        return child

    def _is_beside_serving(self, gpus: Sequence[str]) -> bool:
        # Serving uses the first GPU.
        return not gpus or not self._gpus or self._gpus[0] in gpus

    def shortage(self) -> None:
        return None

    def discard(self, record: JobRecord) -> str | None:
        if record.job.settings.engine != TINKER:
            return None
        return delete_at_vendor(record.folder)

    def close(self) -> None: ...


def visible_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Returns the GPUs that CUDA_VISIBLE_DEVICES names. If it is unset, returns the numbers of all that nvidia-smi
    lists."""
    variable = environment.get(GPUS_VARIABLE)
    if variable is not None:
        names = [name.strip() for name in variable.split(",")]
        return tuple(name for name in names if name not in ("", "-1"))  # -1 hides all GPUs
    tool = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if tool is None:
        return ()
    command = [tool, "--query-gpu=index", "--format=csv,noheader"]
    process = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=30, check=False)
    if process.returncode != 0:  # a driver without a GPU
        return ()
    return tuple(process.stdout.split())


def pick_gpus(gpus: Sequence[str], taken: Iterable[str], count: int) -> tuple[str, ...]:
    """Returns the `count` GPUs with the fewest jobs, in order. Among GPUs with as many jobs, serving's, which is the
    first, is picked last."""
    jobs = Counter(taken)
    fewest = sorted(gpus, key=lambda gpu: (jobs[gpu], gpu == gpus[0]))[:count]
    return tuple(sorted(fewest, key=gpus.index))


def is_locked(folder: Path) -> bool:
    """Returns True if a training process holds the job's lock."""
    with lock_job(folder) as lock:
        return lock is None


def job_environment(gpus: Sequence[str], engine: str = BUILTIN) -> dict[str, str]:
    """Returns the environment of a training process, with the keys of the hub, of trackers and of the job's `engine`,
    and its GPUs."""
    keys = [*HUB_KEYS, *TRACKER_KEYS]
    if engine == TINKER:
        keys += TINKER_SETTINGS
    environment = child_environment(*keys)
    if gpus:
        environment[GPUS_VARIABLE] = ",".join(gpus)
    return environment


def exit_from_code(code: int) -> Exit:
    """Returns the Exit for an exit code. Launchers report a signal as shells do, by 128 plus its number; Python reports
    it as a negative number."""
    if code > 128:
        code = 128 - code
    if code == -signal.SIGKILL:
        return Exit(code, "was killed, perhaps because the machine ran out of memory")
    if code < 0:
        return Exit(code, f"was ended by signal {-code}")
    return Exit(code, f"ended with exit code {code}")


def _read_text(path: Path) -> str:
    """Returns "" if there is no such file, since a kill came between the start of a process and writing it."""
    if not path.exists():
        return ""
    return path.read_text(encoding="ascii")


def backend_refusal(backend: Backend, settings: Parameters) -> Refusal | None:
    """Returns why this backend can't train with these settings, or None. Called before anything starts."""
    if settings.engine != BUILTIN and not backend.is_here:
        text = (
            f"This trainer's jobs run on a cluster, where the engine {settings.engine} is not installed. Leave "
            "'engine' out, or use a trainer that trains on its own machine."
        )
        return Refusal("engine_not_installed", text)
    if settings.engine != BUILTIN and backend.processes > 1:
        where = ""
        option = "--gpus-per-job"
        if backend.nodes > 1:
            where = f" on {backend.nodes} nodes"
            option = "--nodes-per-job"
        text = (
            f"This trainer gives each job {backend.processes} processes{where}, but the engine {settings.engine} runs "
            f"in a single one. Leave 'engine' out, or use a trainer started without {option}."
        )
        return Refusal("engine_cannot", text)
    if settings.sharding == "fsdp":
        return _sharding_refusal(backend, settings)
    return None


def _sharding_refusal(backend: Backend, settings: Parameters) -> Refusal | None:
    method = next(method for method in METHODS.values() if type(settings) is method.parameters)
    if backend.processes == 1:
        text = (
            "sharding 'fsdp' divides the base among a job's GPUs, but this trainer gives each job only one. Leave it "
            "out, or start the trainer with --gpus-per-job 2 or more."
        )
    elif settings.quantization != "none":
        text = f"A base in {settings.quantization} can't be divided among GPUs. Leave out 'sharding' or 'quantization'."
    elif settings.sweep:
        text = (
            "The trials of a sweep take turns on one base, which can't be divided among GPUs. Leave out 'sharding' or "
            "'sweep'."
        )
    elif not method.is_plain:
        text = f"The method {method.name} needs the whole base on each GPU. Leave 'sharding' out."
    else:
        return None
    return Refusal("sharding_unavailable", text, "sharding")
