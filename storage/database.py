"""Opens the database with one connection per thread, safe pragmas and migrations, for one process at a time. Also has
the few statements that all tables need.

sqlite-utils' `atomic()` begins a deferred transaction, in which a read followed by a write fails under concurrency (60
of 64 times when measured). `immediate()` here takes the write lock first.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from storage.driver import SqliteUtils, sqlite3
from storage.migrations import NEWEST, migrations

BUSY_TIMEOUT_MS = 30_000
LOCK_WAIT_S = 1.0  # a killed bot's child process may hold the lock's file descriptor for a moment longer
STEPS_BETWEEN_LOOKS = 10_000  # of SQLite's virtual machine: about a millisecond
FREE_TO_MIGRATE = 2  # times the file's size

Row = TypeVar("Row")


class StorageError(Exception):
    """The database can't be used in its current state. The message can be shown to a user."""


class DatabaseInUse(StorageError):
    """Another process has this database open."""


class Stopped(StorageError):
    """Work was given up because the process stops. What it had not committed is lost, as by a kill."""


def never() -> bool:
    return False


class Database:
    """The open database. `path` is its file, whose folder is created if missing. Keep it open while the process
    runs."""

    def __init__(self, path: Path) -> None:
        # No other user of the machine may read customers' rows.
        os.umask(0o077)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = acquire_lock(path)
        self._local = threading.local()
        self._is_closed = False
        self._writing = threading.Lock()
        self._descriptor: int | None = None
        try:
            # Before anything is written: a newer version's database stays as it is.
            check_schema_version(self.utils, path)
            check_space_to_migrate(self.utils, path)
            if not _returns_pages(self.utils):
                # An open connection would keep to the old file, which is about to be replaced.
                self.close_connection()
                _rewrite(path)
            migrations.apply(self.utils)
        except StorageError:
            os.close(self._lock)
            raise
        except sqlite3.OperationalError as error:  # the file itself may be undamaged
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
            # A leftover thread must not write into a database that another process may have opened by now.
            raise Stopped(f"{self.path} was closed in this process.")
        if not hasattr(self._local, "connection"):
            self._local.connection = _ThreadConnection(_connect(self.path))
        connection: _ThreadConnection = self._local.connection
        return connection.utils

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """Runs the block in a write transaction, or as part of the one that this thread has open."""
        connection = self.utils.conn
        if connection.in_transaction:
            yield
            return
        with self._turn():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                connection.commit()  # inside the try: it may fail too, on a full disk or a deferred constraint
            # Also an interrupt: an open transaction would keep the write lock.
            except BaseException:
                connection.rollback()
                raise

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Lets this process's threads write one after the other. SQLite has no queue: it looks every 25 to 100 ms
        whether the lock is free, and an ack that has bad luck waits for half a second."""
        # Without a turn it goes on all the same, and gets SQLite's own error if that is busy too.
        has_turn = self._writing.acquire(timeout=BUSY_TIMEOUT_MS / 1000)
        try:
            yield
        finally:
            if has_turn:
                self._writing.release()

    def rows(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        """Returns the rows of a SELECT, or of an INSERT or UPDATE with RETURNING."""
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
        """Returns the first row as a value of `kind`, None if there is no row."""
        row = self.row(sql, parameters)
        return kind(**row) if row else None

    def value(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
        """Returns the first column of the first row, None if there is no row."""
        result = self.utils.conn.execute(sql, parameters).fetchone()
        return result[0] if result else None

    def change(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> int:
        """Executes the statement and returns how many rows it changed."""
        connection = self.utils.conn
        # This thread has its turn already, and would wait for itself.
        if connection.in_transaction:
            return int(connection.execute(sql, parameters).rowcount)
        with self._turn():
            return int(connection.execute(sql, parameters).rowcount)

    def insert(self, table: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the new row. Raises sqlite3.IntegrityError if a constraint forbids it."""
        (row,) = self.rows(f"{_insert_sql(table, values)} RETURNING *", tuple(values.values()))
        return row

    def insert_once(
        self, table: str, values: Mapping[str, Any], unique: str | None = None
    ) -> dict[str, Any] | None:
        """Returns the new row, or None if it conflicts with an existing one in the column `unique` (None: in any unique
        constraint)."""
        conflict = "ON CONFLICT" if unique is None else f"ON CONFLICT ({unique})"
        sql = f"{_insert_sql(table, values)} {conflict} DO NOTHING RETURNING *"
        return self.row(sql, tuple(values.values()))

    def move(self, table: str, row_id: int, state: str, changes: Mapping[str, Any]) -> dict[str, Any] | None:
        """Changes a row that is still in `state`, in one guarded UPDATE. Returns the changed row, or None if another
        thread has moved it in the meantime."""
        names = ", ".join(f"{name} = ?" for name in changes)
        return self.row(
            f"UPDATE {table} SET {names} WHERE id = ? AND state = ? RETURNING *",  # noqa: S608 - our names
            (*changes.values(), row_id, state),
        )

    def empty_log(self) -> bool:
        """Moves the write-ahead log into the database and empties it, since it still has the rows as they were.
        Returns False if somebody reads or writes: try again later."""
        # Without patience, as it would wait for a reader with the write lock in its hands.
        self.value("PRAGMA busy_timeout=0")
        try:
            return bool(self.value("PRAGMA wal_checkpoint(TRUNCATE)") == 0)
        finally:
            self.value(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")

    @property
    def descriptor(self) -> int:
        """The file, for what SQLite can't do. It stays open as long as this object: closing any descriptor of a file
        releases all locks that the process holds on it, also SQLite's."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDWR)
        return self._descriptor

    @property
    def changes(self) -> int:
        """The number of rows that this thread's connection has changed so far."""
        return int(self.utils.conn.total_changes)

    def close_connection(self) -> None:
        """Closes this thread's connection now instead of when the thread ends."""
        if hasattr(self._local, "connection"):
            del self._local.connection

    def close(self) -> None:
        """Closes this thread's connection and releases the lock, so that another process may open the database."""
        self.close_connection()
        self._is_closed = True
        if self._descriptor is not None:
            os.close(self._descriptor)
        # Last, since another process may open the database from here on.
        os.close(self._lock)


class Table:
    """Base class: the stored rows of one subject."""

    def __init__(self, database: Database) -> None:
        self._db = database


class _ThreadConnection:
    """Closes the connection when its thread ends.

    sqlite-utils' objects reference each other in a cycle, so without this an ended thread would keep its files open
    until a garbage collection: hundreds of them if threads come and go.
    """

    def __init__(self, utils: SqliteUtils) -> None:
        self.utils = utils

    def __del__(self) -> None:
        self.utils.conn.close()


@contextmanager
def stopped_by(is_stopping: Callable[[], bool], connection: Any) -> Iterator[None]:
    """Ends a long statement in the block once the process stops, and raises Stopped then."""
    connection.set_progress_handler(is_stopping, STEPS_BETWEEN_LOOKS)
    try:
        yield
    except sqlite3.OperationalError as error:
        if is_stopping() and "interrupted" in str(error):
            raise Stopped("The process stops.") from error
        raise
    finally:
        connection.set_progress_handler(None, 0)


def check_schema_version(utils: SqliteUtils, path: Path) -> None:
    """Raises StorageError if a newer version has migrated this database, since this one would not maintain what that
    added."""
    newest = max((step.name for step in migrations.applied(utils)), default="")
    if newest > NEWEST:
        raise StorageError(
            f"{path} was opened by a newer version of finetune (its schema is {newest}): start that version again, or "
            "restore a backup from before the upgrade."
        )


def check_space_to_migrate(utils: SqliteUtils, path: Path) -> None:
    """Raises StorageError if the disk would become full while the database is migrated or rewritten: the tables that
    change are copied, and the copies are in the WAL too."""
    has_to_change = migrations.pending(utils) or not _returns_pages(utils)
    # A new database has nothing to copy.
    if not migrations.applied(utils) or not has_to_change:
        return
    needed = FREE_TO_MIGRATE * path.stat().st_size
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise StorageError(
            f"{path} has to be migrated to this version, which needs {needed / 1e9:.1f} GB of free disk space while it "
            f"runs; {free / 1e9:.1f} GB are free. Nothing was changed. Free the rest, or move the folder `data` to a "
            "larger disk."
        )


def _returns_pages(utils: SqliteUtils) -> bool:
    """True if the file can return free pages a few at a time. Files that 0.1.0 made can't."""
    return bool(utils.conn.execute("PRAGMA auto_vacuum").fetchone()[0])


def _rewrite(path: Path) -> None:
    """Rewrites the file of an older version as one that can return free pages. Nobody else has it open. A VACUUM would
    do it in place, with the whole database in memory."""
    real = path.resolve()
    fresh = real.with_name(f"{real.name}.rewritten")
    # A kill may have left it, and VACUUM INTO refuses a file with content.
    fresh.unlink(missing_ok=True)
    with closing(sqlite3.connect(str(real))) as connection:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("VACUUM INTO ?", (str(fresh),))
        # The log must be empty, as SQLite would apply it to the new file.
        connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    # Before it gets the name: a loss of power could otherwise leave an empty database.
    sync(fresh)
    fresh.replace(real)
    sync(real.parent)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """WAL could corrupt a database before 3.51.3; 3.50.7 and 3.44.6 are fixed (sqlite.org/wal.html)."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def sqlite_version() -> tuple[int, ...]:
    return tuple(int(part) for part in sqlite3.sqlite_version.split("."))


def _connect(path: Path) -> SqliteUtils:
    # a connection may be closed by another thread than its own, after that has ended
    # isolation_level=None: Python's driver would otherwise begin transactions by itself.
    connection = sqlite3.connect(str(path), isolation_level=None, check_same_thread=False)
    if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
        # so that the file can return free pages a few at a time
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    journal = "WAL" if wal_is_safe(sqlite_version()) else "DELETE"
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        f"journal_mode={journal}",
        # An approval or a reservation that was confirmed must survive a loss of power.
        "synchronous=FULL",
        # SQLite checks references only on connections that ask for it.
        "foreign_keys=ON",
        "secure_delete=ON",  # deleted customers' words are overwritten, not only unlinked
    ):
        connection.execute(f"PRAGMA {pragma}")
    return SqliteUtils(connection)


def acquire_lock(path: Path) -> int:
    """Locks the database and returns the lock's file descriptor. Raises DatabaseInUse if another process has it locked.

    The lock file is beside the resolved file, since symbolic links may lead to the same database. A hard link would
    have a different lock and journal, so a file with one is refused.
    """
    real = path.resolve()
    # A killed restore leaves a second name beside the file, under which it kept the database.
    replaced = real.parent.glob(f"{real.name}.replaced-*")
    if real.exists() and real.stat().st_nlink - sum(other.samefile(real) for other in replaced) > 1:
        raise StorageError(
            f"{path} has a second name (a hard link), under which another bot could open it unnoticed. Delete that "
            f"name, or separate the two files while no bot runs: `cp {path} {path}.own && mv {path}.own {path}`."
        )
    descriptor = os.open(real.with_name(real.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            # The system releases it when the process ends, so that a kill leaves nothing locked.
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
