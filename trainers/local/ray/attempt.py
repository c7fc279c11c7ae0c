"""One attempt at a job on a cluster's node. If all nodes share a disk with the trainer, it trains in the job's folder.
Otherwise it trains in a copy of the folder, and uploads the files to the storage meanwhile.

While the storage doesn't answer, the training continues and the files are uploaded later. An attempt that was replaced
ends. If several nodes train one job, only the first one writes to the storage.
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson

from trainers.local.base_files import base_fingerprint
from trainers.local.job_directory import lock_job, read_events, read_job, read_json, replace_json, write_job
from trainers.local.launch import Meeting, die_with_parent, train_command
from trainers.local.ray.job_files import (
    EVENTS_PER_PIECE,
    POSITION,
    RECORDS,
    Snapshot,
    StoredFile,
    changing_files,
    complete_folders,
    is_allowed_path,
    is_in_folder,
    parse_snapshot,
    read_attempt,
)
from trainers.local.ray.storage import Storage, StorageAway
from trainers.local.training.errors import PAUSE_MARK

PREFIX = "finetune-job-"
BASES_VARIABLE = "FINETUNE_BASES"
TICK_S = 1.0
MAX_TICK_S = 5.0  # between two uploads of a long training, since each request to an object store costs money
MAX_PAUSE_S = 15.0
GIVE_UP_S = 24 * 3600.0
GRACE_S = 2.0  # Ray sends SIGKILL 3 s after SIGTERM
LEFTOVER_S = 60.0
T = TypeVar("T")


class AttemptReplaced(Exception):
    """This attempt was replaced or its job has ended."""


class BaseChanged(Exception):
    """The downloaded base model is not the one that was stored. The message is a sentence for the user."""


def train_here(folder: Path, key: str, processes: int, meeting: Meeting | None = None) -> int:
    """Trains in the job's folder on a shared disk. Returns the exit code."""
    if not folder.is_dir():
        text = f"This node can't access the job's folder {folder}. Set --storage to one that all nodes can access."
        print(text, file=sys.stderr)
        return 1
    record = read_attempt(folder)
    if record is None or not record.is_open or record.key != key:
        return _report_replaced()
    return _run(folder, train_command(processes, meeting))


def train_from_storage(
    url: str, job_id: str, key: str, processes: int, meeting: Meeting | None = None
) -> int:
    """Trains in a copy of the job's folder. Returns the exit code."""
    delete_leftovers(Path(tempfile.gettempdir()))
    link = AttemptStorage(Storage(url), job_id, key)
    command = train_command(processes, meeting)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as root, lock_job(Path(root)):
        folder = Path(root) / job_id
        try:
            start, base = _retry_while_away(lambda: link.fetch(folder))
            if meeting is not None and meeting.node > 0:
                return _run(folder, command)
            return _run_and_publish(folder, command, Publisher(link, folder, base, start))
        except AttemptReplaced:
            return _report_replaced(
                f" If not, this node sees another storage at {url} than the trainer does."
            )
        except BaseChanged as error:
            print(error, file=sys.stderr)
            return 1


def delete_leftovers(folder: Path) -> None:
    """Deletes the copies of attempts that were killed on this node."""
    for leftover in folder.glob(f"{PREFIX}*"):
        with suppress(FileNotFoundError):  # another attempt that starts just now may be deleting it too
            if time.time() - leftover.stat().st_mtime > LEFTOVER_S:
                with lock_job(leftover) as lock:
                    if lock is not None:
                        shutil.rmtree(leftover)


def _report_replaced(otherwise: str = "") -> int:
    text = f"This attempt is no longer needed: another one has replaced it, or the job has ended.{otherwise}"
    print(text, file=sys.stderr)
    return 0


def _run(folder: Path, command: Sequence[str]) -> int:
    """Runs the training process in `folder` without uploading files."""
    process = _start(folder, command)
    try:
        return process.wait()
    finally:
        _end_process(process)


def _run_and_publish(folder: Path, command: Sequence[str], publisher: Publisher) -> int:
    process = _start(folder, command)
    started = time.monotonic()
    try:
        while True:
            # A short training is followed closely, a long one at a sixtieth of its time.
            tick_s = min(MAX_TICK_S, max(TICK_S, (time.monotonic() - started) / 60))
            code = _exit_code(process, tick_s)
            is_over = code is not None
            _retry_while_away(lambda is_over=is_over: publisher.publish(is_over=is_over))  # type: ignore[misc]
            if code is not None:
                return code
    finally:
        _end_process(process)


def _retry_while_away(ask: Callable[[], T]) -> T:
    """Calls `ask` until the storage answers, at growing intervals. Gives up after a day."""
    since = time.monotonic()
    pause_s = TICK_S
    while True:
        try:
            return ask()
        except StorageAway as error:
            if pause_s == TICK_S:
                print(f"The storage does not answer: {error}. Trying again.", file=sys.stderr, flush=True)
            if time.monotonic() - since > GIVE_UP_S:
                sys.exit("The storage has not answered for a day. This attempt ends.")
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


class AttemptStorage:
    """Reads an attempt's files from the storage. All methods raise StorageAway."""

    def __init__(self, storage: Storage, job_id: str, key: str) -> None:
        self.storage = storage
        self.job = job_id
        self.attempt = f"{job_id}/attempts/{key}"
        self._key = key

    def wants_pause(self) -> bool:
        """Returns True if the server asks for a pause. Raises AttemptReplaced."""
        control = self.storage.read_json(f"{self.job}/control.json")
        if control is None:  # the server has deleted the job's files
            raise AttemptReplaced
        wanted = control.get("wanted")
        if control.get("attempt") != self._key or wanted == "end":
            raise AttemptReplaced
        return wanted == "pause"

    def fetch(self, folder: Path) -> tuple[Snapshot, str]:
        """Downloads the job to `folder` and writes this machine's paths to its job.json. Returns the files with which
        the attempt begins, and the base model's name on the trainer. Raises AttemptReplaced, BaseChanged."""
        self.wants_pause()
        start = self.storage.read_json(f"{self.attempt}/start.json") or {}
        snapshot = parse_snapshot(start.get("snapshot"))
        if snapshot is None:
            raise StorageAway(f"{self.attempt}/start.json is missing or invalid")
        self._download_files(folder, snapshot)
        for name, record in snapshot.records.items():
            replace_json(folder / name, record)

        job = read_job(folder)
        here = replace(job, training_file=str(folder / "train.jsonl"))
        if job.validation_file:
            here = replace(here, validation_file=str(folder / "valid.jsonl"))
        fingerprint = start.get("base")
        if fingerprint is not None:
            base = self._fetch_base(str(fingerprint))
            here = replace(here, base=str(base))
        write_job(folder, here)
        return snapshot, job.base

    def _download_files(self, folder: Path, snapshot: Snapshot) -> None:
        for path, stored in snapshot.files.items():
            target = folder / path
            # An interrupted call may have downloaded some of the files.
            if target.exists() and target.stat().st_size == stored.bytes:
                continue
            size = None  # a file that changes may have grown since it was listed
            if is_in_folder(path):
                size = stored.bytes
            self.storage.download(f"{self.job}/{stored.object}", target, size)

    def _fetch_base(self, fingerprint: str) -> Path:
        """Returns the folder of a base model on this node: the storage's own on a shared disk, otherwise a cached
        copy."""
        name = f"bases/{fingerprint}"
        if self.storage.local is not None:
            return self.storage.local / name
        root = Path(os.environ.get(BASES_VARIABLE) or Path.home() / ".cache" / "finetune" / "bases")
        root.mkdir(parents=True, exist_ok=True)
        target = root / fingerprint
        with (root / f"{fingerprint}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # waits while another job on this node downloads the same base
            if not target.is_dir():
                self._download_base(name, fingerprint, target)
        return target

    def _download_base(self, name: str, fingerprint: str, target: Path) -> None:
        stored = self.storage.read_json(f"{name}/base.json") or {}
        files = stored.get("files", {})
        partial = target.with_name(f".{fingerprint}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for file, size in files.items():
            plain_name = Path(file).name  # without folders, so that nothing is written elsewhere
            self.storage.download(f"{name}/{file}", partial / plain_name, int(size))
        if base_fingerprint(partial) != fingerprint:
            shutil.rmtree(partial)
            raise BaseChanged("The base model's files were changed in the storage. Create the job again.")
        partial.rename(target)


class Publisher:
    """Uploads the files that a training process writes to its folder.

    `base` is the base model's name on the trainer, which uploaded adapters name instead of the node's folder. `start`
    are the files that are already in `folder` and in the storage, under the names of earlier attempts.
    """

    def __init__(self, link: AttemptStorage, folder: Path, base: str, start: Snapshot) -> None:
        self._link = link
        self._folder = folder
        self._base = base
        self._files = dict(start.files)
        self._stored_events = 0
        self._published: Snapshot | None = None
        self._is_paused = False
        self._uploads = {path: (_stamp(folder / path), stored) for path, stored in start.files.items()}

    def publish(self, *, is_over: bool) -> None:
        """Uploads new files and then the list of all files. The result is uploaded only after the process has ended
        (`is_over`). Raises StorageAway or AttemptReplaced; the next call continues an interrupted one."""
        if self._link.wants_pause() and not self._is_paused:
            self._is_paused = True
            replace_json(self._folder / PAUSE_MARK, {"at": None})
        # Read the records first, so that the files and events read afterwards include everything they refer to.
        records = self._read_records(is_over=is_over)

        checkpoints = complete_folders(self._folder)
        finished_folders = list(checkpoints)
        if "DONE" in records:
            finished_folders.append("adapter")
        for folder in finished_folders:
            self._store_folder(folder)
        positions = [f"{folder}/{POSITION}" for folder in checkpoints]
        stored_positions = [path for path in positions if path in self._files]
        changing = [path for path in changing_files(self._folder) if is_allowed_path(path)]
        for path in [*stored_positions, *changing]:
            self._store([path])
        self._forget_deleted(checkpoints)
        self._store_events()

        snapshot = Snapshot(dict(self._files), self._stored_events, records)
        if snapshot != self._published:
            self._link.storage.write_json(f"{self._link.attempt}/state.json", asdict(snapshot))
            self._published = snapshot

    def _read_records(self, *, is_over: bool) -> dict[str, dict[str, Any]]:
        """Returns the records by name: the progress, and once the process has ended its end mark. A pause that the
        server requested is not reported back, since the job may have been resumed meanwhile."""
        records = {}
        for name in RECORDS:
            is_requested_pause = name == PAUSE_MARK and self._is_paused
            if name != "progress.json" and (not is_over or is_requested_pause):
                continue
            content = read_json(self._folder / name)
            if content is not None:
                records[name] = content
        return records

    def _store_folder(self, folder: str) -> None:
        """Uploads the new files of a folder that is complete. Names that begin with a dot are being written."""
        names = sorted(path.name for path in (self._folder / folder).glob("[!.]*"))
        paths = [f"{folder}/{name}" for name in names]
        self._store([path for path in paths if path not in self._files])

    def _forget_deleted(self, checkpoints: Sequence[str]) -> None:
        """Forgets the checkpoints that the training has deleted. `checkpoints` are the folders of the others."""
        for path in list(self._files):
            folder = path.rpartition("/")[0]
            if is_in_folder(path) and folder not in checkpoints and folder != "adapter":
                del self._files[path]
                del self._uploads[path]

    def _store(self, paths: Sequence[str]) -> None:
        """Uploads files that count all together or not at all, if the storage fails or the training deletes one
        meanwhile."""
        try:
            for path in paths:
                stamp = _stamp(self._folder / path)
                uploaded = self._uploads.get(path)
                if uploaded is None or uploaded[0] != stamp:
                    changed_at, _ = stamp
                    self._uploads[path] = stamp, self._upload(path, changed_at)
        except FileNotFoundError:
            return
        for path in paths:
            _, self._files[path] = self._uploads[path]

    def _upload(self, path: str, version: int) -> StoredFile:
        name = f"{self._link.attempt}/files/{path}"
        source = self._folder / path
        if source.name == "adapter_config.json":
            config: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
            config["base_model_name_or_path"] = self._base
            content = json.dumps(config, indent=2).encode()
            self._link.storage.write(name, content)
            size = len(content)
        else:
            size = self._link.storage.upload(name, source)
        in_job = name.removeprefix(f"{self._link.job}/")
        return StoredFile(in_job, size, version)

    def _store_events(self) -> None:
        """Uploads events in pieces, so that a long log is not uploaded again for each new line."""
        events = read_events(self._folder)
        # The last piece in the storage may be incomplete, so it is the first one to write.
        number = self._stored_events // EVENTS_PER_PIECE
        while self._stored_events < len(events):
            start = number * EVENTS_PER_PIECE
            piece = events[start : start + EVENTS_PER_PIECE]
            name = f"{self._link.attempt}/events/{number:06d}.json"
            self._link.storage.write(name, orjson.dumps(piece))
            self._stored_events = start + len(piece)
            number += 1


def _stamp(path: Path) -> tuple[int, int]:
    """Returns the modification time in nanoseconds, and the size in bytes."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size
