"""Backups are complete and private, and a restore replaces the database in one step or not at all."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from storage.audit import IntactLog, verify_log
from storage.backup import back_up, delete_old_backups, is_due, restore
from storage.database import DatabaseInUse, Stopped, StorageError
from storage.driver import sqlite3
from storage.store import Store
from tests.storage.audit_log import alter_audit_log, fill_audit_log
from tests.storage.conftest import add_run

NOON = 1_790_000_000.0 // 86400 * 86400 + 12 * 3600


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A closed database with three audit entries and a run."""
    store = Store(tmp_path / "data" / "finetune.db")
    fill_audit_log(store)
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


def store_files(folder: Path, *contents: bytes) -> list[str]:
    """Stores each content under its sha256, as the bot does."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [hashlib.sha256(content).hexdigest() + ".jsonl" for content in contents]
    for name, content in zip(names, contents, strict=True):
        (folder / name).write_bytes(content)
    return names


def test_a_backup_is_made_beside_a_running_bot_and_is_private(database: Path, tmp_path: Path) -> None:
    store = Store(database)
    store.audit.add(at=9.0, who="U1", action="cancel", subject="run 1")  # still in the write-ahead log
    backup = back_up(database, tmp_path / "to" / "here", now=NOON)
    store.close()
    assert isinstance(backup.audit, IntactLog) and backup.audit.entries == 4
    assert backup.path.name == "finetune-20260921T120000Z.db"
    assert stat.S_IMODE(backup.path.stat().st_mode) == 0o600
    assert [path.name for path in backup.path.parent.iterdir()] == [backup.path.name]


def test_files_are_copied_once_and_only_if_they_match_their_name(database: Path, tmp_path: Path) -> None:
    files, folder = tmp_path / "data" / "files", tmp_path / "to"
    names = store_files(files, b"one", b"two", b"three")
    (files / names[2]).write_bytes(b"thref")
    (files / "plot.png").write_bytes(b"")
    backup = back_up(database, folder, now=NOON, files=files)
    assert (backup.files, backup.copied, backup.corrupt) == (3, 2, (names[2],))
    assert sorted(path.name for path in (folder / "files").iterdir()) == sorted(names[:2])
    assert back_up(database, folder, now=NOON + 1, files=files).copied == 0


def test_a_backup_ends_early_when_the_process_stops_while_it_checks_the_audit_log(
    database: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        verify_log(database, is_stopping=lambda: True)
    with pytest.raises(Stopped):
        back_up(database, tmp_path / "backups", now=NOON, is_stopping=lambda: True)
    assert not list((tmp_path / "backups").iterdir())


def test_a_backup_that_cannot_be_written_leaves_nothing(database: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Writing a backup to"):
        back_up(database, tmp_path / "file" / "x", now=NOON)
    with pytest.raises(StorageError, match="no database at"):
        back_up(tmp_path / "none.db", tmp_path / "to", now=NOON)
    assert not (tmp_path / "to").exists()


def test_each_night_has_one_backup_and_the_oldest_are_deleted(database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    assert is_due(folder, NOON)
    paths = [back_up(database, folder, now=NOON + day * 86400).path for day in range(3)]
    last = NOON + 2 * 86400
    assert not is_due(folder, last + 14.9 * 3600)
    assert is_due(folder, last + 15.1 * 3600), "it is past 3 o'clock again"
    (folder / "finetune-mine.db").write_text("not ours")
    delete_old_backups(folder, 2)
    assert sorted(path.name for path in folder.iterdir()) == [
        *(path.name for path in paths[1:]),
        "finetune-mine.db",
    ]


def test_a_restore_brings_back_the_backup_and_keeps_the_replaced_database(
    database: Path, tmp_path: Path
) -> None:
    files = tmp_path / "data" / "files"
    names = store_files(files, b"one")
    backup = back_up(database, tmp_path / "to", now=NOON, files=files)
    (files / names[0]).unlink()
    store = Store(database)
    add_run(store, "b")
    store.close()
    restored = restore(backup.path, database, files, now=NOON + 60)
    assert ([run.id for run in restored.open], restored.files, restored.corrupt) == ([1], 1, ())
    assert (files / names[0]).read_bytes() == b"one"
    store, replaced = Store(database), Store(restored.replaced or Path())
    assert (store.runs.get(2), replaced.runs.get(2) is None) == (None, False)
    assert [entry.action for entry in store.audit.entries()][-2:] == ["restore", "restored"]
    assert isinstance(verify_log(database), IntactLog)
    replaced.close()
    store.close()
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


def test_a_killed_bots_last_writes_stay_with_the_replaced_database(database: Path, tmp_path: Path) -> None:
    backup = back_up(database, tmp_path / "to", now=NOON)
    write_and_be_killed(database)
    restored = restore(backup.path, database, tmp_path / "files", now=NOON)
    assert not (database.parent / "finetune.db-wal").exists()
    for path, error in ((database, None), (restored.replaced, "later")):
        store = Store(path or Path())
        assert store.runs.open()[0].error == error
        store.close()


def test_a_replaced_database_can_be_restored_with_its_last_writes(database: Path, tmp_path: Path) -> None:
    backup = back_up(database, tmp_path / "to", now=NOON)
    write_and_be_killed(database)
    replaced = restore(backup.path, database, tmp_path / "files", now=NOON).replaced
    assert replaced
    restore(replaced, database, tmp_path / "files", now=NOON + 1)
    store = Store(database)
    assert store.runs.open()[0].error == "later"
    store.close()


def test_a_restore_that_fails_at_its_last_step_says_how_to_put_the_database_back(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = back_up(database, tmp_path / "to", now=NOON)
    write_and_be_killed(database)
    rename = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if path.name.endswith(".restoring"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(StorageError) as failed:
        patch.setattr(Path, "replace", fail)
        restore(backup.path, database, tmp_path / "files", now=NOON)
    (replaced,) = database.parent.glob("*.replaced-*Z")
    assert str(failed.value).endswith(f"kept as {replaced}: `finetune restore {replaced}` puts it back.")
    restore(replaced, database, tmp_path / "files", now=NOON + 1)
    store = Store(database)
    assert store.runs.open()[0].error == "later"
    store.close()


def test_an_approved_run_is_an_uncertain_create_after_a_restore(database: Path, tmp_path: Path) -> None:
    store = Store(database)
    run = store.runs.get(1)
    assert run and store.runs.move(run, "approved", now=200.0)
    store.close()
    backup = back_up(database, tmp_path / "to", now=NOON)
    (run,) = restore(backup.path, database, tmp_path / "files", now=NOON).open
    assert (run.state, run.state_since) == ("creating", NOON)


def test_a_restore_is_refused_while_a_bot_runs(database: Path, tmp_path: Path) -> None:
    backup = back_up(database, tmp_path / "to", now=NOON)
    store = Store(database)
    with pytest.raises(DatabaseInUse, match="Stop that one first"):
        restore(backup.path, database, tmp_path / "files", now=NOON)
    store.close()


@pytest.mark.parametrize("harm", ["bytes", "audit", "other"])
def test_a_damaged_backup_is_refused_and_changes_nothing(database: Path, tmp_path: Path, harm: str) -> None:
    backup = back_up(database, tmp_path / "to", now=NOON).path
    if harm == "audit":
        alter_audit_log(backup, "UPDATE audit SET who = 'U9' WHERE id = 2")
    else:
        content = backup.read_bytes()
        torn = content[:4096] + b"\xff" * 9000 + content[13096:]
        backup.write_bytes(torn if harm == "bytes" else b"no database" * 900)
    before = database.read_bytes()
    with pytest.raises(StorageError):
        restore(backup, database, tmp_path / "files", now=NOON)
    assert database.read_bytes() == before
    assert not list(database.parent.glob("*replaced*"))


def test_a_backup_can_be_restored_into_a_new_folder(database: Path, tmp_path: Path) -> None:
    backup = back_up(database, tmp_path / "to", now=NOON)
    restored = restore(backup.path, tmp_path / "new" / "finetune.db", tmp_path / "new" / "files", now=NOON)
    assert restored.replaced is None
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["finetune.db", "finetune.db.lock"]


def test_a_damaged_backup_leaves_no_folder_behind(tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    backup.write_bytes(b"no database" * 1000)
    database = tmp_path / "data" / "finetune.db"
    with pytest.raises(StorageError):
        restore(backup, database, tmp_path / "data" / "files", now=0.0)
    assert not database.parent.exists()
