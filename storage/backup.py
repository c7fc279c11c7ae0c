"""Backs up the database and the files of datasets while they are in use, and restores them.

A job that was created after the backup exists at its trainer, but the restored database doesn't know it. So after a
restore every run that may have such a job counts as an uncertain create: the job is looked for by its key, and a second
create waits until even a lagging list would have shown the first.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from storage.audit import BrokenLog, IntactLog, open_read_only, verify_log
from storage.database import (
    BUSY_TIMEOUT_MS,
    StorageError,
    acquire_lock,
    check_schema_version,
    never,
    stopped_by,
    sync,
)
from storage.driver import SqliteUtils, sqlite3
from storage.records import Run
from storage.store import Store

DAY_S = 24 * 3600
NIGHTLY_AT_S = 3 * 3600  # seconds into the day, UTC: when most teams sleep
REPLACED = ".replaced-"
BACKUP_NAME = re.compile(r"finetune-(\d{8}T\d{6}Z)\.db")
STAMP = "%Y%m%dT%H%M%SZ"
KEPT_FILE = re.compile(r"([0-9a-f]{64})(\.jsonl)?")
CHUNK = 1 << 20
DATABASE_SUFFIXES = ("", "-wal", "-shm")


@dataclass(frozen=True)
class Backup:
    """A finished backup. `audit` is the verification of its log. Of `files` dataset files, `copied` were new; those
    named in `corrupt` were left out because their content doesn't have the hash in their name."""

    path: Path
    audit: IntactLog | BrokenLog
    files: int = 0
    copied: int = 0
    corrupt: tuple[str, ...] = ()


@dataclass(frozen=True)
class RestoreResult:
    """A finished restore. `open` are the runs that continue, `replaced` is the path of the replaced database (None if
    there was none), `files` the number of copied files, and `corrupt` is that of a Backup."""

    audit: IntactLog
    open: tuple[Run, ...]
    replaced: Path | None
    files: int
    corrupt: tuple[str, ...]


def back_up(
    database: Path,
    folder: Path,
    *,
    now: float,
    files: Path | None = None,
    is_stopping: Callable[[], bool] = never,
) -> Backup:
    """Writes finetune-TIME.db into `folder`, and the files in the folder `files` into its subfolder `files`. Raises
    StorageError; Stopped once the process `is_stopping`."""
    open_read_only(database).close()  # raises if it is not our database
    path = folder / f"finetune-{_timestamp(now)}.db"
    # A name that no search for backups finds, until the copy is complete and checked.
    partial = folder / f".{path.name}.partial"
    os.umask(0o077)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        try:
            _copy_database(database, partial, is_stopping)
        except sqlite3.Error as error:
            raise StorageError(f"Copying {database} to {folder}: {error}.") from error
        check_integrity(partial, is_stopping)
        # Before it gets a backup's name, so that nobody ever restores a damaged copy.
        audit = verify_log(partial, is_stopping=is_stopping)
        sync(partial)
        partial.replace(path)
        sync(folder)
        # The files come after the database, which names only files that existed when it was copied.
        copied: tuple[int, int, tuple[str, ...]] = (0, 0, ())
        if files:
            copied = copy_files(files, folder / "files")
    except OSError as error:
        raise StorageError(
            f"Writing a backup to {folder}: {error.strerror}. Is there space, and may this user write there?"
        ) from error
    finally:
        if folder.is_dir():
            partial.unlink(missing_ok=True)
    return Backup(path, audit, *copied)


def _copy_database(database: Path, to: Path, is_stopping: Callable[[], bool] = never) -> None:
    with (
        closing(sqlite3.connect(str(database), timeout=BUSY_TIMEOUT_MS / 1000)) as connection,
        stopped_by(is_stopping, connection),
    ):
        # A copy of the file would lack what is in the WAL, and could have half of a write.
        connection.execute("VACUUM INTO ?", (str(to),))


@contextmanager
def open_copy(database: Path) -> Iterator[Store]:
    """Opens a store on a temporary copy, to read it while a bot has the database open. Raises StorageError."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(back_up(database, Path(folder), now=time.time()).path)
        try:
            yield store
        finally:
            store.close()


def is_due(folder: Path, now: float) -> bool:
    """Returns True if the newest backup was made before the latest 3:00 UTC."""
    return is_night_over(max((_time_of(path) for path in folder.glob("finetune-*.db")), default=0.0), now)


def is_night_over(since: float, now: float) -> bool:
    """Returns True if it has been 3:00 UTC since `since`."""
    return since < (now - NIGHTLY_AT_S) // DAY_S * DAY_S + NIGHTLY_AT_S


def has_replaced(database: Path) -> bool:
    """Returns True if a database that a restore replaced is still beside this one."""
    return any(database.parent.glob(f"{database.name}{REPLACED}*"))


def delete_old_backups(folder: Path, count: int) -> None:
    """Deletes all backups except the newest `count`. Files with other names stay."""
    backups = [path for path in folder.glob("finetune-*.db") if BACKUP_NAME.fullmatch(path.name)]
    for path in sorted(backups, key=_time_of, reverse=True)[count:]:
        path.unlink()


def copy_files(source: Path, target: Path) -> tuple[int, int, tuple[str, ...]]:
    """Copies the files that `target` lacks. Returns the number of files in `source`, the number copied, and the names
    of those not copied because their content doesn't have the hash in their name."""
    names = sorted(path.name for path in source.glob("*") if KEPT_FILE.fullmatch(path.name))
    # A name is the hash of the content, so a copy that exists needs no second look.
    missing = [name for name in names if not (target / name).exists()]
    if not missing:
        return len(names), 0, ()
    target.mkdir(parents=True, exist_ok=True)
    corrupt = tuple(name for name in missing if not _copy(source / name, target / name))
    sync(target)
    return len(names), len(missing) - len(corrupt), corrupt


def check_integrity(path: Path, is_stopping: Callable[[], bool] = never) -> None:
    """Raises StorageError if SQLite finds the file damaged, Stopped once the process `is_stopping`."""
    try:
        with (
            closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection,
            stopped_by(is_stopping, connection),
        ):
            reply = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:  # a lock or a missing permission: the file may be undamaged
        raise StorageError(
            f"{path} could not be checked: {error}. May this user write to its folder?"
        ) from error
    except sqlite3.DatabaseError as error:
        reply = str(error)
    if reply != "ok":
        raise StorageError(
            f"{path} is damaged: {reply}. Use an older backup: `finetune restore BACKUP` replaces the database with "
            "it, and keeps the replaced one."
        )


def _copy(source: Path, target: Path) -> bool:
    """Copies a file. Returns False, and leaves no copy, if its content doesn't have the hash in its name."""
    partial = target.with_name(f".{target.name}.partial")
    digest = hashlib.sha256()
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
    match = BACKUP_NAME.fullmatch(path.name)
    if match is None:
        return 0.0
    return datetime.strptime(match[1], STAMP).replace(tzinfo=UTC).timestamp()


def _timestamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime(STAMP)


def restore(
    backup: Path,
    database: Path,
    files: Path,
    *,
    now: float,
) -> RestoreResult:
    """Replaces the database with a backup.

    Raises StorageError, without having changed anything, if a bot is running or the backup is damaged or altered.
    """
    os.umask(0o077)
    replaced = database.with_name(f"{database.name}{REPLACED}{_timestamp(now)}")
    audit = _verify_backup(backup)
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = acquire_lock(database)
    try:
        # Before the database that names them; a restore that fails later has only added files.
        _, copied, corrupt = copy_files(backup.parent / "files", files)
        fresh = database.with_name(f"{database.name}.restoring")
        # A restore that was killed may have left it.
        _delete_database(fresh)
        # Copied by SQLite, not as a file: a database that an earlier restore replaced may have writes in its WAL.
        _copy_database(backup, fresh)
        open_runs = _mark_uncertain_jobs(fresh, backup, audit, now)
        sync(fresh)
        _set_aside(database, replaced)
        fresh.replace(database)
        sync(database.parent)
        return RestoreResult(audit, open_runs, replaced if replaced.exists() else None, copied, corrupt)
    except (OSError, sqlite3.Error) as error:
        state = "The database is as it was."
        if replaced.exists():
            state = f"The database was kept as {replaced}: `finetune restore {replaced}` puts it back."
        raise StorageError(f"Restoring {backup} to {database}: {error}. {state}") from error
    finally:
        os.close(lock)


def _verify_backup(backup: Path) -> IntactLog:
    """Returns the verification of the backup's log. Raises StorageError if the backup is damaged or altered."""
    try:
        audit = verify_log(backup)
        check_integrity(backup)
        with closing(open_read_only(backup)) as connection:
            check_schema_version(SqliteUtils(connection), backup)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"Reading the backup {backup}: {error}. The database is as it was.") from error
    if isinstance(audit, BrokenLog):
        where = f"entry {audit.entry.id}" if audit.entry else "the log"
        raise StorageError(
            f"The audit log in {backup} is broken at {where}: {audit.why} It was not restored. Use an older backup; "
            f"`finetune audit verify --database {backup}` has details."
        )
    return audit


def _mark_uncertain_jobs(fresh: Path, backup: Path, audit: IntactLog, now: float) -> tuple[Run, ...]:
    """Migrates the copy, records the restore in its audit log, and marks every create as uncertain. Returns the open
    runs."""
    store = Store(fresh)
    try:
        with store.transaction():
            detail = f"{backup.name}, head {audit.head}"
            store.audit.add(at=now, who="finetune", action="restore", subject="database", detail=detail)
            for run in store.runs.open():
                if run.state in ("approved", "creating"):
                    store.runs.move(run, "creating", now=now, state_since=now, next_at=now)
                store.audit.add(
                    at=now, who="finetune", action="restored", subject=f"run {run.id}", detail=run.state
                )
        return tuple(store.runs.open())
    finally:
        # Writes everything into the one file, since it is moved without its WAL.
        store.database.change("PRAGMA wal_checkpoint(TRUNCATE)")
        store.close()
        fresh.with_name(f"{fresh.name}.lock").unlink()


def _set_aside(database: Path, path: Path) -> None:
    """Gives the database and its WAL a second name, `path`, under which the database appears last.

    The file keeps its first name until the backup takes that over, so that a database exists at every moment. The WAL
    loses its first name, because SQLite would apply it to whatever file takes the database's place.
    """
    _delete_database(path)
    if not database.exists():
        return
    for suffix in reversed(DATABASE_SUFFIXES):
        part = database.with_name(database.name + suffix)
        if part.exists():
            os.link(part, path.with_name(path.name + suffix))
    for suffix in DATABASE_SUFFIXES[1:]:
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    sync(database.parent)


def _delete_database(path: Path) -> None:
    for suffix in DATABASE_SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
