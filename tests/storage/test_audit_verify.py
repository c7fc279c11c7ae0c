"""The audit log's chain, as a file in somebody's hands: whatever byte is altered, the check finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.audit import GENESIS, BrokenLog, IntactLog, verify_log
from storage.database import StorageError
from storage.driver import sqlite3
from storage.store import Store
from tests.storage.test_audit import alter, fill


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three entries in one file, closed."""
    path = tmp_path / "finetune.db"
    store = Store(path)
    fill(store)
    store.close()
    return path


def test_a_whole_log_gives_its_length_and_head_also_while_a_bot_runs(path: Path) -> None:
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


def test_it_says_which_entry_and_what_does_not_fit(path: Path) -> None:
    alter(path, "UPDATE audit SET who = 'U2' WHERE id = 2")
    found = verify_log(path)
    assert isinstance(found, BrokenLog) and found.entry is not None
    assert (found.before, found.entry.id, found.entry.subject) == (1, 2, "run 1")
    assert found.why == "Its hash does not match its content: it was altered after it was written."


@pytest.mark.parametrize("number", [1, 2])
def test_an_entry_taken_out_is_missed(path: Path, number: int) -> None:
    alter(path, f"DELETE FROM audit WHERE id = {number}")  # noqa: S608
    found = verify_log(path)
    assert isinstance(found, BrokenLog) and found.entry is not None
    assert found.entry.id == number + 1
    assert f"Entry {number} should be here" in found.why


def test_a_number_changed_alone_is_seen_though_no_hash_holds_it(path: Path) -> None:
    alter(path, "UPDATE audit SET id = 7 WHERE id = 3")
    assert isinstance(verify_log(path), BrokenLog)


def test_an_end_cut_off_is_seen_with_the_earlier_head_only(path: Path) -> None:
    before = verify_log(path)
    assert isinstance(before, IntactLog)
    alter(path, "DELETE FROM audit WHERE id = 3")
    assert isinstance(verify_log(path), IntactLog)
    found = verify_log(path, before.head)
    assert isinstance(found, BrokenLog)
    assert "cut off" in found.why


def test_an_earlier_head_is_found_again_in_a_log_that_grew(path: Path) -> None:
    before = verify_log(path)
    assert isinstance(before, IntactLog)
    store = Store(path)
    fill(store)
    store.close()
    found = verify_log(path, before.head)
    assert isinstance(found, IntactLog) and found.earlier is not None
    assert (found.entries, found.earlier.id) == (6, 3)
    assert isinstance(verify_log(path, GENESIS), IntactLog), "the head of an empty log"


def test_a_log_without_its_triggers_is_not_whole(path: Path) -> None:
    raw = sqlite3.connect(str(path))
    raw.execute("DROP TRIGGER audit_is_append_only_delete")
    raw.execute("CREATE TRIGGER audit_is_append_only_delete BEFORE DELETE ON audit BEGIN SELECT 1; END")
    raw.commit()
    raw.close()
    found = verify_log(path)
    assert isinstance(found, BrokenLog)
    assert "audit_is_append_only_delete" in found.why


def test_replacing_a_row_is_refused_like_deleting_it(path: Path) -> None:
    store = Store(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        store.database.change(
            "REPLACE INTO audit SELECT id, at, 'U9', action, subject, detail, previous, hash FROM audit"
        )
    store.close()


@pytest.mark.parametrize(("content", "said"), [(None, "no database at"), (b"x" * 9000, "can't be read as")])
def test_what_is_no_database_is_said(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content:
        (tmp_path / "other.db").write_bytes(content)
    with pytest.raises(StorageError, match=said):
        verify_log(tmp_path / "other.db")


def _cell_of_the_second(content: bytes) -> tuple[int, int]:
    """Cells are written from a page's end to its start: entry 2's lies between those of entries 3 and 1."""
    page = content.index(b"approverun 1") // 4096 * 4096
    count = int.from_bytes(content[page + 3 : page + 5], "big")
    places = [int.from_bytes(content[page + 8 + 2 * at : page + 10 + 2 * at], "big") for at in range(count)]
    assert count == 3
    return page + places[1], page + places[0]
