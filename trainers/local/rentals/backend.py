"""Jobs on rented machines, one machine per job. A thread looks for the job's machine, starts it once, follows it to its
end, and stops it. If a machine is lost after it uploaded a checkpoint, another one continues in the remaining time that
was approved.

The provider's own time-out is always set, so the cost is bounded even if this process dies. Every few minutes a sweep
compares all machines with our label to the jobs' folders, cancels those that no job needs, and deletes the repositories
of ended jobs.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trainers.errors import Refused, TrainerError
from trainers.local.job_directory import append_event, read_events, read_job, read_json, replace_json
from trainers.local.jobs.backends import Exit, exits_within
from trainers.local.jobs.records import Failure, JobRecord, fail, has_ended, mark
from trainers.local.ray.job_files import RECORDS, is_allowed_path
from trainers.local.ray.wait_events import Outage
from trainers.local.rentals.machines import Machine, Machines, RentingOptions, set_adapter_base
from trainers.rentals.prices import WHO, fetch_rental, read_rental

RECORD = "rented.json"
POLL_S = 5.0  # between two looks at a machine
HURRIED_S = 0.5  # the same while somebody waits for its start or end
SWEEP_S = 180.0
PROGRESS_S = 60.0
SETTLE_S = 60.0  # after this time the list shows a machine even if the answer to its start was lost
END_S = 20.0  # how long a request waits for a machine to end
RELEASE_S = 5.0
MAX_LOST = 2  # lost machines per job
MIN_TIME_LEFT = 0.1  # of the approved time; with less, another machine would hardly load the model
OVERTIME_S = 600.0  # after its time-out, in which the provider itself should have ended a machine
NOT_FOUND = "hf_404"
FOLLOWED_TO_END = Exit(None, None)  # how it ended is in the job's folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RentedMachine:
    """A job's machine, as stored in its folder. `sent_at` is when its start was requested, in unix seconds; `id` is
    None until the answer came. `running_seconds` includes the machines `lost` before it, which ran for `lost_seconds`.
    `events` is the number of events copied so far. `is_cleaned` is true once the repository is deleted."""

    sent_at: float | None = None
    id: str | None = None
    running_seconds: int = 0
    lost: tuple[str, ...] = ()
    lost_seconds: int = 0
    has_ended: bool = False
    events: int = 0
    is_cleaned: bool = False


def read_rented(folder: Path) -> RentedMachine | None:
    raw = read_json(folder / RECORD)
    if raw is None:
        return None
    lost = tuple(raw.get("lost", ()))
    return RentedMachine(**{**raw, "lost": lost})


def delete_repository(machines: Machines, folder: Path) -> None:
    """Deletes a job's repository, once. Raises TrainerError."""
    rented = read_rented(folder)
    if rented is not None and not rented.is_cleaned:
        machines.delete_repository(folder.name)
        replace_json(folder / RECORD, asdict(replace(rented, is_cleaned=True)))


class RentedBackend:
    lag_s = 60.0
    is_here = False
    rents = True
    processes = nodes = 1

    def __init__(self, options: RentingOptions, data: Path) -> None:
        self._options = options
        self._jobs = data / "jobs"
        self.machines = Machines(options, _owner(data))
        self._attempts: list[RentedAttempt] = []
        self._stopping = threading.Event()
        self._sweeper = threading.Thread(target=self._run, name="rented machines", daemon=True)
        self._sweeper.start()

    def start(self, record: JobRecord) -> RentedAttempt:
        replace_json(record.folder / RECORD, asdict(RentedMachine()))
        return self._follow(record)

    def adopt(self, record: JobRecord) -> RentedAttempt | None:
        if read_rented(record.folder) is None:
            return None
        return self._follow(record)

    def discard(self, record: JobRecord) -> str | None:
        try:
            delete_repository(self.machines, record.folder)
        except TrainerError as error:
            return f"The files of {record.job.id} at {WHO} can't be deleted: {error} Try again in a minute."
        return None

    def shortage(self) -> None:
        return None

    def close(self) -> None:
        self._stopping.set()
        for attempt in self._attempts:
            attempt.release()

    def sweep(self) -> None:
        """Cancels machines that no job needs, and deletes the repositories of ended jobs. Raises TrainerError."""
        for machine in self.machines.list_live():
            folder = self._jobs / (machine.job or "-")
            rented = read_rented(folder)
            # Without an id the answer to the machine's start is still awaited, or was lost.
            is_needed = rented is not None and not has_ended(folder) and rented.id in (None, machine.id)
            if not is_needed:
                log.error("machine %s of %s is not needed: cancelling it", machine.id, machine.job)
                self.machines.cancel(machine.id)
        for path in self._jobs.glob(f"ftjob-*/{RECORD}"):
            if has_ended(path.parent):
                delete_repository(self.machines, path.parent)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if any(self._jobs.glob(f"ftjob-*/{RECORD}")):
                    self.sweep()
            except (TrainerError, OSError) as error:
                log.warning("looking for rented machines: %s", error)
            self._stopping.wait(SWEEP_S)

    def _follow(self, record: JobRecord) -> RentedAttempt:
        attempt = RentedAttempt(record, self.machines, self._options)
        attempt.thread.start()
        # Attempts at an end are dropped, so that the list doesn't grow for as long as the server runs.
        followed = [each for each in self._attempts if each.thread.is_alive()]
        self._attempts = [*followed, attempt]
        return attempt


def _owner(data: Path) -> str:
    """Returns a random name for this data folder, which labels its machines. Creates it at first use."""
    path = data / "renter"
    if not path.exists():
        path.write_text(secrets.token_hex(8), encoding="ascii")
    return path.read_text(encoding="ascii").strip()


class RentedAttempt:
    """Follows a job's machine in a thread, which alone sets `exit` and `has_begun`. If the machine is lost, another one
    is started only if there is a checkpoint: from the beginning it would cost as much again."""

    def __init__(self, record: JobRecord, machines: Machines, options: RentingOptions) -> None:
        terms = read_rental(record.job.metadata)
        assert terms is not None  # noqa: S101 - other jobs have other backends
        self.record = record
        self.is_being_cancelled = False
        self.is_beside_serving = False
        self.exit: Exit | None = None
        self.has_begun = False
        self._terms = terms
        self._machines = machines
        self._options = options
        self._rented = read_rented(record.folder) or RentedMachine()
        self._outage = Outage(record.folder, WHO, "it")
        self._why_ended: Failure | None = None
        self._fetched_at = time.monotonic()
        self._hurried_until = time.monotonic() + SETTLE_S
        self._unknown_since: float | None = None  # the first of the 404s in a row, on the monotonic clock
        self._is_cancelled = threading.Event()
        self._released = threading.Event()
        self.thread = threading.Thread(target=self._follow, name=f"rented {record.job.id}", daemon=True)

    def end(self) -> bool:
        self._hurried_until = time.monotonic() + SETTLE_S
        self._is_cancelled.set()
        return exits_within(self, END_S)

    def release(self) -> None:
        """Stops following the machine, which keeps running."""
        self._released.set()
        self.thread.join(RELEASE_S)

    def _follow(self) -> None:
        while self.exit is None and not self._released.is_set():
            try:
                is_over = self._step()
                self._outage.end()
                self._unknown_since = None
                if is_over:
                    self.exit = FOLLOWED_TO_END
            except Refused as refused:
                self._give_up(Failure(refused.code or "refused", str(refused), None))
            except TrainerError as error:
                self._outage.record(str(error).rstrip("."))
            except (OSError, ValueError) as error:  # a full disk, or a result that is not JSON
                log.error("following %s: %s. Trying again.", self.record.job.id, error)
            self._released.wait(self._pause_s())

        if self.exit is not None:
            with suppress(TrainerError, OSError):  # the sweep tries again
                delete_repository(self._machines, self.record.folder)

    def _pause_s(self) -> float:
        """Returns the seconds until the next step. They are few for a while after a start or a cancellation; not
        longer, since a machine may be waited for an hour, and the provider limits the rate of requests."""
        somebody_waits = self._is_cancelled.is_set() or not self.has_begun
        if somebody_waits and time.monotonic() < self._hurried_until:
            return HURRIED_S
        return max(POLL_S, self._outage.pause_s)

    def _step(self) -> bool:
        """Does the next step, and returns True at the attempt's end. Raises TrainerError; Refused if a repetition is
        useless."""
        if self._rented.id is not None:
            return self._watch(self._machines.get(self._rented.id))
        machines = self._machines.find(self.record.job.id)
        present = [machine for machine in machines if machine.id not in self._rented.lost]
        if present:
            self._take_machine(present)
            return False
        sent_at = self._rented.sent_at
        if sent_at is not None and time.time() - sent_at < SETTLE_S:
            return False
        if self._is_cancelled.is_set():
            return self._mark_cancelled()
        return self._start()

    def _take_machine(self, machines: list[Machine]) -> None:
        """Adopts the oldest of these machines and cancels the others, which would cost as much again."""
        oldest, *others = machines
        for extra in others:
            if not extra.has_ended:
                log.error("machine %s is a second one for %s: cancelling it", extra.id, self.record.job.id)
                self._machines.cancel(extra.id)
        self._save(id=oldest.id)

    def _start(self) -> bool:
        """Starts a machine. Returns True, and fails the job, if the price has risen since it was approved."""
        terms = self._terms
        folder = self.record.folder
        now = fetch_rental(terms.hardware, terms.minutes)
        if now.usd_per_minute > terms.usd_per_minute:
            text = (
                f"{terms.hardware} now costs ${now.usd_per_hour.normalize():f} an hour at {WHO}, and "
                f"${terms.usd_per_hour.normalize():f} were approved. No machine was started: ask for a new plan."
            )
            fail(folder, Failure("price_rose", text, None))
            return True
        revision = self._machines.upload(folder)
        if self._is_cancelled.is_set():  # while the files were uploaded, which may take minutes
            return False
        # Stored before the request, so that a process that dies here doesn't start a second machine at once.
        self._save(sent_at=time.time())
        machine = self._machines.start(self.record.job.id, revision, terms, self._left_s)
        self._save(id=machine.id)
        append_event(folder, f"Requested a {terms.hardware} machine from {WHO}: {machine.id}.")
        return False

    @property
    def _left_s(self) -> int:
        """Seconds that this machine may be rented for. Machines before it were paid from the same approval."""
        return self._terms.minutes * 60 - self._rented.lost_seconds

    def _watch(self, machine: Machine) -> bool:
        """Acts on the machine's state. Returns True at the attempt's end."""
        seconds = self._rented.lost_seconds + machine.running_seconds
        if seconds > self._rented.running_seconds:  # the provider may omit an ended machine's seconds
            self._save(running_seconds=seconds)
        if not machine.is_waiting:
            self.has_begun = True
        if machine.has_ended:
            return self._finish(machine)
        self._check_deadlines(machine)
        is_due = time.monotonic() - self._fetched_at > PROGRESS_S
        if self._is_cancelled.is_set() or self._why_ended:
            self._machines.cancel(machine.id)
        elif is_due and not machine.is_waiting:
            self._fetched_at = time.monotonic()
            self._fetch(("progress.json", "events.jsonl"))
        return False

    def _check_deadlines(self, machine: Machine) -> None:
        """Notes why the machine has to be cancelled, if it waits or runs too long."""
        terms = self._terms
        waited_s = time.time() - machine.created_at
        wait_minutes = self._options.wait_minutes
        if machine.is_waiting and waited_s > wait_minutes * 60:
            text = (
                f"{WHO} had no {terms.hardware} free for {wait_minutes} minutes, so the request was cancelled. Try "
                "again later, or name other hardware in [hf] of finetune.toml."
            )
            self._why_ended = Failure("hardware_sold_out", text, None)
        elif machine.running_seconds > self._left_s + OVERTIME_S:
            text = f"{WHO} did not end the machine after {terms.minutes} minutes, so it was cancelled."
            self._why_ended = Failure("machine_overtime", text, None)

    def _finish(self, machine: Machine) -> bool:
        """Fetches the result of a machine that has ended. Without a result, another machine continues or the job fails.
        Returns True at the attempt's end."""
        folder = self.record.folder
        if not self._rented.has_ended:
            self._report_cost()
            self._save(has_ended=True)
        if self._is_cancelled.is_set():
            return self._mark_cancelled()
        self._fetch(("*",))
        if has_ended(folder):
            return True
        if self._can_continue(machine):
            self._continue_on_another(machine)
            return False
        fail(folder, self._why_ended or self._explain_end(machine))
        return True

    def _report_cost(self) -> None:
        seconds = self._rented.running_seconds
        cost = f"${self._terms.usd(seconds):.4f}"
        noun = "machine"
        if self._rented.lost:
            noun = "machines"
        text = f"The {noun} ran for {seconds:,} s, which costs {cost} at the approved price."
        append_event(self.record.folder, text)

    def _can_continue(self, machine: Machine) -> bool:
        """True if the machine was lost, and a checkpoint and enough of the approved time are left for another one."""
        is_lost = self._why_ended is None and machine.stage != "CANCELED"
        if not is_lost or len(self._rented.lost) >= MAX_LOST:
            return False
        approved_s = self._terms.minutes * 60
        left_s = approved_s - self._rented.running_seconds
        if left_s < MIN_TIME_LEFT * approved_s:
            return False
        return self._machines.has_checkpoint(self.record.job.id)

    def _continue_on_another(self, machine: Machine) -> None:
        spent_s = self._rented.running_seconds
        lost = (*self._rented.lost, machine.id)
        self._save(id=None, sent_at=None, has_ended=False, lost=lost, lost_seconds=spent_s)
        reason = _one_line(machine.message) or "without a reason"
        text = (
            f"{WHO} lost the machine ({reason}). Another one continues from the last checkpoint, in the "
            f"{self._left_s // 60} minutes left of those approved."
        )
        append_event(self.record.folder, text, level="warn")

    def _mark_cancelled(self) -> bool:
        """Marks the job cancelled. The queue can't, since it may have given up waiting for the machine's end."""
        if not has_ended(self.record.folder):
            append_event(self.record.folder, "The job was cancelled.", level="warn")
            mark(self.record.folder, "CANCELLED")
        return True

    def _explain_end(self, machine: Machine) -> Failure:
        if machine.stage == "CANCELED":
            return Failure("machine_cancelled", f"The machine was cancelled at {WHO}.", None)
        if machine.running_seconds >= self._left_s:
            text = (
                f"The {self._terms.minutes} minutes were over before a result was uploaded, so {WHO} ended the "
                "machine. Raise [hf] minutes in finetune.toml, or train on fewer rows."
            )
            return Failure("time_was_up", text, None)
        reason = ""
        message = _one_line(machine.message)
        if message:
            reason = f": {message}"
        words = ""
        if machine.running_seconds:  # a machine that never ran has no log
            lines = self._log_lines()
            if lines:
                words = f" Its log ends with: {' / '.join(lines)}."
        text = (
            f"{WHO} ended the machine without a result{reason}.{words} If it names the image, check that [hf] image "
            "in finetune.toml can be pulled and has the extra [local]; if the time-out, raise [hf] minutes."
        )
        return Failure("machine_failed", text, None)

    def _log_lines(self) -> list[str]:
        try:
            text = self._machines.logs(str(self._rented.id))
        except TrainerError as error:
            log.warning("reading the log of %s: %s", self._rented.id, error)
            return []
        (self.record.folder / "train.log").write_text(text, encoding="utf-8")
        lines = [line[:200] for line in text.splitlines() if line.strip()]
        return lines[-3:]

    def _give_up(self, failure: Failure) -> None:
        """Fails the job after a definite refusal. But if a machine may be running, the request is repeated."""
        rented = self._rented
        is_gone = failure.code == NOT_FOUND and self._is_unknown_for_long()
        if rented.id is not None and not rented.has_ended and not is_gone:
            self._outage.record(failure.message.rstrip("."))
            return
        if self._is_cancelled.is_set():
            self._mark_cancelled()
        elif not has_ended(self.record.folder):
            fail(self.record.folder, failure)
        self.exit = FOLLOWED_TO_END

    def _is_unknown_for_long(self) -> bool:
        """True if the provider has answered 404 for SETTLE_S. One 404 proves nothing: it also comes from a server that
        doesn't know a new machine yet, or has forgotten an old one for a moment."""
        now = time.monotonic()
        if self._unknown_since is None:
            self._unknown_since = now
        return now - self._unknown_since >= SETTLE_S

    def _fetch(self, names: tuple[str, ...]) -> None:
        """Copies the files that the machine has uploaded so far into the job's folder, the end mark last."""
        folder = self.record.folder
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetched-") as temporary:
            result = self._machines.download(folder.name, Path(temporary), names)
            self._copy_events(result)
            if names == ("*",):
                self._copy_files(result)
            for name in RECORDS:
                record = read_json(result / name)
                if record is not None and _is_valid_record(name, record):
                    replace_json(folder / name, record)

    def _copy_files(self, result: Path) -> None:
        folder = self.record.folder
        for source in sorted(result.rglob("*")):
            path = source.relative_to(result).as_posix()
            is_plain = source.is_file() and not source.is_symlink()  # a link could lead out of the folder
            if not is_plain or not is_allowed_path(path):
                continue
            if source.name == "adapter_config.json":
                set_adapter_base(source, read_job(folder).base)
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)

    def _copy_events(self, result: Path) -> None:
        fresh = read_events(result)[self._rented.events :]
        for event in fresh:
            data = event.get("data")
            if event.get("type") != "metrics" or not isinstance(data, dict):
                data = None
            message = str(event.get("message"))
            level = _level(event.get("level"))
            append_event(self.record.folder, message, data=data, level=level)
        self._save(events=self._rented.events + len(fresh))

    def _save(self, **changes: Any) -> None:
        self._rented = replace(self._rented, **changes)
        replace_json(self.record.folder / RECORD, asdict(self._rented))


def _one_line(message: str) -> str:
    return " ".join(message.split())[:300].rstrip(".")


def _level(value: object) -> Any:
    if value in ("info", "warn", "error"):
        return value
    return "info"


def _is_valid_record(name: str, record: dict[str, Any]) -> bool:
    """True if the record has the fields that its name requires, so that no status is read from garbage. Machines can't
    be paused, so PAUSED is never valid."""
    if name == "PAUSED":
        return False
    return all(isinstance(record.get(key), kinds) for key, kinds in RECORDS[name].items())
