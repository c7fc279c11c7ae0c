"""The migrations of the schema. A released step is never changed; add a new one at the end."""

from __future__ import annotations

from collections.abc import Callable

from storage.driver import Migrations, SqliteUtils
from storage.schemas import (
    ACTUALS,
    CERTAINTY,
    DEPLOYMENTS,
    EVIDENCE,
    FIRST_SCHEMA,
    FORGETTINGS,
    HUMAN_VERDICTS,
    IDS_USED_ONCE,
    LABELS,
    MISSING_DEPLOYMENTS,
    MONEY,
    OUTBOX_THAT_EMPTIES,
    OWNERS,
    PAUSES,
    POLICY,
    PROMOTIONS,
    QUESTIONS,
    SCANS,
    SHEETS,
    UPLOADS,
)

# Versions are compared by these names as texts, so a new one has to sort after all others.
NEWEST = "m029_jobs_of_runs"  # the last step below
migrations = Migrations("finetune")

# So that no tick or list reads all that ever was. Partial ones serve queries that repeat their condition word for word.
INDICES = """
CREATE INDEX runs_open ON runs (next_at)
    WHERE state IN ('awaiting_approval', 'approved', 'creating', 'training', 'evaluating');
CREATE INDEX runs_by_state ON runs (state, updated_at);
CREATE INDEX runs_by_holdout ON runs (json_extract(plan, '$.holdout_sha256'));
CREATE INDEX runs_by_dataset ON runs (dataset_id);
CREATE INDEX runs_by_provider ON runs (provider, key);
CREATE INDEX promotions_to_sync ON promotions (dataset) WHERE ended_at IS NULL AND carried_at IS NULL;
CREATE INDEX models_by_run ON models (run_id);
CREATE INDEX models_at_provider ON models (provider_model);
CREATE INDEX measurements_open ON measurements (next_at) WHERE state IN ('asked', 'running');
CREATE INDEX measurements_by_dataset ON measurements (dataset_id);
CREATE INDEX measurements_by_month ON measurements (month);
CREATE INDEX datasets_owners ON datasets (name, owner);
CREATE INDEX audit_by_subject ON audit (subject);
CREATE INDEX replies_by_owner ON replies (owner);
CREATE INDEX replies_by_model ON replies (model, at);
CREATE INDEX ledger_by_month ON ledger (month, kind);
CREATE INDEX deliveries_by_age ON deliveries (at);
CREATE INDEX deliveries_open ON deliveries (at, id) WHERE body IS NOT NULL;
"""

# Questions to models that are under way, and those whose answers were lost.
SENT_QUESTIONS = """
CREATE TABLE sent_questions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    model TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    is_lost INTEGER NOT NULL DEFAULT 0,
    at REAL NOT NULL
);
CREATE INDEX sent_questions_by_owner ON sent_questions (owner);
"""


def _execute(db: SqliteUtils, script: str) -> None:
    """Executes a script statement by statement, because `executescript` would commit the migration's transaction."""
    statement = ""
    for line in script.strip().splitlines():
        statement += line + "\n"
        # The body of a trigger has semicolons of its own.
        in_trigger = statement.lstrip().startswith("CREATE TRIGGER") and "END;" not in statement
        if line.rstrip().endswith(";") and not in_trigger:
            db.execute(statement)
            statement = ""


def _add(*steps: tuple[str, str]) -> None:
    """Adds migrations that consist of one SQL script each."""
    for name, script in steps:
        migrations(name=name)(_execution(script))


def _execution(script: str) -> Callable[[SqliteUtils], None]:
    return lambda db: _execute(db, script)


_add(
    ("m001_first_schema", FIRST_SCHEMA),
    ("m002_evidence", EVIDENCE),
    ("m003_pauses", PAUSES),
    ("m004_money", MONEY),
    ("m005_policy", POLICY),
    ("m006_certainty", CERTAINTY),
    ("m007_promotions", PROMOTIONS),
)


@migrations()
def m008_ids_used_once(db: SqliteUtils) -> None:
    """Adds AUTOINCREMENT, without which SQLite reuses a deleted row's id. SQLite can only do that by copying each
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


_add(
    ("m009_uploads", UPLOADS),
    ("m010_owners", OWNERS),
    ("m011_outbox_that_empties", OUTBOX_THAT_EMPTIES),
    ("m012_questions", QUESTIONS),
    ("m013_scans", SCANS),
    ("m014_forgettings", FORGETTINGS),
    ("m019_labels", LABELS),
    ("m020_actuals", ACTUALS),
    ("m021_deployments", DEPLOYMENTS),
    ("m022_human_verdicts", HUMAN_VERDICTS),
    ("m023_sheets", SHEETS),
    ("m024_missing_deployments", MISSING_DEPLOYMENTS),
    ("m025_indices", INDICES),
    (
        "m026_wipe_requests",
        "CREATE TABLE wipe_requests (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL);",
    ),
    ("m027_expired", "CREATE TABLE expired (subject TEXT PRIMARY KEY, at REAL NOT NULL);"),
    ("m028_sent_questions", SENT_QUESTIONS),
    ("m029_jobs_of_runs", "CREATE INDEX runs_by_job ON runs (job_id);"),
)
