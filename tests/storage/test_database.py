"""The database file: one process, safe pragmas, transactions under racing threads, and migrations."""

from __future__ import annotations

import gc
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from storage.backup import check_integrity, restore
from storage.database import (
    FREE_TO_MIGRATE,
    Database,
    DatabaseInUse,
    StorageError,
    check_space_to_migrate,
    sqlite_version,
    wal_is_safe,
)
from storage.deletion import wipes
from storage.driver import SqliteUtils, sqlite3
from storage.migrations import NEWEST, migrations
from storage.store import Store
from tests.storage.releasing import names
from tests.storage.threads import run_at_once

THREADS = 16
OPEN_AND_CLOSE = """
import sys
from pathlib import Path
from storage.database import Database, DatabaseInUse
try:
    Database(Path(sys.argv[1])).close()
except DatabaseInUse as refusal:
    print(refusal)
    sys.exit(3)
"""


def open_elsewhere(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", OPEN_AND_CLOSE, str(path)], capture_output=True, text=True, timeout=30
    )


def open_counter(path: Path) -> Database:
    database = Database(path)
    database.utils.execute("CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL)")
    database.change("INSERT INTO counters VALUES ('a', 0)")
    return database


def test_a_second_process_is_refused_with_the_file_and_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "finetune.db"
    database = Database(path)
    refused = open_elsewhere(path)
    assert refused.returncode == 3, refused.stderr
    assert f"already uses {path}" in refused.stdout
    assert "`data` in finetune.toml" in refused.stdout
    database.close()
    assert open_elsewhere(path).returncode == 0


def test_the_lock_also_holds_within_one_process(tmp_path: Path) -> None:
    database = Database(tmp_path / "finetune.db")
    with pytest.raises(DatabaseInUse):
        Database(tmp_path / "finetune.db")
    database.close()
    Database(tmp_path / "finetune.db").close()


@pytest.mark.deep
def test_the_lock_holds_under_any_path_to_the_file(tmp_path: Path) -> None:
    database = Database(tmp_path / "data" / "finetune.db")
    (tmp_path / "folder").symlink_to(tmp_path / "data")
    (tmp_path / "other.db").symlink_to(tmp_path / "data" / "finetune.db")
    for path in (tmp_path / "folder" / "finetune.db", tmp_path / "other.db"):
        with pytest.raises(DatabaseInUse):
            Database(path)
    database.close()


def test_a_database_with_a_hard_link_elsewhere_is_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "finetune.db", tmp_path / "other.db"
    Database(path).close()
    other.hardlink_to(path)
    for name in (path, other):
        with pytest.raises(StorageError, match="a hard link"):
            Database(name)
    other.unlink()
    path.with_name("finetune.db.replaced-20261125T030007Z").hardlink_to(path)  # by a restore that was killed
    Database(path).close()


def test_a_damaged_database_is_refused_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "finetune.db").write_bytes(b"SQLite format 3" + bytes(10_000))
    with pytest.raises(StorageError, match=r"is damaged.*finetune restore"):
        Database(tmp_path / "finetune.db")
    (tmp_path / "finetune.db").unlink()
    Database(tmp_path / "finetune.db").close()


def test_a_database_that_cannot_be_opened_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "finetune.db"
    Database(path).close()
    for mark in ("-wal", "-journal"):  # where SQLite writes, so that it can't
        path.with_name(path.name + mark).mkdir()
    with pytest.raises(StorageError, match=r"can't be opened: .*Is there space"):
        Database(path)
    with pytest.raises(StorageError, match="could not be checked: "):
        check_integrity(path)
    for mark in ("-wal", "-journal"):
        path.with_name(path.name + mark).rmdir()
    Database(path).close()


def test_a_migration_is_refused_on_a_disk_with_less_than_twice_the_files_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "finetune.db"
    Database(path).close()
    free = FREE_TO_MIGRATE * path.stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free - 1))
    Database(path).close()  # it is migrated already
    utils = SqliteUtils(str(path))
    utils.conn.execute("DELETE FROM _sqlite_migrations WHERE name = ?", (NEWEST,))
    utils.conn.commit()
    with pytest.raises(StorageError, match="has to be migrated to this version"):
        Database(path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free))
    check_space_to_migrate(utils, path)
    utils.close()


def test_a_database_of_a_newer_version_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "finetune.db"
    database = Database(path)
    row = {"migration_set": "finetune", "name": "m999_later", "applied_at": "2027-01-01"}
    database.insert("_sqlite_migrations", row)
    database.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"newer version of finetune \(its schema is m999_later\)"):
        Database(path)
    with pytest.raises(StorageError, match="newer version"):
        restore(path, tmp_path / "new" / "finetune.db", tmp_path / "new" / "files", now=1.0)
    assert path.read_bytes() == before
    assert not (tmp_path / "new").exists()
    assert names()[-1] == NEWEST


def test_the_lock_ends_with_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "finetune.db"
    code = "import sys, time; from pathlib import Path; from storage.database import Database\n"
    code += "database = Database(Path(sys.argv[1])); print('open', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(DatabaseInUse):
            Database(path)
        other.kill()
    Database(path).close()


def test_a_lock_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    """The child of a killed bot holds it until it has executed its program."""
    dying = Database(tmp_path / "finetune.db")
    ends = threading.Timer(0.2, dying.close)
    ends.start()
    Database(tmp_path / "finetune.db").close()
    ends.join()


def test_files_are_private(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        Store(tmp_path / "new" / "finetune.db").close()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
    assert modes["finetune.db"] == modes["finetune.db.lock"] == 0o600
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_is_used_only_by_versions_without_its_bug(version: tuple[int, ...], safe: bool) -> None:
    assert wal_is_safe(version) is safe


def test_every_threads_connection_has_the_safe_pragmas(store: Store) -> None:
    pragmas: list[tuple[object, ...]] = []
    names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")

    def read_pragmas(_: int) -> None:
        pragmas.append(tuple(store.database.value(f"PRAGMA {name}") for name in names))

    run_at_once(2, read_pragmas)
    journal = "wal" if wal_is_safe(sqlite_version()) else "delete"
    assert pragmas == [(journal, 2, 1, 30_000)] * 2


def test_short_lived_threads_leave_no_files_open(store: Store) -> None:
    """SQLite itself closes no file while another connection holds a lock on it, and takes that one for the next."""
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/dev/fd"))
        for _ in range(10):
            run_at_once(THREADS, lambda _: store.database.value("SELECT count(*) FROM runs"))
        assert len(os.listdir("/dev/fd")) <= before + 3 * THREADS, (
            "a database and its journal for each at once"
        )
    finally:
        gc.enable()


def test_one_of_sixteen_threads_wins_a_guarded_update(store: Store) -> None:
    database = store.database
    database.utils.execute("CREATE TABLE doors (state TEXT)")
    database.change("INSERT INTO doors VALUES ('shut')")
    won: list[int] = []

    def push(number: int) -> None:
        if database.change("UPDATE doors SET state = ? WHERE state = 'shut'", (f"open by {number}",)):
            won.append(number)

    run_at_once(THREADS, push)
    assert len(won) == 1
    assert database.value("SELECT state FROM doors") == f"open by {won[0]}"


def test_a_read_and_a_write_in_one_transaction_lose_no_update(tmp_path: Path) -> None:
    """The second thread reads only once the first has written: it would write back what the first has changed."""
    database = open_counter(tmp_path / "finetune.db")
    has_read = threading.Barrier(2)

    def add(_: int) -> None:
        with database.immediate():
            value = database.value("SELECT value FROM counters WHERE name = 'a'")
            with suppress(threading.BrokenBarrierError):
                has_read.wait(0.2)  # broken if the other one waits for this transaction to end
            database.change("UPDATE counters SET value = ? WHERE name = 'a'", (value + 1,))

    run_at_once(2, add)
    assert has_read.broken
    assert database.value("SELECT value FROM counters") == 2
    database.close()


def test_an_error_rolls_back_the_transaction_and_inner_ones(tmp_path: Path) -> None:
    database = open_counter(tmp_path / "finetune.db")
    with pytest.raises(RuntimeError, match="midway"), database.immediate():
        database.change("UPDATE counters SET value = 1")
        with database.immediate():
            database.change("INSERT INTO counters VALUES ('b', 0)")
        raise RuntimeError("midway")
    assert database.rows("SELECT name, value FROM counters") == [{"name": "a", "value": 0}]
    with database.immediate():
        database.change("UPDATE counters SET value = 2")
    assert database.value("SELECT value FROM counters") == 2
    database.close()


def test_a_commit_that_fails_leaves_no_transaction_open(store: Store) -> None:
    """A deferred foreign key is checked at COMMIT only, and so fails there, as a full disk would."""
    database = store.database
    with pytest.raises(sqlite3.IntegrityError), database.immediate():
        database.change("PRAGMA defer_foreign_keys = ON")
        database.change("INSERT INTO models VALUES ('m', 99, 'local', 'x', 'candidate', 0, NULL)")
    assert not database.utils.conn.in_transaction
    assert store.models() == []


@pytest.mark.deep
def test_the_file_shrinks_once_much_of_it_is_free(store: Store) -> None:
    database = store.database
    for number in range(12):
        database.change(
            "INSERT INTO asks (person, channel, model, text, created_at) VALUES ('U1', 'C1', 'm', ?, ?)",
            ("x" * 1_000_000, number),
        )
    assert not store.wipes.return_pages()
    database.change("PRAGMA wal_checkpoint(TRUNCATE)")
    full = database.path.stat().st_size
    database.change("DELETE FROM asks")
    assert store.wipes.return_pages() and database.path.stat().st_size < full / 5
    assert database.value("PRAGMA integrity_check") == "ok"


def test_a_file_of_an_older_version_can_return_pages(tmp_path: Path) -> None:
    path = tmp_path / "finetune.db"
    older = sqlite3.connect(str(path))
    older.execute("PRAGMA journal_mode=WAL")
    older.execute("CREATE TABLE older (word TEXT)")  # without auto_vacuum, as older versions made it
    older.execute("INSERT INTO older VALUES ('kept')")
    older.commit()
    older.close()
    store = Store(path)
    assert store.database.value("PRAGMA auto_vacuum") == 2
    assert store.database.value("PRAGMA journal_mode") == "wal"
    assert store.database.value("SELECT word FROM older") == "kept"
    store.close()
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "finetune.db.lock"]


def test_a_wipe_leaves_no_rest_of_a_deleted_row(store: Store) -> None:
    """Rows that grow are moved between pages, and `secure_delete` doesn't reach the copies that stay behind."""
    database, chance = store.database, random.Random(2)
    database.change("CREATE TABLE grows (id INTEGER PRIMARY KEY, word TEXT)")
    for number in range(1, 1_000):
        word = f"{chance.choice(('quux', 'kept'))}{'x' * chance.choice((5, 50, 300, 900))}"
        database.change("INSERT INTO grows VALUES (?, ?)", (number, word))
        more = "z" * chance.randrange(900)
        earlier = chance.randrange(1, number + 1)
        database.change("UPDATE grows SET word = word || ? WHERE id = ?", (more, earlier))
    database.change("UPDATE grows SET word = '' WHERE word LIKE 'quux%'")
    assert store.wipes.empty_log()
    assert b"quux" in database.path.read_bytes()
    rows = database.rows("SELECT * FROM grows")
    store.wipes.request(now=1.0)
    assert store.wipes.wipe() and store.wipes.empty_log()
    assert b"quux" not in database.path.read_bytes()
    assert database.value("PRAGMA integrity_check") == "ok"
    assert database.rows("SELECT * FROM grows") == rows


def test_a_reader_delays_a_wipe_but_no_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wipes, "MOST_TRIES", 1)
    store.wipes.request(now=1.0)
    reader = sqlite3.connect(str(store.database.path), isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM wipe_requests").fetchall()
    store.wipes.request(now=2.0)
    assert not store.wipes.wipe()
    assert store.wipes.requested_at() == 1.0
    reader.close()
    assert store.wipes.wipe() and store.wipes.requested_at() is None


def test_a_wipe_ends_early_and_stays_requested_when_the_process_stops(store: Store) -> None:
    store.wipes.request(now=1.0)
    assert not store.wipes.wipe(is_stopping=lambda: True)
    assert store.wipes.requested_at() == 1.0
    assert store.wipes.wipe() and store.wipes.requested_at() is None


def test_a_row_cannot_point_at_nothing(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        store.database.change("INSERT INTO models VALUES ('m', 99, 'local', 'x', 'candidate', 0, NULL)")


def test_a_fresh_database_has_the_schema(store: Store) -> None:
    tables = {
        *("datasets", "runs", "approvals", "ledger", "answers", "models"),
        *("asks", "deliveries", "outbox", "cards", "audit"),
        *("dataset_settings", "waivers", "measurements", "replies", "documents", "preferences"),
        "human_verdicts",
    }
    assert tables <= set(store.database.utils.table_names())
    triggers = store.database.rows("SELECT name FROM sqlite_master WHERE type = 'trigger' ORDER BY name")
    assert [row["name"] for row in triggers] == [
        "approvals_are_append_only_delete",
        "approvals_are_append_only_update",
        "audit_is_append_only_delete",
        "audit_is_append_only_update",
        "deployments_are_kept",
        "freezes_are_never_forgotten",
        "promotion_decisions_are_append_only_delete",
        "promotion_decisions_are_append_only_update",
        "promotion_requests_are_kept",
        "promotions_are_kept",
        "unfreezes_are_append_only_delete",
        "unfreezes_are_append_only_update",
        "voids_are_append_only_delete",
        "voids_are_append_only_update",
        "waivers_are_append_only_delete",
        "waivers_are_append_only_update",
        "words_on_doubts_are_kept",
    ]


def test_opening_again_migrates_nothing_and_keeps_all_rows(tmp_path: Path) -> None:
    store = Store(tmp_path / "finetune.db")
    store.audit.add(at=1.0, who="U1", action="start", subject="run 1")
    schema = _schema(store)
    store.close()
    again = Store(tmp_path / "finetune.db")
    assert _schema(again) == schema
    assert [entry.who for entry in again.audit.entries()] == ["U1"]
    assert again.database.value("SELECT count(*) FROM _sqlite_migrations") == len(names())
    again.close()


def _schema(store: Store) -> list[str]:
    rows = store.database.rows("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")
    return [row["sql"] for row in rows]


def test_budget_warnings_of_the_previous_release_are_the_teams_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "finetune.db"
    utils = SqliteUtils(sqlite3.connect(str(path), isolation_level=None))
    migrations.apply(utils, stop_before="m005_policy")
    utils.execute("INSERT INTO budget_warnings VALUES ('2026-11', 50, 1.0)")
    utils.conn.close()
    store = Store(path)
    assert store.ledger.warned("2026-11") == {50}
    assert not store.ledger.warn("2026-11", 50, now=2.0)
    assert store.ledger.warn("2026-11", 50, "channel C1", now=2.0)
    assert store.ledger.warned("2026-11", "channel C1") == {50}
    store.close()
