"""The audit log: append-only, and one altered byte is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.audit import BrokenLog, IntactLog, verify_log
from storage.driver import sqlite3
from storage.store import Store
from tests.storage.test_database import at_once


def fill(store: Store) -> None:
    for number, action in enumerate(("ask", "approve", "start"), start=1):
        store.audit.add(at=float(number), who="U1", action=action, subject="run 1", detail="tickets")


def alter(path: Path, sql: str) -> None:
    """As somebody with the file in hand could: past our triggers, which are there again afterwards."""
    raw = sqlite3.connect(str(path))
    triggers = raw.execute(
        "SELECT name, sql FROM sqlite_master WHERE name LIKE 'audit_is_append_only_%'"
    ).fetchall()
    for name, _ in triggers:
        raw.execute(f"DROP TRIGGER {name}")
    assert raw.execute(sql).rowcount >= 1
    for _, definition in triggers:
        raw.execute(definition)
    raw.commit()
    raw.close()


def test_entries_come_oldest_first_and_by_subject(store: Store) -> None:
    fill(store)
    store.audit.add(at=4.0, who="U2", action="freeze", subject="all")
    assert [entry.action for entry in store.audit.entries()] == ["ask", "approve", "start", "freeze"]
    assert [entry.who for entry in store.audit.entries("all")] == ["U2"]
    assert isinstance(verify_log(store.database.path), IntactLog)


@pytest.mark.parametrize("sql", ["UPDATE audit SET who = 'U9'", "DELETE FROM audit WHERE id = 3"])
def test_nothing_is_changed_or_taken_out(store: Store, sql: str) -> None:
    fill(store)
    with pytest.raises(sqlite3.IntegrityError, match="the audit log is append-only"):
        store.database.change(sql)
    assert len(store.audit.entries()) == 3


@pytest.mark.parametrize(
    ("sql", "broken"),
    [
        ("UPDATE audit SET detail = 'tickett' WHERE id = 1", 1),
        ("UPDATE audit SET who = 'U2' WHERE id = 2", 2),
        ("UPDATE audit SET action = 'Approve' WHERE id = 2", 2),
        ("UPDATE audit SET subject = 'run 2' WHERE id = 3", 3),
        ("UPDATE audit SET at = at + 0.001 WHERE id = 2", 2),
        ("UPDATE audit SET hash = replace(hash, substr(hash, 1, 1), 'g') WHERE id = 2", 2),
        ("UPDATE audit SET previous = replace(previous, '0', '1') WHERE id = 1", 1),
        ("DELETE FROM audit WHERE id = 2", 3),
        ("DELETE FROM audit WHERE id = 1", 2),
    ],
)
def test_one_altered_byte_is_found_where_it_is(tmp_path: Path, sql: str, broken: int) -> None:
    path = tmp_path / "finetune.db"
    store = Store(path)
    fill(store)
    alter(path, sql)
    store.close()
    result = verify_log(path)
    assert isinstance(result, BrokenLog) and result.entry is not None
    assert result.entry.id == broken


def test_the_chain_holds_between_threads(store: Store) -> None:
    at_once(16, lambda n: store.audit.add(at=float(n), who=f"U{n}", action="look", subject="run 1"))
    assert len(store.audit.entries()) == 16
    assert isinstance(verify_log(store.database.path), IntactLog)


def test_the_chain_takes_any_text_and_a_time_in_whole_seconds(store: Store) -> None:
    store.audit.add(at=1_800_000_000, who="U1", action="say", subject="run 1", detail='ünï "quoted" \n\u202e')
    store.audit.add(at=0.1 + 0.2, who="U1", action="say", subject="run 1")
    assert isinstance(verify_log(store.database.path), IntactLog)


def test_an_entry_goes_with_the_transaction_that_it_tells_of(store: Store) -> None:
    with pytest.raises(RuntimeError), store.transaction():
        store.audit.add(at=1.0, who="U1", action="start", subject="run 1")
        raise RuntimeError
    assert store.audit.entries() == []
