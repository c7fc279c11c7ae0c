"""Counts errors of the two that answer programs during a canary, by conversation, and remembers which canaries were
stopped. The door adds them and stops a canary itself, as nobody else is fast enough; the bot reads them. Stores no
text of anybody.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FILE = "canaries.db"
BUSY_S = 10.0
MOST_EVENTS = 10_000  # of a live test; a canary is judged long before
EventReason = Literal["error", "slow", "down"]
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    live_test INTEGER NOT NULL, conversation TEXT NOT NULL, is_candidate INTEGER NOT NULL, reason TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (live_test, conversation)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stops (live_test INTEGER PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class CanaryEvent:
    """The first error of a `conversation` (a keyed hash) during a `live_test`, at `at` (seconds since 1970): of the
    candidate or of what is in use. "slow" is an answer that took too long, "down" one that was rated bad."""

    live_test: int
    conversation: str
    is_candidate: bool
    reason: EventReason
    at: float


def add(folder: Path, events: Iterable[CanaryEvent]) -> None:
    """Stores the first event of each conversation, as far as there is room. Raises sqlite3.Error, such as for a full
    disk."""
    with _open(folder / FILE) as database, database:
        for event in events:
            database.execute(
                f"""
                INSERT OR IGNORE INTO events
                SELECT :live_test, :conversation, :is_candidate, :reason, :at
                WHERE (SELECT count(*) FROM events WHERE live_test = :live_test) < {MOST_EVENTS}""",  # noqa: S608  our own
                vars(event),
            )


def read(folder: Path, live_test: int) -> tuple[CanaryEvent, ...]:
    """Returns the events of a live test, the oldest first."""
    if not (folder / FILE).exists():
        return ()
    with _open(folder / FILE) as database:
        columns = "live_test, conversation, is_candidate, reason, at"
        query = f"SELECT {columns} FROM events WHERE live_test = ? ORDER BY at, conversation"  # noqa: S608
        rows = database.execute(query, (live_test,))
        return tuple(CanaryEvent(row[0], row[1], bool(row[2]), row[3], row[4]) for row in rows)


def stop(folder: Path, live_test: int, at: float) -> None:
    """Remembers that a canary was stopped. Raises sqlite3.Error, such as for a full disk."""
    with _open(folder / FILE) as database, database:
        database.execute("INSERT OR IGNORE INTO stops VALUES (?, ?)", (live_test, at))


def stopped(folder: Path) -> Mapping[int, float]:
    """Returns when each canary was stopped, by its live test."""
    if not (folder / FILE).exists():
        return {}
    with _open(folder / FILE) as database:
        return dict(database.execute("SELECT live_test, at FROM stops"))


def forget(folder: Path, open_live_tests: Collection[int]) -> None:
    """Deletes what is stored of all but the open live tests."""
    if not (folder / FILE).exists():
        return
    with _open(folder / FILE) as database, database:
        for table in ("events", "stops"):
            live_tests = {row[0] for row in database.execute(f"SELECT DISTINCT live_test FROM {table}")}  # noqa: S608
            for live_test in live_tests - set(open_live_tests):
                database.execute(f"DELETE FROM {table} WHERE live_test = ?", (live_test,))  # noqa: S608  our own names


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    path.touch(mode=0o600)
    database = sqlite3.connect(path, timeout=BUSY_S)
    try:
        database.executescript(_SCHEMA)
        yield database
    finally:
        database.close()
