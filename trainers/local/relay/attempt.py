"""One attempt at a job on a cluster's node: in the job's own folder, or in a copy that goes back piece by piece.

While the trainer is away the training goes on, and what it wrote is brought back later; an attempt that is not wanted
any more ends. Where several nodes train one job, the first one brings back what is written; the others fetch alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainers.local.launch import Meeting, die_with_parent, train_command
from trainers.local.relay.bases import BaseChanged, base_here
from trainers.local.relay.carrier import Carrier
from trainers.local.relay.link import Away, Link, NotWanted
from trainers.local.relay.tickets import read_ticket
from trainers.local.spool import exclusive, read_job, write_job

PREFIX = "finetune-job-"
TICK_S = 1.0
MAX_PAUSE_S = 15.0
PATIENCE_S = 24 * 3600.0
GRACE_S = 2.0  # Ray kills 3 s after it asked to end
LEFTOVER_S = 60.0


def train_here(folder: Path, token: str, processes: int, meeting: Meeting | None = None) -> int:
    """In the job's own folder, which every node sees."""
    ticket = read_ticket(folder)
    if ticket is None or not ticket.admits(token):
        return _not_wanted()
    return _run(folder, train_command(processes, meeting))


def train_afar(address: str, token: str, processes: int, meeting: Meeting | None = None) -> int:
    """In a copy of the job's folder."""
    _clear_leftovers()
    folder = tempfile.TemporaryDirectory(prefix=PREFIX)
    with folder as root, exclusive(Path(root)), Link(address, token) as link:
        try:
            return _train(link, Path(root) / address.rpartition("/")[2], processes, meeting)
        except NotWanted:
            return _not_wanted()
        except BaseChanged as error:
            print(error, file=sys.stderr)
            return 1


def fetch(link: Link, folder: Path) -> str:
    """Fill `folder` from the trainer, and name this machine's paths in its job.json. Returns the trainer's base."""
    for path in link.files():
        link.download(f"files/{path}", folder / path)
    job = read_job(folder)
    validation = str(folder / "valid.jsonl") if job.validation_file else None
    here = replace(
        job, base=base_here(link), training_file=str(folder / "train.jsonl"), validation_file=validation
    )
    write_job(folder, here)
    return job.base


def _train(link: Link, folder: Path, processes: int, meeting: Meeting | None) -> int:
    base, command = _fetch_patiently(link, folder), train_command(processes, meeting)
    if meeting is not None and meeting.node > 0:
        return _run(folder, command)
    carrier = Carrier(link, folder, base)  # before the process: what it finds in the folder is known already
    process = _start(folder, command)
    try:
        return _follow(process, carrier)
    finally:
        _end_process(process)


def _fetch_patiently(link: Link, folder: Path) -> str:
    patience = Patience()
    while True:
        try:
            return fetch(link, folder)
        except Away as error:
            patience.wait(error)


def _run(folder: Path, command: Sequence[str]) -> int:
    """All that the process writes stays in `folder`."""
    process = _start(folder, command)
    try:
        return process.wait()
    finally:
        _end_process(process)


def _follow(process: subprocess.Popen[bytes], carrier: Carrier) -> int:
    patience = Patience()
    while True:
        code = _exit_code(process, TICK_S)
        try:
            carrier.carry(is_over=code is not None)
            patience = Patience()
        except Away as error:
            patience.wait(error)
            continue
        if code is not None:
            return code


class Patience:
    """Waits for a trainer that is away, longer each time; gives up after a day."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._pause_s = TICK_S

    def wait(self, error: Away) -> None:
        if self._pause_s == TICK_S:
            print(f"The trainer does not answer: {error}. Trying again.", file=sys.stderr, flush=True)
        if time.monotonic() - self._since > PATIENCE_S:
            sys.exit("The trainer has been away for a day. This attempt ends.")
        time.sleep(self._pause_s)
        self._pause_s = min(MAX_PAUSE_S, 2 * self._pause_s)


def _start(folder: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*command, str(folder)], preexec_fn=die_with_parent)


def _exit_code(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    if _exit_code(process, GRACE_S) is None:
        process.kill()
        process.wait()


def _not_wanted() -> int:
    print(
        "This attempt is not wanted any more: another has taken over, or the job has ended.", file=sys.stderr
    )
    return 0


def _clear_leftovers() -> None:
    """Folders of attempts that were killed on this node."""
    for root in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if time.time() - root.stat().st_mtime > LEFTOVER_S:
            with exclusive(root) as lock:
                if lock is not None:
                    shutil.rmtree(root)
