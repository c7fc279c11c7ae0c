"""Where jobs run: child processes on this machine, oldest job first, `slots` at a time, each with a GPU of its own.

Knows no HTTP. Level-triggered: a thread looks at the unfinished jobs and moves each one step, so that a restart of the
server needs no care. A child that outlived a killed server still holds its job's lock; it is waited for, not
doubled.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from trainers.local.gpus import VARIABLE, pick_gpu
from trainers.local.inspecting import file_failure
from trainers.local.jobs import Failure, JobRecord, Jobs, fail, has_ended, mark
from trainers.local.kept import pause_sentence, steps_kept
from trainers.local.spool import append_event, exclusive
from trainers.local.train import PAUSED

TRAIN = (sys.executable, "-m", "trainers.local.train")
TICK_S = 0.2
IDLE_TICK_S = 2.0
GRACE_S = 5.0
PAUSE_S = 10.0
MAX_CRASHES = 3
LOG_TAIL_BYTES = 4096

log = logging.getLogger(__name__)


@dataclass
class Child:
    """A training process. `process` is None for one that an earlier server started."""

    record: JobRecord
    process: subprocess.Popen[bytes] | None
    pid: int | None
    gpu: str | None = None
    is_being_cancelled: bool = False

    @property
    def has_exited(self) -> bool:
        return not is_locked(self.record.folder) if self.process is None else self.process.poll() is not None

    def end(self) -> bool:
        """SIGTERM to its whole group, SIGKILL after 5 s. False where it is still there after 10 s."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.pid is not None:
                _signal_group(self.pid, number)
            if self.exits_within(GRACE_S):
                return True
        return self.has_exited

    def exits_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.has_exited:
                return True
            time.sleep(0.05)
        return False


@dataclass
class Crashes:
    """How often in a row a job's process died, and the checkpoint it had then."""

    count: int
    checkpoint: int


class Executor:
    def __init__(
        self, jobs: Jobs, slots: int, command: tuple[str, ...] = TRAIN, gpus: tuple[str, ...] = ()
    ) -> None:
        self._jobs = jobs
        self._slots = slots
        self._gpus = gpus
        self._command = command
        self._children: dict[str, Child] = {}
        self._crashes: dict[str, Crashes] = {}
        self._lock = threading.RLock()  # over the two above and over every start and every end mark
        self._wake_runner = threading.Event()
        self._wake_checker = threading.Event()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="runner", daemon=True),
            threading.Thread(target=self._check, name="checker", daemon=True),
        ]

    def start(self) -> None:
        self._adopt_survivors()
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """A hint that a job was added."""
        self._wake_checker.set()

    def stop(self) -> None:
        """End all children; their jobs go on from their checkpoints at the next start."""
        self._stopping.set()
        self._wake_runner.set()
        self._wake_checker.set()
        self._threads[0].join()
        ending = [threading.Thread(target=child.end) for child in self._children.values()]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join()

    def is_running(self, job_id: str) -> bool:
        return job_id in self._children

    @property
    def is_busy(self) -> bool:
        """Whether any job has a process."""
        return bool(self._children)

    def cancel(self, record: JobRecord) -> bool:
        """Returns when the process is gone and the mark is written, up to 10 s.

        A job that ended stays as it is. False where its process could not be ended: nothing is marked then.
        """
        with self._lock:
            child = self._children.get(record.job.id)
            if child is not None:
                child.is_being_cancelled = True
        if child is not None and not child.end():
            child.is_being_cancelled = False
            return False
        with self._lock:
            if not has_ended(record.folder):
                append_event(record.folder, "The job was cancelled.", level="warn")
                mark(record.folder, "CANCELLED")
            self._children.pop(record.job.id, None)
        self._wake_runner.set()
        return True

    def pause(self, record: JobRecord) -> bool:
        """Returns when the process has saved a checkpoint and is gone; its slot is free then.

        One that doesn't within 10 s is ended like a cancelled one, and the job goes on from the checkpoint before.
        A job that ended stays as it is. False where its process could not be ended: it goes on.
        """
        folder = record.folder
        with self._lock:
            if has_ended(folder) or (folder / "PAUSED").exists():
                return True
            mark(folder, "PAUSED")
            child = self._children.get(record.job.id)
        if child is not None and not child.exits_within(PAUSE_S) and not child.end():
            (folder / "PAUSED").unlink(missing_ok=True)
            return False
        with self._lock:
            self._children.pop(record.job.id, None)
            if not has_ended(folder):
                append_event(folder, pause_sentence(folder), level="warn")
        self._wake_runner.set()
        return True

    def resume(self, record: JobRecord) -> None:
        """The job waits for a slot again, at its old place in the queue. One that isn't paused stays as it is."""
        with self._lock:
            if record.status != "paused":
                return
            (record.folder / "PAUSED").unlink(missing_ok=True)
            append_event(record.folder, "The job was resumed.")
        self._wake_runner.set()
        self._wake_checker.set()

    def _adopt_survivors(self) -> None:
        for record in self._jobs.unfinished():
            if is_locked(record.folder):
                self._adopt(record)

    def _adopt(self, record: JobRecord) -> None:
        gpu = _read_text(record.folder / "gpu") or None
        self._children[record.job.id] = Child(record, None, _read_pid(record.folder), gpu)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._lock:
                    self._settle()
                    self._fill_slots()
            except OSError as error:  # a full disk, say: the next look finds the jobs as they are
                log.error("looking after the jobs: %s. Trying again in %s s.", error, IDLE_TICK_S)
            self._wake_runner.wait(TICK_S if self._children else IDLE_TICK_S)
            self._wake_runner.clear()

    def _settle(self) -> None:
        for job_id, child in list(self._children.items()):
            if child.has_exited and not child.is_being_cancelled:
                del self._children[job_id]
                self._judge(child)

    def _fill_slots(self) -> None:
        for record in self._jobs.unfinished():
            if len(self._children) >= self._slots:
                return
            if record.status == "queued" and record.job.id not in self._children:
                self._begin(record)

    def _begin(self, record: JobRecord) -> None:
        if is_locked(record.folder):
            return self._adopt(record)
        gpu = pick_gpu(self._gpus, (child.gpu for child in self._children.values()))
        with (record.folder / "train.log").open("ab") as log:
            process = subprocess.Popen(
                [*self._command, str(record.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(gpu),
                start_new_session=True,
            )
        (record.folder / "gpu").write_text(gpu or "", encoding="ascii")
        (record.folder / "pid").write_text(str(process.pid), encoding="ascii")
        self._children[record.job.id] = Child(record, process, process.pid, gpu)

    def _judge(self, child: Child) -> None:
        """What an exit means: the end of the job, somebody else holding its lock, or a crash."""
        folder, job_id = child.record.folder, child.record.job.id
        if has_ended(folder) or child.process is None or (folder / "PAUSED").exists():
            return
        if child.process.returncode == PAUSED:  # paused and resumed at once
            return
        if is_locked(folder):
            return self._adopt(child.record)
        checkpoint = steps_kept(folder)
        crashes = self._crashes.get(job_id)
        if crashes is None or crashes.checkpoint < checkpoint:
            crashes = self._crashes[job_id] = Crashes(0, checkpoint)
        crashes.count += 1
        why = _describe_exit(child.process.returncode)
        if crashes.count < MAX_CRASHES:
            text = f"The training process {why}. It starts again from its last checkpoint."
            append_event(folder, text, level="warn")
            return
        fail(folder, Failure("training_crashed", _crash_sentence(why, checkpoint, folder), None))

    def _check(self) -> None:
        while not self._stopping.is_set():
            self._wake_checker.clear()
            try:
                for record in self._jobs.unfinished():
                    if record.status == "validating_files" and not self._stopping.is_set():
                        self._check_files(record)
            except OSError as error:
                log.error("checking the files of jobs: %s. Trying again in %s s.", error, IDLE_TICK_S)
            self._wake_checker.wait(IDLE_TICK_S)

    def _check_files(self, record: JobRecord) -> None:
        append_event(record.folder, f"Validating training file: {record.request.training_file}")
        failure = file_failure(record)
        with self._lock:
            if has_ended(record.folder):  # cancelled meanwhile; one paused meanwhile keeps what was found
                return
            if failure is not None:
                return fail(record.folder, failure)
            append_event(record.folder, "Files validated, moving job to queued state")
            mark(record.folder, "CHECKED")
        self._wake_runner.set()


def is_locked(folder: Path) -> bool:
    with exclusive(folder) as lock:
        return lock is None


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:  # it ended by itself
        return


def _environment(gpu: str | None) -> dict[str, str]:
    """Of a training process: no key of ours, and only the GPU that is its own."""
    passed = {name: value for name, value in os.environ.items() if name != "FINETUNE_TRAINER_KEY"}
    return passed | {"OMP_WAIT_POLICY": "passive"} | ({} if gpu is None else {VARIABLE: gpu})


def _read_pid(folder: Path) -> int | None:
    text = _read_text(folder / "pid")
    return int(text) if text.isdigit() else None


def _read_text(path: Path) -> str:
    """Empty where a kill came between the start of a process and the note of it."""
    return path.read_text(encoding="ascii") if path.exists() else ""


def _describe_exit(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed, perhaps because the machine ran out of memory"
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _crash_sentence(why: str, checkpoint: int, folder: Path) -> str:
    where = f"after {checkpoint} steps that are kept" if checkpoint else "before its first checkpoint"
    said = " / ".join(_last_words(folder / "train.log")) or "nothing"
    return f"Training stopped {MAX_CRASHES} times {where}: the process {why}. It last said: {said}"


def _last_words(log: Path) -> list[str]:
    """Its last three different lines outside a traceback's listing, 200 characters each at most."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    words = [line for line in lines if line.strip() and not line.startswith((" ", "Traceback"))]
    return [line[:200] for line in list(dict.fromkeys(words))[-3:]]
