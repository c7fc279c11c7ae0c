"""Stores a random share of answered calls, as evidence of how well what is in use answers. The door adds them, and the
bot reads them.

Secrets and personal data are removed before a call comes here (trainers/recipes/placeholders.py). Calls that were drawn
and are left out are counted by reason, so that the bot can say how far the sample is from random. A name has room for
MOST_A_DAY calls a day (UTC), and the file for MOST_BYTES; the calls beyond are counted too.

What is deleted leaves no byte in the file: `secure_delete` overwrites rows, and a VACUUM the copies that SQLite leaves
behind when it moves rows between pages (storage/deletion/wipes.py). If a kill comes between the two, the next deletion
does it, at the latest the nightly one.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from operator import attrgetter
from pathlib import Path

from trainers.dataset.rows import INSTRUCTION_ROLES, Example, question_key
from trainers.recipes.usage import day_of
from trainers.types import Message

FILE = "samples.db"
BUSY_S = 10.0
KEPT_DAYS = 30  # by the bot, which calls forget_before each night
MOST_A_DAY = 2_000
MOST_BYTES = 256 * 1024**2  # a VACUUM has as much in memory
TRACED = 0  # the promotion of calls that another tool recorded, as real numbers begin at 1
IS_UNCLEAN = 1  # in the file's user_version: rows were deleted, and copies of them may be left
_SCHEMA = """
CREATE TABLE IF NOT EXISTS samples (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, promotion INTEGER NOT NULL,
    recipe TEXT NOT NULL, at REAL NOT NULL, messages TEXT NOT NULL, answer TEXT NOT NULL, prompt_tokens INTEGER,
    completion_tokens INTEGER, is_masked INTEGER NOT NULL, fallback_from TEXT, conversation TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS samples_by_name ON samples (name, at);
CREATE TABLE IF NOT EXISTS sample_counts (
    name TEXT NOT NULL, day TEXT NOT NULL, stored INTEGER NOT NULL, secret INTEGER NOT NULL, personal INTEGER NOT NULL,
    opted_out INTEGER NOT NULL, too_long INTEGER NOT NULL, not_text INTEGER NOT NULL, no_room INTEGER NOT NULL,
    lost INTEGER NOT NULL,
    PRIMARY KEY (name, day)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forgotten_names (name TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shadow_answers (
    live_test INTEGER NOT NULL, call TEXT NOT NULL, answer TEXT, prompt_tokens INTEGER, completion_tokens INTEGER,
    at REAL NOT NULL,
    PRIMARY KEY (live_test, call)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS shadow_answers_go_with_calls AFTER DELETE ON samples BEGIN
    DELETE FROM shadow_answers WHERE call = old.id;
END;
CREATE INDEX IF NOT EXISTS shadow_answers_by_call ON shadow_answers (call);
"""


@dataclass(frozen=True)
class SampledCall:
    """A call under `name` and its answer, at `at` (seconds since 1970).

    `promotion` is the promotion's number and `recipe` the hash of what answered: the fallback's, if `fallback_from`
    says in a word why it did. Of a call that another tool recorded, `promotion` is TRACED and `recipe` the name of the
    model that answered. `messages` is a JSON list of objects with `role` and `content`, both texts. Tokens are
    None if they are unknown. `is_masked`: placeholders stand for personal data. Calls of the same conversation have the
    same `conversation`, a keyed hash.
    """

    id: str
    name: str
    promotion: int
    recipe: str
    at: float
    messages: str
    answer: str
    prompt_tokens: int | None
    completion_tokens: int | None
    is_masked: bool
    fallback_from: str | None
    conversation: str

    @property
    def example(self) -> Example:
        """The call as a row of data, whose answer is the one that it got."""
        turns = [Message(raw["role"], raw["content"]) for raw in json.loads(self.messages)]
        return Example(0, (*turns, Message("assistant", self.answer)))


@dataclass(frozen=True)
class SampleCounts:
    """How many calls were drawn in a day: those stored, and those left out, each for its first reason.

    `secret` and `personal` had such data that could not stay; `opted_out` asked not to be stored; `too_long` had more
    text than the door stores, and `not_text` had images or sounds. For `no_room` see MOST_A_DAY. `lost` could not be
    written, such as on a full disk.
    """

    stored: int = 0
    secret: int = 0
    personal: int = 0
    opted_out: int = 0
    too_long: int = 0
    not_text: int = 0
    no_room: int = 0
    lost: int = 0

    def __add__(self, other: SampleCounts) -> SampleCounts:
        return SampleCounts(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    @property
    def drawn(self) -> int:
        return sum(astuple(self))

    @property
    def left_out(self) -> int:
        return self.drawn - self.stored


@dataclass(frozen=True)
class CountKey:
    """`day` is like '2026-11-27'."""

    name: str
    day: str


Counts = Mapping[CountKey, SampleCounts]
NO_COUNTS: Counts = {}
_COLUMNS = ", ".join(field.name for field in fields(SampledCall))
_values = attrgetter(*(field.name for field in fields(SampledCall)))  # astuple would copy the texts
_COUNT_NAMES = tuple(field.name for field in fields(SampleCounts))


def add(folder: Path, calls: Sequence[SampledCall], counts: Counts = NO_COUNTS) -> None:
    """Stores calls as far as there is room and counts them; adds to the counts of those that were left out before. All
    of it or nothing. Calls from before their name was forgotten are left out silently. Raises sqlite3.Error, such as
    for a full disk."""
    with open_file(folder) as database, database:
        _add_counts(database, counts)
        forgotten_at = dict(database.execute("SELECT name, at FROM forgotten_names"))
        calls_by_key = defaultdict(list)
        for call in calls:
            if call.at > forgotten_at.get(call.name, 0.0):
                calls_by_key[CountKey(call.name, day_of(call.at))].append(call)
        for key, of_day in calls_by_key.items():
            _add_calls(database, key, of_day)


def _add_calls(database: sqlite3.Connection, key: CountKey, calls: Sequence[SampledCall]) -> None:
    """Stores as many of a day's calls as there is room for."""
    room = _room(database, key)
    rows = [_values(call) for call in calls[:room]]
    values = ", ".join("?" * len(fields(SampledCall)))
    database.executemany(f"INSERT INTO samples ({_COLUMNS}) VALUES ({values})", rows)  # noqa: S608  our own names
    _add_counts(database, {key: SampleCounts(stored=len(rows), no_room=len(calls) - len(rows))})


def _room(database: sqlite3.Connection, key: CountKey) -> int:
    """Returns for how many more calls of a name's day there is room."""
    pages = _pragma(database, "page_count") - _pragma(database, "freelist_count")
    if pages * _pragma(database, "page_size") >= MOST_BYTES:
        return 0
    query = "SELECT stored FROM sample_counts WHERE name = ? AND day = ?"
    row = database.execute(query, astuple(key)).fetchone()
    stored = 0
    if row:
        (stored,) = row
    return max(0, MOST_A_DAY - stored)


def _add_counts(database: sqlite3.Connection, counts: Counts) -> None:
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in _COUNT_NAMES)
    statement = f"""
        INSERT INTO sample_counts VALUES ({", ".join("?" * (2 + len(_COUNT_NAMES)))})
        ON CONFLICT (name, day) DO UPDATE SET {sums}"""  # noqa: S608  names of our own fields
    rows = [(*astuple(key), *astuple(counted)) for key, counted in counts.items()]
    database.executemany(statement, rows)


def read(
    folder: Path,
    name: str,
    *,
    since: float = 0.0,
    until: float | None = None,
    limit: int | None = None,
    traced: bool = False,
) -> tuple[SampledCall, ...]:
    """Returns the calls under a name from `since` on and before `until`, the oldest first; with `limit` the first
    ones. With `traced` they are those that another tool recorded, which no promotion answered; without, all others."""
    if not (folder / FILE).exists():
        return ()
    with open_file(folder) as database:
        rows = database.execute(
            f"""
            SELECT {_COLUMNS} FROM samples WHERE name = ? AND at >= ? AND at < ? AND (promotion = {TRACED}) = ?
            ORDER BY at, number LIMIT ?""",  # noqa: S608  our own names
            (name, since, _end(until), traced, -1 if limit is None else limit),
        )
        return tuple(map(_as_call, rows))


def ids(
    folder: Path,
    name: str,
    recipe: str | None = None,
    *,
    since: float = 0.0,
    until: float | None = None,
    traced: bool = False,
) -> tuple[str, ...]:
    """Returns the ids of the calls that `read` would return, with a `recipe` of those that it has answered: enough to
    choose some of them."""
    if not (folder / FILE).exists():
        return ()
    with open_file(folder) as database:
        rows = database.execute(
            f"""
            SELECT id FROM samples WHERE name = ? AND recipe = coalesce(?, recipe) AND at >= ? AND at < ?
            AND (promotion = {TRACED}) = ? ORDER BY at, number""",  # noqa: S608  our own number
            (name, recipe, since, _end(until), traced),
        )
        return tuple(row[0] for row in rows)


def names(folder: Path) -> frozenset[str]:
    """Returns the names about which something is stored."""
    if not (folder / FILE).exists():
        return frozenset()
    with open_file(folder) as database:
        rows = database.execute("SELECT name FROM samples UNION SELECT name FROM sample_counts")
        return frozenset(row[0] for row in rows)


def get(folder: Path, id: str) -> SampledCall | None:
    """Returns one call, None if it was never stored or is deleted."""
    if not (folder / FILE).exists():
        return None
    with open_file(folder) as database:
        row = database.execute(f"SELECT {_COLUMNS} FROM samples WHERE id = ?", (id,)).fetchone()  # noqa: S608
        if row is None:
            return None
        return _as_call(row)


def count(folder: Path, name: str, *, since: float = 0.0, traced: bool = False) -> int:
    """Returns how many calls `read` would return."""
    if not (folder / FILE).exists():
        return 0
    with open_file(folder) as database:
        query = f"""
            SELECT count(*) FROM samples WHERE name = ? AND at >= ? AND (promotion = {TRACED}) = ?"""  # noqa: S608
        (number,) = database.execute(query, (name, since, traced)).fetchone()
        return int(number)


def counts(folder: Path, *, since: str = "") -> Counts:
    """Returns what was drawn under all names, by day, from the day `since` on ('2026-11-01'). Calls that were stored
    and deleted since count as stored."""
    if not (folder / FILE).exists():
        return {}
    with open_file(folder) as database:
        rows = database.execute("SELECT * FROM sample_counts WHERE day >= ?", (since,))
        return {CountKey(*row[:2]): SampleCounts(*row[2:]) for row in rows}


def forget_name(folder: Path, name: str, *, now: float) -> int:
    """Deletes everything about a name, and has `add` leave out its calls from before `now`, which the door may still
    have in memory: stop publishing the name's sampling first. Returns how many calls were stored."""
    with open_file(folder) as database:
        with database:
            database.execute("INSERT OR REPLACE INTO forgotten_names VALUES (?, ?)", (name, now))
            database.execute("DELETE FROM sample_counts WHERE name = ?", (name,))
            numbers = database.execute("SELECT number FROM samples WHERE name = ?", (name,)).fetchall()
            _delete(database, numbers)
        _clean(database)
        return len(numbers)


def forget_before(folder: Path, at: float) -> int:
    """Deletes what is older than `at`. Returns how many calls that were."""
    if not (folder / FILE).exists():
        return 0
    with open_file(folder) as database:
        with database:
            database.execute("DELETE FROM forgotten_names WHERE at < ?", (at,))
            database.execute("DELETE FROM sample_counts WHERE day < ?", (day_of(at),))
            numbers = database.execute("SELECT number FROM samples WHERE at < ?", (at,)).fetchall()
            _delete(database, numbers)
        _clean(database)
        return len(numbers)


def forget_rows(folder: Path, rows: Iterable[Example], *, presidio: bool = False) -> int:
    """Deletes the calls, under all names, whose conversation begins with the question of one of these rows, as the
    deletion of rows finds them (`question_key`). Rows are also compared with personal data masked, as calls are.
    `presidio` says whether its recognisers may have searched the calls. Returns how many calls that were."""
    if not (folder / FILE).exists():
        return 0
    from trainers.recipes.placeholders import mask_row  # only the door and a deletion need it

    keys: set[bytes] = set()
    for row in rows:
        keys.add(question_key(row))
        keys.add(question_key(mask_row(row)))
        if presidio:
            keys.add(question_key(mask_row(row, presidio=True)))
    with open_file(folder) as database:
        with database:
            # No call comes between the reading and the deletion.
            database.execute("BEGIN IMMEDIATE")
            stored = database.execute("SELECT number, messages FROM samples")
            numbers = [
                (number,) for number, messages in stored if not keys.isdisjoint(_keys_of_turns(messages))
            ]
            _delete(database, numbers)
        _clean(database)
        return len(numbers)


def _keys_of_turns(messages: str) -> Iterator[bytes]:
    """Yields the question's key of the conversation as it was at each turn of the user, and in full."""
    turns = [Message(raw["role"], raw["content"]) for raw in json.loads(messages)]
    turns = [turn for turn in turns if turn.role not in INSTRUCTION_ROLES]
    answer = Message("assistant", "")
    for number, turn in enumerate(turns, 1):
        if turn.role == "user" or number == len(turns):
            asked_so_far = Example(0, (*turns[:number], answer))
            yield question_key(asked_so_far)


def _delete(database: sqlite3.Connection, numbers: Sequence[tuple[int]]) -> None:
    """Deletes rows by their number, in the caller's transaction."""
    if not numbers:
        return
    database.executemany("DELETE FROM samples WHERE number = ?", numbers)
    database.execute(f"PRAGMA user_version = {IS_UNCLEAN}")


def _clean(database: sqlite3.Connection) -> None:
    """Overwrites what is left of rows that were deleted, by this call or by an earlier one that a kill ended."""
    if _pragma(database, "user_version") == IS_UNCLEAN:
        database.execute("VACUUM")
        database.execute("PRAGMA user_version = 0")


def _pragma(database: sqlite3.Connection, name: str) -> int:
    (value,) = database.execute(f"PRAGMA {name}").fetchone()
    return int(value)


def _end(until: float | None) -> float:
    if until is None:
        return float("inf")
    return until


def _as_call(row: tuple[object, ...]) -> SampledCall:
    values = dict(zip((field.name for field in fields(SampledCall)), row, strict=True))
    values["is_masked"] = bool(values["is_masked"])
    return SampledCall(**values)  # type: ignore[arg-type]


@contextmanager
def open_file(folder: Path) -> Iterator[sqlite3.Connection]:
    """Opens the file, which is created if there is none. For this module and shadow_answers.py."""
    path = folder / FILE
    path.touch(mode=0o600)
    database = sqlite3.connect(path, timeout=BUSY_S)
    try:
        database.execute("PRAGMA secure_delete = ON")
        # What a VACUUM sets aside would else be in a file outside of this folder.
        database.execute("PRAGMA temp_store = MEMORY")
        database.executescript(_SCHEMA)
        yield database
    finally:
        database.close()
