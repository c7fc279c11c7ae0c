"""The SQL that takes a dataset's words out of the database. `:ids` are its versions, `:files` the
sha256 of their files, `:about` what the names of messages about them hold, as 'plan 7'.

Whoever adds a column that holds what customers said adds it here and to the table in docs/security.md.
"""

FILES = """
SELECT id IN (SELECT value FROM json_each(?)) AS is_ours, coalesce(sha256, '') || coalesce(report, '') AS text
    FROM datasets
UNION ALL SELECT dataset_id IN (SELECT value FROM json_each(?)), plan FROM runs
    WHERE dataset_id IN (SELECT id FROM datasets WHERE forgotten_at IS NULL)
UNION ALL SELECT dataset_id IN (SELECT value FROM json_each(?)), plan || coalesce(progress, '') FROM measurements
    WHERE dataset_id IN (SELECT id FROM datasets WHERE forgotten_at IS NULL)
UNION ALL SELECT dataset = ?, coalesce(sha256, '') FROM documents
""".strip()

# Answers of before there was an owner don't say whose they are: they are asked for again where they are missed.
OF_VERSIONS = """
UPDATE answers SET text = '' WHERE run_id IN
    (SELECT id FROM runs WHERE dataset_id IN (SELECT value FROM json_each(:ids)));
DELETE FROM replies WHERE owner IS NULL AND EXISTS
    (SELECT 1 FROM runs WHERE dataset_id IN (SELECT value FROM json_each(:ids))
    UNION ALL SELECT 1 FROM measurements WHERE dataset_id IN (SELECT value FROM json_each(:ids)))
    OR owner IN (SELECT 'run ' || id FROM runs WHERE dataset_id IN (SELECT value FROM json_each(:ids)))
    OR owner IN (SELECT 'm' || id FROM measurements WHERE dataset_id IN (SELECT value FROM json_each(:ids)))
    OR model IN (SELECT models.provider || '/' || provider_model FROM models JOIN runs ON runs.id = run_id
        WHERE dataset_id IN (SELECT value FROM json_each(:ids)));
DELETE FROM asks WHERE model = :name OR model IN
    (SELECT column_of.value FROM models JOIN runs ON runs.id = run_id, json_each(json_array(name, provider_model))
        AS column_of WHERE dataset_id IN (SELECT value FROM json_each(:ids)));
UPDATE models SET gone_at = coalesce(gone_at, :now) WHERE run_id IN
    (SELECT id FROM runs WHERE dataset_id IN (SELECT value FROM json_each(:ids)));
UPDATE runs SET plan = json_replace(plan, '$.labels', json('[]'), '$.system', NULL, '$.warnings', json('[]')),
    result = json_replace(result, '$.beside', NULL, '$.advice', NULL),
    progress = json_replace(progress, '$.note', NULL),
    error = iif(state = 'failed', 'Its dataset was deleted.', error)
    WHERE dataset_id IN (SELECT value FROM json_each(:ids));
UPDATE measurements SET state = 'cancelled', error = 'Its dataset was deleted.', result = NULL, progress = NULL,
    plan = json_replace(plan, '$.labels', json('[]'), '$.prompt', NULL)
    WHERE dataset_id IN (SELECT value FROM json_each(:ids));
DELETE FROM scans WHERE sha256 IN (SELECT value FROM json_each(:files));
DELETE FROM cleanings WHERE dataset_id IN (SELECT value FROM json_each(:ids));
UPDATE datasets SET forgotten_at = :now, state = 'refused', refusal = 'It was deleted.', sha256 = NULL, report = NULL,
    filename = '', source = '', text_column = NULL, label_column = NULL
    WHERE id IN (SELECT value FROM json_each(:ids));
DELETE FROM outbox WHERE EXISTS (SELECT 1 FROM json_each(:about) WHERE
    ' ' || coalesce(card, '') || ' | ' || coalesce(thread, '') || ' | ' || coalesce(dedupe, '') || ' '
    LIKE '% ' || value || ' %');
"""
OF_NAME = """
DELETE FROM documents WHERE dataset = :name;
DELETE FROM estimates WHERE dataset = :name;
DELETE FROM dataset_settings WHERE name = :name;
"""

LATE_ANSWERS = """
DELETE FROM replies WHERE owner IN
    (SELECT 'run ' || runs.id FROM runs JOIN datasets ON datasets.id = dataset_id WHERE forgotten_at IS NOT NULL
    UNION ALL SELECT 'm' || measurements.id FROM measurements JOIN datasets ON datasets.id = dataset_id
        WHERE forgotten_at IS NOT NULL)
"""
