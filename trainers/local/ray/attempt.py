"""One attempt at a job on a cluster's node: in the job's own folder, or in a copy whose files are sent back
while it trains."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2

from trainers.local.job_directory import exclusive, read_events, read_job, replace_json, write_job
from trainers.local.launch import Meeting, die_with_parent, train_command
from trainers.local.ray.transfer import changing, complete_folders, hidden, read_ticket
from trainers.local.training.base_files import base_fingerprint
from trainers.local.training.errors import PAUSE_MARK

TIMEOUT_S = 30.0
CHUNK_BYTES = 1024 * 1024


class Away(Exception):
    """The trainer does not answer now."""


class NotWanted(Exception):
    """This attempt was replaced or has ended."""


class Link:
    """`address` is the job's: http://trainer:8021/relay/ftjob-…"""

    def __init__(self, address: str, token: str) -> None:
        self._address = address.rstrip("/")
        self._http = httpx2.Client(headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT_S)

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def files(self) -> list[str]:
        return list(self._json("GET", "files")["files"])

    def base(self) -> dict[str, Any]:
        """`hub_id`, or `fingerprint` and `files` with their sizes."""
        return self._json("GET", "base")

    def download(self, path: str, target: Path) -> None:
        """`path`: files/… or base/…"""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._http.stream("GET", f"{self._address}/{path}") as answer, target.open("wb") as file:
                _check(answer)
                for chunk in answer.iter_bytes(CHUNK_BYTES):
                    file.write(chunk)
        except httpx2.TransportError as error:
            raise Away(str(error)) from error

    def upload(self, path: str, source: Path | bytes) -> None:
        content = source if isinstance(source, bytes) else source.read_bytes()
        self._ask("PUT", f"files/{path}", content=content)

    def complete(self, folder: str, keep: Sequence[str]) -> None:
        self._ask("POST", f"folders/{folder}", json={"keep": list(keep)})

    def tick(self, events: Sequence[Mapping[str, Any]], start: int) -> tuple[int, bool]:
        """How many events the trainer has, and whether a pause is wanted."""
        said = self._json("POST", "tick", json={"events": list(events), "from": start})
        return int(said["taken"]), said["wanted"] == "pause"

    def _json(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        raw = self._ask(method, path, **more).json()
        return raw if isinstance(raw, dict) else {}

    def _ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        try:
            answer = self._http.request(method, f"{self._address}/{path}", **more)
        except httpx2.TransportError as error:
            raise Away(str(error)) from error
        _check(answer)
        return answer


def _check(answer: httpx2.Response) -> None:
    """Raises NotWanted, Away; RuntimeError where the trainer does not understand."""
    if answer.status_code == 410:
        raise NotWanted(f"HTTP {answer.status_code}")
    if answer.status_code >= 500:
        raise Away(f"HTTP {answer.status_code}")
    if not answer.is_success:
        answer.read()
        raise RuntimeError(
            f"{answer.request.method} {answer.request.url}: HTTP {answer.status_code} {answer.text}"
        )


# A base model's files on this node: fetched from the trainer once, kept by the fingerprint of the
# weights.


BASES_VARIABLE = "FINETUNE_BASES"


class BaseChanged(Exception):
    """The message is a sentence."""


def base_here(link: Link) -> str:
    """A hub id as it is, or the folder. Raises Away, NotWanted, BaseChanged."""
    known = link.base()
    if "hub_id" in known:
        return str(known["hub_id"])
    root = Path(os.environ.get(BASES_VARIABLE) or Path.home() / ".cache" / "finetune" / "bases")
    root.mkdir(parents=True, exist_ok=True)
    target = root / str(known["fingerprint"])
    with _lock(root / f"{target.name}.lock"):
        if not target.is_dir():
            _fetch_base(link, [str(name) for name in known["files"]], target)
    return str(target)


def _fetch_base(link: Link, names: list[str], target: Path) -> None:
    partial = target.with_name(f".{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name in names:
        link.download(f"base/{name}", partial / name)
    if base_fingerprint(partial) != target.name:
        shutil.rmtree(partial)
        text = "The base model's files on the trainer changed while they were fetched. Create the job anew."
        raise BaseChanged(text)
    partial.rename(target)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Waits: another job on this node may be fetching the same base."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# Brings what a training process writes into its folder back to the trainer, piece by piece, the end mark
# last.


END_MARKS = ("DONE", "FAILED")
POSITION = "checkpoint.json"  # a checkpoint's, to which a validation adds
EVENTS_AT_ONCE = 500


class Carrier:
    """Of one attempt. `base`: the base model's name on the trainer, which adapters tell instead of the node's folder.

    What lies in `folder` already came from the trainer.
    """

    def __init__(self, link: Link, folder: Path, base: str) -> None:
        self._link = link
        self._folder = folder
        self._base = base
        self._events = 0
        self._is_paused = False
        self._folders = set(complete_folders(folder))
        self._stamps = {path: _stamp(folder / path) for path in self._changing()}

    def carry(self, *, is_over: bool) -> None:
        """Marks the folder where the trainer wants a pause. `is_over`: the process has ended, its result can go too.

        Raises Away, NotWanted. A second call goes on where the first broke off.
        """
        for folder in complete_folders(self._folder):
            if folder not in self._folders:
                self._send_checkpoint(folder)
        for path in self._changing():
            self._send_changed(path)
        if self._tell() and not self._is_paused:
            self._is_paused = True
            replace_json(self._folder / PAUSE_MARK, {"at": None})
        if is_over:
            self._send_end()

    def _changing(self) -> list[str]:
        positions = [f"{folder}/{POSITION}" for folder in self._folders]
        return [path for path in positions if (self._folder / path).exists()] + changing(self._folder)

    def _send_changed(self, path: str) -> None:
        try:
            stamp = _stamp(self._folder / path)
            if self._stamps.get(path) != stamp:
                self._link.upload(path, self._folder / path)
                self._stamps[path] = stamp
        except FileNotFoundError:  # taken away meanwhile
            return

    def _send_checkpoint(self, folder: str) -> None:
        try:
            self._send_folder(folder)
        except FileNotFoundError:  # replaced by newer ones meanwhile
            return
        self._folders.add(folder)

    def _send_folder(self, folder: str) -> None:
        for path in sorted((self._folder / folder).iterdir()):
            self._link.upload(f"{hidden(folder)}/{path.name}", self._content(path))
        self._link.complete(folder, keep=complete_folders(self._folder))

    def _content(self, path: Path) -> Path | bytes:
        if path.name != "adapter_config.json":
            return path
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return json.dumps({**config, "base_model_name_or_path": self._base}, indent=2).encode()

    def _tell(self) -> bool:
        events = read_events(self._folder)
        while True:
            batch = events[self._events : self._events + EVENTS_AT_ONCE]
            self._events, wants_pause = self._link.tick(batch, self._events)
            if self._events >= len(events):
                return wants_pause

    def _send_end(self) -> None:
        if (self._folder / "DONE").exists():
            self._send_folder("adapter")
        own = (
            END_MARKS if self._is_paused else (*END_MARKS, PAUSE_MARK)
        )  # the process pauses by itself on a full disk
        for name in own:
            if (self._folder / name).exists():
                self._link.upload(name, self._folder / name)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


# One attempt at a job on a cluster's node: in the job's own folder, or in a copy that goes back piece by
# piece.
#
# While the trainer is away the training goes on, and what it wrote is brought back later; an attempt that
# is not wanted any more ends. Where several nodes train one job, the first one brings back what is
# written; the others fetch alone.


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
