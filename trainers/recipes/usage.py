"""Counts the calls and tokens of what is in use, by promotion, recipe and day (UTC). Keeps no text of anybody.

The door adds to them each second, and the bot reads them. Both may have the file open at once; SQLite's usual journal
is enough for one small write a second, and unlike its newer one it leaves no second file behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

FILE = "usage.db"
BUSY_S = 10.0
_TABLE = """
CREATE TABLE IF NOT EXISTS usage (
    promotion INTEGER NOT NULL, recipe TEXT NOT NULL, day TEXT NOT NULL,
    calls INTEGER NOT NULL, failed INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    unknown INTEGER NOT NULL,
    PRIMARY KEY (promotion, recipe, day)
) WITHOUT ROWID"""


@dataclass(frozen=True)
class UsageKey:
    """`promotion` is the promotion's number, `recipe` the hash of what answered (the fallback's, if that did), and
    `day` like '2026-11-27'."""

    promotion: int
    recipe: str
    day: str


@dataclass(frozen=True)
class Usage:
    """`calls` counts every call; `failed` of them got an error, or not all of an answer. One that a fallback answered
    has failed for the recipe that was asked first. `cached_tokens` are among `prompt_tokens`. Of `unknown` calls the
    provider has not said how many tokens they took, which the sums then lack."""

    calls: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    unknown: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.failed + other.failed,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.unknown + other.unknown,
        )


Counts = Mapping[UsageKey, Usage]
_NAMES = tuple(field.name for field in fields(Usage))


def day_of(at: float) -> str:
    """Returns the day (UTC) of a time in unix seconds, like '2026-11-27'."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def add(folder: Path, counts: Counts) -> None:
    """Adds to the stored counts, all of them or none. Raises sqlite3.Error, such as for a full disk."""
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in _NAMES)
    statement = f"""
        INSERT INTO usage VALUES ({", ".join("?" * (3 + len(_NAMES)))})
        ON CONFLICT (promotion, recipe, day) DO UPDATE SET {sums}"""  # noqa: S608  names of our own fields
    rows = [(*astuple(key), *astuple(usage)) for key, usage in counts.items()]
    with _open(folder / FILE) as database, database:
        database.execute(_TABLE)
        database.executemany(statement, rows)


def read(folder: Path, since: str = "") -> Counts:
    """Returns the counts of all days from `since` on ('2026-11-01'), {} if nothing was counted yet."""
    path = folder / FILE
    if not path.exists():
        return {}
    with _open(path) as database:
        database.execute(_TABLE)
        rows = database.execute("SELECT * FROM usage WHERE day >= ?", (since,))
        return {UsageKey(*row[:3]): Usage(*row[3:]) for row in rows}


def forget(folder: Path, recipes: Iterable[str]) -> None:
    """Deletes the counts of these recipes."""
    if not (folder / FILE).exists():
        return
    with _open(folder / FILE) as database, database:
        database.execute(_TABLE)
        database.executemany("DELETE FROM usage WHERE recipe = ?", [(recipe,) for recipe in recipes])


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    path.touch(mode=0o600)
    database = sqlite3.connect(path, timeout=BUSY_S)
    try:
        yield database
    finally:
        database.close()
