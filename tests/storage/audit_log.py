"""An audit log with three entries, and how somebody with the file in hand could alter it."""

from __future__ import annotations

from pathlib import Path

from storage.driver import sqlite3
from storage.store import Store


def fill_audit_log(store: Store) -> None:
    for number, action in enumerate(("ask", "approve", "start"), start=1):
        store.audit.add(at=float(number), who="U1", action=action, subject="run 1", detail="tickets")


def alter_audit_log(path: Path, sql: str) -> None:
    """Runs `sql` past our triggers, which are in place again afterwards."""
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
