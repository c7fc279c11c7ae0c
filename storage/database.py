"""Opens the database: one connection a thread, safe pragmas, migrations, one process at a time.

sqlite-utils' `atomic()` begins a deferred transaction, in which read-then-write fails under
concurrency (60 of 64 times when measured); `immediate()` here takes the write lock first.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storage.driver import SqliteUtils, sqlite3
from storage.migrations import migrations

BUSY_TIMEOUT_MS = 30_000
LEAST_FREED = 8_000_000


class StorageError(Exception):
    """The memory cannot be used as it is. The message can be shown to a user."""


class DatabaseInUse(StorageError):
    """Another process has this database open."""


class Database:
    """`path` is the database file; its folder is made if missing. Hold it open for the process's life."""

    def __init__(self, path: Path) -> None:
        os.umask(0o077)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = lock_or_refuse(path)
        self._local = threading.local()
        self._is_closed = False
        try:
            migrations.apply(self.utils)
        except sqlite3.OperationalError:
            raise  # a full disk, a lock: the file itself may be whole
        except sqlite3.DatabaseError as error:
            os.close(self._lock)
            raise StorageError(
                f"{path} is damaged: {error}. `finetune restore BACKUP` puts a backup in its place and keeps this one."
            ) from error

    @property
    def utils(self) -> SqliteUtils:
        """This thread's own connection."""
        if (
            self._is_closed
        ):  # a thread that was left behind must not write into what another process has opened
            raise StorageError(f"{self.path} was closed here.")
        if not hasattr(self._local, "own"):
            self._local.own = _ThreadsOwn(_connect(self.path))
        own: _ThreadsOwn = self._local.own
        return own.utils

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """One write transaction; inside another one of the same thread it is part of that."""
        connection = self.utils.conn
        if connection.in_transaction:
            yield
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.commit()  # may fail too: a full disk, a deferred constraint
        except BaseException:
            connection.rollback()
            raise

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        return list(self.utils.query(sql, parameters)) if _reads(sql) else self._returned(sql, parameters)

    def row(self, sql: str, parameters: Sequence[Any] = ()) -> dict[str, Any] | None:
        entries = self.rows(sql, parameters)
        return entries[0] if entries else None

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first column of the first row; None where there is no row."""
        result = self.utils.conn.execute(sql, parameters).fetchone()
        return result[0] if result else None

    def change(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> int:
        """How many rows the statement changed."""
        return int(self.utils.conn.execute(sql, parameters).rowcount)

    def shrink(self) -> bool:
        """Give free pages back to the disk, where they are a quarter of the file and more than 8 MB."""
        pages, free, size = (
            int(self.value(f"PRAGMA {name}")) for name in ("page_count", "freelist_count", "page_size")
        )
        if free * size < LEAST_FREED or free * 4 < pages:
            return False
        self.change("VACUUM")
        self.change("PRAGMA wal_checkpoint(TRUNCATE)")  # in WAL the file itself shrinks only then
        return True

    @property
    def changes(self) -> int:
        """How many rows this thread's connection has changed so far."""
        return int(self.utils.conn.total_changes)

    def leave(self) -> None:
        """Close this thread's connection, which the thread's end does too."""
        if hasattr(self._local, "own"):
            del self._local.own

    def close(self) -> None:
        """Close this thread's connection and let another process open the database."""
        self.leave()
        self._is_closed = True
        os.close(self._lock)

    def _returned(self, sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        cursor = self.utils.conn.execute(sql, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


class _ThreadsOwn:
    """sqlite-utils' objects refer to each other in a circle: without this, a thread that ends leaves its files open
    until a garbage collection, hundreds of them where threads come and go."""

    def __init__(self, utils: SqliteUtils) -> None:
        self.utils = utils

    def __del__(self) -> None:
        self.utils.conn.close()


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """WAL could corrupt a database before 3.51.3; 3.50.7 and 3.44.6 are mended (sqlite.org/wal.html)."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def sqlite_version() -> tuple[int, ...]:
    return tuple(int(part) for part in sqlite3.sqlite_version.split("."))


def _connect(path: Path) -> SqliteUtils:
    # a thread's end may be noticed by another thread, which closes it then
    connection = sqlite3.connect(str(path), isolation_level=None, check_same_thread=False)
    journal = "WAL" if wal_is_safe(sqlite_version()) else "DELETE"
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        f"journal_mode={journal}",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",  # what customers said is overwritten, not only unlinked
    ):
        connection.execute(f"PRAGMA {pragma}")
    return SqliteUtils(connection)


def lock_or_refuse(path: Path) -> int:
    """By the file's true place: the same database may be reached by a link. A copy is another database. A hard link has
    another place of its own, with another lock and another journal, so it is refused."""
    real = path.resolve()
    if real.exists() and _names_elsewhere(real):
        raise StorageError(
            f"{path} has another name as well (a hard link), by which a second bot could open it unseen. Delete that "
            f"one, or make this a file of its own while no bot runs: `cp {path} {path}.own && mv {path}.own {path}`."
        )
    descriptor = os.open(real.with_name(real.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DatabaseInUse(
            f"Another `finetune run` already uses {path}. Stop that one first, "
            f"or give this one its own folder with `data` in finetune.toml."
        ) from None
    return descriptor


def _reads(sql: str) -> bool:
    return sql.lstrip()[:6].upper() == "SELECT"


def _names_elsewhere(real: Path) -> int:
    """A restore that was killed leaves the name beside it under which it kept the database."""
    value = sum(other.samefile(real) for other in real.parent.glob(f"{real.name}.replaced-*"))
    return real.stat().st_nlink - 1 - value
