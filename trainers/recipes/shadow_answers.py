"""Stores what a candidate that is tried would have answered to sampled calls, beside the calls (samples.py). The door
adds the answers, and the bot reads them.

An answer is deleted with its call, whatever deletes that.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path

from trainers.recipes import samples


@dataclass(frozen=True)
class ShadowAnswer:
    """The answer of the candidate of this `live_test` to the sampled `call`, at `at` (seconds since 1970). `answer` is
    None if it gave none. Tokens are None if they are unknown, and 0 for free candidates."""

    live_test: int
    call: str
    answer: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    at: float


_COLUMNS = ", ".join(field.name for field in fields(ShadowAnswer))
_values = attrgetter(*(field.name for field in fields(ShadowAnswer)))


def add(folder: Path, answer: ShadowAnswer) -> bool:
    """Stores an answer. Returns False if its call is deleted or the live test has an answer to it. Raises
    sqlite3.Error, such as for a full disk."""
    with samples.open_file(folder) as database, database:
        values = ", ".join("?" * len(fields(ShadowAnswer)))
        cursor = database.execute(
            f"""
            INSERT OR IGNORE INTO shadow_answers ({_COLUMNS})
            SELECT {values} WHERE EXISTS (SELECT 1 FROM samples WHERE id = ?)""",  # noqa: S608  our own names
            (*_values(answer), answer.call),
        )
        return cursor.rowcount == 1


def read(folder: Path, live_test: int, *, since: float = 0.0) -> tuple[ShadowAnswer, ...]:
    """Returns the answers of a live test from `since` on, the oldest first."""
    if not (folder / samples.FILE).exists():
        return ()
    with samples.open_file(folder) as database:
        rows = database.execute(
            f"SELECT {_COLUMNS} FROM shadow_answers WHERE live_test = ? AND at >= ? ORDER BY at, call",  # noqa: S608
            (live_test, since),
        )
        return tuple(ShadowAnswer(*row) for row in rows)


def get(folder: Path, live_test: int, call: str) -> ShadowAnswer | None:
    """Returns the live test's answer to a call, None if there is none or it is deleted."""
    if not (folder / samples.FILE).exists():
        return None
    with samples.open_file(folder) as database:
        row = database.execute(
            f"SELECT {_COLUMNS} FROM shadow_answers WHERE live_test = ? AND call = ?",  # noqa: S608
            (live_test, call),
        ).fetchone()
        return ShadowAnswer(*row) if row else None
