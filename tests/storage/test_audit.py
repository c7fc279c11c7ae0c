"""The audit log is append-only, and an altered byte is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.audit import BrokenLog, IntactLog, verify_log
from storage.driver import sqlite3
from storage.store import Store
from tests.storage.audit_log import alter_audit_log, fill_audit_log
from tests.storage.threads import run_at_once


def test_entries_come_oldest_first_and_by_subject(store: Store) -> None:
    fill_audit_log(store)
    store.audit.add(at=4.0, who="U2", action="freeze", subject="all")
    assert [entry.action for entry in store.audit.entries()] == ["ask", "approve", "start", "freeze"]
    assert [entry.who for entry in store.audit.entries("all")] == ["U2"]
    assert isinstance(verify_log(store.database.path), IntactLog)


@pytest.mark.parametrize("sql", ["UPDATE audit SET who = 'U9'", "DELETE FROM audit WHERE id = 3"])
def test_no_entry_can_be_changed_or_deleted(store: Store, sql: str) -> None:
    fill_audit_log(store)
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
def test_an_altered_value_is_found_at_its_entry(tmp_path: Path, sql: str, broken: int) -> None:
    path = tmp_path / "finetune.db"
    store = Store(path)
    fill_audit_log(store)
    alter_audit_log(path, sql)
    store.close()
    result = verify_log(path)
    assert isinstance(result, BrokenLog) and result.entry is not None
    assert result.entry.id == broken


def test_the_chain_stays_intact_between_threads(store: Store) -> None:
    run_at_once(16, lambda n: store.audit.add(at=float(n), who=f"U{n}", action="look", subject="run 1"))
    assert len(store.audit.entries()) == 16
    assert isinstance(verify_log(store.database.path), IntactLog)


def test_the_chain_accepts_any_text_and_whole_seconds(store: Store) -> None:
    store.audit.add(at=1_800_000_000, who="U1", action="say", subject="run 1", detail='ünï "quoted" \n\u202e')
    store.audit.add(at=0.1 + 0.2, who="U1", action="say", subject="run 1")
    assert isinstance(verify_log(store.database.path), IntactLog)


def test_an_entry_is_rolled_back_with_its_transaction(store: Store) -> None:
    with pytest.raises(RuntimeError), store.transaction():
        store.audit.add(at=1.0, who="U1", action="start", subject="run 1")
        raise RuntimeError
    assert store.audit.entries() == []
