"""Backs up the database and the files of datasets while they are in use, and restores them. After a restore
every job that may exist at a provider counts as an uncertain create.

A job that was created after a backup was made exists at its trainer, and the restored database knows nothing of it.
Every run that may have one counts as an uncertain create: it is looked for by its key, and a second create waits
until a lagging list must have shown the first.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from storage.audit import BrokenLog, IntactLog, open_read_only, verify_log
from storage.database import BUSY_TIMEOUT_MS, Database, StorageError, lock_or_refuse
from storage.driver import sqlite3
from storage.records import Measurement, Run
from storage.store import Store

DAY_S = 24 * 3600
AT_S = 3 * 3600  # of a day, UTC: when most teams sleep
BACKUP_NAME = re.compile(r"finetune-(\d{8}T\d{6}Z)\.db")
STAMP = "%Y%m%dT%H%M%SZ"
KEPT_FILE = re.compile(r"([0-9a-f]{64})(\.jsonl)?")
CHUNK = 1 << 20


@dataclass(frozen=True)
class Backup:
    """`audit` is what a check of the copy's log says. `copied` files of `files` were not there yet; `spoilt` are those
    whose content no longer fits their name, which are left out."""

    path: Path
    audit: IntactLog | BrokenLog
    files: int = 0
    copied: int = 0
    spoilt: tuple[str, ...] = ()


def back_up(database: Path, folder: Path, *, now: float, files: Path | None = None) -> Backup:
    """Write finetune-TIME.db into `folder`, and what is in `files` into its folder `files`. Raises StorageError."""
    open_read_only(database).close()  # says what is wrong with it
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
    return Backup(path, verify_log(path), *copied)


def is_due(folder: Path, now: float) -> bool:
    """Whether the newest backup there is from before the last 3 o'clock, UTC."""
    return is_night_over(max((_time_of(path) for path in folder.glob("finetune-*.db")), default=0.0), now)


def is_night_over(since: float, now: float) -> bool:
    """Whether it was 3 o'clock, UTC, after `since`."""
    return since < (now - AT_S) // DAY_S * DAY_S + AT_S


def keep_newest(folder: Path, count: int) -> None:
    """The newest `count` stay; what doesn't have a backup's name is left alone."""
    ours = sorted(
        (path for path in folder.glob("finetune-*.db") if BACKUP_NAME.fullmatch(path.name)), key=_time_of
    )
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
            reply = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        reply = str(error)
    if reply != "ok":
        raise StorageError(
            f"{path} is damaged: {reply}. Take an older backup: `finetune restore BACKUP` puts it in the place of the "
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
    named = BACKUP_NAME.fullmatch(path.name)
    return datetime.strptime(named[1], STAMP).replace(tzinfo=UTC).timestamp() if named else 0.0


DATABASE_SUFFIXES = ("", "-wal", "-shm")


@dataclass(frozen=True)
class Restored:
    """`kept`: where the replaced database lies, None where there was none. `open`: runs that go on."""

    audit: IntactLog
    open: tuple[Run, ...]
    kept: Path | None
    files: int
    spoilt: tuple[str, ...]


InDoubt = Callable[[Measurement, float], str | None]


def restore(
    backup: Path,
    database: Path,
    files: Path,
    *,
    now: float,
    in_doubt: InDoubt = lambda _measurement, _now: None,
) -> Restored:
    """`in_doubt` gives the progress of a measurement whose jobs may exist, None where it has none.

    Raises StorageError, and then nothing was changed: a bot runs, or the backup is damaged or altered.
    """
    os.umask(0o077)
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_or_refuse(database)
    try:
        audit = _check_backup(backup)
        _, copied, spoilt = copy_files(backup.parent / "files", files)
        fresh = database.with_name(f"{database.name}.restoring")
        _clear(fresh)
        shutil.copyfile(backup, fresh)
        open_runs = _mark_uncertain_jobs(fresh, backup, audit, now, in_doubt)
        sync(fresh)
        path = _put_aside(database, now)
        fresh.replace(database)
        sync(database.parent)
        return Restored(audit, open_runs, path, copied, spoilt)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            f"Restoring {backup} to {database}: {error}. The database is as it was."
        ) from error
    finally:
        os.close(lock)


def _check_backup(backup: Path) -> IntactLog:
    log = verify_log(backup)
    check_integrity(backup)
    if isinstance(log, BrokenLog):
        where = f"entry {log.entry.id}" if log.entry else "the log"
        raise StorageError(
            f"The audit log in {backup} does not fit at {where}: {log.why} It is not restored; "
            f"`finetune audit verify --database {backup}` says more. Take an older backup."
        )
    return log


def _mark_uncertain_jobs(
    fresh: Path, backup: Path, audit: IntactLog, now: float, in_doubt: InDoubt
) -> tuple[Run, ...]:
    """The copy, migrated, with the restore in its log and each create in doubt."""
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
            for measurement in store.measurements.open():
                progress = in_doubt(measurement, now)
                if progress is not None:
                    store.measurements.move(measurement, measurement.state, now=now, progress=progress)
        return tuple(store.runs.open())
    finally:
        _close_into_one_file(store.database, fresh)


def _close_into_one_file(database: Database, fresh: Path) -> None:
    """Everything in the one file: it is moved without its log of writes."""
    database.utils.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    fresh.with_name(f"{fresh.name}.lock").unlink()


def _put_aside(database: Path, now: float) -> Path | None:
    """Linked first and taken away last, so that there is a database at every moment. Its log of writes goes with it:
    SQLite would write that into whatever takes its place."""
    if not database.exists():
        return None
    path = database.with_name(f"{database.name}.replaced-{datetime.fromtimestamp(now, UTC).strftime(STAMP)}")
    _clear(path)
    for mark in DATABASE_SUFFIXES:
        part = database.with_name(database.name + mark)
        if part.exists():
            os.link(part, path.with_name(path.name + mark))
    for mark in DATABASE_SUFFIXES[1:]:
        database.with_name(database.name + mark).unlink(missing_ok=True)
    sync(database.parent)
    return path


def _clear(path: Path) -> None:
    for mark in DATABASE_SUFFIXES:
        path.with_name(path.name + mark).unlink(missing_ok=True)
