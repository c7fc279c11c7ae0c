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
INSERT INTO "_sqlite_migrations" VALUES(8,'finetune','m008_ids_used_once','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(9,'finetune','m009_uploads','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(10,'finetune','m010_owners','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(11,'finetune','m011_outbox_that_empties','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(12,'finetune','m012_questions','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(13,'finetune','m013_scans','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(14,'finetune','m014_forgettings','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(15,'finetune','m019_labels','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(16,'finetune','m020_actuals','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(17,'finetune','m021_deployments','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(18,'finetune','m022_human_verdicts','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(19,'finetune','m023_sheets','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(20,'finetune','m024_missing_deployments','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(21,'finetune','m025_indices','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(22,'finetune','m026_wipe_requests','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(23,'finetune','m027_expired','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(24,'finetune','m028_sent_questions','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(25,'finetune','m029_jobs_of_runs','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(26,'finetune','m030_promotables','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(27,'finetune','m031_shown_rows','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(28,'finetune','m032_call_counts','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(29,'finetune','m033_asks_of_promotions','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(30,'finetune','m034_fallbacks','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(31,'finetune','m035_message_settings','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(32,'finetune','m036_watches','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(33,'finetune','m037_proposals','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(34,'finetune','m039_monthly_measurements','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(35,'finetune','m040_live_tests','2026-11-25 00:00:00+00:00');
INSERT INTO "_sqlite_migrations" VALUES(36,'finetune','m041_plain_questions','2026-11-25 00:00:00+00:00');
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
    at REAL NOT NULL, failed INTEGER NOT NULL DEFAULT 0, cached_tokens INTEGER NOT NULL DEFAULT 0, cost_unknown TEXT, saving_unknown TEXT,
    PRIMARY KEY (dataset, model, month)
);
INSERT INTO "actual_months" VALUES('tickets','tickets-1','2026-11',12,340,15,1500,'openai/gpt',9000,1100.0,0,0,NULL,NULL);
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
CREATE TABLE "asks" (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    person TEXT NOT NULL,
    channel TEXT NOT NULL,
    model TEXT NOT NULL,
    text TEXT NOT NULL,
    created_at REAL NOT NULL
, sent_at REAL, promotion INTEGER);
INSERT INTO "asks" VALUES(1,'U1','C1','team/tickets','where is it?',141.0,901.0,3);
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
CREATE TABLE "cleanings" (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset_id INTEGER NOT NULL REFERENCES datasets (id),
    person TEXT NOT NULL,
    at REAL NOT NULL,
    UNIQUE (dataset_id, person)
);
INSERT INTO "cleanings" VALUES(1,1,'U1',202.0);
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
INSERT INTO "compared_calls" VALUES(1,'c-1',2101.0,'candidate',12,'2026-09','U1','refund',2102.0);
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
    updated_at REAL NOT NULL, owner TEXT NOT NULL DEFAULT '', sources TEXT NOT NULL DEFAULT '', forgotten_at REAL, origin TEXT CHECK (origin IN ('people', 'teacher')), sealed INTEGER NOT NULL DEFAULT 0, sheet TEXT,
    UNIQUE (name, version)
);
INSERT INTO "datasets" VALUES(1,'tickets',1,'ready','C1','U1','tickets.csv','F1',NULL,NULL,'ab12','{}',NULL,0,0.0,100.0,101.5,'C1','C1',NULL,NULL,0,'Tickets');
INSERT INTO "datasets" VALUES(2,'faq',1,'received','C2','U2','faq.csv','F3',NULL,NULL,NULL,NULL,NULL,0,0.0,700.0,700.0,'C2','C2',NULL,'people',0,NULL);
CREATE TABLE deliveries (
    id TEXT PRIMARY KEY,
    at REAL NOT NULL
, body TEXT, tries INTEGER NOT NULL DEFAULT 0);
INSERT INTO "deliveries" VALUES('event Ev1',142.0,NULL,0);
INSERT INTO "deliveries" VALUES('event Ev2',502.0,'{"type": "event_callback"}',0);
CREATE TABLE deployment_days (
    deployment_id INTEGER NOT NULL REFERENCES deployments (id),
    day TEXT NOT NULL,
    ms INTEGER NOT NULL,
    PRIMARY KEY (deployment_id, day)
);
INSERT INTO "deployment_days" VALUES(1,'2026-11-25',60000);
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
    updated_at REAL NOT NULL, missing_since REAL,
    UNIQUE (provider, name)
);
INSERT INTO "deployments" VALUES(1,1,'acme','ft:1','ft-1','ready','C1','U1',5500000,1800,50000000,NULL,NULL,NULL,1200.0,NULL,1,NULL,NULL,NULL,NULL,0,0.0,1200.0,1200.0,1400.0);
CREATE TABLE "documents" (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
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
CREATE TABLE "estimates" (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL,
    asked TEXT NOT NULL,
    channel TEXT NOT NULL,
    person TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('shown', 'wanted', 'shared')),
    at REAL NOT NULL
);
INSERT INTO "estimates" VALUES(1,'tickets','tickets volume=10M','C1','U1','shown',203.0);
CREATE TABLE expired (subject TEXT PRIMARY KEY, at REAL NOT NULL);
INSERT INTO "expired" VALUES('run 2',1500.0);
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
INSERT INTO "fallbacks" VALUES(1,'tickets','{"rung": "encoder", "model": null, "shots": null}',1,NULL,'ab56','U1','C1',1900.0,NULL,NULL,0.0,NULL);
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
INSERT INTO "forgettings" VALUES(1,'tickets','[1]','U1','C1','asked','[]','[]','[]',900.0,0.0);
CREATE TABLE freezes (
    id INTEGER PRIMARY KEY,
    person TEXT NOT NULL,
    reason TEXT NOT NULL,
    channel TEXT NOT NULL,
    at REAL NOT NULL,
    lifted_at REAL
);
INSERT INTO "freezes" VALUES(1,'U3','the bill looks odd','C1',300.0,NULL);
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
INSERT INTO "human_verdicts" VALUES(1,'tickets','openai/gpt',1,'hash-3','yes','U2','no',1300.0);
CREATE TABLE labelling_rows (
    labelling_id INTEGER NOT NULL REFERENCES labellings (id),
    place INTEGER NOT NULL,
    key TEXT NOT NULL,
    text TEXT NOT NULL,
    given TEXT,
    likely TEXT NOT NULL,
    PRIMARY KEY (labelling_id, place)
);
INSERT INTO "labelling_rows" VALUES(1,0,'ab12','where is it?','billing','shipping');
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
INSERT INTO "labellings" VALUES(1,'tickets',1,'C1','U1',20,NULL,NULL,NULL,NULL,NULL,0,'open',NULL,NULL,0,0.0,1200.0,1201.0);
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
INSERT INTO "live_labels" VALUES('tickets','c-1','abc',1700.0,'U1','refund',1,1700.0);
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
INSERT INTO "live_tests" VALUES(1,'tickets',NULL,'{"rung": "zero", "model": "acme/acme-tiny", "shots": null}',1,1,'U1','C1','not_worse',0.05,0.1,1,'ab78',2100.0,NULL,NULL,NULL,0.0,NULL);
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
CREATE TABLE message_settings (
    place TEXT NOT NULL,
    topic TEXT NOT NULL,
    is_on INTEGER NOT NULL CHECK (is_on IN (0, 1)),
    person TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (place, topic)
);
INSERT INTO "message_settings" VALUES('C1','results',0,'U1',2000.0);
CREATE TABLE models (
    name TEXT PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES runs (id),
    provider TEXT NOT NULL,
    provider_model TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('candidate', 'promoted', 'retired')),
    created_at REAL NOT NULL
, gone_at REAL);
INSERT INTO "models" VALUES('tickets-1',1,'openai','ft:gpt:1','promoted',140.0,601.0);
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
INSERT INTO "monthly_measurements" VALUES('tickets','2026-10','2026-09-28',1,2003.0,1,NULL,NULL,NULL);
CREATE TABLE "outbox" (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
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
, concerns TEXT, progress INTEGER NOT NULL DEFAULT 0);
INSERT INTO "outbox" VALUES(1,'post','C1',NULL,'run 1',NULL,0,'{"text": "queued"}','run 1','due',143.0,2,NULL,143.0,NULL,0);
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
INSERT INTO "plain_questions" VALUES(1,'mention 1','U1','C1',NULL,0,'','acme/acme-tiny','who approved run 1?','2026-09','2026-09-21',400,NULL,2200.0,2201.0,NULL,NULL);
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
INSERT INTO "promotion_decisions" VALUES(1,1,'ab12','U3','approve',NULL,1701.0);
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
INSERT INTO "promotion_requests" VALUES(1,'tickets','tickets-1',NULL,NULL,'U1','the demo is today','C1','ab12','approved',1700.0,1701.0);
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
INSERT INTO "promotions" VALUES(1,'tickets','tickets-1',NULL,NULL,NULL,'U3','the demo is today',NULL,'C1',600.0,602.0,NULL,NULL,NULL,NULL,0,NULL,0,0.0,NULL);
INSERT INTO "promotions" VALUES(2,'tickets','tickets-1',NULL,NULL,NULL,'U3',NULL,NULL,'C1',602.0,1701.0,NULL,NULL,1,1,0,NULL,0,0.0,'busy');
INSERT INTO "promotions" VALUES(3,'tickets',NULL,'{"rung": "zero", "model": "openai/gpt", "shots": null}',1,'cd34','U1','the demo is today',1,'C1',1701.0,NULL,NULL,NULL,2,2,0,NULL,0,0.0,NULL);
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
INSERT INTO "proposals" VALUES(1,'tickets','acme/acme-tiny',120000,200000,2000.0,'2026-09-21',NULL);
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
INSERT INTO "questions" VALUES(1,'tickets','U1','C1','2026-11',700,NULL,900.0);
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
, owner TEXT);
INSERT INTO "replies" VALUES('k1','openai/gpt','refund',12,1,0.3,205.0,'m1');
CREATE TABLE row_labels (
    labelling_id INTEGER NOT NULL REFERENCES labellings (id),
    place INTEGER NOT NULL,
    person TEXT NOT NULL,
    label TEXT,
    at REAL NOT NULL,
    PRIMARY KEY (labelling_id, place, person)
);
INSERT INTO "row_labels" VALUES(1,0,'U1',NULL,1202.0);
CREATE TABLE row_requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset_id INTEGER NOT NULL REFERENCES datasets (id),
    subject TEXT NOT NULL,
    person TEXT NOT NULL,
    first INTEGER NOT NULL,
    at REAL NOT NULL,
    UNIQUE (dataset_id, person)
);
INSERT INTO "row_requests" VALUES(1,1,'m1','U2',0,1801.0);
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
CREATE TABLE scans (
    sha256 TEXT NOT NULL,
    scanner TEXT NOT NULL,
    found TEXT,
    at REAL NOT NULL,
    PRIMARY KEY (sha256, scanner)
);
INSERT INTO "scans" VALUES('ab12','1','{"sha256": "ab12"}',1000.0);
INSERT INTO "scans" VALUES('cd34','1',NULL,1001.0);
CREATE TABLE sent_once (dedupe TEXT PRIMARY KEY);
INSERT INTO "sent_once" VALUES('plan 1');
CREATE TABLE sent_questions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    model TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    is_lost INTEGER NOT NULL DEFAULT 0,
    at REAL NOT NULL
);
INSERT INTO "sent_questions" VALUES(1,'m1','openai/gpt',120,24,1,1600.0);
CREATE TABLE shown_rows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset_id INTEGER NOT NULL REFERENCES datasets (id),
    holdout TEXT NOT NULL,
    subject TEXT NOT NULL,
    person TEXT NOT NULL,
    places TEXT NOT NULL,
    at REAL NOT NULL
);
INSERT INTO "shown_rows" VALUES(1,1,'ef56','run 1','U2','[3, 5]',1800.0);
CREATE TABLE stray_jobs (
    provider TEXT NOT NULL,
    job_id TEXT NOT NULL,
    key TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (provider, job_id)
);
INSERT INTO "stray_jobs" VALUES('openai','ftjob-9','ft-9',501.0);
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
INSERT INTO "tried_answers" VALUES(1,'tickets','tickets-1','U1','where is it?','billing',0,'shipping',1203.0);
CREATE TABLE unfreezes (
    id INTEGER PRIMARY KEY,
    freeze_id INTEGER NOT NULL REFERENCES freezes (id),
    person TEXT NOT NULL,
    at REAL NOT NULL,
    UNIQUE (freeze_id, person)
);
INSERT INTO "unfreezes" VALUES(1,1,'U3',301.0);
CREATE TABLE unwanted_messages (
    dedupe TEXT NOT NULL,
    place TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (dedupe, place)
);
INSERT INTO "unwanted_messages" VALUES('report of run 2','C1',2001.0);
CREATE TABLE uploads (
    provider TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (provider, sha256)
);
INSERT INTO "uploads" VALUES('openai','ab12',700.0);
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
CREATE TABLE watch_measurements (
    measurement INTEGER PRIMARY KEY REFERENCES measurements (id),
    dataset TEXT NOT NULL,
    proposal INTEGER REFERENCES proposals (id),
    person TEXT,
    at REAL NOT NULL,
    begun_at REAL
);
INSERT INTO "watch_measurements" VALUES(1,'tickets',1,NULL,2001.0,2002.0);
CREATE TABLE watched_weeks (
    dataset TEXT NOT NULL,
    week TEXT NOT NULL,
    facts TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (dataset, week)
);
INSERT INTO "watched_weeks" VALUES('tickets','2026-09-21','{"week": "2026-09-21"}',1700.0);
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
, every TEXT NOT NULL DEFAULT 'never' CHECK (every IN ('month', 'never')));
INSERT INTO "watches" VALUES(1,'tickets','U1','C1',0.05,'Europe/Berlin',1700.0,'U1',1700.0,NULL,NULL,'month');
CREATE TABLE wipe_requests (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL);
INSERT INTO "wipe_requests" VALUES(1,1400.0);
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
CREATE INDEX outbox_due ON outbox (state, due_at);
CREATE INDEX outbox_card ON outbox (card, state);
CREATE INDEX questions_by_month ON questions (month);
CREATE UNIQUE INDEX one_forgetting_a_dataset ON forgettings (dataset) WHERE state <> 'done';
CREATE UNIQUE INDEX one_open_labelling ON labellings (dataset)
    WHERE state IN ('received', 'choosing', 'open', 'closing');
CREATE UNIQUE INDEX one_live_deployment ON deployments (run_id) WHERE state <> 'stopped';
CREATE TRIGGER deployments_are_kept BEFORE DELETE ON deployments
    BEGIN SELECT RAISE(ABORT, 'deployments are kept'); END;
CREATE INDEX runs_open ON runs (next_at)
    WHERE state IN ('awaiting_approval', 'approved', 'creating', 'training', 'evaluating');
CREATE INDEX runs_by_state ON runs (state, updated_at);
CREATE INDEX runs_by_holdout ON runs (json_extract(plan, '$.holdout_sha256'));
CREATE INDEX runs_by_dataset ON runs (dataset_id);
CREATE INDEX runs_by_provider ON runs (provider, key);
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
CREATE INDEX sent_questions_by_owner ON sent_questions (owner);
CREATE INDEX runs_by_job ON runs (job_id);
CREATE UNIQUE INDEX one_open_promotion_request ON promotion_requests (dataset, hash) WHERE state = 'asked';
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
CREATE INDEX shown_rows_by_dataset ON shown_rows (dataset_id);
CREATE UNIQUE INDEX one_current_fallback ON fallbacks (dataset) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX one_current_watch ON watches (dataset) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX one_proposal_a_week ON proposals (dataset, shown_week) WHERE shown_week IS NOT NULL;
CREATE INDEX watch_measurements_by_proposal ON watch_measurements (proposal);
CREATE INDEX monthly_measurements_open ON monthly_measurements (at) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX one_current_live_test ON live_tests (dataset) WHERE ended_at IS NULL;
CREATE INDEX compared_calls_by_month ON compared_calls (month);
CREATE INDEX plain_questions_by_month ON plain_questions (month, day);
CREATE INDEX plain_questions_waiting ON plain_questions (id) WHERE outcome IS NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('cleanings',1);
INSERT INTO "sqlite_sequence" VALUES('estimates',1002);
INSERT INTO "sqlite_sequence" VALUES('asks',1);
INSERT INTO "sqlite_sequence" VALUES('documents',1);
INSERT INTO "sqlite_sequence" VALUES('outbox',1);
INSERT INTO "sqlite_sequence" VALUES('forgettings',1);
INSERT INTO "sqlite_sequence" VALUES('labellings',1);
INSERT INTO "sqlite_sequence" VALUES('deployments',1);
INSERT INTO "sqlite_sequence" VALUES('human_verdicts',1);
INSERT INTO "sqlite_sequence" VALUES('wipe_requests',1);
INSERT INTO "sqlite_sequence" VALUES('sent_questions',1);
INSERT INTO "sqlite_sequence" VALUES('promotion_requests',1);
INSERT INTO "sqlite_sequence" VALUES('promotion_decisions',1);
INSERT INTO "sqlite_sequence" VALUES('shown_rows',1);
INSERT INTO "sqlite_sequence" VALUES('row_requests',1);
INSERT INTO "sqlite_sequence" VALUES('fallbacks',1);
INSERT INTO "sqlite_sequence" VALUES('watches',1);
INSERT INTO "sqlite_sequence" VALUES('proposals',1);
INSERT INTO "sqlite_sequence" VALUES('live_tests',1);
INSERT INTO "sqlite_sequence" VALUES('plain_questions',1);
COMMIT;
