"""Backups and what is made of them: whole, private, in the place of the database at one moment or not at
all."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from storage.audit import IntactLog, verify_log
from storage.backup import MarkUncertain, back_up, delete_old_backups, is_due, restore
from storage.database import DatabaseInUse, StorageError
from storage.driver import sqlite3
from storage.evaluations import NewMeasurement
from storage.store import Store
from tests.storage.conftest import add_run
from tests.storage.test_audit import alter, fill

NOON = 1_790_000_000.0 // 86400 * 86400 + 12 * 3600


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Three entries and a run, closed."""
    store = Store(tmp_path / "data" / "finetune.db")
    fill(store)
    add_run(store)
    store.close()
    return tmp_path / "data" / "finetune.db"


def write_and_be_killed(database: Path) -> None:
    """Leaves a write in the database's log, as SIGKILL does."""
    raw = sqlite3.connect(str(database))
    raw.execute("UPDATE runs SET error = 'later'")
    raw.commit()
    copies = {mark: (database.parent / f"finetune.db{mark}").read_bytes() for mark in ("", "-wal")}
    raw.close()
    for mark, content in copies.items():
        (database.parent / f"finetune.db{mark}").write_bytes(content)


def keep(folder: Path, *contents: bytes) -> list[str]:
    """As the bot does: each under its sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [hashlib.sha256(content).hexdigest() + ".jsonl" for content in contents]
    for name, content in zip(names, contents, strict=True):
        (folder / name).write_bytes(content)
    return names


def test_a_backup_is_made_beside_a_running_bot_and_is_private(database: Path, tmp_path: Path) -> None:
    store = Store(database)
    store.audit.add(at=9.0, who="U1", action="cancel", subject="run 1")  # in the log of writes still
    made = back_up(database, tmp_path / "to" / "here", now=NOON)
    store.close()
    assert isinstance(made.audit, IntactLog) and made.audit.entries == 4
    assert made.path.name == "finetune-20260921T120000Z.db"
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert [path.name for path in made.path.parent.iterdir()] == [made.path.name]


def test_files_are_taken_along_once_and_only_where_they_fit_their_name(
    database: Path, tmp_path: Path
) -> None:
    files, folder = tmp_path / "data" / "files", tmp_path / "to"
    names = keep(files, b"one", b"two", b"three")
    (files / names[2]).write_bytes(b"thref")
    (files / "plot.png").write_bytes(b"")
    made = back_up(database, folder, now=NOON, files=files)
    assert (made.files, made.copied, made.corrupt) == (3, 2, (names[2],))
    assert sorted(path.name for path in (folder / "files").iterdir()) == sorted(names[:2])
    assert back_up(database, folder, now=NOON + 1, files=files).copied == 0


def test_a_folder_that_cannot_be_written_is_said_and_leaves_nothing(database: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Writing a backup to"):
        back_up(database, tmp_path / "file" / "x", now=NOON)
    with pytest.raises(StorageError, match="no database at"):
        back_up(tmp_path / "none.db", tmp_path / "to", now=NOON)
    assert not (tmp_path / "to").exists()


def test_a_night_has_one_backup_and_the_oldest_go(database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    assert is_due(folder, NOON)
    made = [back_up(database, folder, now=NOON + day * 86400).path for day in range(3)]
    last = NOON + 2 * 86400
    assert not is_due(folder, last + 14.9 * 3600)
    assert is_due(folder, last + 15.1 * 3600), "it is past 3 o'clock again"
    (folder / "finetune-mine.db").write_text("not ours")
    delete_old_backups(folder, 2)
    assert sorted(path.name for path in folder.iterdir()) == [
        *(path.name for path in made[1:]),
        "finetune-mine.db",
    ]


def test_a_restore_brings_back_what_was_and_keeps_what_is(database: Path, tmp_path: Path) -> None:
    files = tmp_path / "data" / "files"
    names = keep(files, b"one")
    made = back_up(database, tmp_path / "to", now=NOON, files=files)
    (files / names[0]).unlink()
    store = Store(database)
    add_run(store, "b")
    store.close()
    found = restore(made.path, database, files, now=NOON + 60)
    assert ([run.id for run in found.open], found.files, found.corrupt) == ([1], 1, ())
    assert (files / names[0]).read_bytes() == b"one"
    store, kept = Store(database), Store(found.replaced or Path())
    assert (store.runs.get(2), kept.runs.get(2) is None) == (None, False)
    assert [one.action for one in store.audit.entries()][-2:] == ["restore", "restored"]
    assert isinstance(verify_log(database), IntactLog)
    kept.close()
    store.close()
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


def test_writes_that_a_killed_bot_left_in_its_log_are_kept_and_not_mixed_in(
    database: Path, tmp_path: Path
) -> None:
    made = back_up(database, tmp_path / "to", now=NOON)
    write_and_be_killed(database)
    found = restore(made.path, database, tmp_path / "files", now=NOON)
    assert not (database.parent / "finetune.db-wal").exists()
    for path, error in ((database, None), (found.replaced, "later")):
        store = Store(path or Path())
        assert store.runs.open()[0].error == error
        store.close()


def test_what_was_replaced_comes_back_with_the_writes_of_its_log(database: Path, tmp_path: Path) -> None:
    made = back_up(database, tmp_path / "to", now=NOON)
    write_and_be_killed(database)
    kept = restore(made.path, database, tmp_path / "files", now=NOON).replaced
    assert kept
    restore(kept, database, tmp_path / "files", now=NOON + 1)
    store = Store(database)
    assert store.runs.open()[0].error == "later"
    store.close()


def test_a_run_that_may_have_a_job_is_looked_for_before_it_is_created(database: Path, tmp_path: Path) -> None:
    store = Store(database)
    run = store.runs.get(1)
    assert run and store.runs.move(run, "approved", now=200.0)
    store.close()
    made = back_up(database, tmp_path / "to", now=NOON)
    (run,) = restore(made.path, database, tmp_path / "files", now=NOON).open
    assert (run.state, run.state_since) == ("creating", NOON)


def test_a_measurement_s_progress_is_what_in_doubt_makes_of_it(database: Path, tmp_path: Path) -> None:
    store = Store(database)
    store.measurements.add(NewMeasurement("curve", 1, "C1", "U1", "{}", "running"), now=1.0)
    store.close()
    made = back_up(database, tmp_path / "to", now=NOON)
    said: MarkUncertain = lambda one, now: f"{one.id} at {now}"  # noqa: E731
    restore(made.path, database, tmp_path / "files", now=NOON, mark_uncertain=said)
    store = Store(database)
    assert [one.progress for one in store.measurements.open()] == [f"1 at {NOON}"]
    store.close()


def test_it_is_refused_while_a_bot_runs(database: Path, tmp_path: Path) -> None:
    made = back_up(database, tmp_path / "to", now=NOON)
    store = Store(database)
    with pytest.raises(DatabaseInUse, match="Stop that one first"):
        restore(made.path, database, tmp_path / "files", now=NOON)
    store.close()


@pytest.mark.parametrize("harm", ["bytes", "audit", "other"])
def test_a_damaged_backup_is_refused_and_changes_nothing(database: Path, tmp_path: Path, harm: str) -> None:
    backup = back_up(database, tmp_path / "to", now=NOON).path
    if harm == "audit":
        alter(backup, "UPDATE audit SET who = 'U9' WHERE id = 2")
    else:
        content = backup.read_bytes()
        torn = content[:4096] + b"\xff" * 9000 + content[13096:]
        backup.write_bytes(torn if harm == "bytes" else b"no database" * 900)
    before = database.read_bytes()
    with pytest.raises(StorageError):
        restore(backup, database, tmp_path / "files", now=NOON)
    assert database.read_bytes() == before
    assert not list(database.parent.glob("*replaced*"))


def test_it_also_works_where_nothing_was(database: Path, tmp_path: Path) -> None:
    made = back_up(database, tmp_path / "to", now=NOON)
    found = restore(made.path, tmp_path / "new" / "finetune.db", tmp_path / "new" / "files", now=NOON)
    assert found.replaced is None
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["finetune.db", "finetune.db.lock"]


def test_a_damaged_backup_leaves_nothing_where_it_would_have_gone(tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    backup.write_bytes(b"no database" * 1000)
    database = tmp_path / "data" / "finetune.db"
    with pytest.raises(StorageError):
        restore(backup, database, tmp_path / "data" / "files", now=0.0)
    assert not database.parent.exists()
