"""The schema, one step a release. A released step is never changed; a new one is added below it."""

from __future__ import annotations

from storage.driver import Migrations, SqliteUtils
from storage.schemas import (
    ACTUALS,
    CERTAINTY,
    DEPLOYMENTS,
    EVIDENCE,
    FIRST_SCHEMA,
    FORGETTINGS,
    IDS_USED_ONCE,
    LABELS,
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
    _execute(db, FIRST_SCHEMA)


@migrations()
def m002_evidence(db: SqliteUtils) -> None:
    _execute(db, EVIDENCE)


@migrations()
def m003_pauses(db: SqliteUtils) -> None:
    db.execute("ALTER TABLE runs ADD COLUMN wish TEXT CHECK (wish IN ('pause', 'resume'))")
    db.execute("ALTER TABLE runs ADD COLUMN wished_by TEXT")


@migrations()
def m004_money(db: SqliteUtils) -> None:
    _execute(db, MONEY)


@migrations()
def m005_policy(db: SqliteUtils) -> None:
    _execute(db, POLICY)


@migrations()
def m006_certainty(db: SqliteUtils) -> None:
    _execute(db, CERTAINTY)


@migrations()
def m007_promotions(db: SqliteUtils) -> None:
    _execute(db, PROMOTIONS)


@migrations()
def m008_ids_used_once(db: SqliteUtils) -> None:
    """Adds AUTOINCREMENT, without which SQLite gives a deleted row's id to the next one. That takes a copy of each
    table."""
    for table in ("cleanings", "estimates", "asks", "documents", "outbox"):
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
    _execute(db, IDS_USED_ONCE)


@migrations()
def m009_uploads(db: SqliteUtils) -> None:
    _execute(db, UPLOADS)


@migrations()
def m010_owners(db: SqliteUtils) -> None:
    _execute(db, OWNERS)


@migrations()
def m011_outbox_that_empties(db: SqliteUtils) -> None:
    _execute(db, OUTBOX_THAT_EMPTIES)


@migrations()
def m012_questions(db: SqliteUtils) -> None:
    _execute(db, QUESTIONS)


@migrations()
def m013_scans(db: SqliteUtils) -> None:
    _execute(db, SCANS)


@migrations()
def m014_forgettings(db: SqliteUtils) -> None:
    _execute(db, FORGETTINGS)


@migrations()
def m019_labels(db: SqliteUtils) -> None:
    _execute(db, LABELS)


@migrations()
def m020_actuals(db: SqliteUtils) -> None:
    _execute(db, ACTUALS)


@migrations()
def m021_deployments(db: SqliteUtils) -> None:
    _execute(db, DEPLOYMENTS)


def _execute(db: SqliteUtils, script: str) -> None:
    """Executes statement by statement: `executescript` would commit the migration's own transaction."""
    statement = ""
    for line in script.strip().splitlines():
        statement += line + "\n"
        in_trigger = statement.lstrip().startswith("CREATE TRIGGER") and "END;" not in statement
        if line.rstrip().endswith(";") and not in_trigger:
            db.execute(statement)
            statement = ""
