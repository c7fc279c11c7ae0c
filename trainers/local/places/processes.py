"""Jobs as child processes of this server, each with GPUs of its own.

A child that outlived a killed server still holds its job's lock; it is waited for, not doubled.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainers.environment import HUB_KEYS, TRACKER_KEYS, child_environment
from trainers.local.gpus import VARIABLE, pick_gpus
from trainers.local.jobs import JobRecord
from trainers.local.launch import train_command
from trainers.local.places.place import Exit, exits_within
from trainers.local.spool import exclusive

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


class Processes:
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
                env=environment(gpus),
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


def environment(gpus: Sequence[str]) -> dict[str, str]:
    """Of a training process: the keys of the hub and of the trackers of curves, and only the GPUs that are its own."""
    return child_environment(*HUB_KEYS, *TRACKER_KEYS) | ({VARIABLE: ",".join(gpus)} if gpus else {})


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
