"""Jobs on rented machines: a machine a job, which a thread here looks for, starts once, follows to its end, and ends.
Where one is lost that had uploaded a checkpoint, another goes on from it, in what is left of the approved time.

What it costs is bounded by the provider's own time-out, which is always sent, so that our death leaves nothing running.
Every few minutes a sweep compares all machines that bear our label with the jobs' folders, cancels those that no job
needs, and deletes what jobs that ended left at the provider.
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
POLL_S, HURRIED_S, SWEEP_S, PARTIAL_S = 5.0, 0.5, 180.0, 60.0
SETTLE_S = 60.0  # until a list must show a machine whose start got no answer
END_S, RELEASE_S = 20.0, 5.0
MOST_LOST = 2  # machines of a job
LEAST_LEFT = 0.1  # of the approved time; with less another machine would hardly load the model
OVERTIME_S = 600.0  # beyond its time-out, in which the provider itself ends a machine
NOT_THERE = "hf_404"
FOLLOWED_TO_END = Exit(None, None)  # the job's folder says how

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RentedMachine:
    """A job's machine as its folder has it. `sent_at`: when its start was sent, `id` None: no answer came yet.
    `running_seconds`: also of the machines that were `lost` before it, which ran for `lost_seconds`. `events`: how many
    were taken over. `is_cleaned`: nothing of it is left at the provider."""

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
    return None if raw is None else RentedMachine(**{**raw, "lost": tuple(raw.get("lost", ()))})


def clean(machines: Machines, folder: Path) -> None:
    """Deletes a job's repository. Raises TrainerError."""
    rented = read_rented(folder)
    if rented is not None and not rented.is_cleaned:
        machines.clean(folder.name)
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
        return self._follow(record) if read_rented(record.folder) is not None else None

    def discard(self, record: JobRecord) -> str | None:
        try:
            clean(self.machines, record.folder)
        except TrainerError as error:
            return f"What {record.job.id} left at {WHO} can't be deleted: {error} Try again in a minute."
        return None

    def shortage(self) -> None:
        return None

    def close(self) -> None:
        self._stopping.set()
        for attempt in self._attempts:
            attempt.release()

    def sweep(self) -> None:
        """Raises TrainerError."""
        for machine in self.machines.live():
            folder = self._jobs / (machine.job or "-")
            rented = read_rented(folder)
            is_wanted = rented is not None and not has_ended(folder) and rented.id in (None, machine.id)
            if not is_wanted:
                log.error("machine %s of %s is not wanted: ended", machine.id, machine.job)
                self.machines.cancel(machine.id)
        for path in self._jobs.glob(f"ftjob-*/{RECORD}"):
            if has_ended(path.parent):
                clean(self.machines, path.parent)

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
        self._attempts = [each for each in self._attempts if each.thread.is_alive()] + [attempt]
        return attempt


def _owner(data: Path) -> str:
    """Returns a name of this data folder, for labels."""
    path = data / "renter"
    if not path.exists():
        path.write_text(secrets.token_hex(8), encoding="ascii")
    return path.read_text(encoding="ascii").strip()


class RentedAttempt:
    """Follows a job's one machine in a thread, which alone sets `exit` and `has_begun`. Another is started only where
    it was lost and a checkpoint is there: from the beginning it would cost as much again."""

    def __init__(self, record: JobRecord, machines: Machines, options: RentingOptions) -> None:
        terms = read_rental(record.job.metadata)
        assert terms is not None  # noqa: S101 - else the job is not ours
        self.record = record
        self.is_being_cancelled = self.is_beside_serving = False
        self.exit: Exit | None = None
        self.has_begun = False
        self._terms = terms
        self._machines = machines
        self._options = options
        self._rented = read_rented(record.folder) or RentedMachine()
        self._outage = Outage(record.folder, WHO, "it")
        self._why_ended: Failure | None = None
        self._taken_at = time.monotonic()
        self._hurried_until = time.monotonic() + SETTLE_S
        self._is_unwanted = threading.Event()
        self._released = threading.Event()
        self.thread = threading.Thread(target=self._follow, name=f"rented {record.job.id}", daemon=True)

    def end(self) -> bool:
        self._hurried_until = time.monotonic() + SETTLE_S
        self._is_unwanted.set()
        return exits_within(self, END_S)

    def release(self) -> None:
        """Stops following; the machine goes on."""
        self._released.set()
        self.thread.join(RELEASE_S)

    def _follow(self) -> None:
        while self.exit is None and not self._released.is_set():
            try:
                is_over = self._step()
                self._outage.end()
                if is_over:
                    self.exit = FOLLOWED_TO_END
            except Refused as refused:
                self._give_up(Failure(refused.code or "refused", str(refused), None))
            except TrainerError as error:
                self._outage.record(str(error).rstrip("."))
            except (OSError, ValueError) as error:  # a full disk, or a result that is no JSON
                log.error("following %s: %s. Trying again.", self.record.job.id, error)
            # Not longer, since a machine may be waited for an hour, and the provider limits the rate of requests.
            is_hurried = time.monotonic() < self._hurried_until and (
                self._is_unwanted.is_set() or not self.has_begun
            )
            self._released.wait(HURRIED_S if is_hurried else max(POLL_S, self._outage.pause_s))

        if self.exit is not None:
            with suppress(TrainerError, OSError):  # the sweep tries again
                clean(self._machines, self.record.folder)

    def _step(self) -> bool:
        """Returns whether all is over. Raises TrainerError; Refused where that can't change by itself."""
        if self._rented.id is not None:
            return self._watch(self._machines.look(self._rented.id))
        machines = self._machines.find(self.record.job.id)
        candidates = [machine for machine in machines if machine.id not in self._rented.lost]
        if candidates:
            self._take_machine(candidates)
            return False
        sent_at = self._rented.sent_at
        if sent_at is not None and time.time() - sent_at < SETTLE_S:
            return False
        return self._mark_cancelled() if self._is_unwanted.is_set() else self._start()

    def _take_machine(self, machines: list[Machine]) -> None:
        """The oldest counts. Others would cost twice."""
        for extra in machines[1:]:
            if not extra.has_ended:
                log.error("machine %s is a second one of %s: ended", extra.id, self.record.job.id)
                self._machines.cancel(extra.id)
        self._keep(id=machines[0].id)

    def _start(self) -> bool:
        """Returns True where nothing is started because the price rose."""
        terms, folder = self._terms, self.record.folder
        now = fetch_rental(terms.hardware, terms.minutes)
        if now.usd_per_minute > terms.usd_per_minute:
            text = (
                f"{WHO} asks ${now.usd_per_hour.normalize():f} an hour for {terms.hardware} by now, and "
                f"${terms.usd_per_hour.normalize():f} were approved. No machine is started at that price: ask "
                "for a new plan."
            )
            fail(folder, Failure("price_rose", text, None))
            return True
        revision = self._machines.upload(folder)
        if not self._is_unwanted.is_set():
            self._keep(sent_at=time.time())
            machine = self._machines.start(self.record.job.id, revision, terms, self._left_s)
            self._keep(id=machine.id)
            append_event(folder, f"{WHO} was asked for a machine of the kind {terms.hardware}: {machine.id}.")
        return False

    @property
    def _left_s(self) -> int:
        """What may be rented for this machine: the machines before it are paid from the same approval."""
        return self._terms.minutes * 60 - self._rented.lost_seconds

    def _watch(self, machine: Machine) -> bool:
        seconds = self._rented.lost_seconds + machine.running_seconds
        if seconds > self._rented.running_seconds:  # one that ended may be told without its time
            self._keep(running_seconds=seconds)
        if not machine.is_waiting and not self.has_begun:
            self.has_begun = True
        if machine.has_ended:
            return self._finish(machine)
        self._end_late(machine)
        if self._is_unwanted.is_set() or self._why_ended:
            self._machines.cancel(machine.id)
        elif time.monotonic() - self._taken_at > PARTIAL_S and not machine.is_waiting:
            self._taken_at = time.monotonic()
            self._take(("progress.json", "events.jsonl"))
        return False

    def _end_late(self, machine: Machine) -> None:
        waited_s, terms = time.time() - machine.created_at, self._terms
        wait_minutes = self._options.wait_minutes
        if machine.is_waiting and waited_s > wait_minutes * 60:
            text = (
                f"{WHO} had no {terms.hardware} free for {wait_minutes} minutes, so the request was withdrawn. Try "
                "again later, or name other hardware in [hf] of finetune.toml."
            )
            self._why_ended = Failure("hardware_sold_out", text, None)
        elif machine.running_seconds > self._left_s + OVERTIME_S:
            text = f"{WHO} did not end the machine after {terms.minutes} minutes, so it was cancelled."
            self._why_ended = Failure("machine_overtime", text, None)

    def _finish(self, machine: Machine) -> bool:
        """Takes over the result of a machine that has ended; without one the job has failed, or another goes on."""
        folder = self.record.folder
        if not self._rented.has_ended:
            seconds = self._rented.running_seconds
            who, cost = "machines" if self._rented.lost else "machine", self._terms.usd(seconds)
            append_event(folder, f"The {who} ran for {seconds:,} s, which cost ${cost:.4f} by its price.")
            self._keep(has_ended=True)
        if self._is_unwanted.is_set():
            return self._mark_cancelled()
        self._take(("*",))
        if has_ended(folder):
            return True
        if self._can_go_on(machine):
            self._go_on(machine)
            return False
        fail(folder, self._why_ended or self._how(machine))
        return True

    def _can_go_on(self, machine: Machine) -> bool:
        """A machine that its time-out ended has nothing left for another."""
        approved_s, rented = self._terms.minutes * 60, self._rented
        has_time = approved_s - rented.running_seconds >= LEAST_LEFT * approved_s
        is_lost = self._why_ended is None and machine.stage != "CANCELED"
        may = is_lost and has_time and len(rented.lost) < MOST_LOST
        return may and self._machines.has_checkpoint(self.record.job.id)

    def _go_on(self, machine: Machine) -> None:
        spent_s = self._rented.running_seconds
        lost = (*self._rented.lost, machine.id)
        self._keep(id=None, sent_at=None, has_ended=False, lost=lost, lost_seconds=spent_s)
        text = (
            f"{WHO} lost the machine ({_one_line(machine.message) or 'it does not say why'}). Another goes on from the "
            f"last checkpoint, in the {self._left_s // 60} minutes that are left of those approved."
        )
        append_event(self.record.folder, text, level="warn")

    def _mark_cancelled(self) -> bool:
        """Here and not by the queue, which may have given up waiting for the machine to end."""
        if not has_ended(self.record.folder):
            append_event(self.record.folder, "The job was cancelled.", level="warn")
            mark(self.record.folder, "CANCELLED")
        return True

    def _how(self, machine: Machine) -> Failure:
        if machine.stage == "CANCELED":
            return Failure("machine_cancelled", f"The machine was cancelled at {WHO}.", None)
        if machine.running_seconds >= self._left_s:
            text = (
                f"The {self._terms.minutes} minutes were over before a result was uploaded, so {WHO} ended the "
                "machine. Raise [hf] minutes in finetune.toml, or train on fewer rows."
            )
            return Failure("time_was_up", text, None)
        message = _one_line(machine.message)
        lines = self._log_lines() if machine.running_seconds else []
        reason = f": {message}" if message else ""
        words = f" It last said: {' / '.join(lines)}." if lines else ""
        text = (
            f"{WHO} ended the machine without a result{reason}.{words} If it names the image, check that [hf] image in "
            "finetune.toml can be pulled and has the extra [local]; if the time-out, raise [hf] minutes."
        )
        return Failure("machine_failed", text, None)

    def _log_lines(self) -> list[str]:
        try:
            text = self._machines.logs(str(self._rented.id))
        except TrainerError as error:
            log.warning("reading the log of %s: %s", self._rented.id, error)
            return []
        (self.record.folder / "train.log").write_text(text, encoding="utf-8")
        return [line[:200] for line in text.splitlines() if line.strip()][-3:]

    def _give_up(self, failure: Failure) -> None:
        """After a certain no. A machine that runs, and that we may not ask for, is asked for again."""
        rented = self._rented
        # A machine that was started a moment ago may not be shown yet.
        is_settled = time.time() - (rented.sent_at or 0.0) >= SETTLE_S
        is_gone = failure.code == NOT_THERE and is_settled
        if rented.id is not None and not rented.has_ended and not is_gone:
            self._outage.record(failure.message.rstrip("."))
            return
        if self._is_unwanted.is_set():
            self._mark_cancelled()
        elif not has_ended(self.record.folder):
            fail(self.record.folder, failure)
        self.exit = FOLLOWED_TO_END

    def _take(self, names: tuple[str, ...]) -> None:
        """Takes over what the attempt has uploaded by now, the end mark last."""
        folder = self.record.folder
        with tempfile.TemporaryDirectory(dir=folder, prefix=".taken-") as temporary:
            result = self._machines.download(folder.name, Path(temporary), names)
            self._take_events(result)
            if names == ("*",):
                self._take_files(result)
            for name in RECORDS:
                if (record := read_json(result / name)) is not None and _is_of_its_form(name, record):
                    replace_json(folder / name, record)

    def _take_files(self, result: Path) -> None:
        folder = self.record.folder
        for source in sorted(result.rglob("*")):
            path = source.relative_to(result).as_posix()
            if source.is_file() and not source.is_symlink() and is_allowed_path(path):
                if source.name == "adapter_config.json":
                    set_adapter_base(source, read_job(folder).base)
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)

    def _take_events(self, result: Path) -> None:
        fresh = read_events(result)[self._rented.events :]
        for event in fresh:
            is_metrics = isinstance(event.get("data"), dict) and event.get("type") == "metrics"
            message, data = str(event.get("message")), event["data"] if is_metrics else None
            append_event(self.record.folder, message, data=data, level=_level(event.get("level")))
        self._keep(events=self._rented.events + len(fresh))

    def _keep(self, **changes: Any) -> None:
        self._rented = replace(self._rented, **changes)
        replace_json(self.record.folder / RECORD, asdict(self._rented))


def _one_line(message: str) -> str:
    return " ".join(message.split())[:300].rstrip(".")


def _level(value: object) -> Any:
    return value if value in ("info", "warn", "error") else "info"


def _is_of_its_form(name: str, record: dict[str, Any]) -> bool:
    """No status is read from nonsense. A pause is no end of a machine."""
    return name != "PAUSED" and all(
        isinstance(record.get(key), kinds) for key, kinds in RECORDS[name].items()
    )
