"""Opens the database: one connection a thread, safe pragmas, migrations, one process at a time; and the few
statements that all tables need.

sqlite-utils' `atomic()` begins a deferred transaction, in which read-then-write fails under
concurrency (60 of 64 times when measured); `immediate()` here takes the write lock first.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from storage.driver import SqliteUtils, sqlite3
from storage.migrations import NEWEST, migrations

BUSY_TIMEOUT_MS = 30_000
LOCK_WAIT_S = 1.0  # a killed bot's child that was just being started has its descriptors for a moment longer
LEAST_FREED_BYTES = 8_000_000

Row = TypeVar("Row")


class StorageError(Exception):
    """The database cannot be used as it is. The message can be shown to a user."""


class DatabaseInUse(StorageError):
    """Another process has this database open."""


class Database:
    """`path` is the database file; its folder is made if missing. Hold it open for the process's life."""

    def __init__(self, path: Path) -> None:
        os.umask(0o077)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = acquire_lock(path)
        self._local = threading.local()
        self._is_closed = False
        try:
            check_schema_version(self.utils, path)
            migrations.apply(self.utils)
        except StorageError:
            os.close(self._lock)
            raise
        except sqlite3.OperationalError as error:  # the file itself may be whole
            os.close(self._lock)
            raise StorageError(
                f"{path} can't be opened: {error}. Is there space on its disk, and may this user write there?"
            ) from error
        except sqlite3.DatabaseError as error:
            os.close(self._lock)
            raise StorageError(
                f"{path} is damaged: {error}. `finetune restore BACKUP` puts a backup in its place and keeps this one."
            ) from error

    @property
    def utils(self) -> SqliteUtils:
        """This thread's own connection."""
        if self._is_closed:
            # A thread that was left behind must not write into what another process has opened.
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
        """Returns what a SELECT finds, or what an INSERT or UPDATE with RETURNING wrote."""
        cursor = self.utils.conn.execute(sql, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def row(self, sql: str, parameters: Sequence[Any] = ()) -> dict[str, Any] | None:
        rows = self.rows(sql, parameters)
        return rows[0] if rows else None

    def all(self, kind: Callable[..., Row], sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Returns each row as a value of `kind`, whose fields are the columns."""
        return [kind(**row) for row in self.rows(sql, parameters)]

    def first(self, kind: Callable[..., Row], sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """Returns the first row as a value of `kind`, None where there is no row."""
        row = self.row(sql, parameters)
        return kind(**row) if row else None

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Returns the first column of the first row, None where there is no row."""
        result = self.utils.conn.execute(sql, parameters).fetchone()
        return result[0] if result else None

    def change(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> int:
        """Executes the statement and returns how many rows it changed."""
        return int(self.utils.conn.execute(sql, parameters).rowcount)

    def insert(self, table: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the new row. Raises sqlite3.IntegrityError where a constraint forbids it."""
        (row,) = self.rows(f"{_insert_sql(table, values)} RETURNING *", tuple(values.values()))
        return row

    def insert_once(
        self, table: str, values: Mapping[str, Any], unique: str | None = None
    ) -> dict[str, Any] | None:
        """Returns the new row, or None if the table has one already with the same value in the column `unique`; None:
        in the columns of any unique constraint."""
        conflict = "ON CONFLICT" if unique is None else f"ON CONFLICT ({unique})"
        sql = f"{_insert_sql(table, values)} {conflict} DO NOTHING RETURNING *"
        return self.row(sql, tuple(values.values()))

    def move(self, table: str, row_id: int, state: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
        """Changes a row that is still in `state`, in one guarded UPDATE. Returns None if another thread or process
        moved it meanwhile."""
        names = ", ".join(f"{name} = ?" for name in changes)
        return self.row(
            f"UPDATE {table} SET {names} WHERE id = ? AND state = ? RETURNING *",  # noqa: S608 - our names
            (*changes.values(), row_id, state),
        )

    def shrink(self) -> bool:
        """Gives free pages back to the disk if they are a quarter of the file and more than 8 MB."""
        pages, free, size = (
            int(self.value(f"PRAGMA {name}")) for name in ("page_count", "freelist_count", "page_size")
        )
        if free * size < LEAST_FREED_BYTES or free * 4 < pages:
            return False
        self.change("VACUUM")
        self.change("PRAGMA wal_checkpoint(TRUNCATE)")  # in WAL the file itself shrinks only then
        return True

    @property
    def changes(self) -> int:
        """How many rows this thread's connection has changed so far."""
        return int(self.utils.conn.total_changes)

    def close_connection(self) -> None:
        """Closes this thread's connection, which the thread's end does too."""
        if hasattr(self._local, "own"):
            del self._local.own

    def close(self) -> None:
        """Closes this thread's connection and lets another process open the database."""
        self.close_connection()
        self._is_closed = True
        os.close(self._lock)


class Table:
    """What is stored of one subject."""

    def __init__(self, database: Database) -> None:
        self._db = database


class _ThreadsOwn:
    """sqlite-utils' objects refer to each other in a circle: without this, a thread that ends leaves its files open
    until a garbage collection, hundreds of them where threads come and go."""

    def __init__(self, utils: SqliteUtils) -> None:
        self.utils = utils

    def __del__(self) -> None:
        self.utils.conn.close()


def check_schema_version(utils: SqliteUtils, path: Path) -> None:
    """Raises StorageError where a newer version has migrated this database: what it added there, we would not keep."""
    newest = max((step.name for step in migrations.applied(utils)), default="")
    if newest > NEWEST:
        raise StorageError(
            f"{path} was opened by a newer version of finetune (its schema is {newest}): start that version again, or "
            "restore a backup from before the upgrade."
        )


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """WAL could corrupt a database before 3.51.3; 3.50.7 and 3.44.6 are fixed (sqlite.org/wal.html)."""
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


def acquire_lock(path: Path) -> int:
    """Locks the database and returns the lock's descriptor. Raises DatabaseInUse where another process has it.

    The lock lies beside the file itself, since the same database may be reached by symbolic links. A hard link would
    have another lock and another journal, so a file with one is refused.
    """
    real = path.resolve()
    # A restore that was killed leaves a second name beside the file, under which it kept the database.
    replaced = real.parent.glob(f"{real.name}.replaced-*")
    if real.exists() and real.stat().st_nlink - sum(other.samefile(real) for other in replaced) > 1:
        raise StorageError(
            f"{path} has another name as well (a hard link), by which a second bot could open it unseen. Delete that "
            f"one, or make this a file of its own while no bot runs: `cp {path} {path}.own && mv {path}.own {path}`."
        )
    descriptor = os.open(real.with_name(real.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise DatabaseInUse(
                    f"Another `finetune run` already uses {path}. Stop that one first, "
                    f"or give this one its own folder with `data` in finetune.toml."
                ) from None
        time.sleep(0.05)


def _insert_sql(table: str, values: Mapping[str, Any]) -> str:
    return f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"  # noqa: S608 - our names
