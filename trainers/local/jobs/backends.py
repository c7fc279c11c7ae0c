"""Where a job's training runs: the protocol of a backend, and the one that starts child processes on this
machine's GPUs. Ray's is in ray/backend.py."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trainers.host import HUB_KEYS, TRACKER_KEYS, child_environment
from trainers.local.engines.compatibility import Refusal
from trainers.local.job_directory import exclusive
from trainers.local.jobs.records import JobRecord
from trainers.local.launch import train_command
from trainers.methods import BUILTIN, METHODS, Parameters

LOOK_S = 0.05


@dataclass(frozen=True)
class Exit:
    """How an attempt ended: `why` continues "the training process …"; None where nobody saw it. `code` where known."""

    code: int | None
    why: str | None


class Attempt(Protocol):
    record: JobRecord
    is_being_cancelled: bool
    is_beside_serving: bool  # on the GPU that answers, or on a machine without any

    @property
    def has_begun(self) -> bool:
        """False while it waits for a machine."""
        ...

    @property
    def exit(self) -> Exit | None:
        """None as long as it is there. Answers at once."""
        ...

    def end(self) -> bool:
        """End it, within about 10 s. False where it may still be at work."""
        ...

    def let_go(self) -> None:
        """The server ends. Returns once nothing here looks after it any more."""
        ...


class Backend(Protocol):
    """`lag_s`: how much later than on this machine an exit may be seen. `is_here`: jobs use this machine's memory.
    `processes`: how many train one job, on how many machines `nodes`.
    """

    lag_s: float
    is_here: bool
    processes: int
    nodes: int

    def shortage(self) -> str | None:
        """Why no job can begin there as things stand, in a sentence; None where nothing is known to lack."""
        ...

    def start(self, record: JobRecord) -> Attempt: ...

    def adopt(self, record: JobRecord) -> Attempt | None:
        """The attempt that an earlier server, or somebody by hand, started and that may still be at work."""
        ...

    def discard(self, record: JobRecord) -> str | None:
        """Delete what a job that has ended left there. Why it can't be, in a sentence; None where nothing is left."""
        ...

    def close(self) -> None:
        """After all attempts were let go."""
        ...


def exits_within(attempt: Attempt, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while attempt.exit is None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_S)
    return True


# Which GPUs this trainer gives to its jobs. Looks with nvidia-smi; loads no library of theirs.


GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES names; where it is unset, every GPU by its number; () without any."""
    named = environment.get(GPUS_VARIABLE)
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip() not in ("", "-1"))
    tool = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if tool is None:
        return ()
    names = [tool, "--query-gpu=index", "--format=csv,noheader"]
    process = subprocess.run(names, capture_output=True, text=True, timeout=30, check=False)
    return tuple(process.stdout.split()) if process.returncode == 0 else ()


def pick_gpus(gpus: Sequence[str], taken: Iterable[str], count: int) -> tuple[str, ...]:
    """The `count` that fewest jobs have; of several the first ones behind serving's, which is the very first.
    () where there are no GPUs."""
    jobs = Counter(taken)
    fewest = sorted(gpus, key=lambda gpu: (jobs[gpu], gpu == gpus[0]))[:count]
    return tuple(sorted(fewest, key=gpus.index))


# Jobs as child processes of this server, each with GPUs of its own.
#
# A child that outlived a killed server still holds its job's lock; it is waited for, not doubled.


GRACE_S = 5.0


@dataclass
class Child:
    """A training process. `process` is None for one that an earlier server started."""

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
        return None if code is None else exit_with(code)

    def end(self) -> bool:
        """SIGTERM to its whole group, SIGKILL after 5 s. False where it is still there after 10 s."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.pid is not None:
                _signal_group(self.pid, number)
            if exits_within(self, GRACE_S):
                return True
        return self.exit is not None

    def let_go(self) -> None:
        self.end()


class LocalBackend:
    lag_s = 0.0
    is_here = True
    nodes = 1

    def __init__(
        self, command: tuple[str, ...] | None = None, gpus: tuple[str, ...] = (), gpus_per_job: int = 1
    ) -> None:
        self.processes = gpus_per_job
        self._command = command or train_command(gpus_per_job)
        self._gpus = gpus
        self._children: list[Child] = []

    def start(self, record: JobRecord) -> Child:
        gpus = pick_gpus(self._gpus, self._taken(), self.processes)
        with (record.folder / "train.log").open("ab") as log:
            process = subprocess.Popen(
                [*self._command, str(record.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=job_environment(gpus),
                start_new_session=True,
            )
        (record.folder / "gpu").write_text(",".join(gpus), encoding="ascii")
        (record.folder / "pid").write_text(str(process.pid), encoding="ascii")
        return self._remembered(Child(record, process, process.pid, gpus, self._serves_on(gpus)))

    def adopt(self, record: JobRecord) -> Child | None:
        if not is_locked(record.folder):
            return None
        gpus = tuple(name for name in _read_text(record.folder / "gpu").split(",") if name)
        pid = _read_pid(record.folder)
        return self._remembered(Child(record, None, pid, gpus, self._serves_on(gpus)))

    def shortage(self) -> None:
        return None

    def discard(self, record: JobRecord) -> None:
        return None

    def close(self) -> None: ...

    def _serves_on(self, gpus: Sequence[str]) -> bool:
        """The server computes on the first GPU that it sees."""
        return not gpus or not self._gpus or self._gpus[0] in gpus

    def _taken(self) -> list[str]:
        self._children = [child for child in self._children if child.exit is None]
        return [gpu for child in self._children for gpu in child.gpus]

    def _remembered(self, child: Child) -> Child:
        self._children.append(child)
        return child


def is_locked(folder: Path) -> bool:
    with exclusive(folder) as lock:
        return lock is None


def job_environment(gpus: Sequence[str]) -> dict[str, str]:
    """Of a training process: the keys of the hub and of the trackers of curves, and only the GPUs that are its own."""
    return child_environment(*HUB_KEYS, *TRACKER_KEYS) | ({GPUS_VARIABLE: ",".join(gpus)} if gpus else {})


def exit_with(code: int) -> Exit:
    """Launchers tell a signal as shells do, as 128 and its number; Python as a number below 0."""
    code = 128 - code if code > 128 else code
    return Exit(code, describe_exit(code))


def describe_exit(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed, perhaps because the machine ran out of memory"
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:  # it ended by itself
        return


def _read_pid(folder: Path) -> int | None:
    text = _read_text(folder / "pid")
    return int(text) if text.isdigit() else None


def _read_text(path: Path) -> str:
    """Empty where a kill came between the start of a process and the note of it."""
    return path.read_text(encoding="ascii") if path.exists() else ""


# May this job be trained where this trainer's jobs run? Asked before anything starts.


def backend_refusal(place: Backend, settings: Parameters) -> Refusal | None:
    if settings.engine != BUILTIN and not place.is_here:
        text = (
            f"This trainer's jobs run on a cluster, where the engine {settings.engine} is not installed. Leave "
            "'engine' out, or ask a trainer that trains on its own machine."
        )
        return Refusal("engine_not_installed", text)
    if settings.engine != BUILTIN and place.processes > 1:
        where, option = "", "--gpus-per-job"
        if place.nodes > 1:
            where, option = f" on {place.nodes} nodes", "--nodes-per-job"
        text = (
            f"This trainer gives each job {place.processes} processes{where}, and the engine {settings.engine} is run "
            f"by one. Leave 'engine' out, or ask one without {option}."
        )
        return Refusal("engine_cannot", text)
    return _sharding(place, settings) if settings.sharding == "fsdp" else None


def _sharding(place: Backend, settings: Parameters) -> Refusal | None:
    if place.processes == 1:
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
    method = next(each for each in METHODS.values() if type(settings) is each.parameters)
    if not method.is_plain:
        text = f"The method {method.name} trains on a whole base, not on one divided among GPUs. Leave 'sharding' out."
        return Refusal("sharding_unavailable", text, "sharding")
    return None
