"""Requests to delete a dataset (asked → deleting → done), and the SQL that erases its text. wipes.py overwrites what
SQLite leaves of it.

Rows that money, approvals and the audit log depend on stay, without customers' words: a deleted version is a row with
`forgotten_at`, and the next upload under its name is the next version. If you add a column with customers' words, add
it to the SQL here and to the table in docs/security.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from storage.database import Table
from storage.records import due_sql

FILES_SQL = """
SELECT id IN (SELECT value FROM json_each(:ids)) AS is_ours, coalesce(sha256, '') || coalesce(report, '') AS text
    FROM datasets WHERE updated_at >= :since
UNION ALL SELECT dataset_id IN (SELECT value FROM json_each(:ids)), plan FROM runs
    WHERE dataset_id IN (SELECT id FROM datasets WHERE forgotten_at IS NULL) AND updated_at >= :since
UNION ALL SELECT dataset_id IN (SELECT value FROM json_each(:ids)), plan || coalesce(progress, '') FROM measurements
    WHERE dataset_id IN (SELECT id FROM datasets WHERE forgotten_at IS NULL) AND updated_at >= :since
UNION ALL SELECT dataset_id IN (SELECT value FROM json_each(:ids)), coalesce(sha256, '') FROM labellings
    WHERE updated_at >= :since
UNION ALL SELECT dataset = :name, coalesce(sha256, '') FROM documents WHERE updated_at >= :since
""".strip()

# Names in all stored text count, so that a file is rather kept than lost. The hashes in runs and measurements of
# deleted datasets stay for good, but name no file any more.
NAMED_FILES_SQL = """
SELECT coalesce(sha256, '') || coalesce(report, '') AS text FROM datasets
UNION ALL SELECT plan || coalesce(progress, '') || coalesce(result, '') FROM runs
    WHERE dataset_id IN (SELECT id FROM datasets WHERE forgotten_at IS NULL)
UNION ALL SELECT plan || coalesce(progress, '') || coalesce(result, '') FROM measurements
    WHERE dataset_id IN (SELECT id FROM datasets WHERE forgotten_at IS NULL)
UNION ALL SELECT coalesce(sha256, '') FROM labellings
UNION ALL SELECT coalesce(sha256, '') FROM documents
""".strip()

ASKS = """model IN (:name, 'team/' || :name) OR model IN
    (SELECT column_of.value FROM models JOIN runs ON runs.id = run_id, json_each(json_array(name, provider_model))
        AS column_of WHERE dataset_id IN (SELECT value FROM json_each(:ids)))"""

# Old answers without an owner could belong to any dataset, so all of them go; if others need one, it is paid for again.
# A question that was sent may be billed and nobody will hear its answer, so its maximum counts as spent.
ERASE_VERSIONS_SQL = f"""
UPDATE answers SET text = '' WHERE run_id IN
    (SELECT id FROM runs WHERE dataset_id IN (SELECT value FROM json_each(:ids)));
DELETE FROM replies WHERE owner IS NULL AND EXISTS
    (SELECT 1 FROM runs WHERE dataset_id IN (SELECT value FROM json_each(:ids))
    UNION ALL SELECT 1 FROM measurements WHERE dataset_id IN (SELECT value FROM json_each(:ids)))
    OR owner IN (SELECT 'run ' || id FROM runs WHERE dataset_id IN (SELECT value FROM json_each(:ids)))
    OR owner IN (SELECT 'm' || id FROM measurements WHERE dataset_id IN (SELECT value FROM json_each(:ids)))
    OR owner IN (SELECT 'ask ' || id FROM asks WHERE {ASKS})
    OR model IN (SELECT models.provider || '/' || provider_model FROM models JOIN runs ON runs.id = run_id
        WHERE dataset_id IN (SELECT value FROM json_each(:ids)));
UPDATE questions SET actual_micros =
    (SELECT iif(sent_at IS NULL, 0, reserved_micros) FROM asks WHERE asks.id = questions.id)
    WHERE id IN (SELECT id FROM asks WHERE {ASKS});
DELETE FROM asks WHERE {ASKS};
DELETE FROM tried_answers WHERE model IN (SELECT name FROM models JOIN runs ON runs.id = run_id
    WHERE dataset_id IN (SELECT value FROM json_each(:ids)));
UPDATE models SET gone_at = coalesce(gone_at, :now) WHERE run_id IN
    (SELECT id FROM runs WHERE dataset_id IN (SELECT value FROM json_each(:ids)));
UPDATE runs SET plan = json_replace(plan, '$.labels', json('[]'), '$.system', NULL, '$.warnings', json('[]')),
    result = json_replace(result, '$.beside', NULL, '$.advice', NULL, '$.labels', json('[]'),
        '$.worse_labels', json('[]')),
    progress = json_replace(progress, '$.note', NULL),
    error = iif(state = 'failed', 'Its dataset was deleted.', error)
    WHERE dataset_id IN (SELECT value FROM json_each(:ids));
UPDATE measurements SET state = 'cancelled', error = 'Its dataset was deleted.', result = NULL, progress = NULL,
    plan = json_replace(plan, '$.labels', json('[]'), '$.prompt', NULL, '$.optimised', NULL)
    WHERE dataset_id IN (SELECT value FROM json_each(:ids));
DELETE FROM scans WHERE sha256 IN (SELECT value FROM json_each(:files));
DELETE FROM cleanings WHERE dataset_id IN (SELECT value FROM json_each(:ids));
DELETE FROM shown_rows WHERE dataset_id IN (SELECT value FROM json_each(:ids));
DELETE FROM row_requests WHERE dataset_id IN (SELECT value FROM json_each(:ids));
DELETE FROM human_verdicts WHERE measurement_id IN
    (SELECT id FROM measurements WHERE dataset_id IN (SELECT value FROM json_each(:ids)));
DELETE FROM row_labels WHERE labelling_id IN
    (SELECT id FROM labellings WHERE dataset_id IN (SELECT value FROM json_each(:ids)));
DELETE FROM labelling_rows WHERE labelling_id IN
    (SELECT id FROM labellings WHERE dataset_id IN (SELECT value FROM json_each(:ids)));
DELETE FROM labellings WHERE dataset_id IN (SELECT value FROM json_each(:ids));
UPDATE datasets SET forgotten_at = :now, state = 'refused', refusal = 'It was deleted.', sha256 = NULL, report = NULL,
    filename = '', source = '', text_column = NULL, label_column = NULL, sheet = NULL
    WHERE id IN (SELECT value FROM json_each(:ids));
DELETE FROM outbox WHERE EXISTS (SELECT 1 FROM json_each(:about) WHERE
    ' ' || coalesce(card, '') || ' | ' || coalesce(thread, '') || ' | ' || coalesce(dedupe, '') || ' '
    LIKE '% ' || value || ' %');
"""  # noqa: S608 - our names
# What learnt from its pairs may still be in use under its name, and its months with it.
ERASE_NAME_SQL = """
DELETE FROM outbox WHERE card IN (SELECT 'document ' || id FROM documents WHERE dataset = :name);
DELETE FROM documents WHERE dataset = :name;
DELETE FROM estimates WHERE dataset = :name;
DELETE FROM dataset_settings WHERE name = :name;
DELETE FROM tried_answers WHERE dataset = :name;
DELETE FROM live_labels WHERE dataset = :name;
UPDATE compared_calls SET label = NULL WHERE test IN (SELECT id FROM live_tests WHERE dataset = :name);
DELETE FROM watched_weeks WHERE dataset = :name;
DELETE FROM monthly_measurements WHERE dataset = :name;
UPDATE proposals SET ended_at = :now WHERE dataset = :name AND ended_at IS NULL;
UPDATE watches SET ended_at = :now, ended_by = 'finetune' WHERE dataset = :name AND ended_at IS NULL;
DELETE FROM actual_months WHERE dataset = :name
    AND NOT EXISTS (SELECT 1 FROM promotions WHERE dataset = :name AND ended_at IS NULL);
"""

FILE_NAME = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True)
class WaitingAsk:
    """Who waits in which channel for an answer of a `model`, or of what is in use for a dataset."""

    person: str
    channel: str
    model: str


@dataclass(frozen=True)
class RemoteCopy:
    """A job or model that a run created at its trainer."""

    provider: str
    job_id: str | None
    model: str | None


@dataclass(frozen=True)
class DatasetDeletion:
    """A request to delete the versions with the ids `datasets`.

    `channel` is None if it came from the terminal or from the retention period. `paths` in the data folder, `files`
    (sha256) that trainers may have, and the copies `elsewhere` are set when deleting begins.
    """

    id: int
    dataset: str
    datasets: tuple[int, ...]
    person: str
    channel: str | None
    state: Literal["asked", "deleting", "done"]
    paths: tuple[str, ...]
    files: tuple[str, ...]
    elsewhere: tuple[RemoteCopy, ...]
    at: float
    next_at: float


@dataclass(frozen=True)
class FilesInUse:
    """The sha256 of the files that some versions use, and of those that others use."""

    ours: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()

    @property
    def only_ours(self) -> set[str]:
        return set(self.ours - self.others)

    def with_changes(self, later: FilesInUse) -> FilesInUse:
        return FilesInUse(self.ours | later.ours, self.others | later.others)


class DatasetDeletions(Table):
    def ask(
        self, dataset: str, datasets: Collection[int], *, person: str, channel: str | None, now: float
    ) -> DatasetDeletion | None:
        """Records a request. Returns None if this dataset is being deleted already."""
        ids = json.dumps(sorted(datasets))
        values = {"dataset": dataset, "datasets": ids, "person": person, "channel": channel, "at": now}
        row = self._db.insert_once("forgettings", values)
        return _dataset_deletion(**row) if row else None

    def open(self, now: float = float("inf")) -> list[DatasetDeletion]:
        """Returns the unfinished deletions whose next step is due, oldest first."""
        sql = f"SELECT * FROM forgettings WHERE state <> 'done' AND {due_sql('next_at')} ORDER BY id"  # noqa: S608
        return self._db.all(_dataset_deletion, sql, (now, now))

    def of(self, dataset: str) -> DatasetDeletion | None:
        """Returns the dataset's unfinished deletion, None if there is none."""
        return next((deletion for deletion in self.open() if deletion.dataset == dataset), None)

    def begin(
        self,
        deletion: DatasetDeletion,
        paths: Iterable[str],
        files: Iterable[str],
        elsewhere: Iterable[RemoteCopy],
    ) -> None:
        """Records what has to be deleted outside the database. Call it in the same transaction as `erase`."""
        copies = json.dumps([vars(copy) for copy in elsewhere])
        self._db.change(
            "UPDATE forgettings SET state = 'deleting', paths = ?, files = ?, elsewhere = ? WHERE id = ?",
            (json.dumps(sorted(paths)), json.dumps(sorted(files)), copies, deletion.id),
        )

    def postpone(self, deletion: DatasetDeletion, *, next_at: float) -> None:
        self._db.change("UPDATE forgettings SET next_at = ? WHERE id = ?", (next_at, deletion.id))

    def end(self, deletion: DatasetDeletion) -> bool:
        """Returns False if another thread was quicker."""
        sql = "UPDATE forgettings SET state = 'done', paths = '[]' WHERE id = ? AND state <> 'done'"
        return self._db.change(sql, (deletion.id,)) == 1

    def files_of(
        self, datasets: Collection[int], *, documents_of: str | None, since: float = 0.0
    ) -> FilesInUse:
        """Returns the files that these versions use, their runs, measurements and labellings included; with
        `documents_of` also the files of that dataset's documents. Reads only what has changed since `since` (unix
        seconds)."""
        values = {"ids": json.dumps(list(datasets)), "name": documents_of or "", "since": since}
        ours = set[str]()
        others = set[str]()
        for row in self._db.rows(FILES_SQL, values):
            names = FILE_NAME.findall(row["text"])
            if row["is_ours"]:
                ours.update(names)
            else:
                others.update(names)
        return FilesInUse(frozenset(ours), frozenset(others))

    def named_files(self) -> set[str]:
        """Returns the sha256 of every file that something in the database still names."""
        names = set[str]()
        for row in self._db.rows(NAMED_FILES_SQL):
            names.update(FILE_NAME.findall(row["text"]))
        return names

    def waiting_asks(self, datasets: Collection[int], dataset: str) -> list[WaitingAsk]:
        """Returns the questions without an answer that `erase` deletes."""
        sql = f"SELECT person, channel, model FROM asks WHERE {ASKS} ORDER BY id"  # noqa: S608 - our names
        rows = self._db.rows(sql, {"ids": json.dumps(list(datasets)), "name": dataset})
        return [WaitingAsk(**row) for row in rows]

    def erase(
        self,
        datasets: Collection[int],
        dataset: str,
        *,
        files: Collection[str],
        about: Collection[str],
        is_whole: bool,
        now: float,
    ) -> None:
        """Erases the text of these versions from the database. Call it in a transaction.

        `files` are those that `files_of` returned. `about` are the names in the outbox (like 'run 7') whose waiting
        messages are deleted. `is_whole` means that no version remains.
        """
        values = {
            "ids": json.dumps(list(datasets)),
            "name": dataset,
            "files": json.dumps(list(files)),
            "about": json.dumps(list(about)),
            "now": now,
        }
        script = ERASE_VERSIONS_SQL
        if is_whole:
            script += ERASE_NAME_SQL
        # Statement by statement: sqlite3's `executescript` would commit the caller's transaction.
        for sql in script.strip().removesuffix(";").split(";\n"):
            self._db.change(sql, values)


def _dataset_deletion(**row: Any) -> DatasetDeletion:
    lists = {name: tuple(json.loads(row[name])) for name in ("datasets", "paths", "files")}
    copies = []
    for copy in json.loads(row["elsewhere"]):
        copy.pop("alias", None)  # of a deletion that release 0.2 has begun
        copies.append(RemoteCopy(**copy))
    return DatasetDeletion(**{**row, **lists, "elsewhere": tuple(copies)})
