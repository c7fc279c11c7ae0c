"""The append-only audit log, chained by hashes, and its read-only verification. It cannot see entries cut
off at the end, or a chain rewritten from some entry on: compare its head with one noted elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from storage.database import StorageError, Table
from storage.driver import sqlite3
from storage.records import AuditEntry
from storage.schemas import FIRST_SCHEMA

GENESIS = "0" * 64
TRIGGERS = ("audit_is_append_only_update", "audit_is_append_only_delete")
ENTRY_TYPES = (int, float, str, str, str, str, str, str)  # of AuditEntry's fields, in their order


@dataclass(frozen=True)
class IntactLog:
    """`head` is the last entry's hash. `earlier` is the entry whose hash the caller passed."""

    entries: int
    head: str
    earlier: AuditEntry | None = None


@dataclass(frozen=True)
class BrokenLog:
    """`entry` is the first that doesn't fit, None if it can't be read; `before` is how many fit before it."""

    before: int
    entry: AuditEntry | None
    why: str


def verify_log(path: Path, head: str | None = None) -> IntactLog | BrokenLog:
    """Checks every entry's hash, and that the log can't be altered. `head`: a hash that was once the last one.

    Raises StorageError if there is no audit log to read.
    """
    with closing(open_read_only(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        intact = {name for name, sql in rows if sql in FIRST_SCHEMA}
        for trigger in TRIGGERS:
            if trigger not in intact:
                why = f"The log can be altered: its trigger {trigger} is gone or was changed."
                return BrokenLog(0, None, why)
        return _follow(connection, head)


def read_entries(path: Path, subject: str | None = None) -> Iterator[AuditEntry]:
    """Yields the entries as they are stored, oldest first. Raises StorageError."""
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
    """Returns why this can't be the log's `number`-th entry (from 1) after one with the hash `previous`, None if it
    fits."""
    if any(type(value) is not kind for value, kind in zip(astuple(entry), ENTRY_TYPES, strict=True)):
        return "A value in it is of another kind than was written."
    if entry.id != number:
        return f"Entry {number} should stand there: it was taken out, or this one's number was changed."
    if entry.previous != previous:
        return "It does not follow the entry before it: one was taken out, put in or altered."
    if entry.hash != entry_hash(previous, entry.at, entry.who, entry.action, entry.subject, entry.detail):
        return "Its hash does not fit its content: it was altered after it was written."
    return None


def query_read_only(
    database: Path, sql: str, values: Sequence[Any] = (), *, what: str
) -> list[tuple[Any, ...]]:
    """Returns the rows, read beside a running bot. Raises StorageError, which says `what` was looked for."""
    with closing(open_read_only(database)) as connection:
        try:
            return [tuple(row) for row in connection.execute(sql, values).fetchall()]
        except sqlite3.DatabaseError as error:
            raise StorageError(
                f"Looking in {database} for {what}: {error}. A database of an older version gets what it lacks when "
                "the bot is started once."
            ) from error


def open_read_only(path: Path) -> Any:
    """Returns a connection that can change nothing. Raises StorageError if this is not our database."""
    if not path.is_file():
        raise StorageError(f"There is no database at {path}.")
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
    # An altered byte may make text that is no UTF-8: it is read nevertheless, so that its hash shows the change.
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        result = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'audit'").fetchone()[0]
    except sqlite3.DatabaseError as error:
        connection.close()
        raise StorageError(f"{path} can't be read as a database: {error}.") from error
    if not result:
        connection.close()
        raise StorageError(f"{path} is a database, but none of this program: it has no audit log.")
    return connection


def _follow(connection: Any, head: str | None) -> IntactLog | BrokenLog:
    number, previous, audit_entry = 0, GENESIS, None
    try:
        for entry in _entries(connection):
            why = find_mismatch(entry, number + 1, previous)
            if why:
                return BrokenLog(number, entry, why)
            number, previous = number + 1, entry.hash
            audit_entry = entry if entry.hash == head else audit_entry
    except sqlite3.DatabaseError as error:
        return BrokenLog(number, None, f"SQLite can't read it: {error}.")
    if head in (None, GENESIS) or audit_entry:
        return IntactLog(number, previous, audit_entry)
    why = "The rest fits, but no entry has the hash that was the head earlier: the end was cut off or written again."
    return BrokenLog(number, None, why)


def _entries(connection: Any) -> Iterator[AuditEntry]:
    columns = "id, at, who, action, subject, detail, previous, hash"
    for row in connection.execute(f"SELECT {columns} FROM audit ORDER BY id"):  # noqa: S608 - our names
        yield AuditEntry(*row)


class Audit(Table):
    """The append-only log: each entry's hash covers the one before, so an altered row is found."""

    def add(self, *, at: float, who: str, action: str, subject: str, detail: str = "") -> None:
        """Appends one entry; call it inside the transaction of what it records."""
        at = float(at)  # as the column gives it back: 5 and 5.0 hash differently
        values = {"at": at, "who": who, "action": action, "subject": subject, "detail": detail}
        with self._db.immediate():
            previous = self._db.value("SELECT hash FROM audit ORDER BY id DESC LIMIT 1") or GENESIS
            digest = entry_hash(previous, at, who, action, subject, detail)
            self._db.insert("audit", {**values, "previous": previous, "hash": digest})

    def newest(self) -> int:
        """Returns the number of the newest entry, 0 where there is none."""
        return int(self._db.value("SELECT max(id) FROM audit") or 0)

    def entries(self, subject: str | None = None) -> list[AuditEntry]:
        """Returns the entries, oldest first."""
        return self._db.all(
            AuditEntry, "SELECT * FROM audit WHERE ? IS NULL OR subject = ? ORDER BY id", (subject, subject)
        )
