"""The migrations of the schema. A released step is never changed; add a new one at the end."""

from __future__ import annotations

from collections.abc import Callable

from storage.driver import Migrations, SqliteUtils
from storage.schemas import (
    ACTUALS,
    CALL_COUNTS,
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
NEWEST = "m043_vendor_bills"  # the last step below
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

# A promotion names a tuned model, or a candidate as a measurement measured it. SQLite can't drop a NOT NULL, so the
# table is copied. `hash` covers what is deployed and the evidence that the request's card shows.
PROMOTABLES = """
DROP INDEX one_model_in_use;
DROP INDEX promotions_to_sync;
DROP TRIGGER promotions_are_kept;
ALTER TABLE promotions RENAME TO promotions_of_models;
CREATE TABLE promotions (
    id INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    model TEXT REFERENCES models (name),
    candidate TEXT,
    measurement INTEGER REFERENCES measurements (id),
    recipe TEXT,
    person TEXT NOT NULL,
    reason TEXT,
    request INTEGER REFERENCES promotion_requests (id),
    channel TEXT NOT NULL,
    at REAL NOT NULL,
    ended_at REAL,
    taken_out_by TEXT,
    taken_out_because TEXT,
    instead_of INTEGER REFERENCES promotions (id),
    returns_to INTEGER REFERENCES promotions (id),
    is_rollback INTEGER NOT NULL DEFAULT 0,
    carried_at REAL,
    tries INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL DEFAULT 0,
    trouble TEXT,
    CHECK ((model IS NULL) = (candidate IS NOT NULL)),
    CHECK ((candidate IS NULL) = (measurement IS NULL))
);
CREATE TABLE promotion_requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL,
    model TEXT REFERENCES models (name),
    candidate TEXT,
    measurement INTEGER REFERENCES measurements (id),
    person TEXT NOT NULL,
    reason TEXT NOT NULL,
    channel TEXT NOT NULL,
    hash TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('asked', 'approved', 'declined', 'withdrawn', 'expired', 'outdated')),
    at REAL NOT NULL,
    ended_at REAL,
    CHECK ((model IS NULL) = (candidate IS NOT NULL)),
    CHECK ((candidate IS NULL) = (measurement IS NULL))
);
CREATE UNIQUE INDEX one_open_promotion_request ON promotion_requests (dataset, hash) WHERE state = 'asked';
CREATE TABLE promotion_decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    request INTEGER NOT NULL REFERENCES promotion_requests (id),
    hash TEXT NOT NULL,
    person TEXT NOT NULL,
    decision TEXT NOT NULL CHECK (decision IN ('approve', 'decline')),
    reason TEXT,
    at REAL NOT NULL,
    UNIQUE (request, person)
);
INSERT INTO promotions (id, dataset, model, person, reason, channel, at, ended_at, instead_of, returns_to, is_rollback,
    carried_at, tries, next_at, trouble)
    SELECT id, dataset, model, person, reason, channel, at, ended_at, instead_of, returns_to, is_rollback,
    carried_at, tries, next_at, trouble FROM promotions_of_models ORDER BY id;
DROP TABLE promotions_of_models;
CREATE UNIQUE INDEX one_recipe_in_use ON promotions (dataset) WHERE ended_at IS NULL;
CREATE INDEX promotions_to_sync ON promotions (dataset) WHERE ended_at IS NULL AND carried_at IS NULL;
CREATE TRIGGER promotions_are_kept BEFORE DELETE ON promotions
    BEGIN SELECT RAISE(ABORT, 'promotions are kept'); END;
CREATE TRIGGER promotion_requests_are_kept BEFORE DELETE ON promotion_requests
    BEGIN SELECT RAISE(ABORT, 'requests to deploy are kept'); END;
CREATE TRIGGER promotion_decisions_are_append_only_update BEFORE UPDATE ON promotion_decisions
    BEGIN SELECT RAISE(ABORT, 'decisions on requests to deploy are append-only'); END;
CREATE TRIGGER promotion_decisions_are_append_only_delete BEFORE DELETE ON promotion_decisions
    BEGIN SELECT RAISE(ABORT, 'decisions on requests to deploy are append-only'); END;
"""

# Held-out rows that a person was shown with wrong answers: `places` are their positions in the file of the holdout.
# A request for training rows waits for a worker, and is deleted once they are sent.
SHOWN_ROWS = """
CREATE TABLE shown_rows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset_id INTEGER NOT NULL REFERENCES datasets (id),
    holdout TEXT NOT NULL,
    subject TEXT NOT NULL,
    person TEXT NOT NULL,
    places TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE INDEX shown_rows_by_dataset ON shown_rows (dataset_id);
CREATE TABLE row_requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset_id INTEGER NOT NULL REFERENCES datasets (id),
    subject TEXT NOT NULL,
    person TEXT NOT NULL,
    first INTEGER NOT NULL,
    at REAL NOT NULL,
    UNIQUE (dataset_id, person)
);
"""

# What answers programs when what is in use can't: at most one for a dataset at a time.
FALLBACKS = """
CREATE TABLE fallbacks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL,
    candidate TEXT NOT NULL,
    measurement INTEGER NOT NULL REFERENCES measurements (id),
    after_s REAL,
    recipe TEXT,
    person TEXT NOT NULL,
    channel TEXT NOT NULL,
    at REAL NOT NULL,
    ended_at REAL,
    ended_by TEXT,
    next_at REAL NOT NULL DEFAULT 0,
    trouble TEXT
);
CREATE UNIQUE INDEX one_current_fallback ON fallbacks (dataset) WHERE ended_at IS NULL;
"""

# Which topics a person or a channel (its id is `place`) has switched off, or on again, by whom; without a row a topic
# is on. A message that is dropped because of that is noted for its place only: another place may still get the same,
# and it isn't sent later, when the topic is switched on.
MESSAGE_SETTINGS = """
CREATE TABLE message_settings (
    place TEXT NOT NULL,
    topic TEXT NOT NULL,
    is_on INTEGER NOT NULL CHECK (is_on IN (0, 1)),
    person TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (place, topic)
);
CREATE TABLE unwanted_messages (
    dedupe TEXT NOT NULL,
    place TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (dedupe, place)
);
"""

# Datasets that a team has watched, at most one watch of each at a time; past weeks; labels of sampled calls.
WATCHES = """
CREATE TABLE watches (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL,
    person TEXT NOT NULL,
    channel TEXT NOT NULL,
    share REAL NOT NULL,
    time_zone TEXT NOT NULL,
    at REAL NOT NULL,
    consented_by TEXT,
    consented_at REAL,
    ended_at REAL,
    ended_by TEXT
);
CREATE UNIQUE INDEX one_current_watch ON watches (dataset) WHERE ended_at IS NULL;
CREATE TABLE watched_weeks (
    dataset TEXT NOT NULL,
    week TEXT NOT NULL,
    facts TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (dataset, week)
);
CREATE TABLE live_labels (
    dataset TEXT NOT NULL,
    call TEXT NOT NULL,
    recipe TEXT NOT NULL,
    called_at REAL NOT NULL,
    person TEXT NOT NULL,
    label TEXT,
    is_right INTEGER,
    at REAL NOT NULL,
    PRIMARY KEY (dataset, call)
);
"""

# Models that are proposed to watched datasets, each once; and measurements that watching led to.
PROPOSALS = """
CREATE TABLE proposals (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL,
    model TEXT NOT NULL,
    micros INTEGER NOT NULL,
    in_use_micros INTEGER NOT NULL,
    at REAL NOT NULL,
    shown_week TEXT,
    ended_at REAL,
    UNIQUE (dataset, model)
);
CREATE UNIQUE INDEX one_proposal_a_week ON proposals (dataset, shown_week) WHERE shown_week IS NOT NULL;
CREATE TABLE watch_measurements (
    measurement INTEGER PRIMARY KEY REFERENCES measurements (id),
    dataset TEXT NOT NULL,
    proposal INTEGER REFERENCES proposals (id),
    person TEXT,
    at REAL NOT NULL,
    begun_at REAL
);
CREATE INDEX watch_measurements_by_proposal ON watch_measurements (proposal);
"""

# What is in use is measured again each month, if a watch says so.
MONTHLY_MEASUREMENTS = """
ALTER TABLE watches ADD COLUMN every TEXT NOT NULL DEFAULT 'never' CHECK (every IN ('month', 'never'));
CREATE TABLE monthly_measurements (
    dataset TEXT NOT NULL,
    month TEXT NOT NULL,
    week TEXT NOT NULL,
    promotion INTEGER NOT NULL,
    at REAL NOT NULL,
    measurement INTEGER REFERENCES measurements (id),
    hindrance TEXT CHECK (hindrance IN ('money', 'freeze', 'refused')),
    refusal TEXT,
    ended_at REAL,
    PRIMARY KEY (dataset, month)
);
CREATE INDEX monthly_measurements_open ON monthly_measurements (at) WHERE ended_at IS NULL;
"""

# Candidates that are tried on live calls, at most one of a dataset at a time; and what is known of each call that both
# have answered.
LIVE_TESTS = """
CREATE TABLE live_tests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL,
    model TEXT,
    candidate TEXT,
    measurement INTEGER,
    promotion INTEGER NOT NULL REFERENCES promotions (id),
    person TEXT NOT NULL,
    channel TEXT NOT NULL,
    question TEXT NOT NULL CHECK (question IN ('better', 'not_worse')),
    margin REAL NOT NULL,
    canary REAL NOT NULL,
    is_shadow INTEGER NOT NULL CHECK (is_shadow IN (0, 1)),
    recipe TEXT,
    at REAL NOT NULL,
    ended_at REAL,
    ended_by TEXT,
    outcome TEXT,
    next_at REAL NOT NULL DEFAULT 0,
    trouble TEXT
);
CREATE UNIQUE INDEX one_current_live_test ON live_tests (dataset) WHERE ended_at IS NULL;
CREATE TABLE compared_calls (
    test INTEGER NOT NULL REFERENCES live_tests (id),
    call TEXT NOT NULL,
    called_at REAL NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('same', 'candidate', 'incumbent', 'tie', 'unlabelled')),
    micros INTEGER,
    month TEXT NOT NULL,
    person TEXT,
    label TEXT,
    labelled_at REAL,
    PRIMARY KEY (test, call)
);
CREATE INDEX compared_calls_by_month ON compared_calls (month);
"""

# `text` is NULL once the question was answered: what stays is its cost, and whether the person found the answer right.
PLAIN_QUESTIONS = """
CREATE TABLE plain_questions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    delivery TEXT NOT NULL UNIQUE,
    person TEXT NOT NULL,
    channel TEXT NOT NULL,
    thread TEXT,
    is_direct INTEGER NOT NULL CHECK (is_direct IN (0, 1)),
    mentioned TEXT NOT NULL,
    model TEXT NOT NULL,
    text TEXT,
    month TEXT NOT NULL,
    day TEXT NOT NULL,
    reserved_micros INTEGER NOT NULL,
    actual_micros INTEGER,
    at REAL NOT NULL,
    sent_at REAL,
    outcome TEXT CHECK (outcome IN ('ran', 'offered', 'none', 'by_words')),
    is_right INTEGER CHECK (is_right IN (0, 1))
);
CREATE INDEX plain_questions_by_month ON plain_questions (month, day);
CREATE INDEX plain_questions_waiting ON plain_questions (id) WHERE outcome IS NULL;
"""

# A run's bill at the vendor that trained it. `refused_at` is when people were first told that it can't be read.
VENDOR_BILLS = """
CREATE TABLE vendor_bills (
    run_id INTEGER PRIMARY KEY REFERENCES runs (id),
    state TEXT NOT NULL CHECK (state IN ('open', 'booked', 'given_up')),
    booked_micros INTEGER,
    billed_micros INTEGER,
    refused_at REAL,
    at REAL NOT NULL
);
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
    ("m030_promotables", PROMOTABLES),
    ("m031_shown_rows", SHOWN_ROWS),
    ("m032_call_counts", CALL_COUNTS),
    ("m033_asks_of_promotions", "ALTER TABLE asks ADD COLUMN promotion INTEGER;"),
    ("m034_fallbacks", FALLBACKS),
    ("m035_message_settings", MESSAGE_SETTINGS),
    ("m036_watches", WATCHES),
    ("m037_proposals", PROPOSALS),
    ("m039_monthly_measurements", MONTHLY_MEASUREMENTS),
    ("m040_live_tests", LIVE_TESTS),
    ("m041_plain_questions", PLAIN_QUESTIONS),
    (
        "m042_deployments_by_token",
        "ALTER TABLE deployments ADD COLUMN by_token INTEGER NOT NULL DEFAULT 0;",
    ),
    ("m043_vendor_bills", VENDOR_BILLS),
)
