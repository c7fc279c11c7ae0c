"""Verifying the audit log's chain: the check finds whatever byte somebody alters in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.audit import GENESIS, BrokenLog, IntactLog, verify_log
from storage.database import StorageError
from storage.driver import sqlite3
from storage.store import Store
from tests.storage.audit_log import alter_audit_log, fill_audit_log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed database with three entries."""
    path = tmp_path / "finetune.db"
    store = Store(path)
    fill_audit_log(store)
    store.close()
    return path


def test_an_intact_log_has_its_length_and_head_also_while_a_bot_runs(path: Path) -> None:
    store = Store(path)
    assert verify_log(path) == IntactLog(3, store.audit.entries()[-1].hash)
    store.close()


def test_every_single_byte_of_a_row_counts(path: Path) -> None:
    """Each byte of the middle entry's cell, header and number included, altered in two ways."""
    content = path.read_bytes()
    start, end = _cell_of_the_second(content)
    unseen = []
    for place in range(start, end):
        for change in (0x01, 0x80):
            path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
            if not isinstance(verify_log(path), BrokenLog):
                unseen.append((place - start, change))
    assert unseen == []


def test_the_altered_entry_is_reported_with_what_does_not_match(path: Path) -> None:
    alter_audit_log(path, "UPDATE audit SET who = 'U2' WHERE id = 2")
    result = verify_log(path)
    assert isinstance(result, BrokenLog) and result.entry is not None
    assert (result.before, result.entry.id, result.entry.subject) == (1, 2, "run 1")
    assert result.why == "Its hash does not match its content: it was altered after it was written."


@pytest.mark.parametrize("number", [1, 2])
def test_a_deleted_entry_is_missed(path: Path, number: int) -> None:
    alter_audit_log(path, f"DELETE FROM audit WHERE id = {number}")  # noqa: S608
    result = verify_log(path)
    assert isinstance(result, BrokenLog) and result.entry is not None
    assert result.entry.id == number + 1
    assert f"Entry {number} should be here" in result.why


def test_a_changed_number_is_noticed_though_no_hash_contains_it(path: Path) -> None:
    alter_audit_log(path, "UPDATE audit SET id = 7 WHERE id = 3")
    assert isinstance(verify_log(path), BrokenLog)


def test_a_cut_off_end_is_noticed_only_with_the_earlier_head(path: Path) -> None:
    before = verify_log(path)
    assert isinstance(before, IntactLog)
    alter_audit_log(path, "DELETE FROM audit WHERE id = 3")
    assert isinstance(verify_log(path), IntactLog)
    result = verify_log(path, before.head)
    assert isinstance(result, BrokenLog)
    assert "cut off" in result.why


def test_an_earlier_head_is_found_in_a_longer_log(path: Path) -> None:
    before = verify_log(path)
    assert isinstance(before, IntactLog)
    store = Store(path)
    fill_audit_log(store)
    store.close()
    result = verify_log(path, before.head)
    assert isinstance(result, IntactLog) and result.earlier is not None
    assert (result.entries, result.earlier.id) == (6, 3)
    assert isinstance(verify_log(path, GENESIS), IntactLog), "the head of an empty log"


def test_a_log_without_its_triggers_is_broken(path: Path) -> None:
    raw = sqlite3.connect(str(path))
    raw.execute("DROP TRIGGER audit_is_append_only_delete")
    raw.execute("CREATE TRIGGER audit_is_append_only_delete BEFORE DELETE ON audit BEGIN SELECT 1; END")
    raw.commit()
    raw.close()
    result = verify_log(path)
    assert isinstance(result, BrokenLog)
    assert "audit_is_append_only_delete" in result.why


def test_replacing_a_row_is_refused_like_deleting_it(path: Path) -> None:
    store = Store(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        store.database.change(
            "REPLACE INTO audit SELECT id, at, 'U9', action, subject, detail, previous, hash FROM audit"
        )
    store.close()


@pytest.mark.parametrize(("content", "reason"), [(None, "no database at"), (b"x" * 9000, "can't be read as")])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content:
        (tmp_path / "other.db").write_bytes(content)
    with pytest.raises(StorageError, match=reason):
        verify_log(tmp_path / "other.db")


def _cell_of_the_second(content: bytes) -> tuple[int, int]:
    """Returns where entry 2's cell begins and ends. Cells are written from a page's end to its start, so that it lies
    between those of entries 3 and 1."""
    page = content.index(b"approverun 1") // 4096 * 4096
    count = int.from_bytes(content[page + 3 : page + 5], "big")
    places = [int.from_bytes(content[page + 8 + 2 * at : page + 10 + 2 * at], "big") for at in range(count)]
    assert count == 3
    return page + places[1], page + places[0]
