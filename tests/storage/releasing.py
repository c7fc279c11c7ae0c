"""`python -m tests.storage.releasing VERSION`: writes the database of that release as an SQL dump with rows.

A release runs this with the version that CHANGELOG.md gives it. A dump is never written again: it is what users of the
release have on disk. Anyone who adds a migration adds rows for its tables to ROWS; the next release's dump has them.
"""

from __future__ import annotations

import re
import sqlite3 as plain_sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from storage.audit import GENESIS, entry_hash
from storage.driver import SqliteUtils, sqlite3
from storage.migrations import migrations

RELEASED = Path(__file__).parent / "released"
ROWS: dict[str, str] = {
    "m001_first_schema": """
INSERT INTO datasets (id, name, version, state, channel, uploaded_by, filename, source, sha256, report, created_at,
    updated_at) VALUES (1, 'tickets', 1, 'ready', 'C1', 'U1', 'tickets.csv', 'F1', 'ab12', '{}', 100.0, 101.5);
INSERT INTO runs (id, plan_hash, plan, key, state, dataset_id, requester, channel, provider, job_id, file_id, model,
    state_since, progress, reserved_micros, created_at, updated_at)
    VALUES (1, 'hash-1', '{"dataset": "tickets"}', 'ft-1', 'training', 1, 'U1', 'C1', 'openai', 'ftjob-1', 'file-1',
    NULL, 120.0, '{"step": 3}', 2500000, 110.0, 125.0);
INSERT INTO runs (id, plan_hash, plan, key, state, dataset_id, requester, channel, provider, state_since, error,
    reserved_micros, actual_micros, cancel_asked_by, created_at, updated_at)
    VALUES (2, 'hash-2', '{"dataset": "tickets"}', 'ft-2', 'cancelled', 1, 'U2', 'C1', 'openai', 130.0,
    'Cancelled by <@U2>.', 100, 0, 'U2', 111.0, 131.0);
INSERT INTO approvals (id, run_id, plan_hash, person, decision, reason, at)
    VALUES (1, 1, 'hash-1', 'U3', 'approve', NULL, 119.0);
INSERT INTO ledger (id, run_id, month, kind, micros, at) VALUES (1, 1, '2026-11', 'reserve', 2500000, 119.0);
INSERT INTO answers (run_id, arm, row, text, correct, prompt_tokens, completion_tokens, seconds)
    VALUES (1, 'base', 0, 'refund', 1, 12, 1, 0.25);
INSERT INTO models (name, run_id, provider, provider_model, state, created_at)
    VALUES ('tickets-1', 1, 'openai', 'ft:gpt:1', 'candidate', 140.0);
INSERT INTO asks (id, person, channel, model, text, created_at)
    VALUES (1, 'U1', 'C1', 'tickets-1', 'where is it?', 141.0);
INSERT INTO deliveries (id, at) VALUES ('event Ev1', 142.0);
INSERT INTO outbox (id, kind, channel, person, card, thread, private, body, dedupe, state, due_at, tries, created_at)
    VALUES (1, 'post', 'C1', NULL, 'run 1', NULL, 0, '{"text": "queued"}', 'run 1', 'due', 143.0, 2, 143.0);
INSERT INTO cards (name, channel, ts) VALUES ('plan 1', 'C1', '1700000000.000100');
""",
    "m002_evidence": """
INSERT INTO dataset_settings (name, bar, task_kind, prompt, updated_by, updated_at)
    VALUES ('tickets', 0.9, 'style', 'Answer in a word.', 'U1', 200.0);
INSERT INTO waivers (id, dataset_id, person, reason, at) VALUES (1, 1, 'U3', 'names are public', 201.0);
INSERT INTO cleanings (id, dataset_id, person, at) VALUES (1, 1, 'U1', 202.0);
INSERT INTO estimates (id, dataset, asked, channel, person, state, at)
    VALUES (1, 'tickets', 'tickets volume=10M', 'C1', 'U1', 'shown', 203.0);
INSERT INTO measurements (id, kind, state, dataset_id, channel, requested_by, plan, progress, month, reserved_micros,
    created_at, updated_at) VALUES (1, 'ladder', 'asked', 1, 'C1', 'U1', '{}', NULL, '2026-11', 5000, 204.0, 204.0);
INSERT INTO replies (key, model, text, prompt_tokens, completion_tokens, seconds, at)
    VALUES ('k1', 'openai/gpt', 'refund', 12, 1, 0.3, 205.0);
INSERT INTO documents (id, dataset, filename, source, state, channel, uploaded_by, created_at, updated_at)
    VALUES (1, 'tickets', 'terms.md', 'F2', 'received', 'C1', 'U1', 206.0, 206.0);
INSERT INTO preferences (id, measurement_id, row, first_arm, second_arm, person, choice, at)
    VALUES (1, 1, 3, 'zero', 'tuned', 'U2', 'tie', 207.0);
""",
    "m003_pauses": "UPDATE runs SET wish = 'pause', wished_by = 'U1' WHERE id = 1;",
    "m004_money": """
INSERT INTO freezes (id, person, reason, channel, at) VALUES (1, 'U3', 'the bill looks odd', 'C1', 300.0);
INSERT INTO unfreezes (id, freeze_id, person, at) VALUES (1, 1, 'U3', 301.0);
INSERT INTO budget_warnings (month, percent, at) VALUES ('2026-11', 50, 302.0);
INSERT INTO replacements (run_id, by_run_id, linked_at) VALUES (2, 1, NULL);
""",
    "m005_policy": """
INSERT INTO voids (run_id, person, why, at) VALUES (1, 'U3', 'is no approver any more', 400.0);
INSERT INTO budget_warnings (month, whose, percent, at) VALUES ('2026-11', 'channel C1', 80, 401.0);
""",
    "m006_certainty": """
INSERT INTO words_on_doubts (id, run_id, since, choice, job_id, person, reason, at)
    VALUES (1, 1, 120.0, 'adopt', 'ftjob-1', 'U3', 'it is listed there', 500.0);
INSERT INTO stray_jobs (provider, job_id, key, at) VALUES ('openai', 'ftjob-9', 'ft-9', 501.0);
INSERT INTO deliveries (id, at, body) VALUES ('event Ev2', 502.0, '{"type": "event_callback"}');
""",
    "m007_promotions": """
UPDATE models SET state = 'promoted', gone_at = 601.0 WHERE name = 'tickets-1';
INSERT INTO promotions (id, dataset, model, person, reason, channel, at, ended_at)
    VALUES (1, 'tickets', 'tickets-1', 'U3', 'the demo is today', 'C1', 600.0, 602.0);
INSERT INTO promotions (id, dataset, model, person, channel, at, instead_of, returns_to, trouble)
    VALUES (2, 'tickets', 'tickets-1', 'U3', 'C1', 602.0, 1, 1, 'busy');
""",
    "m008_ids_used_once": "",
    "m009_uploads": "INSERT INTO uploads (provider, sha256, at) VALUES ('openai', 'ab12', 700.0);",
    "m010_owners": """
INSERT INTO datasets (id, name, version, state, channel, uploaded_by, filename, source, created_at, updated_at, owner,
    sources) VALUES (2, 'faq', 1, 'received', 'C2', 'U2', 'faq.csv', 'F3', 700.0, 700.0, 'C2', 'C2');
""",
    "m011_outbox_that_empties": "INSERT INTO sent_once (dedupe) VALUES ('plan 1');",
    "m012_questions": """
INSERT INTO questions (id, dataset, person, channel, month, reserved_micros, at)
    VALUES (1, 'tickets', 'U1', 'C1', '2026-11', 700, 900.0);
UPDATE asks SET sent_at = 901.0 WHERE id = 1;
""",
    "m013_scans": """
INSERT INTO scans (sha256, scanner, found, at) VALUES ('ab12', '1', '{"sha256": "ab12"}', 1000.0);
INSERT INTO scans (sha256, scanner, found, at) VALUES ('cd34', '1', NULL, 1001.0);
""",
    "m014_forgettings": """
UPDATE replies SET owner = 'm1';
INSERT INTO forgettings (dataset, datasets, person, channel, at) VALUES ('tickets', '[1]', 'U1', 'C1', 900.0);
""",
    "m019_labels": """
UPDATE datasets SET origin = 'people' WHERE id = 2;
INSERT INTO labellings (id, dataset, dataset_id, channel, person, count, state, created_at, updated_at)
    VALUES (1, 'tickets', 1, 'C1', 'U1', 20, 'open', 1200.0, 1201.0);
INSERT INTO labelling_rows (labelling_id, place, key, text, given, likely)
    VALUES (1, 0, 'ab12', 'where is it?', 'billing', 'shipping');
INSERT INTO row_labels (labelling_id, place, person, label, at) VALUES (1, 0, 'U1', NULL, 1202.0);
INSERT INTO tried_answers (id, dataset, model, person, question, answer, is_good, better, at)
    VALUES (1, 'tickets', 'tickets-1', 'U1', 'where is it?', 'billing', 0, 'shipping', 1203.0);
""",
    "m020_actuals": """
INSERT INTO actual_months (dataset, model, month, calls, prompt_tokens, completion_tokens, micros, alternative,
    alternative_micros, at) VALUES ('tickets', 'tickets-1', '2026-11', 12, 340, 15, 1500, 'openai/gpt', 9000, 1100.0);
""",
    "m021_deployments": """
INSERT INTO deployments (id, run_id, provider, model, name, state, channel, person, micros_per_hour, idle_stop_s,
    day_micros, used_at, created_at, updated_at) VALUES (1, 1, 'acme', 'ft:1', 'ft-1', 'ready', 'C1', 'U1', 5500000,
    1800, 50000000, 1200.0, 1200.0, 1200.0);
INSERT INTO deployment_days (deployment_id, day, ms) VALUES (1, '2026-11-25', 60000);
""",
    "m022_human_verdicts": """
INSERT INTO human_verdicts (id, dataset, judge, measurement_id, answer, judged, person, verdict, at)
    VALUES (1, 'tickets', 'openai/gpt', 1, 'hash-3', 'yes', 'U2', 'no', 1300.0);
""",
    "m023_sheets": """
UPDATE datasets SET sheet = 'Tickets' WHERE id = 1;
""",
    "m024_missing_deployments": """
UPDATE deployments SET missing_since = 1400.0 WHERE id = 1;
""",
    "m026_wipe_requests": """
INSERT INTO wipe_requests (id, at) VALUES (1, 1400.0);
""",
    "m027_expired": """
INSERT INTO expired (subject, at) VALUES ('run 2', 1500.0);
""",
    "m028_sent_questions": """
INSERT INTO sent_questions (id, owner, model, prompt_tokens, completion_tokens, is_lost, at)
    VALUES (1, 'm1', 'openai/gpt', 120, 24, 1, 1600.0);
""",
    "m030_promotables": """
INSERT INTO promotion_requests (id, dataset, model, person, reason, channel, hash, state, at, ended_at)
    VALUES (1, 'tickets', 'tickets-1', 'U1', 'the demo is today', 'C1', 'ab12', 'approved', 1700.0, 1701.0);
INSERT INTO promotion_decisions (request, hash, person, decision, reason, at)
    VALUES (1, 'ab12', 'U3', 'approve', NULL, 1701.0);
UPDATE promotions SET ended_at = 1701.0 WHERE id = 2;
INSERT INTO promotions (id, dataset, candidate, measurement, recipe, person, reason, request, channel, at, instead_of,
    returns_to) VALUES (3, 'tickets', '{"rung": "zero", "model": "openai/gpt", "shots": null}', 1, 'cd34', 'U1',
    'the demo is today', 1, 'C1', 1701.0, 2, 2);
""",
    "m031_shown_rows": """
INSERT INTO shown_rows (id, dataset_id, holdout, subject, person, places, at)
    VALUES (1, 1, 'ef56', 'run 1', 'U2', '[3, 5]', 1800.0);
INSERT INTO row_requests (id, dataset_id, subject, person, first, at) VALUES (1, 1, 'm1', 'U2', 0, 1801.0);
""",
    "m033_asks_of_promotions": """
UPDATE asks SET model = 'team/tickets', promotion = 3 WHERE id = 1;
""",
    "m036_watches": """
INSERT INTO watches (id, dataset, person, channel, share, time_zone, at, consented_by, consented_at)
    VALUES (1, 'tickets', 'U1', 'C1', 0.05, 'Europe/Berlin', 1700.0, 'U1', 1700.0);
INSERT INTO watched_weeks (dataset, week, facts, at) VALUES ('tickets', '2026-09-21', '{"week": "2026-09-21"}', 1700.0);
INSERT INTO live_labels (dataset, call, recipe, called_at, person, label, is_right, at)
    VALUES ('tickets', 'c-1', 'abc', 1700.0, 'U1', 'refund', 1, 1700.0);
""",
    "m037_proposals": """
INSERT INTO proposals (id, dataset, model, micros, in_use_micros, at, shown_week)
    VALUES (1, 'tickets', 'acme/acme-tiny', 120000, 200000, 2000.0, '2026-09-21');
INSERT INTO watch_measurements (measurement, dataset, proposal, person, at, begun_at)
    VALUES (1, 'tickets', 1, NULL, 2001.0, 2002.0);
""",
    "m039_monthly_measurements": """
UPDATE watches SET every = 'month';
INSERT INTO monthly_measurements (dataset, month, week, promotion, at, measurement)
    VALUES ('tickets', '2026-10', '2026-09-28', 1, 2003.0, 1);
""",
    "m040_live_tests": """
INSERT INTO live_tests (id, dataset, candidate, measurement, promotion, person, channel, question, margin, canary,
    is_shadow, recipe, at) VALUES (1, 'tickets', '{"rung": "zero", "model": "acme/acme-tiny", "shots": null}', 1, 1,
    'U1', 'C1', 'not_worse', 0.05, 0.1, 1, 'ab78', 2100.0);
INSERT INTO compared_calls (test, call, called_at, verdict, micros, month, person, label, labelled_at)
    VALUES (1, 'c-1', 2101.0, 'candidate', 12, '2026-09', 'U1', 'refund', 2102.0);
""",
    "m041_plain_questions": """
INSERT INTO plain_questions (id, delivery, person, channel, is_direct, mentioned, model, text, month, day,
    reserved_micros, at, sent_at) VALUES (1, 'mention 1', 'U1', 'C1', 0, '', 'acme/acme-tiny', 'who approved run 1?',
    '2026-09', '2026-09-21', 400, 2200.0, 2201.0);
""",
    "m042_deployments_by_token": """
INSERT INTO deployments (id, run_id, provider, model, name, state, channel, person, micros_per_hour, idle_stop_s,
    day_micros, used_at, created_at, updated_at, by_token) VALUES (2, 1, 'coreweave', 'ft:1', 'ft-2', 'stopped', 'C1',
    'U1', 0, 0, 0, 2300.0, 2300.0, 2300.0, 1);
""",
    "m043_vendor_bills": """
INSERT INTO vendor_bills (run_id, state, booked_micros, billed_micros, refused_at, at)
    VALUES (1, 'booked', 410000, 412300, NULL, 2400.0);
INSERT INTO vendor_bills (run_id, state, refused_at, at) VALUES (2, 'open', 2401.0, 2400.0);
""",
    "m034_fallbacks": """
INSERT INTO fallbacks (id, dataset, candidate, measurement, recipe, person, channel, at)
    VALUES (1, 'tickets', '{"rung": "encoder", "model": null, "shots": null}', 1, 'ab56', 'U1', 'C1', 1900.0);
""",
    "m035_message_settings": """
INSERT INTO message_settings (place, topic, is_on, person, at) VALUES ('C1', 'results', 0, 'U1', 2000.0);
INSERT INTO unwanted_messages (dedupe, place, at) VALUES ('report of run 2', 'C1', 2001.0);
""",
}
ACTS = (("U1", "ask", "run 1", "hash-1"), ("U3", "approve", "run 1", "hash-1"))


def names() -> list[str]:
    """Returns the names of all schemas, oldest first."""
    return [migration.name for migration in migrations.pending(SqliteUtils(memory=True))]


def path_of(version: str) -> Path:
    return RELEASED / f"{version}.sql"


def dump() -> str:
    """Returns a database of the newest schema as SQL text. Each migration ran on the rows of the ones before."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "finetune.db"
        _fill(SqliteUtils(sqlite3.connect(str(path), isolation_level=None)))
        with closing(plain_sqlite3.connect(path)) as connection:  # ours has no iterdump
            return "\n".join(connection.iterdump()) + "\n"


def _fill(database: SqliteUtils) -> None:
    all_names = names()
    for number, name in enumerate(all_names):
        later = all_names[number + 1 :]
        migrations.apply(database, stop_before=later or None)
        for statement in _statements(ROWS.get(name, "")):
            database.execute(statement)
        if number == 0:
            _write_log(database)
    # So that the same schema and rows give the same dump.
    database.execute("UPDATE _sqlite_migrations SET applied_at = '2026-11-25 00:00:00+00:00'")
    database.conn.close()


def load(text: str, path: Path) -> None:
    """Writes the dump as a database file."""
    connection = sqlite3.connect(str(path))
    connection.executescript(text)
    connection.close()


def _write_log(database: SqliteUtils) -> None:
    previous = GENESIS
    for number, (who, action, subject, detail) in enumerate(ACTS, start=1):
        at = 100.0 + number
        hashed = entry_hash(previous, at, who, action, subject, detail)
        values = (number, at, who, action, subject, detail, previous, hashed)
        database.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        previous = hashed


def _statements(script: str) -> Iterator[str]:
    yield from (text for text in re.split(r";\n?$", script, flags=re.MULTILINE) if text.strip())


if __name__ == "__main__":
    path = path_of(sys.argv[1])
    text = dump()
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    print(f"wrote {path}")
