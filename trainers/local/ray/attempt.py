"""One attempt at a job on a cluster's node: in the job's own folder where the disk is common, else in a copy of it
whose files go to the storage while it trains.

While the storage is away the training goes on, and what it wrote is brought there later; an attempt that is not wanted
any more ends. Where several nodes train one job, the first one writes to the storage; the others only read from it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson

from trainers.local.job_directory import exclusive, read_events, read_job, read_json, replace_json, write_job
from trainers.local.launch import Meeting, die_with_parent, train_command
from trainers.local.ray.job_files import (
    EVENTS_A_PIECE,
    RECORDS,
    Snapshot,
    StoredFile,
    changing_files,
    complete_folders,
    is_in_folder,
    may_come_back,
    parse_snapshot,
    read_attempt,
)
from trainers.local.ray.storage import Storage, StorageAway
from trainers.local.training.base_files import base_fingerprint
from trainers.local.training.errors import PAUSE_MARK

PREFIX = "finetune-job-"
BASES_VARIABLE = "FINETUNE_BASES"
TICK_S = 1.0
LONGEST_TICK_S = 5.0  # between two writes of a long training: each costs money at an object store
MAX_PAUSE_S = 15.0
PATIENCE_S = 24 * 3600.0
GRACE_S = 2.0  # Ray kills 3 s after it asked to end
LEFTOVER_S = 60.0
POSITION = "checkpoint.json"  # a checkpoint's, to which a validation adds
T = TypeVar("T")


class NotWanted(Exception):
    """This attempt was replaced or its job has ended."""


class BaseChanged(Exception):
    """The message is a sentence."""


def train_here(folder: Path, key: str, processes: int, meeting: Meeting | None = None) -> int:
    """In the job's own folder, which every node sees."""
    if not folder.is_dir():
        text = f"This node does not see the job's folder {folder}. Name a storage that all nodes see with --storage."
        print(text, file=sys.stderr)
        return 1
    record = read_attempt(folder)
    if record is None or not record.is_open or record.key != key:
        return _not_wanted()
    return _run(folder, train_command(processes, meeting))


def train_from_storage(
    url: str, job_id: str, key: str, processes: int, meeting: Meeting | None = None
) -> int:
    """In a copy of the job's folder."""
    _clear_leftovers()
    link = Link(Storage(url), job_id, key)
    folder = tempfile.TemporaryDirectory(prefix=PREFIX)
    with folder as root, exclusive(Path(root)):
        try:
            return _train(link, Path(root) / job_id, processes, meeting)
        except NotWanted:
            return _not_wanted()
        except BaseChanged as error:
            print(error, file=sys.stderr)
            return 1


class Link:
    """What one attempt reads from the storage. All methods raise StorageAway."""

    def __init__(self, storage: Storage, job_id: str, key: str) -> None:
        self.storage = storage
        self.job = job_id
        self.attempt = f"{job_id}/attempts/{key}"
        self._key = key

    def wants_pause(self) -> bool:
        """Raises NotWanted."""
        control = self.storage.read_json(f"{self.job}/control.json")
        if control is None or control.get("attempt") != self._key or control.get("wanted") == "end":
            raise NotWanted
        return control.get("wanted") == "pause"

    def fetch(self, folder: Path) -> tuple[Snapshot, str]:
        """Fills `folder` and names this machine's paths in its job.json. Returns what the attempt begins with, and the
        base model's name on the trainer. Raises NotWanted, BaseChanged."""
        self.wants_pause()
        start = self.storage.read_json(f"{self.attempt}/start.json") or {}
        snapshot = parse_snapshot(start.get("snapshot"))
        if snapshot is None:
            raise StorageAway(f"{self.attempt}/start.json is missing or no snapshot")
        for path, stored in snapshot.files.items():
            target = folder / path
            if (
                not target.exists() or target.stat().st_size != stored.bytes
            ):  # a call before may have been cut off
                size = stored.bytes if is_in_folder(path) else None
                self.storage.download(f"{self.job}/{stored.object}", target, size)
        for name, record in snapshot.records.items():
            replace_json(folder / name, record)
        job = read_job(folder)
        validation = str(folder / "valid.jsonl") if job.validation_file else None
        base = job.base if start.get("base") is None else str(self._base(str(start["base"])))
        write_job(
            folder,
            replace(job, base=base, training_file=str(folder / "train.jsonl"), validation_file=validation),
        )
        return snapshot, job.base

    def _base(self, fingerprint: str) -> Path:
        """The folder of a base model on this node; on a disk that all see it is used where it lies."""
        name = f"bases/{fingerprint}"
        if self.storage.local is not None:
            return self.storage.local / name
        root = Path(os.environ.get(BASES_VARIABLE) or Path.home() / ".cache" / "finetune" / "bases")
        root.mkdir(parents=True, exist_ok=True)
        target = root / fingerprint
        with _lock(root / f"{fingerprint}.lock"):
            if not target.is_dir():
                self._fetch_base(name, target)
        return target

    def _fetch_base(self, name: str, target: Path) -> None:
        files = (self.storage.read_json(f"{name}/base.json") or {}).get("files", {})
        partial = target.with_name(f".{target.name}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for file, size in files.items():
            self.storage.download(f"{name}/{file}", partial / Path(file).name, int(size))
        if base_fingerprint(partial) != target.name:
            shutil.rmtree(partial)
            raise BaseChanged("The base model's files changed on their way. Create the job again.")
        partial.rename(target)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Waits: another job on this node may be fetching the same base."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Publisher:
    """Brings what a training process writes into its folder to the storage.

    `base`: the base model's name on the trainer, which adapters name instead of the node's folder.
    `start`: what lies in `folder` already, and in the storage under the names of earlier attempts.
    """

    def __init__(self, link: Link, folder: Path, base: str, start: Snapshot) -> None:
        self._link = link
        self._folder = folder
        self._base = base
        self._files = dict(start.files)
        self._events = 0  # that are stored
        self._told: Snapshot | None = None
        self._is_paused = False
        self._uploads = {path: (_stamp(folder / path), stored) for path, stored in start.files.items()}

    def publish(self, *, is_over: bool) -> None:
        """`is_over`: the process has ended, its result can go too. Raises StorageAway, NotWanted; a second call goes on
        where the first broke off."""
        if self._link.wants_pause() and not self._is_paused:
            self._is_paused = True
            replace_json(self._folder / PAUSE_MARK, {"at": None})
        # read first: what the records say has happened is among the files and events that are looked at after them
        records = self._records(is_over)
        for folder in [*complete_folders(self._folder), *(["adapter"] if "DONE" in records else [])]:
            self._store_folder(folder)
        for path in self._changing():
            self._store([path])
        self._forget_removed()
        events = self._store_events()
        snapshot = Snapshot(dict(self._files), events, records)
        if snapshot != self._told:
            self._link.storage.write_json(f"{self._link.attempt}/state.json", asdict(snapshot))
            self._told = snapshot

    def _records(self, is_over: bool) -> dict[str, dict[str, Any]]:
        """A pause that the server asked for is not told back to it: it may have been resumed meanwhile."""
        names = [
            name
            for name in RECORDS
            if name == "progress.json" or (is_over and not (name == PAUSE_MARK and self._is_paused))
        ]
        records = {name: read_json(self._folder / name) for name in names}
        return {name: record for name, record in records.items() if record is not None}

    def _store_folder(self, folder: str) -> None:
        names = sorted(path.name for path in (self._folder / folder).glob("[!.]*"))
        self._store([f"{folder}/{name}" for name in names if f"{folder}/{name}" not in self._files])

    def _changing(self) -> list[str]:
        positions = [f"{folder}/{POSITION}" for folder in complete_folders(self._folder)]
        positions = [path for path in positions if path in self._files]
        return [*positions, *(path for path in changing_files(self._folder) if may_come_back(path))]

    def _store(self, paths: Sequence[str]) -> None:
        """All of them or none count, where the storage goes away or the training takes one away meanwhile."""
        try:
            for path in paths:
                stamp = _stamp(self._folder / path)
                if path not in self._uploads or self._uploads[path][0] != stamp:
                    self._uploads[path] = stamp, self._upload(path, stamp[0])
        except FileNotFoundError:
            return
        self._files |= {path: self._uploads[path][1] for path in paths}

    def _upload(self, path: str, version: int) -> StoredFile:
        name = f"{self._link.attempt}/files/{path}"
        source = self._folder / path
        if source.name == "adapter_config.json":
            config: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
            content = json.dumps({**config, "base_model_name_or_path": self._base}, indent=2).encode()
            self._link.storage.write(name, content)
            size = len(content)
        else:
            size = self._link.storage.upload(name, source)
        return StoredFile(name.removeprefix(f"{self._link.job}/"), size, version)

    def _forget_removed(self) -> None:
        there = {*complete_folders(self._folder), "adapter"}
        gone = [path for path in self._files if is_in_folder(path) and path.rpartition("/")[0] not in there]
        for path in gone:
            del self._files[path], self._uploads[path]

    def _store_events(self) -> int:
        """In pieces, so that a long journal is not written again for each new line."""
        events = read_events(self._folder)
        for start in range(self._events // EVENTS_A_PIECE * EVENTS_A_PIECE, len(events), EVENTS_A_PIECE):
            piece = events[start : start + EVENTS_A_PIECE]
            if start + len(piece) > self._events:
                name = f"{self._link.attempt}/events/{start // EVENTS_A_PIECE:06d}.json"
                self._link.storage.write(name, orjson.dumps(piece))
        self._events = len(events)
        return self._events


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _train(link: Link, folder: Path, processes: int, meeting: Meeting | None) -> int:
    start, base = _patiently(lambda: link.fetch(folder))
    command = train_command(processes, meeting)
    if meeting is not None and meeting.node > 0:
        return _run(folder, command)
    publisher = Publisher(link, folder, base, start)
    process = _start(folder, command)
    try:
        return _follow(process, publisher)
    finally:
        _end_process(process)


def _run(folder: Path, command: Sequence[str]) -> int:
    """All that the process writes stays in `folder`."""
    process = _start(folder, command)
    try:
        return process.wait()
    finally:
        _end_process(process)


def _follow(process: subprocess.Popen[bytes], publisher: Publisher) -> int:
    begun = time.monotonic()
    while True:
        tick_s = min(LONGEST_TICK_S, max(TICK_S, (time.monotonic() - begun) / 60))
        code = _exit_code(process, tick_s)
        is_over = code is not None
        _patiently(lambda is_over=is_over: publisher.publish(is_over=is_over))  # type: ignore[misc]
        if code is not None:
            return code


def _patiently(ask: Callable[[], T]) -> T:
    """Asks the storage until it answers, at longer and longer intervals; gives up after a day."""
    since, pause_s = time.monotonic(), TICK_S
    while True:
        try:
            return ask()
        except StorageAway as error:
            if pause_s == TICK_S:
                print(f"The storage does not answer: {error}. Trying again.", file=sys.stderr, flush=True)
            if time.monotonic() - since > PATIENCE_S:
                sys.exit("The storage has been away for a day. This attempt ends.")
            time.sleep(pause_s)
            pause_s = min(MAX_PAUSE_S, 2 * pause_s)


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
    text = "This attempt is not wanted any more: another has taken over, or the job has ended."
    print(text, file=sys.stderr)
    return 0


def _clear_leftovers() -> None:
    """Folders of attempts that were killed on this node."""
    for root in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if time.time() - root.stat().st_mtime > LEFTOVER_S:
            with exclusive(root) as lock:
                if lock is not None:
                    shutil.rmtree(root)
