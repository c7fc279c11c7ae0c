"""Puts a backup in the place of the database: checked, migrated and marked before, the replaced one kept beside it.

A job that was created after the backup was made exists at its trainer, and the backup knows nothing of it. So every run
that may have one counts as a create in doubt, from now on: it is looked for by its key, and a second create waits until
a lagging list must have shown the first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from storage.backups import STAMP, check_integrity, copy_files, sync
from storage.chain import Broken, Whole, verify
from storage.database import Database, StorageError, lock_or_refuse
from storage.driver import sqlite3
from storage.records import Measurement, Run
from storage.store import Store

MARKS = ("", "-wal", "-shm")


@dataclass(frozen=True)
class Restored:
    """`kept`: where the replaced database lies, None where there was none. `open`: runs that go on."""

    audit: Whole
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
        audit = _checked(backup)
        _, copied, spoilt = copy_files(backup.parent / "files", files)
        fresh = database.with_name(f"{database.name}.restoring")
        _clear(fresh)
        shutil.copyfile(backup, fresh)
        open_runs = _marked(fresh, backup, audit, now, in_doubt)
        sync(fresh)
        kept = _put_aside(database, now)
        fresh.replace(database)
        sync(database.parent)
        return Restored(audit, open_runs, kept, copied, spoilt)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            f"Restoring {backup} to {database}: {error}. The database is as it was."
        ) from error
    finally:
        os.close(lock)


def _checked(backup: Path) -> Whole:
    found = verify(backup)
    check_integrity(backup)
    if isinstance(found, Broken):
        where = f"entry {found.entry.id}" if found.entry else "the log"
        raise StorageError(
            f"The audit log in {backup} does not fit at {where}: {found.why} It is not restored; "
            f"`finetune audit verify --database {backup}` says more. Take an older backup."
        )
    return found


def _marked(fresh: Path, backup: Path, audit: Whole, now: float, in_doubt: InDoubt) -> tuple[Run, ...]:
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
        _end(store.database, fresh)


def _end(database: Database, fresh: Path) -> None:
    """Everything in the one file: it is moved without its log of writes."""
    database.utils.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    fresh.with_name(f"{fresh.name}.lock").unlink()


def _put_aside(database: Path, now: float) -> Path | None:
    """Linked first and taken away last, so that there is a database at every moment. Its log of writes goes with it:
    SQLite would write that into whatever takes its place."""
    if not database.exists():
        return None
    kept = database.with_name(f"{database.name}.replaced-{datetime.fromtimestamp(now, UTC).strftime(STAMP)}")
    _clear(kept)
    for mark in MARKS:
        part = database.with_name(database.name + mark)
        if part.exists():
            os.link(part, kept.with_name(kept.name + mark))
    for mark in MARKS[1:]:
        database.with_name(database.name + mark).unlink(missing_ok=True)
    sync(database.parent)
    return kept


def _clear(path: Path) -> None:
    for mark in MARKS:
        path.with_name(path.name + mark).unlink(missing_ok=True)
