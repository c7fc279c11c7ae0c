"""The SQL of each step in migrations.py. Released SQL is never changed."""

FIRST_SCHEMA = """
CREATE TABLE datasets (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('received', 'checking', 'ready', 'refused')),
    channel TEXT NOT NULL,
    uploaded_by TEXT NOT NULL,
    filename TEXT NOT NULL,
    source TEXT NOT NULL,
    text_column TEXT,
    label_column TEXT,
    sha256 TEXT,
    report TEXT,
    refusal TEXT,
    tries INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    UNIQUE (name, version)
);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    plan_hash TEXT NOT NULL UNIQUE,
    plan TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('awaiting_approval', 'approved', 'creating', 'training',
        'evaluating', 'done', 'rejected', 'expired', 'cancelled', 'failed', 'needs_human')),
    dataset_id INTEGER NOT NULL REFERENCES datasets (id),
    requester TEXT NOT NULL,
    channel TEXT NOT NULL,
    provider TEXT NOT NULL,
    job_id TEXT,
    file_id TEXT,
    model TEXT,
    tries INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL DEFAULT 0,
    state_since REAL NOT NULL,
    progress TEXT,
    result TEXT,
    error TEXT,
    reserved_micros INTEGER NOT NULL DEFAULT 0,
    actual_micros INTEGER,
    cancel_asked_by TEXT,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
);
CREATE TABLE approvals (
    id INTEGER PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES runs (id),
    plan_hash TEXT NOT NULL,
    person TEXT NOT NULL,
    decision TEXT NOT NULL CHECK (decision IN ('approve', 'reject')),
    reason TEXT,
    at REAL NOT NULL,
    UNIQUE (run_id, person)
);
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES runs (id),
    month TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('reserve', 'settle', 'release')),
    micros INTEGER NOT NULL,
    at REAL NOT NULL,
    UNIQUE (run_id, kind)
);
CREATE TABLE answers (
    run_id INTEGER NOT NULL REFERENCES runs (id),
    arm TEXT NOT NULL CHECK (arm IN ('base', 'tuned')),
    row INTEGER NOT NULL,
    text TEXT NOT NULL,
    correct INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (run_id, arm, row)
);
CREATE TABLE models (
    name TEXT PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES runs (id),
    provider TEXT NOT NULL,
    provider_model TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('candidate', 'promoted', 'retired')),
    created_at REAL NOT NULL
);
CREATE TABLE asks (
    id INTEGER PRIMARY KEY,
    person TEXT NOT NULL,
    channel TEXT NOT NULL,
    model TEXT NOT NULL,
    text TEXT NOT NULL,
    created_at REAL NOT NULL
);
CREATE TABLE deliveries (
    id TEXT PRIMARY KEY,
    at REAL NOT NULL
);
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('post', 'edit', 'ephemeral', 'direct', 'file')),
    channel TEXT NOT NULL,
    person TEXT,
    card TEXT,
    thread TEXT,
    private INTEGER NOT NULL DEFAULT 0,
    body TEXT NOT NULL,
    dedupe TEXT UNIQUE,
    state TEXT NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'sent', 'dead')),
    due_at REAL NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    created_at REAL NOT NULL
);
CREATE INDEX outbox_due ON outbox (state, due_at);
CREATE TABLE cards (
    name TEXT PRIMARY KEY,
    channel TEXT NOT NULL,
    ts TEXT NOT NULL
);
CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL
);
CREATE TRIGGER audit_is_append_only_update BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_append_only_delete BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER approvals_are_append_only_update BEFORE UPDATE ON approvals
    BEGIN SELECT RAISE(ABORT, 'approvals are append-only'); END;
CREATE TRIGGER approvals_are_append_only_delete BEFORE DELETE ON approvals
    BEGIN SELECT RAISE(ABORT, 'approvals are append-only'); END;
"""

EVIDENCE = """
ALTER TABLE answers ADD COLUMN came_at REAL;
CREATE TABLE dataset_settings (
    name TEXT PRIMARY KEY,
    bar REAL,
    task_kind TEXT,
    prompt TEXT,
    updated_by TEXT NOT NULL,
    updated_at REAL NOT NULL
);
CREATE TABLE waivers (
    id INTEGER PRIMARY KEY,
    dataset_id INTEGER NOT NULL UNIQUE REFERENCES datasets (id),
    person TEXT NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE TABLE cleanings (
    id INTEGER PRIMARY KEY,
    dataset_id INTEGER NOT NULL REFERENCES datasets (id),
    person TEXT NOT NULL,
    at REAL NOT NULL,
    UNIQUE (dataset_id, person)
);
CREATE TABLE estimates (
    id INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    asked TEXT NOT NULL,
    channel TEXT NOT NULL,
    person TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('shown', 'wanted', 'shared')),
    at REAL NOT NULL
);
CREATE TABLE measurements (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('ladder', 'curve')),
    state TEXT NOT NULL CHECK (state IN ('asked', 'running', 'done', 'failed', 'cancelled')),
    dataset_id INTEGER NOT NULL REFERENCES datasets (id),
    channel TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    plan TEXT NOT NULL,
    progress TEXT,
    result TEXT,
    error TEXT,
    month TEXT,
    reserved_micros INTEGER NOT NULL DEFAULT 0,
    actual_micros INTEGER,
    cancel_asked_by TEXT,
    tries INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
);
CREATE TABLE replies (
    key TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL,
    at REAL NOT NULL
);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    filename TEXT NOT NULL,
    source TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('received', 'ready', 'refused')),
    channel TEXT NOT NULL,
    uploaded_by TEXT NOT NULL,
    sha256 TEXT,
    passages INTEGER,
    refusal TEXT,
    tries INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
);
CREATE TABLE preferences (
    id INTEGER PRIMARY KEY,
    measurement_id INTEGER NOT NULL REFERENCES measurements (id),
    row INTEGER NOT NULL,
    first_arm TEXT NOT NULL,
    second_arm TEXT NOT NULL,
    person TEXT NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('first', 'second', 'tie')),
    at REAL NOT NULL,
    UNIQUE (measurement_id, row, first_arm, second_arm, person)
);
CREATE TRIGGER waivers_are_append_only_update BEFORE UPDATE ON waivers
    BEGIN SELECT RAISE(ABORT, 'waivers are append-only'); END;
CREATE TRIGGER waivers_are_append_only_delete BEFORE DELETE ON waivers
    BEGIN SELECT RAISE(ABORT, 'waivers are append-only'); END;
"""

PAUSES = """
ALTER TABLE runs ADD COLUMN wish TEXT CHECK (wish IN ('pause', 'resume'));
ALTER TABLE runs ADD COLUMN wished_by TEXT;
"""

MONEY = """
CREATE TABLE freezes (
    id INTEGER PRIMARY KEY,
    person TEXT NOT NULL,
    reason TEXT NOT NULL,
    channel TEXT NOT NULL,
    at REAL NOT NULL,
    lifted_at REAL
);
CREATE UNIQUE INDEX one_freeze_stands ON freezes (lifted_at IS NULL) WHERE lifted_at IS NULL;
CREATE TABLE unfreezes (
    id INTEGER PRIMARY KEY,
    freeze_id INTEGER NOT NULL REFERENCES freezes (id),
    person TEXT NOT NULL,
    at REAL NOT NULL,
    UNIQUE (freeze_id, person)
);
CREATE TABLE budget_warnings (
    month TEXT NOT NULL,
    percent INTEGER NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (month, percent)
);
CREATE TABLE replacements (
    run_id INTEGER PRIMARY KEY REFERENCES runs (id),
    by_run_id INTEGER NOT NULL REFERENCES runs (id),
    linked_at REAL
);
CREATE TRIGGER freezes_are_never_forgotten BEFORE DELETE ON freezes
    BEGIN SELECT RAISE(ABORT, 'freezes are kept'); END;
CREATE TRIGGER unfreezes_are_append_only_update BEFORE UPDATE ON unfreezes
    BEGIN SELECT RAISE(ABORT, 'words against a freeze are append-only'); END;
CREATE TRIGGER unfreezes_are_append_only_delete BEFORE DELETE ON unfreezes
    BEGIN SELECT RAISE(ABORT, 'words against a freeze are append-only'); END;
"""

POLICY = """
CREATE TABLE warnings_of_budgets (
    month TEXT NOT NULL,
    whose TEXT NOT NULL,
    percent INTEGER NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (month, whose, percent)
);
INSERT INTO warnings_of_budgets SELECT month, 'team', percent, at FROM budget_warnings;
DROP TABLE budget_warnings;
ALTER TABLE warnings_of_budgets RENAME TO budget_warnings;
CREATE TABLE voids (
    run_id INTEGER NOT NULL REFERENCES runs (id),
    person TEXT NOT NULL,
    why TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (run_id, person)
);
CREATE TRIGGER voids_are_append_only_update BEFORE UPDATE ON voids
    BEGIN SELECT RAISE(ABORT, 'voided approvals are append-only'); END;
CREATE TRIGGER voids_are_append_only_delete BEFORE DELETE ON voids
    BEGIN SELECT RAISE(ABORT, 'voided approvals are append-only'); END;
"""

CERTAINTY = """
CREATE TABLE words_on_doubts (
    id INTEGER PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES runs (id),
    since REAL NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('retry', 'adopt', 'give_up')),
    job_id TEXT,
    person TEXT NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL,
    outcome TEXT
);
CREATE UNIQUE INDEX one_open_word_a_person ON words_on_doubts (run_id, since, person) WHERE outcome IS NULL;
CREATE TRIGGER words_on_doubts_are_kept BEFORE DELETE ON words_on_doubts
    BEGIN SELECT RAISE(ABORT, 'words on doubts are kept'); END;
CREATE TABLE stray_jobs (
    provider TEXT NOT NULL,
    job_id TEXT NOT NULL,
    key TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (provider, job_id)
);
ALTER TABLE deliveries ADD COLUMN body TEXT;
ALTER TABLE deliveries ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;
"""

PROMOTIONS = """
CREATE TABLE promotions (
    id INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    model TEXT NOT NULL REFERENCES models (name),
    person TEXT NOT NULL,
    reason TEXT,
    channel TEXT NOT NULL,
    at REAL NOT NULL,
    ended_at REAL,
    instead_of INTEGER REFERENCES promotions (id),
    returns_to INTEGER REFERENCES promotions (id),
    is_rollback INTEGER NOT NULL DEFAULT 0,
    carried_at REAL,
    tries INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL DEFAULT 0,
    trouble TEXT
);
CREATE UNIQUE INDEX one_model_in_use ON promotions (dataset) WHERE ended_at IS NULL;
CREATE TRIGGER promotions_are_kept BEFORE DELETE ON promotions
    BEGIN SELECT RAISE(ABORT, 'promotions are kept'); END;
ALTER TABLE models ADD COLUMN gone_at REAL;
"""

# Numbers of estimates begin well above all that are known to have been used, because buttons of deleted ones are still
# in Slack. A waiting cleaned file, stored under its request's number, may hold another channel's rows.
IDS_USED_ONCE = """
INSERT INTO estimates (dataset, asked, channel, person, state, at) VALUES ('', '', '', '', 'shown', 0);
UPDATE sqlite_sequence SET seq = CASE WHEN EXISTS (SELECT 1 FROM audit) THEN 1000 + max(seq,
    (SELECT coalesce(max(CAST(substr(dedupe, 10) AS INTEGER)), 0) FROM outbox WHERE dedupe LIKE 'estimate %'))
    ELSE 0 END WHERE name = 'estimates';
DELETE FROM estimates WHERE dataset = '';
UPDATE outbox SET state = 'dead', error = 'it may have held the rows of another channel: ask for it again'
    WHERE state = 'due' AND kind = 'file' AND body LIKE '%/files/cleaned-%';
"""

# Results of scans for personal data. `found` is NULL for a file that has to be scanned before it leaves.
SCANS = """
CREATE TABLE scans (
    sha256 TEXT NOT NULL,
    scanner TEXT NOT NULL,
    found TEXT,
    at REAL NOT NULL,
    PRIMARY KEY (sha256, scanner)
);
"""

# Every file that a run or curve before this release may have left at its trainer is looked for once.
UPLOADS = """
CREATE TABLE uploads (
    provider TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (provider, sha256)
);
INSERT OR IGNORE INTO uploads SELECT runs.provider, file.value, runs.created_at FROM runs, json_tree(runs.plan) file
    WHERE file.key IN ('train_sha256', 'fitted_sha256', 'validation_sha256') AND file.type = 'text';
INSERT OR IGNORE INTO uploads
    SELECT json_extract(plan, '$.provider'), json_extract(size.value, '$.sha256'), created_at
    FROM measurements, json_each(measurements.progress, '$.sizes') size
    WHERE json_extract(plan, '$.provider') IS NOT NULL;
"""

OWNERS = """
ALTER TABLE datasets ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE datasets ADD COLUMN sources TEXT NOT NULL DEFAULT '';
UPDATE datasets SET
    owner = (SELECT first.channel FROM datasets AS first WHERE first.name = datasets.name
        ORDER BY first.version LIMIT 1),
    sources = (SELECT group_concat(channel, ' ') FROM (SELECT DISTINCT other.channel AS channel
        FROM datasets AS other WHERE other.name = datasets.name AND other.version <= datasets.version));
UPDATE datasets SET state = 'refused', refusal = 'The name belongs to a dataset of another channel. Upload the file'
    || ' under a name of its own.' WHERE state IN ('received', 'checking') AND channel != owner;
"""

# Sent messages are deleted: with 200 jobs their rows made the file grow by 11 MB a minute.
OUTBOX_THAT_EMPTIES = """
ALTER TABLE outbox ADD COLUMN concerns TEXT;
ALTER TABLE outbox ADD COLUMN progress INTEGER NOT NULL DEFAULT 0;
CREATE TABLE sent_once (dedupe TEXT PRIMARY KEY);
INSERT INTO sent_once SELECT dedupe FROM outbox WHERE state = 'sent' AND dedupe IS NOT NULL;
DELETE FROM outbox WHERE state = 'sent';
CREATE INDEX outbox_card ON outbox (card, state);
"""

QUESTIONS = """
CREATE TABLE questions (
    id INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    person TEXT NOT NULL,
    channel TEXT NOT NULL,
    month TEXT NOT NULL,
    reserved_micros INTEGER NOT NULL,
    actual_micros INTEGER,
    at REAL NOT NULL
);
CREATE INDEX questions_by_month ON questions (month);
ALTER TABLE asks ADD COLUMN sent_at REAL;
"""

FORGETTINGS = """
ALTER TABLE datasets ADD COLUMN forgotten_at REAL;
ALTER TABLE replies ADD COLUMN owner TEXT;
CREATE TABLE forgettings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL,
    datasets TEXT NOT NULL,
    person TEXT NOT NULL,
    channel TEXT,
    state TEXT NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'deleting', 'done')),
    paths TEXT NOT NULL DEFAULT '[]',
    files TEXT NOT NULL DEFAULT '[]',
    elsewhere TEXT NOT NULL DEFAULT '[]',
    at REAL NOT NULL,
    next_at REAL NOT NULL DEFAULT 0
);
UPDATE outbox SET body = '{}' WHERE state = 'dead';
CREATE UNIQUE INDEX one_forgetting_a_dataset ON forgettings (dataset) WHERE state <> 'done';
"""

# Labels from people in Slack or from a teacher model: a batch of rows, and each labeller's label of each row
# (`label` is NULL to drop the row).
LABELS = """
ALTER TABLE datasets ADD COLUMN origin TEXT CHECK (origin IN ('people', 'teacher'));
CREATE TABLE labellings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL,
    dataset_id INTEGER NOT NULL REFERENCES datasets (id),
    channel TEXT NOT NULL,
    person TEXT NOT NULL,
    count INTEGER NOT NULL,
    filename TEXT,
    source TEXT,
    sha256 TEXT,
    teacher TEXT,
    measurement_id INTEGER REFERENCES measurements (id),
    left_out INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL CHECK (state IN ('received', 'choosing', 'open', 'closing', 'done', 'cancelled', 'failed')),
    closed_by TEXT,
    version_id INTEGER REFERENCES datasets (id),
    tries INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
);
CREATE UNIQUE INDEX one_open_labelling ON labellings (dataset)
    WHERE state IN ('received', 'choosing', 'open', 'closing');
CREATE TABLE labelling_rows (
    labelling_id INTEGER NOT NULL REFERENCES labellings (id),
    place INTEGER NOT NULL,
    key TEXT NOT NULL,
    text TEXT NOT NULL,
    given TEXT,
    likely TEXT NOT NULL,
    PRIMARY KEY (labelling_id, place)
);
CREATE TABLE row_labels (
    labelling_id INTEGER NOT NULL REFERENCES labellings (id),
    place INTEGER NOT NULL,
    person TEXT NOT NULL,
    label TEXT,
    at REAL NOT NULL,
    PRIMARY KEY (labelling_id, place, person)
);
CREATE TABLE tried_answers (
    id INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    model TEXT NOT NULL,
    person TEXT NOT NULL,
    question TEXT NOT NULL,
    answer TEXT NOT NULL,
    is_good INTEGER,
    better TEXT,
    at REAL NOT NULL
);
"""

# `sealed` is the number of rows that the uploader wants set aside for a promotion.
ACTUALS = """
CREATE TABLE actual_months (
    dataset TEXT NOT NULL,
    model TEXT NOT NULL,
    month TEXT NOT NULL,
    calls INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    micros INTEGER,
    alternative TEXT,
    alternative_micros INTEGER,
    at REAL NOT NULL,
    PRIMARY KEY (dataset, model, month)
);
ALTER TABLE datasets ADD COLUMN sealed INTEGER NOT NULL DEFAULT 0;
"""

# `ms` are the milliseconds for which a deployment is paid on a day (UTC).
DEPLOYMENTS = """
CREATE TABLE deployments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id INTEGER REFERENCES runs (id),
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('starting', 'ready', 'stopping', 'stopped')),
    channel TEXT NOT NULL,
    person TEXT NOT NULL,
    micros_per_hour INTEGER NOT NULL,
    idle_stop_s INTEGER NOT NULL,
    day_micros INTEGER NOT NULL,
    chat_model TEXT,
    sent_at REAL,
    ready_at REAL,
    used_at REAL NOT NULL,
    billed_until REAL,
    is_billed INTEGER NOT NULL DEFAULT 1,
    ended_at REAL,
    kept_by TEXT,
    reason TEXT,
    detail TEXT,
    tries INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    UNIQUE (provider, name)
);
CREATE UNIQUE INDEX one_live_deployment ON deployments (run_id) WHERE state <> 'stopped';
CREATE TABLE deployment_days (
    deployment_id INTEGER NOT NULL REFERENCES deployments (id),
    day TEXT NOT NULL,
    ms INTEGER NOT NULL,
    PRIMARY KEY (deployment_id, day)
);
CREATE TRIGGER deployments_are_kept BEFORE DELETE ON deployments
    BEGIN SELECT RAISE(ABORT, 'deployments are kept'); END;
"""

HUMAN_VERDICTS = """
CREATE TABLE human_verdicts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL,
    judge TEXT NOT NULL,
    measurement_id INTEGER NOT NULL REFERENCES measurements (id),
    answer TEXT NOT NULL,
    judged TEXT NOT NULL CHECK (judged IN ('yes', 'no')),
    person TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('yes', 'no', 'unsure')),
    at REAL NOT NULL,
    UNIQUE (dataset, judge, answer, person)
);
"""

# The only sheet of a workbook that is read; NULL if nobody has chosen one.
SHEETS = """
ALTER TABLE datasets ADD COLUMN sheet TEXT;
"""

# When the vendor's list first lacked the deployment; NULL while it is listed.
MISSING_DEPLOYMENTS = """
ALTER TABLE deployments ADD COLUMN missing_since REAL;
"""

# Calls that were answered by what isn't a tuned model; `cost_unknown` and `saving_unknown` are codes of why a sum is
# missing (storage/actuals.py).
CALL_COUNTS = """
ALTER TABLE actual_months ADD COLUMN failed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE actual_months ADD COLUMN cached_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE actual_months ADD COLUMN cost_unknown TEXT;
ALTER TABLE actual_months ADD COLUMN saving_unknown TEXT;
"""
