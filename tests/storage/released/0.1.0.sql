BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'finetune','m001_first_schema','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'finetune','m002_evidence','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(3,'finetune','m003_pauses','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(4,'finetune','m004_money','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(5,'finetune','m005_policy','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(6,'finetune','m006_certainty','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(7,'finetune','m007_promotions','2026-11-25 00:00:00+00:00');
CREATE TABLE answers (
    run_id INTEGER NOT NULL REFERENCES runs (id),
    arm TEXT NOT NULL CHECK (arm IN ('base', 'tuned')),
    row INTEGER NOT NULL,
    text TEXT NOT NULL,
    correct INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL, came_at REAL,
    PRIMARY KEY (run_id, arm, row)
);
INSERT INTO "answers" VALUES(1,'base',0,'refund',1,12,1,0.25,NULL);
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
INSERT INTO "approvals" VALUES(1,1,'hash-1','U3','approve',NULL,119.0);
CREATE TABLE asks (
    id INTEGER PRIMARY KEY,
    person TEXT NOT NULL,
    channel TEXT NOT NULL,
    model TEXT NOT NULL,
    text TEXT NOT NULL,
    created_at REAL NOT NULL
);
INSERT INTO "asks" VALUES(1,'U1','C1','tickets-1','where is it?',141.0);
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
INSERT INTO "audit" VALUES(1,101.0,'U1','ask','run 1','hash-1','0000000000000000000000000000000000000000000000000000000000000000','04e70bbb9b7dd5a3b0bc3a60db203ad44ec93545c5d2a8a5b941e3ced3f4b43c');
INSERT INTO "audit" VALUES(2,102.0,'U3','approve','run 1','hash-1','04e70bbb9b7dd5a3b0bc3a60db203ad44ec93545c5d2a8a5b941e3ced3f4b43c','4c31e19b96380ccb5a7b85773ad9348b8a5a0028edda1a7c8b1ce8531e3655ca');
CREATE TABLE "budget_warnings" (
    month TEXT NOT NULL,
    whose TEXT NOT NULL,
    percent INTEGER NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (month, whose, percent)
);
INSERT INTO "budget_warnings" VALUES('2026-11','team',50,302.0);
INSERT INTO "budget_warnings" VALUES('2026-11','channel C1',80,401.0);
CREATE TABLE cards (
    name TEXT PRIMARY KEY,
    channel TEXT NOT NULL,
    ts TEXT NOT NULL
);
INSERT INTO "cards" VALUES('plan 1','C1','1700000000.000100');
CREATE TABLE cleanings (
    id INTEGER PRIMARY KEY,
    dataset_id INTEGER NOT NULL REFERENCES datasets (id),
    person TEXT NOT NULL,
    at REAL NOT NULL,
    UNIQUE (dataset_id, person)
);
INSERT INTO "cleanings" VALUES(1,1,'U1',202.0);
CREATE TABLE dataset_settings (
    name TEXT PRIMARY KEY,
    bar REAL,
    task_kind TEXT,
    prompt TEXT,
    updated_by TEXT NOT NULL,
    updated_at REAL NOT NULL
);
INSERT INTO "dataset_settings" VALUES('tickets',0.9,'style','Answer in a word.','U1',200.0);
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
INSERT INTO "datasets" VALUES(1,'tickets',1,'ready','C1','U1','tickets.csv','F1',NULL,NULL,'ab12','{}',NULL,0,0.0,100.0,101.5);
CREATE TABLE deliveries (
    id TEXT PRIMARY KEY,
    at REAL NOT NULL
, body TEXT, tries INTEGER NOT NULL DEFAULT 0);
INSERT INTO "deliveries" VALUES('event Ev1',142.0,NULL,0);
INSERT INTO "deliveries" VALUES('event Ev2',502.0,'{"type": "event_callback"}',0);
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
INSERT INTO "documents" VALUES(1,'tickets','terms.md','F2','received','C1','U1',NULL,NULL,NULL,0,0.0,206.0,206.0);
CREATE TABLE estimates (
    id INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    asked TEXT NOT NULL,
    channel TEXT NOT NULL,
    person TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('shown', 'wanted', 'shared')),
    at REAL NOT NULL
);
INSERT INTO "estimates" VALUES(1,'tickets','tickets volume=10M','C1','U1','shown',203.0);
CREATE TABLE freezes (
    id INTEGER PRIMARY KEY,
    person TEXT NOT NULL,
    reason TEXT NOT NULL,
    channel TEXT NOT NULL,
    at REAL NOT NULL,
    lifted_at REAL
);
INSERT INTO "freezes" VALUES(1,'U3','the bill looks odd','C1',300.0,NULL);
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES runs (id),
    month TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('reserve', 'settle', 'release')),
    micros INTEGER NOT NULL,
    at REAL NOT NULL,
    UNIQUE (run_id, kind)
);
INSERT INTO "ledger" VALUES(1,1,'2026-11','reserve',2500000,119.0);
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
INSERT INTO "measurements" VALUES(1,'ladder','asked',1,'C1','U1','{}',NULL,NULL,NULL,'2026-11',5000,NULL,NULL,0,0.0,204.0,204.0);
CREATE TABLE models (
    name TEXT PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES runs (id),
    provider TEXT NOT NULL,
    provider_model TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('candidate', 'promoted', 'retired')),
    created_at REAL NOT NULL
, gone_at REAL);
INSERT INTO "models" VALUES('tickets-1',1,'openai','ft:gpt:1','promoted',140.0,601.0);
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
INSERT INTO "outbox" VALUES(1,'post','C1',NULL,'run 1',NULL,0,'{"text": "queued"}','run 1','due',143.0,2,NULL,143.0);
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
INSERT INTO "preferences" VALUES(1,1,3,'zero','tuned','U2','tie',207.0);
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
INSERT INTO "promotions" VALUES(1,'tickets','tickets-1','U3','the demo is today','C1',600.0,602.0,NULL,NULL,0,NULL,0,0.0,NULL);
INSERT INTO "promotions" VALUES(2,'tickets','tickets-1','U3',NULL,'C1',602.0,NULL,1,1,0,NULL,0,0.0,'busy');
CREATE TABLE replacements (
    run_id INTEGER PRIMARY KEY REFERENCES runs (id),
    by_run_id INTEGER NOT NULL REFERENCES runs (id),
    linked_at REAL
);
INSERT INTO "replacements" VALUES(2,1,NULL);
CREATE TABLE replies (
    key TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL,
    at REAL NOT NULL
);
INSERT INTO "replies" VALUES('k1','openai/gpt','refund',12,1,0.3,205.0);
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
, wish TEXT CHECK (wish IN ('pause', 'resume')), wished_by TEXT);
INSERT INTO "runs" VALUES(1,'hash-1','{"dataset": "tickets"}','ft-1','training',1,'U1','C1','openai','ftjob-1','file-1',NULL,0,0.0,120.0,'{"step": 3}',NULL,NULL,2500000,NULL,NULL,110.0,125.0,'pause','U1');
INSERT INTO "runs" VALUES(2,'hash-2','{"dataset": "tickets"}','ft-2','cancelled',1,'U2','C1','openai',NULL,NULL,NULL,0,0.0,130.0,NULL,NULL,'Cancelled by <@U2>.',100,0,'U2',111.0,131.0,NULL,NULL);
CREATE TABLE stray_jobs (
    provider TEXT NOT NULL,
    job_id TEXT NOT NULL,
    key TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (provider, job_id)
);
INSERT INTO "stray_jobs" VALUES('openai','ftjob-9','ft-9',501.0);
CREATE TABLE unfreezes (
    id INTEGER PRIMARY KEY,
    freeze_id INTEGER NOT NULL REFERENCES freezes (id),
    person TEXT NOT NULL,
    at REAL NOT NULL,
    UNIQUE (freeze_id, person)
);
INSERT INTO "unfreezes" VALUES(1,1,'U3',301.0);
CREATE TABLE voids (
    run_id INTEGER NOT NULL REFERENCES runs (id),
    person TEXT NOT NULL,
    why TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (run_id, person)
);
INSERT INTO "voids" VALUES(1,'U3','is no approver any more',400.0);
CREATE TABLE waivers (
    id INTEGER PRIMARY KEY,
    dataset_id INTEGER NOT NULL UNIQUE REFERENCES datasets (id),
    person TEXT NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL
);
INSERT INTO "waivers" VALUES(1,1,'U3','names are public',201.0);
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
INSERT INTO "words_on_doubts" VALUES(1,1,120.0,'adopt','ftjob-1','U3','it is listed there',500.0,NULL);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE INDEX outbox_due ON outbox (state, due_at);
CREATE TRIGGER audit_is_append_only_update BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_append_only_delete BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER approvals_are_append_only_update BEFORE UPDATE ON approvals
    BEGIN SELECT RAISE(ABORT, 'approvals are append-only'); END;
CREATE TRIGGER approvals_are_append_only_delete BEFORE DELETE ON approvals
    BEGIN SELECT RAISE(ABORT, 'approvals are append-only'); END;
CREATE TRIGGER waivers_are_append_only_update BEFORE UPDATE ON waivers
    BEGIN SELECT RAISE(ABORT, 'waivers are append-only'); END;
CREATE TRIGGER waivers_are_append_only_delete BEFORE DELETE ON waivers
    BEGIN SELECT RAISE(ABORT, 'waivers are append-only'); END;
CREATE UNIQUE INDEX one_freeze_stands ON freezes (lifted_at IS NULL) WHERE lifted_at IS NULL;
CREATE TRIGGER freezes_are_never_forgotten BEFORE DELETE ON freezes
    BEGIN SELECT RAISE(ABORT, 'freezes are kept'); END;
CREATE TRIGGER unfreezes_are_append_only_update BEFORE UPDATE ON unfreezes
    BEGIN SELECT RAISE(ABORT, 'words against a freeze are append-only'); END;
CREATE TRIGGER unfreezes_are_append_only_delete BEFORE DELETE ON unfreezes
    BEGIN SELECT RAISE(ABORT, 'words against a freeze are append-only'); END;
CREATE TRIGGER voids_are_append_only_update BEFORE UPDATE ON voids
    BEGIN SELECT RAISE(ABORT, 'voided approvals are append-only'); END;
CREATE TRIGGER voids_are_append_only_delete BEFORE DELETE ON voids
    BEGIN SELECT RAISE(ABORT, 'voided approvals are append-only'); END;
CREATE UNIQUE INDEX one_open_word_a_person ON words_on_doubts (run_id, since, person) WHERE outcome IS NULL;
CREATE TRIGGER words_on_doubts_are_kept BEFORE DELETE ON words_on_doubts
    BEGIN SELECT RAISE(ABORT, 'words on doubts are kept'); END;
CREATE UNIQUE INDEX one_model_in_use ON promotions (dataset) WHERE ended_at IS NULL;
CREATE TRIGGER promotions_are_kept BEFORE DELETE ON promotions
    BEGIN SELECT RAISE(ABORT, 'promotions are kept'); END;
COMMIT;
