"""Counts what programs say about the answers of what is in use: good or bad, by promotion, recipe and day (UTC) of the
call. A signal of its own, which is never taken for a label. Stores no text of anybody.

An answer has one rating; another one for it replaces the first. That is remembered for as long as answers can be rated.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

FILE = "feedback.db"
BUSY_S = 10.0
RATED_DAYS = 30  # for so long an answer can be rated
MOST_BYTES = 64 * 1024**2  # about a million ratings
DIGEST_BYTES = 12
Rating = Literal["up", "down"]
RATINGS: tuple[Rating, ...] = ("up", "down")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS ratings (
    call BLOB PRIMARY KEY, day TEXT NOT NULL, rating TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS feedback (
    name TEXT NOT NULL, promotion INTEGER NOT NULL, recipe TEXT NOT NULL, day TEXT NOT NULL,
    up INTEGER NOT NULL, down INTEGER NOT NULL,
    PRIMARY KEY (name, promotion, recipe, day)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class FeedbackKey:
    """`day` is the call's, like '2026-11-27'; `recipe` is the hash of what answered."""

    name: str
    promotion: int
    recipe: str
    day: str


@dataclass(frozen=True)
class Feedback:
    """The numbers of answers that were rated good and bad."""

    up: int = 0
    down: int = 0


class FeedbackFullError(Exception):
    """There is no room for more ratings until the oldest are deleted."""


def add(folder: Path, call: str, key: FeedbackKey, rating: Rating) -> None:
    """Counts a rating of the call with this id. Raises FeedbackFullError, and sqlite3.Error such as for a full disk."""
    digest = hashlib.blake2b(call.encode(), digest_size=DIGEST_BYTES).digest()
    with _open(folder / FILE) as database, database:
        database.execute("BEGIN IMMEDIATE")  # another worker may count a rating of the same call
        row = database.execute("SELECT rating FROM ratings WHERE call = ?", (digest,)).fetchone()
        earlier = row[0] if row else None
        if earlier == rating:
            return
        if earlier is None and _is_full(database):
            raise FeedbackFullError
        database.execute("INSERT OR REPLACE INTO ratings VALUES (?, ?, ?)", (digest, key.day, rating))
        up = (rating == "up") - (earlier == "up")
        down = (rating == "down") - (earlier == "down")
        database.execute(
            """
            INSERT INTO feedback VALUES (?, ?, ?, ?, ?, ?)
            ON CONFLICT (name, promotion, recipe, day) DO UPDATE SET up = up + excluded.up, down = down + excluded.down
            """,
            (*astuple(key), up, down),
        )


def _is_full(database: sqlite3.Connection) -> bool:
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    (free,) = database.execute("PRAGMA freelist_count").fetchone()
    (page_size,) = database.execute("PRAGMA page_size").fetchone()
    return bool((pages - free) * page_size >= MOST_BYTES)


def read(folder: Path, *, since: str = "") -> Mapping[FeedbackKey, Feedback]:
    """Returns the counts of calls from the day `since` on ('2026-11-01'), {} if nothing was rated yet."""
    if not (folder / FILE).exists():
        return {}
    with _open(folder / FILE) as database:
        rows = database.execute("SELECT * FROM feedback WHERE day >= ?", (since,))
        return {FeedbackKey(*row[:4]): Feedback(*row[4:]) for row in rows}


def forget_name(folder: Path, name: str) -> None:
    """Deletes the counts of a name."""
    if not (folder / FILE).exists():
        return
    with _open(folder / FILE) as database, database:
        database.execute("DELETE FROM feedback WHERE name = ?", (name,))


def forget_ratings(folder: Path, before: str) -> None:
    """Deletes what is remembered of single calls from before a day, which can't be rated any more. The counts stay."""
    if not (folder / FILE).exists():
        return
    with _open(folder / FILE) as database, database:
        database.execute("DELETE FROM ratings WHERE day < ?", (before,))


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    path.touch(mode=0o600)
    database = sqlite3.connect(path, timeout=BUSY_S)
    try:
        database.executescript(_SCHEMA)
        yield database
    finally:
        database.close()
