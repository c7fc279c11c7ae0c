"""The append-only audit log, chained by hashes, and its read-only verification.

The verification can't detect entries cut off at the end, or a chain rewritten from some entry on: compare the log's
head with one noted elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.database import Stopped, StorageError, Table, never
from storage.driver import sqlite3
from storage.records import AuditEntry
from storage.schemas import FIRST_SCHEMA

GENESIS = "0" * 64
TRIGGERS = ("audit_is_append_only_update", "audit_is_append_only_delete")
ENTRY_TYPES = (int, float, str, str, str, str, str, str)  # of AuditEntry's fields, in their order


@dataclass(frozen=True)
class IntactLog:
    """The verification found no fault. `head` is the last entry's hash, `earlier` the entry whose hash the caller
    gave."""

    entries: int
    head: str
    earlier: AuditEntry | None = None


@dataclass(frozen=True)
class BrokenLog:
    """The verification found a fault in `entry` (None if it can't be read), after `before` intact entries."""

    before: int
    entry: AuditEntry | None
    why: str


def verify_log(
    path: Path, head: str | None = None, is_stopping: Callable[[], bool] = never
) -> IntactLog | BrokenLog:
    """Checks every entry's hash, and that the triggers against changes exist. With `head`, the last entry's hash at an
    earlier time, it also checks that this entry still exists.

    Raises StorageError if there is no audit log to read, Stopped once the process `is_stopping`.
    """
    with closing(open_read_only(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        # A trigger of the right name with another body would protect nothing.
        intact = {name for name, sql in rows if sql in FIRST_SCHEMA}
        for trigger in TRIGGERS:
            if trigger not in intact:
                why = f"The log can be altered: its trigger {trigger} is gone or was changed."
                return BrokenLog(0, None, why)
        return _follow(connection, head, is_stopping)


def read_entries(path: Path, subject: str | None = None) -> Iterator[AuditEntry]:
    """Yields the stored entries, oldest first, without verifying them. Raises StorageError."""
    with closing(open_read_only(path)) as connection:
        try:
            for entry in _entries(connection):
                if subject is None or entry.subject == subject:
                    yield entry
        except sqlite3.DatabaseError as error:
            raise StorageError(f"Reading the audit log in {path}: {error}.") from error


def entry_hash(previous: str, at: float, who: str, action: str, subject: str, detail: str) -> str:
    return hashlib.sha256(json.dumps([previous, at, who, action, subject, detail]).encode()).hexdigest()


def find_mismatch(entry: AuditEntry, number: int, previous: str) -> str | None:
    """Returns a sentence saying why this can't be the log's entry `number` (from 1) after one with the hash `previous`,
    None if it fits."""
    # `vars`, as `astuple` copies deeply: a million entries take 10 s of CPU instead of 30.
    if any(type(value) is not kind for value, kind in zip(vars(entry).values(), ENTRY_TYPES, strict=True)):
        return "A value in it has another type than it was written with."
    if entry.id != number:
        return f"Entry {number} should be here: it was removed, or this entry's number was changed."
    if entry.previous != previous:
        return "It does not follow from the previous entry: one was removed, inserted or altered."
    if entry.hash != entry_hash(previous, entry.at, entry.who, entry.action, entry.subject, entry.detail):
        return "Its hash does not match its content: it was altered after it was written."
    return None


def query_read_only(
    database: Path, sql: str, values: Sequence[Any] = (), *, what: str
) -> list[tuple[Any, ...]]:
    """Returns the rows of a query, also while a bot is running. Raises StorageError, whose message names `what` was
    being read."""
    with closing(open_read_only(database)) as connection:
        try:
            return [tuple(row) for row in connection.execute(sql, values).fetchall()]
        except sqlite3.DatabaseError as error:
            raise StorageError(
                f"Reading {what} from {database}: {error}. If the database is of an older version, start the bot once "
                "to upgrade it."
            ) from error


def open_read_only(path: Path) -> Any:
    """Returns a read-only connection. Raises StorageError if this is not a database of this program."""
    if not path.is_file():
        raise StorageError(
            f"There is no database at {path}. Run this in the folder of finetune.toml, or start the bot once: that "
            "creates the database."
        )
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
    # An altered byte may make a text invalid UTF-8. It is read all the same, so that its hash reveals the change.
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        result = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'audit'").fetchone()[0]
    except sqlite3.DatabaseError as error:
        connection.close()
        raise StorageError(f"{path} can't be read as a database: {error}.") from error
    if not result:
        connection.close()
        raise StorageError(f"{path} is not a database of this program: it has no audit log.")
    return connection


def _follow(connection: Any, head: str | None, is_stopping: Callable[[], bool]) -> IntactLog | BrokenLog:
    number = 0
    previous = GENESIS
    at_head: AuditEntry | None = None  # the entry that was the newest when `head` was noted
    try:
        for entry in _entries(connection):
            if is_stopping():
                raise Stopped("The process stops.")
            why = find_mismatch(entry, number + 1, previous)
            if why:
                return BrokenLog(number, entry, why)
            number += 1
            previous = entry.hash
            if entry.hash == head:
                at_head = entry
    except sqlite3.DatabaseError as error:
        return BrokenLog(number, None, f"SQLite can't read it: {error}.")
    if head in (None, GENESIS) or at_head:
        return IntactLog(number, previous, at_head)
    why = "The entries are intact, but none has the earlier head's hash: the end was cut off or rewritten."
    return BrokenLog(number, None, why)


def _entries(connection: Any) -> Iterator[AuditEntry]:
    columns = "id, at, who, action, subject, detail, previous, hash"
    for row in connection.execute(f"SELECT {columns} FROM audit ORDER BY id"):  # noqa: S608 - our names
        yield AuditEntry(*row)


class Audit(Table):
    """The append-only log. Each entry's hash covers the previous one, so that an altered row is found."""

    def add(self, *, at: float, who: str, action: str, subject: str, detail: str = "") -> None:
        """Appends an entry. Call it in the transaction of the action that it records."""
        at = float(at)  # the column returns floats, and 5 and 5.0 have different hashes
        values = {"at": at, "who": who, "action": action, "subject": subject, "detail": detail}
        with self._db.immediate():
            previous = self._db.value("SELECT hash FROM audit ORDER BY id DESC LIMIT 1") or GENESIS
            digest = entry_hash(previous, at, who, action, subject, detail)
            self._db.insert("audit", {**values, "previous": previous, "hash": digest})

    def newest(self) -> int:
        """Returns the number of the newest entry, 0 if there is none."""
        return int(self._db.value("SELECT max(id) FROM audit") or 0)

    def entries(self, subject: str | None = None) -> list[AuditEntry]:
        """Returns the entries, only those about `subject` if it is given, oldest first."""
        if subject is None:
            return self._db.all(AuditEntry, "SELECT * FROM audit ORDER BY id")
        return self._db.all(AuditEntry, "SELECT * FROM audit WHERE subject = ? ORDER BY id", (subject,))

    def entries_below(self, prefix: str) -> list[AuditEntry]:
        """Returns the entries whose subject begins with `prefix`, oldest first."""
        end = f"{prefix[:-1]}{chr(ord(prefix[-1]) + 1)}"
        return self._db.all(
            AuditEntry, "SELECT * FROM audit WHERE subject >= ? AND subject < ? ORDER BY id", (prefix, end)
        )
