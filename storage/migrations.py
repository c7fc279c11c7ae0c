"""The schema, one step a release. A released step is never changed; a new one is added below it."""

from __future__ import annotations

from storage.driver import Migrations, SqliteUtils
from storage.schemas import (
    CERTAINTY,
    EVIDENCE,
    FIRST_SCHEMA,
    FORGETTINGS,
    IDS_USED_ONCE,
    MONEY,
    OUTBOX_THAT_EMPTIES,
    OWNERS,
    POLICY,
    PROMOTIONS,
    QUESTIONS,
    SCANS,
    UPLOADS,
)

migrations = Migrations("finetune")


@migrations()
def m001_first_schema(db: SqliteUtils) -> None:
    for statement in _statements(FIRST_SCHEMA):
        db.execute(statement)


@migrations()
def m002_evidence(db: SqliteUtils) -> None:
    for statement in _statements(EVIDENCE):
        db.execute(statement)


@migrations()
def m003_pauses(db: SqliteUtils) -> None:
    db.execute("ALTER TABLE runs ADD COLUMN wish TEXT CHECK (wish IN ('pause', 'resume'))")
    db.execute("ALTER TABLE runs ADD COLUMN wished_by TEXT")


@migrations()
def m004_money(db: SqliteUtils) -> None:
    for statement in _statements(MONEY):
        db.execute(statement)


@migrations()
def m005_policy(db: SqliteUtils) -> None:
    for statement in _statements(POLICY):
        db.execute(statement)


@migrations()
def m006_certainty(db: SqliteUtils) -> None:
    for statement in _statements(CERTAINTY):
        db.execute(statement)


@migrations()
def m007_promotions(db: SqliteUtils) -> None:
    for statement in _statements(PROMOTIONS):
        db.execute(statement)


@migrations()
def m008_ids_used_once(db: SqliteUtils) -> None:
    for table in ("cleanings", "estimates", "asks", "documents", "outbox"):
        _use_ids_once(db, table)
    for statement in _statements(IDS_USED_ONCE):
        db.execute(statement)


@migrations()
def m009_uploads(db: SqliteUtils) -> None:
    for statement in _statements(UPLOADS):
        db.execute(statement)


def _use_ids_once(db: SqliteUtils, table: str) -> None:
    """Without AUTOINCREMENT, SQLite gives a deleted row's id to the next one. A table must be copied to get it."""
    (created,) = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    rest = "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND type <> 'table' AND sql IS NOT NULL"
    indexes = [sql for (sql,) in db.execute(rest, (table,)).fetchall()]
    columns = created.partition("(")[2].replace("PRIMARY KEY", "PRIMARY KEY AUTOINCREMENT", 1)
    db.execute(f"CREATE TABLE copied ({columns}")
    db.execute(f"INSERT INTO copied SELECT * FROM {table}")  # noqa: S608 - our names
    db.execute(f"DROP TABLE {table}")
    db.execute(f"ALTER TABLE copied RENAME TO {table}")
    for index in indexes:
        db.execute(index)


@migrations()
def m010_owners(db: SqliteUtils) -> None:
    for statement in _statements(OWNERS):
        db.execute(statement)


@migrations()
def m011_outbox_that_empties(db: SqliteUtils) -> None:
    for statement in _statements(OUTBOX_THAT_EMPTIES):
        db.execute(statement)


@migrations()
def m012_questions(db: SqliteUtils) -> None:
    for statement in _statements(QUESTIONS):
        db.execute(statement)


@migrations()
def m013_scans(db: SqliteUtils) -> None:
    for statement in _statements(SCANS):
        db.execute(statement)


@migrations()
def m014_forgettings(db: SqliteUtils) -> None:
    for statement in _statements(FORGETTINGS):
        db.execute(statement)


def _statements(script: str) -> list[str]:
    """`executescript` would commit the migration's own transaction, so statements go one by one."""
    statements, current = [], ""
    for line in script.strip().splitlines():
        current += line + "\n"
        in_trigger = current.lstrip().startswith("CREATE TRIGGER") and "END;" not in current
        if line.rstrip().endswith(";") and not in_trigger:
            statements.append(current)
            current = ""
    return statements
