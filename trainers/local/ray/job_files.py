"""The files of a job in the storage, and which attempt may write them.

An attempt that was given up may still be running somewhere. So each attempt writes under its own name, and the server
reads only the files of the newest one:

STORAGE/bases/FINGERPRINT/         a base model from the trainer's disk; base.json is written last
STORAGE/JOB/inputs/                the job and its rows, written by the server
STORAGE/JOB/control.json           {"attempt": KEY, "wanted": "run", "pause" or "end"}, written by the server
STORAGE/JOB/attempts/KEY/start.json   the files with which the attempt begins, and its base; written by the server
STORAGE/JOB/attempts/KEY/files/       the attempt's files, including checkpoints and adapter
STORAGE/JOB/attempts/KEY/events/      its events, 500 per piece
STORAGE/JOB/attempts/KEY/state.json   Snapshot: the list of its valid files, written after them

When a job has ended, its folder is deleted. Attempts that are still running then find no control.json and end.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from trainers.local.job_directory import KEPT_ROWS, read_json, replace_json

ATTEMPT_FILE = "ray.json"
STORED_MARK = "IN_STORAGE"  # a mark in the job's folder while the job has files in the storage
EVENTS_PER_PIECE = 500
RECORD_LOCK = threading.Lock()  # held while an attempt's record is read and rewritten
Kinds = tuple[type, ...]
NUMBER: Kinds = (int, type(None))
PROGRESS: Mapping[str, Kinds] = {
    "step": (int,),
    "total_steps": NUMBER,
    "trained_tokens": NUMBER,
    "estimated_finish": NUMBER,
    "stopped": (str, type(None)),
    "result_step": NUMBER,
    "winner": NUMBER,
}
# The small files whose content is part of a snapshot, in the order in which the server writes them: end marks last.
RECORDS: Mapping[str, Mapping[str, Kinds]] = {
    "progress.json": PROGRESS,
    "PAUSED": {},
    "FAILED": {"code": (str,), "message": (str,), "param": (str, type(None))},
    "DONE": {**PROGRESS, "step": NUMBER, "trained_tokens": (int,)},
}

INPUT_FILES = frozenset({"job.json", "train.jsonl", "valid.jsonl"})  # files of the server that a run needs
# Files that only the server writes.
SERVER_FILES = INPUT_FILES | {
    *("lock", "pid", "gpu", ATTEMPT_FILE, STORED_MARK, "request.json", "events.jsonl", "train.log"),
    *("CHECKED", "CANCELLED", "MODEL_DELETED", "rented.json"),
}
FILE_NAME = r"[A-Za-z0-9_][\w.-]{0,200}"
# Folders that are complete once they have their name.
FOLDER = re.compile(rf"adapter|({FILE_NAME}/){{0,3}}checkpoints/step-\d{{6,9}}", re.ASCII)
FILE = re.compile(rf"({FILE_NAME}/){{0,5}}{FILE_NAME}", re.ASCII)
OBJECT = re.compile(rf"(inputs|attempts/[\w-]{{1,40}}/files)/({FILE_NAME}/){{0,5}}{FILE_NAME}", re.ASCII)
# anything else in a checkpoints folder
STRAY = re.compile(r"(.*/)?checkpoints(/(?!step-\d{6,9}/).*)?", re.ASCII)
# the only file of a complete checkpoint that may change: a validation is added to it
POSITION = "checkpoint.json"
STATE = "state.pt"  # optimizer and generators: two thirds of a checkpoint, needed only by the next attempt


@dataclass(frozen=True)
class AttemptRecord:
    """`key` names the attempt's folder in the storage, and `after` that of the attempt from whose files it continues.
    An attempt is open until it has ended or was given up."""

    submission: str
    attempt: int
    key: str
    is_open: bool = True
    is_submitted: bool = False
    after: str = ""


def read_attempt(folder: Path) -> AttemptRecord | None:
    raw = read_json(folder / ATTEMPT_FILE)
    if raw is None:
        return None
    if "token" in raw:  # written by version 0.1.0
        return AttemptRecord(
            submission=raw["submission"],
            attempt=raw["attempt"],
            key=str(raw["attempt"]),
            is_open=bool(raw["token"]),
            is_submitted=raw["is_submitted"],
        )
    return AttemptRecord(**raw)


def open_attempt(folder: Path) -> AttemptRecord:
    """Begins the job's next attempt. From now on the server ignores all others."""
    number = 1
    after = ""
    before = read_attempt(folder)
    if before is not None:
        number = before.attempt + 1
        after = before.after
        if before.is_submitted:
            after = before.key
    # The number alone is not unique: a job may be created again with the same id while old files still exist.
    key = f"{number}-{secrets.token_hex(4)}"
    record = AttemptRecord(f"{folder.name}-{number}", number, key, after=after)
    replace_json(folder / ATTEMPT_FILE, asdict(record))
    return record


def mark_submitted(folder: Path, record: AttemptRecord) -> AttemptRecord:
    return _change(folder, record, is_submitted=True)


def close_attempt(folder: Path, record: AttemptRecord) -> None:
    _change(folder, record, is_open=False)


def _change(folder: Path, record: AttemptRecord, **changes: Any) -> AttemptRecord:
    """Changes the record on disk, including other threads' changes, unless it belongs to a later attempt."""
    with RECORD_LOCK:
        now = read_attempt(folder)
        if now is None or now.attempt != record.attempt:
            return record
        changed = replace(now, **changes)
        replace_json(folder / ATTEMPT_FILE, asdict(changed))
        return changed


def has_open_attempts(jobs: Path) -> bool:
    for path in jobs.glob(f"ftjob-*/{ATTEMPT_FILE}"):
        record = read_attempt(path.parent)
        if record is not None and record.is_open:
            return True
    return False


@dataclass(frozen=True)
class StoredFile:
    """`object` is the file's name below the job's folder in the storage. `version` changes with its content."""

    object: str
    bytes: int
    version: int = 0


@dataclass(frozen=True)
class Snapshot:
    """A job's folder at an attempt: `files` by path, the number of `events`, and the content of small files, `records`
    by name. A checkpoint's files are listed all or not at all."""

    files: Mapping[str, StoredFile] = field(default_factory=dict)
    events: int = 0
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def folders(self) -> set[str]:
        return {_parent(path) for path in self.files if is_in_folder(path)}


def parse_snapshot(raw: Mapping[str, Any] | None) -> Snapshot | None:
    """Returns None if `raw` does not have the format of a snapshot, so that a job's status is never read from invalid
    data."""
    if raw is None:
        return None
    try:
        files = {path: StoredFile(**stored) for path, stored in raw["files"].items()}
        snapshot = Snapshot(files, raw["events"], raw["records"])
    except (KeyError, TypeError, AttributeError):
        return None
    if not isinstance(snapshot.events, int) or snapshot.events < 0:
        return None
    if not isinstance(snapshot.records, dict):
        return None
    for path, stored in files.items():
        if not _is_valid_file(path, stored):
            return None
    for name, record in snapshot.records.items():
        if not _is_valid_record(name, record):
            return None
    return snapshot


def _is_valid_file(path: str, stored: StoredFile) -> bool:
    if path not in INPUT_FILES and not is_allowed_path(path):
        return False
    if not isinstance(stored.object, str) or not OBJECT.fullmatch(stored.object):
        return False
    return isinstance(stored.bytes, int) and isinstance(stored.version, int)


def _is_valid_record(name: str, record: object) -> bool:
    if name not in RECORDS or not isinstance(record, dict):
        return False
    kinds_by_key = RECORDS[name]
    return all(isinstance(record.get(key), kinds) for key, kinds in kinds_by_key.items())


def needed_files(folder: Path) -> list[str]:
    """Returns the files here that a run needs to begin or to resume: the job, its rows, checkpoints and curves. Leaves
    out checkpoints whose optimizer state is only in the storage, since they are of no use without it."""
    needed = []
    for path in _files(folder):
        if path not in INPUT_FILES and not _is_written_by_a_run(path):
            continue
        state = (folder / path).with_name(STATE)
        if is_in_folder(path) and not state.exists():
            continue
        needed.append(path)
    return needed


def changing_files(folder: Path) -> list[str]:
    """Returns the files that a run writes, except events, records and the files of complete folders."""
    return [path for path in _files(folder) if _is_written_by_a_run(path) and not is_in_folder(path)]


def complete_folders(folder: Path) -> list[str]:
    """Returns the folders of checkpoints, including those of a sweep's trials."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("checkpoints/step-*"))
    return sorted(path for path in paths if FOLDER.fullmatch(path))


def is_allowed_path(path: str) -> bool:
    """True if a snapshot may contain this path. Not allowed are paths that the server would take for something else: a
    folder named like a mark, or a file named like a checkpoint."""
    first, _, _ = path.partition("/")
    if first in SERVER_FILES or first in RECORDS:
        return False
    if FOLDER.fullmatch(path) or STRAY.fullmatch(path):
        return False
    return FILE.fullmatch(path) is not None


def is_in_folder(path: str) -> bool:
    return FOLDER.fullmatch(_parent(path)) is not None


def _parent(path: str) -> str:
    parent, _, _ = path.rpartition("/")
    return parent


def _files(folder: Path) -> list[str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path.relative_to(folder).as_posix() for path in files]


def _is_written_by_a_run(path: str) -> bool:
    parts = path.split("/")
    if any(part.startswith(".") or part.endswith(".tmp") for part in parts):  # not yet complete
        return False
    if path in SERVER_FILES or path in RECORDS:
        return False
    # Tokenized rows are made again, and the adapter counts only with DONE.
    return parts[0] not in (KEPT_ROWS, "adapter")
