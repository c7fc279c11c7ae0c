"""Backups: the database copied whole while it is in use, and the files of datasets, named by their sha256."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from storage.chain import Broken, Whole, reader, verify
from storage.database import BUSY_TIMEOUT_MS, StorageError
from storage.driver import sqlite3

DAY_S = 24 * 3600
AT_S = 3 * 3600  # of a day, UTC: when most teams sleep
NAME = re.compile(r"finetune-(\d{8}T\d{6}Z)\.db")
STAMP = "%Y%m%dT%H%M%SZ"
KEPT_FILE = re.compile(r"([0-9a-f]{64})(\.jsonl)?")
CHUNK = 1 << 20


@dataclass(frozen=True)
class Backup:
    """`audit` is what a check of the copy's log says. `copied` files of `files` were not there yet; `spoilt` are those
    whose content no longer fits their name, which are left out."""

    path: Path
    audit: Whole | Broken
    files: int = 0
    copied: int = 0
    spoilt: tuple[str, ...] = ()


def back_up(database: Path, folder: Path, *, now: float, files: Path | None = None) -> Backup:
    """Write finetune-TIME.db into `folder`, and what is in `files` into its folder `files`. Raises StorageError."""
    reader(database).close()  # says what is wrong with it
    path = folder / f"finetune-{datetime.fromtimestamp(now, UTC).strftime(STAMP)}.db"
    partial = folder / f".{path.name}.partial"
    os.umask(0o077)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        _vacuum_into(database, partial)
        check_integrity(partial)
        sync(partial)
        partial.replace(path)
        sync(folder)
        copied = copy_files(files, folder / "files") if files else (0, 0, ())
    except OSError as error:
        raise StorageError(
            f"Writing a backup to {folder}: {error.strerror}. Is there space, and may we write?"
        ) from error
    finally:
        if folder.is_dir():
            partial.unlink(missing_ok=True)
    return Backup(path, verify(path), *copied)


def is_due(folder: Path, now: float) -> bool:
    """Whether the newest backup there is from before the last 3 o'clock, UTC."""
    return is_night_over(max((_time_of(path) for path in folder.glob("finetune-*.db")), default=0.0), now)


def is_night_over(since: float, now: float) -> bool:
    """Whether it was 3 o'clock, UTC, after `since`."""
    return since < (now - AT_S) // DAY_S * DAY_S + AT_S


def forget_all_but(folder: Path, count: int) -> None:
    """The newest `count` stay; what doesn't have a backup's name is left alone."""
    ours = sorted((path for path in folder.glob("finetune-*.db") if NAME.fullmatch(path.name)), key=_time_of)
    for path in ours[: max(len(ours) - count, 0)]:
        path.unlink()


def copy_files(source: Path, target: Path) -> tuple[int, int, tuple[str, ...]]:
    """How many are in `source`, how many were missing in `target`, and the names that don't fit their content."""
    names = (
        sorted(path.name for path in source.iterdir() if KEPT_FILE.fullmatch(path.name))
        if source.is_dir()
        else []
    )
    missing = [name for name in names if not (target / name).exists()]
    if missing:
        target.mkdir(parents=True, exist_ok=True)
    spoilt = tuple(name for name in missing if not _copy(source / name, target / name))
    if missing:
        sync(target)
    return len(names), len(missing) - len(spoilt), spoilt


def check_integrity(path: Path) -> None:
    """Raises StorageError with what SQLite finds."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            said = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        said = str(error)
    if said != "ok":
        raise StorageError(
            f"{path} is damaged: {said}. Take an older backup: `finetune restore BACKUP` puts it in the place of the "
            "database, and keeps that."
        )


def sync(path: Path) -> None:
    """A file's content, or a folder's names, on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _vacuum_into(database: Path, target: Path) -> None:
    try:
        with closing(sqlite3.connect(str(database), timeout=BUSY_TIMEOUT_MS / 1000)) as connection:
            connection.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        raise StorageError(f"Copying {database} to {target.parent}: {error}.") from error


def _copy(source: Path, target: Path) -> bool:
    """Under another name until it is known to be whole."""
    partial, digest = target.with_name(f".{target.name}.partial"), hashlib.sha256()
    with source.open("rb") as reading, partial.open("wb") as writing:
        while chunk := reading.read(CHUNK):
            digest.update(chunk)
            writing.write(chunk)
        writing.flush()
        os.fsync(writing.fileno())
    if digest.hexdigest() != source.name[:64]:
        partial.unlink()
        return False
    partial.replace(target)
    return True


def _time_of(path: Path) -> float:
    named = NAME.fullmatch(path.name)
    return datetime.strptime(named[1], STAMP).replace(tzinfo=UTC).timestamp() if named else 0.0
