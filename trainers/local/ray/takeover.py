"""The trainer's side of the storage: uploads an attempt's input files before it is submitted, downloads its output to
the job's folder, and deletes the files of ended jobs."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import orjson

from trainers.local.base_files import base_fingerprint
from trainers.local.job_directory import read_events, read_job, read_json, replace_json
from trainers.local.jobs.records import has_ended
from trainers.local.ray.job_files import (
    EVENTS_PER_PIECE,
    POSITION,
    RECORDS,
    STATE,
    STORED_MARK,
    AttemptRecord,
    Snapshot,
    StoredFile,
    complete_folders,
    is_in_folder,
    needed_files,
    parse_snapshot,
)
from trainers.local.ray.storage import Stopped, Storage, StorageAway

# The files of a base that are uploaded, the same kinds as from the hub: no code, no pickles.
BASE_FILE_ENDINGS = (".json", ".safetensors", ".jinja", ".model", ".txt")
PROGRESS = "progress.json"
EVENT_FIELDS = {"created_at": int, "level": str, "type": str, "message": str, "data": dict}
CLEAN_S = 60.0
STOP_S = 2.0

log = logging.getLogger(__name__)
bases_lock = threading.Lock()


class Takeover:
    """The files of one attempt. `is_wanted` returns False once the attempt no longer counts; it is also called during
    long transfers. `turn` is held while `is_wanted` is checked and a record is written, so that a caller who makes it
    return False while holding `turn` can be sure that no end mark is written afterwards.
    """

    def __init__(
        self,
        storage: Storage,
        folder: Path,
        record: AttemptRecord,
        is_wanted: Callable[[], bool],
        turn: threading.Lock,
    ) -> None:
        self._storage = storage
        self._folder = folder
        self._record = record
        self._is_wanted = is_wanted
        self._turn = turn
        self._job = folder.name
        self._attempt = f"{self._job}/attempts/{record.key}"
        self._control = ""
        self._taken = Snapshot()
        self._events: int | None = None  # this attempt's events in events.jsonl; None until counted

    def upload_inputs(self) -> None:
        """Uploads the attempt's input files: those of the attempt before, or those in the job's folder. Does nothing if
        that was done before. Raises StorageAway or Stopped."""
        if self._storage.read(f"{self._attempt}/start.json") is not None:
            return
        replace_json(self._folder / STORED_MARK, {})
        snapshot = self._files_of_attempt_before() or self._upload_folder()
        job = read_job(self._folder)
        base = self._provide_base(Path(job.base))

        # Each attempt counts its own events, and end marks and the adapter are those of the attempt that wrote them.
        files = {path: stored for path, stored in snapshot.files.items() if not path.startswith("adapter/")}
        records = {name: record for name, record in snapshot.records.items() if name == PROGRESS}
        begin = asdict(Snapshot(files, 0, records))
        self._storage.write_json(f"{self._attempt}/start.json", {"snapshot": begin, "base": base})

    def _files_of_attempt_before(self) -> Snapshot | None:
        """Returns the last files of the attempt from which this one continues, which are in the storage already, or
        None if there is none."""
        if not self._record.after:
            return None
        before = f"{self._job}/attempts/{self._record.after}"
        state = self._storage.read_json(f"{before}/state.json")
        last = parse_snapshot(state)
        if last is not None:
            return last
        # It ended before it uploaded anything, so it leaves the files with which it began.
        start = self._storage.read_json(f"{before}/start.json") or {}
        return parse_snapshot(start.get("snapshot"))

    def _upload_folder(self) -> Snapshot:
        """Uploads what a run needs from the job's folder here."""
        files = {}
        for path in needed_files(self._folder):
            source = self._folder / path
            size = self._storage.upload(f"{self._job}/inputs/{path}", source, self._is_wanted)
            files[path] = StoredFile(f"inputs/{path}", size)
        records = {}
        progress = read_json(self._folder / PROGRESS)
        if progress is not None:
            records[PROGRESS] = progress
        return Snapshot(files, 0, records)

    def _provide_base(self, base: Path) -> str | None:
        """Returns the fingerprint under which the base is stored, or None for a hub id, which the node downloads
        itself."""
        if not base.is_dir():
            return None
        fingerprint = base_fingerprint(base)
        name = f"bases/{fingerprint}"
        # One at a time, so that jobs that begin together upload their base only once.
        while not bases_lock.acquire(timeout=0.5):
            self._check_wanted()
        try:
            if self._storage.read(f"{name}/base.json") is None:
                self._upload_base(base, name)
        finally:
            bases_lock.release()
        return fingerprint

    def _upload_base(self, base: Path, name: str) -> None:
        sizes = {}
        for path in base.iterdir():
            if not path.is_file() or not path.name.endswith(BASE_FILE_ENDINGS):
                continue
            sizes[path.name] = self._storage.upload(f"{name}/{path.name}", path, self._is_wanted)
        # Written last, since it says that the base is complete.
        self._storage.write_json(f"{name}/base.json", {"files": sizes})

    def control(self, wanted: str) -> None:
        """Asks the attempt to "run", "pause" or "end". Raises StorageAway."""
        if wanted != self._control:
            value = {"attempt": self._record.key, "wanted": wanted}
            self._storage.write_json(f"{self._job}/control.json", value)
            self._control = wanted

    def download_new_files(self) -> None:
        """Downloads new files, with the end mark last. Raises StorageAway or Stopped; the next call continues an
        interrupted one, even after a restart."""
        state = self._storage.read_json(f"{self._attempt}/state.json")
        snapshot = parse_snapshot(state)
        if snapshot is None or snapshot == self._taken:
            return
        self._download_files(snapshot)
        for folder in sorted(snapshot.folders):
            is_whole = folder != "adapter" or "DONE" in snapshot.records
            if is_whole:
                self._download_folder(folder, snapshot)
        for folder in complete_folders(self._folder):
            if folder not in snapshot.folders:
                shutil.rmtree(self._folder / folder)
        self._append_events(snapshot.events)
        self._write_records(snapshot)
        self._delete_old_objects(snapshot)
        self._taken = snapshot

    def _download_files(self, snapshot: Snapshot) -> None:
        """Downloads files that count one by one, such as the metrics."""
        for path, stored in snapshot.files.items():
            is_input = stored.object.startswith("inputs/")  # the server's own
            is_new = self._taken.files.get(path) != stored
            if is_new and not is_input and not is_in_folder(path):
                # Without a size, since the file may have been rewritten after the snapshot; the newer one is fine.
                self._download(stored, self._folder / path, None)

    def _write_records(self, snapshot: Snapshot) -> None:
        for name in RECORDS:
            record = snapshot.records.get(name)
            if record is None or record == self._taken.records.get(name):
                continue
            with self._turn:
                self._check_wanted()
                replace_json(self._folder / name, record)

    def _delete_old_objects(self, snapshot: Snapshot) -> None:
        """Deletes checkpoints in the storage that the training has deleted too."""
        objects = {stored.object for stored in snapshot.files.values()}
        for path, stored in self._taken.files.items():
            if is_in_folder(path) and stored.object not in objects:
                self._storage.delete(f"{self._job}/{stored.object}")

    def _download_folder(self, folder: str, snapshot: Snapshot) -> None:
        """Downloads a checkpoint or the adapter atomically. The optimizer's state stays in the storage."""
        files = {}
        for path, stored in snapshot.files.items():
            parent, _, name = path.rpartition("/")
            if parent == folder and name != STATE:
                files[name] = stored

        target = self._folder / folder
        # An adapter on the disk may be that of an attempt before, which this one replaces.
        is_of_attempt = folder != "adapter" or folder in self._taken.folders
        if target.is_dir() and is_of_attempt:
            position = files.get(POSITION)
            earlier = self._taken.files.get(f"{folder}/{POSITION}")
            if position is not None and position != earlier:
                self._download(position, target / POSITION, None)
            return
        hidden = target.with_name(f".{target.name}")
        shutil.rmtree(hidden, ignore_errors=True)
        for name, stored in files.items():
            self._download(stored, hidden / name, stored.bytes)
        shutil.rmtree(target, ignore_errors=True)
        hidden.rename(target)

    def _append_events(self, count: int) -> None:
        """Appends each event once, even after a restart, since each line has the number of its attempt."""
        number = self._record.attempt
        if self._events is None:
            numbers = [event.get("attempt") for event in read_events(self._folder)]
            self._events = numbers.count(number)
        while self._events < count:
            piece, first = divmod(self._events, EVENTS_PER_PIECE)
            content = self._storage.read(f"{self._attempt}/events/{piece:06d}.json")
            # The piece may have grown since the snapshot. Its later events refer to files that are not here yet.
            end = count - piece * EVENTS_PER_PIECE
            fresh = _parse_events(content)[first:end]
            if not fresh:
                text = f"the events {self._events} to {count} of {self._attempt} are missing"
                raise StorageAway(text)
            lines = [orjson.dumps({**event, "attempt": number}) for event in fresh]
            with (self._folder / "events.jsonl").open("ab") as file:
                file.write(b"\n".join(lines) + b"\n")
            self._events += len(fresh)

    def _download(self, stored: StoredFile, target: Path, size: int | None) -> None:
        self._check_wanted()
        self._storage.download(f"{self._job}/{stored.object}", target, size)

    def _check_wanted(self) -> None:
        if not self._is_wanted():
            raise Stopped(self._attempt)


def _parse_events(content: bytes | None) -> list[dict[str, object]]:
    """Raises StorageAway if `content` doesn't have the format of a job's events."""

    def is_event(raw: object) -> bool:
        if not isinstance(raw, dict) or raw.keys() != EVENT_FIELDS.keys():
            return False
        return all(isinstance(raw[name], kind) for name, kind in EVENT_FIELDS.items())

    if content is None:
        return []
    try:
        events = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise StorageAway(f"a piece of the events is not JSON: {error}") from error
    if not isinstance(events, list) or not all(is_event(event) for event in events):
        raise StorageAway("a piece of the events has the wrong format")
    return events


class Cleaner:
    """Deletes the files of ended jobs in the storage, every minute. If the storage doesn't answer, it tries again
    later."""

    def __init__(self, storage: Storage, jobs: Path) -> None:
        self._storage = storage
        self._jobs = jobs
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="storage cleaner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(STOP_S)  # what it doesn't delete now, the next start does

    def clean(self, folder: Path) -> None:
        """Deletes a job's files in the storage. Raises StorageAway."""
        if (folder / STORED_MARK).exists():
            self._storage.delete_folder(folder.name)
            (folder / STORED_MARK).unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._stopping.wait(CLEAN_S):
            for mark in self._jobs.glob(f"ftjob-*/{STORED_MARK}"):
                try:
                    if has_ended(mark.parent) and not self._stopping.is_set():
                        self.clean(mark.parent)
                except (StorageAway, OSError) as error:
                    log.warning("clearing %s from the storage: %s", mark.parent.name, error)
