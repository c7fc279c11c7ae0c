"""The queue of jobs: checks their files, runs `slots` at a time, restarts a job whose process crashed, and fails it
after three crashes in a row without progress. Datasets take turns, and each dataset's jobs run oldest first.

Knows no HTTP and not how a job runs, which is the backend's. Two threads look at all unfinished jobs again and again
and keep no other state, so a restart of the server needs no special handling. Processes that still run are adopted, not
started twice."""

from __future__ import annotations

import logging
import re
import shutil
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.local.checks import file_refusal, labels_refusal
from trainers.local.job_directory import KEPT_ROWS, append_event, last_log_lines
from trainers.local.jobs.backends import Attempt, Backend, exits_within
from trainers.local.jobs.records import Failure, JobRecord, Jobs, fail, has_ended, mark
from trainers.local.launch import BUSY, PAUSED, SHORT_OF_MEMORY
from trainers.methods import METHODS, MIN_TRAINING_EXAMPLES
from trainers.rentals.prices import HARDWARE

STATE_FILE = "state.pt"
CHECKPOINTS = ("checkpoints/step-*", "arms/*/checkpoints/step-*")
STEP_FOLDER = re.compile(r"step-[0-9]+")
MAX_CRASHES = 3
TICK_S = 0.2
IDLE_TICK_S = 2.0
PAUSE_S = 10.0
RENTED_SLOTS = 8

log = logging.getLogger(__name__)


@dataclass
class Crashes:
    """How often in a row a job's process has crashed, and how many steps its checkpoints had the first time."""

    count: int
    steps: int


class JobQueue:
    def __init__(self, jobs: Jobs, slots: int, backend: Backend, rented: Backend | None = None) -> None:
        self._jobs = jobs
        self._slots = slots
        self._backend = backend
        self._rented = rented
        self._attempts: dict[str, Attempt] = {}
        self._crashes: dict[str, Crashes] = {}
        self._starts: dict[str, int] = {}  # by dataset: the number of the last start of one of its jobs
        self._lock = threading.RLock()  # guards the two above, every start and every end mark
        self._wake_runner = threading.Event()
        self._wake_checker = threading.Event()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="runner", daemon=True),
            threading.Thread(target=self._check, name="checker", daemon=True),
        ]

    def backend_of(self, metadata: Mapping[str, str]) -> Backend:
        """Returns where a job with this metadata trains."""
        if self._rented and HARDWARE in metadata:
            return self._rented
        return self._backend

    def start(self) -> None:
        for record in self._jobs.unfinished():
            self._adopt(record)
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Tells the queue that a job was added."""
        self._wake_checker.set()

    def stop(self) -> None:
        """Releases all attempts. Child processes are stopped; their jobs resume from their checkpoints at the next
        start."""
        self._stopping.set()
        self._wake_runner.set()
        self._wake_checker.set()
        self._threads[0].join()
        ending = [threading.Thread(target=attempt.release) for attempt in self._attempts.values()]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join()
        for backend in filter(None, (self._backend, self._rented)):
            backend.close()

    def is_running(self, job_id: str) -> bool:
        """Returns False while the job waits for a machine."""
        attempt = self._attempts.get(job_id)
        return attempt is not None and attempt.has_begun

    @property
    def is_busy(self) -> bool:
        """True if a job is training on the device that serving uses."""
        return any(attempt.is_beside_serving for attempt in list(self._attempts.values()))

    def cancel(self, record: JobRecord) -> bool:
        """Stops the job's process and then marks the job cancelled, which takes up to 10 s.

        A job that has ended stays as it is. Returns False, without a mark, if its process could not be stopped.
        """
        with self._lock:
            attempt = self._attempts.get(record.job.id)
            if attempt is None:  # marked while the lock is held, so that it can't be started in between
                self._mark_cancelled(record)
                return True
            attempt.is_being_cancelled = True
        if not attempt.end():
            attempt.is_being_cancelled = False
            return False
        with self._lock:
            self._mark_cancelled(record)
            self._attempts.pop(record.job.id, None)
        self._wake_runner.set()
        return True

    def _mark_cancelled(self, record: JobRecord) -> None:
        if not has_ended(record.folder):
            append_event(record.folder, "The job was cancelled.", level="warn")
            mark(record.folder, "CANCELLED")
            drop_training_state(record.folder)

    def pause(self, record: JobRecord) -> bool:
        """Waits until the process has saved a checkpoint and exited, which frees its slot.

        A process that takes longer than 10 s is stopped as for a cancel, so the job will resume from an earlier
        checkpoint. A job that has ended stays as it is. Returns False if the process could not be stopped; the job then
        continues.
        """
        folder = record.folder
        with self._lock:
            if has_ended(folder) or (folder / "PAUSED").exists():
                return True
            mark(folder, "PAUSED")
            attempt = self._attempts.get(record.job.id)
        if attempt is not None:
            wait_s = PAUSE_S + self.backend_of(record.job.metadata).lag_s
            is_gone = attempt.has_begun and exits_within(attempt, wait_s)
            if not is_gone and not attempt.end():
                (folder / "PAUSED").unlink(missing_ok=True)
                return False
        with self._lock:
            self._attempts.pop(record.job.id, None)
            if not has_ended(folder):
                text = f"The job was paused; {_kept_progress(folder)}, and its place on the machine is free."
                append_event(folder, text, level="warn", state="paused")
        self._wake_runner.set()
        return True

    def resume(self, record: JobRecord) -> None:
        """Puts a paused job back at its old place in the queue. Any other job stays as it is."""
        with self._lock:
            if record.status != "paused":
                return
            (record.folder / "PAUSED").unlink(missing_ok=True)
            append_event(record.folder, "The job was resumed.", state="resumed")
        self._wake_runner.set()
        self._wake_checker.set()

    def _adopt(self, record: JobRecord) -> bool:
        attempt = self.backend_of(record.job.metadata).adopt(record)
        if attempt is not None:
            self._attempts[record.job.id] = attempt
        return attempt is not None

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._lock:
                    self._judge_exits()
                    self._fill_slots()
            except OSError as error:
                # For example a full disk. The next round starts from the jobs' files again.
                log.error("looking after the jobs: %s. Trying again in %s s.", error, IDLE_TICK_S)
            tick_s = IDLE_TICK_S
            if self._attempts:
                tick_s = TICK_S
            self._wake_runner.wait(tick_s)
            self._wake_runner.clear()

    def _judge_exits(self) -> None:
        for job_id, attempt in list(self._attempts.items()):
            if attempt.exit is not None and not attempt.is_being_cancelled:
                del self._attempts[job_id]
                self._judge_exit(attempt)

    def _judge_exit(self, attempt: Attempt) -> None:
        """Decides what an exit means: the job's end, another process training it, or a crash."""
        folder = attempt.record.folder
        job_id = attempt.record.job.id
        ended = attempt.exit
        if has_ended(folder):
            return drop_training_state(folder)
        if ended is None or ended.why is None or (folder / "PAUSED").exists():
            return
        if ended.code in (PAUSED, SHORT_OF_MEMORY):
            return  # it was paused and resumed at once, or has to start again with less memory
        if self._adopt(attempt.record) or ended.code == BUSY:
            return  # another process trains it

        steps = steps_in_checkpoints(folder)
        # Only crashes in a row count: a job of days may be killed now and then, and still come to its end.
        crashes = self._crashes.get(job_id)
        if crashes is None or crashes.steps < steps:  # it made progress since
            crashes = Crashes(0, steps)
            self._crashes[job_id] = crashes
        crashes.count += 1
        if crashes.count < MAX_CRASHES:
            text = f"The training process {ended.why}. It starts again from its last checkpoint."
            append_event(folder, text, level="warn")
            return
        when = "before its first checkpoint"
        if steps:
            when = f"after step {steps}, its last checkpoint"
        words = " / ".join(last_log_lines(folder / "train.log")) or "nothing"
        text = f"Training crashed {MAX_CRASHES} times {when}: the process {ended.why}. Its log ends with: {words}"
        fail(folder, Failure("training_crashed", text, None))
        drop_training_state(folder)

    def _fill_slots(self) -> None:
        if not self._has_any_room():
            return  # before any job is read: five times a second, reading 200 queued jobs took 90% of a core
        waiting = [record for record in self._jobs.unfinished() if self._waits(record)]
        while waiting and self._has_any_room():
            record = next_job(waiting, self._running_by_dataset(), self._starts)
            waiting.remove(record)
            backend = self.backend_of(record.job.metadata)
            if self._has_room(backend) and not self._adopt(record):
                self._attempts[record.job.id] = backend.start(record)
                self._starts[record.dataset] = max(self._starts.values(), default=0) + 1

    def _waits(self, record: JobRecord) -> bool:
        if record.status != "queued" or record.job.id in self._attempts:
            return False
        # Without --hf-image it goes on waiting: it must not train elsewhere than was requested.
        return HARDWARE not in record.job.metadata or self._rented is not None

    def _running_by_dataset(self) -> Counter[str]:
        return Counter(attempt.record.dataset for attempt in self._attempts.values())

    def _has_any_room(self) -> bool:
        backends = [backend for backend in (self._backend, self._rented) if backend]
        return any(self._has_room(backend) for backend in backends)

    def _has_room(self, backend: Backend) -> bool:
        taken = 0
        for attempt in self._attempts.values():
            if self.backend_of(attempt.record.job.metadata) is backend:
                taken += 1
        if backend is self._rented:
            return taken < RENTED_SLOTS
        return taken < self._slots

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
        failure = _file_failure(record)
        with self._lock:
            if has_ended(record.folder):
                return  # it was cancelled meanwhile; if it was paused meanwhile, the verdict still counts
            if failure is not None:
                return fail(record.folder, failure)
            append_event(record.folder, "Files validated, moving job to queued state", state="queued")
            mark(record.folder, "CHECKED")
        self._wake_runner.set()


def next_job(
    waiting: Sequence[JobRecord], running: Mapping[str, int], starts: Mapping[str, int]
) -> JobRecord:
    """Returns which of the jobs, given oldest first, starts next. One that has begun goes on first. Otherwise it is the
    oldest job of the dataset with the fewest `running` jobs, and among those the one whose last start, of which
    `starts` has the number, is the longest ago."""

    def place(record: JobRecord) -> tuple[bool, int, int]:
        dataset = record.dataset
        return (record.progress is None, running.get(dataset, 0), starts.get(dataset, 0))

    return min(waiting, key=place)  # the oldest of several in the same place


def _file_failure(record: JobRecord) -> Failure | None:
    """Returns why a job can't be trained on its files, or None. They are read once, before the job is queued."""
    job = record.job
    method = METHODS[job.method]
    training_file = Path(job.training_file)
    complaint = file_refusal(training_file, MIN_TRAINING_EXAMPLES, pairs=method.reads_pairs)
    if complaint is None and method.is_for_encoders:
        complaint = labels_refusal(training_file)
    if complaint is not None:
        text = f"The training file cannot be used. {complaint}"
        return Failure("invalid_training_file", text, "training_file")
    if job.validation_file is not None:
        complaint = file_refusal(Path(job.validation_file), 1, pairs=method.reads_pairs)
    if complaint is not None:
        text = f"The validation file cannot be used. {complaint}"
        return Failure("invalid_validation_file", text, "validation_file")
    return None


def steps_in_checkpoints(folder: Path) -> int:
    """Returns the newest checkpoint's step, or 0 if there is none. For a sweep, returns the sum over its trials."""
    newest: dict[Path, int] = defaultdict(int)  # by the folder of a training's checkpoints
    for path in _checkpoints(folder):
        step = int(path.name.removeprefix("step-"))
        newest[path.parent] = max(newest[path.parent], step)
    return sum(newest.values())


def _kept_progress(folder: Path) -> str:
    """Says what a paused job keeps, as a clause."""
    steps = steps_in_checkpoints(folder)
    if not steps:
        return "it had no step to keep yet"
    if (folder / "arms").exists():  # the trials of a sweep
        return f"{steps} steps of its trials are kept"
    return f"its checkpoint of step {steps} is kept"


def drop_training_state(folder: Path) -> None:
    """Deletes what an ended job needed only to resume: optimizer and random states, which are two thirds of a
    checkpoint, and rows as tokens."""
    shutil.rmtree(folder / KEPT_ROWS, ignore_errors=True)
    for checkpoint in _checkpoints(folder):
        (checkpoint / STATE_FILE).unlink(missing_ok=True)


def _checkpoints(folder: Path) -> Iterator[Path]:
    paths = (path for pattern in CHECKPOINTS for path in folder.glob(pattern))
    return (path for path in paths if STEP_FOLDER.fullmatch(path.name) and path.is_dir())
