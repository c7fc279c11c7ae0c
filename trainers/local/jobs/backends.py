"""Where a job's training runs: the protocol of a backend, and the one whose jobs are child processes of this
server, each with GPUs of its own. Ray's is in ray/backend.py.

A child that outlived a killed server still holds its job's lock: it is waited for, and not started a second time."""

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

from trainers.host import HUB_KEYS, TRACKER_KEYS, child_environment
from trainers.local.engines.compatibility import Refusal
from trainers.local.job_directory import lock_job
from trainers.local.jobs.records import JobRecord
from trainers.local.launch import train_command
from trainers.methods import BUILTIN, METHODS, Parameters

LOOK_S = 0.05
GRACE_S = 5.0
GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Exit:
    """How an attempt ended. `why` continues "the training process …", and is None where this server did not see it end.
    `code` where it is known."""

    code: int | None
    why: str | None


class Attempt(Protocol):
    """One start of a job's training, until it exits."""

    record: JobRecord
    is_being_cancelled: bool
    is_beside_serving: bool  # on the GPU that answers, or on a machine without any

    @property
    def has_begun(self) -> bool:
        """False while it waits for a machine."""
        ...

    @property
    def exit(self) -> Exit | None:
        """None as long as it runs. Answers at once."""
        ...

    def end(self) -> bool:
        """Ends it within about 10 s. False where it may still run."""
        ...

    def release(self) -> None:
        """Called when the server ends. Returns once no thread here follows the attempt any more."""
        ...


class Backend(Protocol):
    """`lag_s`: how much later than on this machine an exit may be seen. `is_here`: jobs use this machine's memory.
    `rents`: each job has a machine that is paid for it. `processes` train one job, on `nodes` machines.
    """

    lag_s: float
    is_here: bool
    rents: bool
    processes: int
    nodes: int

    def shortage(self) -> str | None:
        """Why no job can begin at present, in a sentence; None where nothing is known to be missing."""
        ...

    def start(self, record: JobRecord) -> Attempt: ...

    def adopt(self, record: JobRecord) -> Attempt | None:
        """The attempt that an earlier server or a person started and that may still run."""
        ...

    def discard(self, record: JobRecord) -> str | None:
        """Deletes what a job that has ended left there. Returns why that can't be done, in a sentence, or None."""
        ...

    def close(self) -> None:
        """Called after all attempts were released."""
        ...


def exits_within(attempt: Attempt, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while attempt.exit is None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_S)
    return True


@dataclass
class Child:
    """A training process on this machine. `process` is None for one that an earlier server started."""

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
            return None if is_locked(self.record.folder) else Exit(None, None)
        code = self.process.poll()
        return None if code is None else exit_from_code(code)

    def end(self) -> bool:
        """Sends SIGTERM to its whole group, and SIGKILL after 5 s. False where it still runs after 10 s."""
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
        self, command: tuple[str, ...] | None = None, gpus: tuple[str, ...] = (), gpus_per_job: int = 1
    ) -> None:
        self.processes = gpus_per_job
        self._command = command or train_command(gpus_per_job)
        self._single_command = command or train_command(1)  # an encoder is small
        self._gpus = gpus
        self._children: list[Child] = []

    def start(self, record: JobRecord) -> Child:
        self._children = [child for child in self._children if child.exit is None]
        taken = [gpu for child in self._children for gpu in child.gpus]
        gpus = pick_gpus(self._gpus, taken, self.processes)
        is_small = METHODS[record.job.method].is_for_encoders
        command = self._single_command if is_small else self._command
        with (record.folder / "train.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, str(record.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=job_environment(gpus),
                start_new_session=True,
            )
        (record.folder / "gpu").write_text(",".join(gpus), encoding="ascii")
        (record.folder / "pid").write_text(str(process.pid), encoding="ascii")
        return self._add_child(record, process, process.pid, gpus)

    def adopt(self, record: JobRecord) -> Child | None:
        if not is_locked(record.folder):
            return None
        gpus = tuple(name for name in _read_text(record.folder / "gpu").split(",") if name)
        pid = _read_text(record.folder / "pid")
        return self._add_child(record, None, int(pid) if pid.isdigit() else None, gpus)

    def _add_child(
        self,
        record: JobRecord,
        process: subprocess.Popen[bytes] | None,
        pid: int | None,
        gpus: tuple[str, ...],
    ) -> Child:
        # The server computes on the first GPU that it sees.
        is_beside_serving = not gpus or not self._gpus or self._gpus[0] in gpus
        child = Child(record, process, pid, gpus, is_beside_serving)
        self._children.append(child)
        return child

    def shortage(self) -> None:
        return None

    def discard(self, record: JobRecord) -> None:
        return None

    def close(self) -> None: ...


def visible_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES names; where it is unset, every GPU of nvidia-smi by its number; () without
    any."""
    variable = environment.get(GPUS_VARIABLE)
    if variable is not None:
        return tuple(name.strip() for name in variable.split(",") if name.strip() not in ("", "-1"))
    tool = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if tool is None:
        return ()
    command = [tool, "--query-gpu=index", "--format=csv,noheader"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return tuple(process.stdout.split()) if process.returncode == 0 else ()


def pick_gpus(gpus: Sequence[str], taken: Iterable[str], count: int) -> tuple[str, ...]:
    """The `count` GPUs that fewest jobs have, in order, and serving's, which is the first, only where others have as
    many. () where there are no GPUs."""
    jobs = Counter(taken)
    fewest = sorted(gpus, key=lambda gpu: (jobs[gpu], gpu == gpus[0]))[:count]
    return tuple(sorted(fewest, key=gpus.index))


def is_locked(folder: Path) -> bool:
    """Whether a training process holds the job's lock."""
    with lock_job(folder) as lock:
        return lock is None


def job_environment(gpus: Sequence[str]) -> dict[str, str]:
    """The environment of a training process: the keys of the hub and of the trackers of curves, and its own GPUs."""
    return child_environment(*HUB_KEYS, *TRACKER_KEYS) | ({GPUS_VARIABLE: ",".join(gpus)} if gpus else {})


def exit_from_code(code: int) -> Exit:
    """Launchers give a signal as shells do, as 128 plus its number; Python as its number below 0."""
    code = 128 - code if code > 128 else code
    if code == -signal.SIGKILL:
        return Exit(code, "was killed, perhaps because the machine ran out of memory")
    return Exit(code, f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}")


def _read_text(path: Path) -> str:
    """Empty where a kill came between the start of a process and the writing of the file."""
    return path.read_text(encoding="ascii") if path.exists() else ""


def backend_refusal(backend: Backend, settings: Parameters) -> Refusal | None:
    """Why this backend can't train by these settings; asked before anything starts."""
    if settings.engine != BUILTIN and not backend.is_here:
        text = (
            f"This trainer's jobs run on a cluster, where the engine {settings.engine} is not installed. Leave "
            "'engine' out, or ask a trainer that trains on its own machine."
        )
        return Refusal("engine_not_installed", text)
    if settings.engine != BUILTIN and backend.processes > 1:
        where, option = "", "--gpus-per-job"
        if backend.nodes > 1:
            where, option = f" on {backend.nodes} nodes", "--nodes-per-job"
        text = (
            f"This trainer gives each job {backend.processes} processes{where}, and the engine {settings.engine} is "
            f"run by one. Leave 'engine' out, or ask one without {option}."
        )
        return Refusal("engine_cannot", text)
    return _sharding_refusal(backend, settings) if settings.sharding == "fsdp" else None


def _sharding_refusal(backend: Backend, settings: Parameters) -> Refusal | None:
    if backend.processes == 1:
        text = (
            "sharding 'fsdp' divides the base among a job's GPUs, and this trainer gives each job one. Leave it out, "
            "or start the trainer with --gpus-per-job 2 or more."
        )
        return Refusal("sharding_unavailable", text, "sharding")
    if settings.quantization != "none":
        text = f"A base in {settings.quantization} is not divided among GPUs. Leave 'sharding' or 'quantization' out."
        return Refusal("sharding_unavailable", text, "sharding")
    if settings.sweep:
        text = (
            "The arms of a sweep take turns on one base, which is not divided among GPUs. Leave 'sharding' or 'sweep' "
            "out."
        )
        return Refusal("sharding_unavailable", text, "sharding")
    method = next(method for method in METHODS.values() if type(settings) is method.parameters)
    if not method.is_plain:
        text = f"The method {method.name} trains on a whole base, not on one divided among GPUs. Leave 'sharding' out."
        return Refusal("sharding_unavailable", text, "sharding")
    return None
