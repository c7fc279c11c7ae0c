"""Requests to delete a dataset (asked → deleting → done), the SQL that erases its text, and the wipe of what SQLite
leaves of it.

Rows that money, approvals and the audit log depend on stay, without customers' words: a deleted version is a row with
`forgotten_at`, and the next upload under its name is the next version. If you add a column with customers' words, add
it to the SQL here and to the table in docs/security.md.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from storage.database import Database, StorageError, Table, never
from storage.records import Measurement, Run, due_sql

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

ASKS = """model = :name OR model IN
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
ERASE_NAME_SQL = """
DELETE FROM outbox WHERE card IN (SELECT 'document ' || id FROM documents WHERE dataset = :name);
DELETE FROM documents WHERE dataset = :name;
DELETE FROM estimates WHERE dataset = :name;
DELETE FROM dataset_settings WHERE name = :name;
DELETE FROM tried_answers WHERE dataset = :name;
DELETE FROM actual_months WHERE dataset = :name;
"""

ERASE_LATE_ANSWERS_SQL = """
DELETE FROM replies WHERE owner IN
    (SELECT 'run ' || runs.id FROM runs JOIN datasets ON datasets.id = dataset_id WHERE forgotten_at IS NOT NULL
    UNION ALL SELECT 'm' || measurements.id FROM measurements JOIN datasets ON datasets.id = dataset_id
        WHERE forgotten_at IS NOT NULL)
"""


FILE_NAME = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True)
class RemoteCopy:
    """A job or model that a run created at its trainer. `alias` is the name by which programs call the model."""

    provider: str
    job_id: str | None
    model: str | None
    alias: str | None = None


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
        ours, others = set[str](), set[str]()
        for row in self._db.rows(FILES_SQL, values):
            (ours if row["is_ours"] else others).update(FILE_NAME.findall(row["text"]))
        return FilesInUse(frozenset(ours), frozenset(others))

    def named_files(self) -> set[str]:
        """Returns the sha256 of every file that something in the database still names."""
        return {name for row in self._db.rows(NAMED_FILES_SQL) for name in FILE_NAME.findall(row["text"])}

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
        script = ERASE_VERSIONS_SQL + (ERASE_NAME_SQL if is_whole else "")
        for sql in script.strip().removesuffix(";").split(";\n"):
            self._db.change(sql, values)

    def erase_late_answers(self) -> None:
        """Erases answers that arrived after their dataset was deleted."""
        self._db.change(ERASE_LATE_ANSWERS_SQL)


class Expiries(Table):
    """Ended runs and measurements whose answers were deleted because of their age."""

    def runs(self, before: float, limit: int) -> list[Run]:
        """Returns runs that ended before `before` and were not expired yet, oldest first. Those whose model is in use
        are left out."""
        return self._db.all(
            Run,
            "SELECT * FROM runs WHERE state IN ('done', 'rejected', 'expired', 'cancelled', 'failed')"
            " AND updated_at < ? AND NOT EXISTS (SELECT 1 FROM expired WHERE subject = 'run ' || runs.id)"
            " AND NOT EXISTS (SELECT 1 FROM promotions WHERE promotions.model = runs.model AND ended_at IS NULL)"
            " ORDER BY id LIMIT ?",
            (before, limit),
        )

    def measurements(self, before: float, limit: int) -> list[Measurement]:
        """Returns measurements that ended before `before` and were not expired yet, oldest first."""
        return self._db.all(
            Measurement,
            "SELECT * FROM measurements WHERE state NOT IN ('asked', 'running') AND updated_at < ?"
            " AND NOT EXISTS (SELECT 1 FROM expired WHERE subject = 'm' || measurements.id) ORDER BY id LIMIT ?",
            (before, limit),
        )

    def forget_run(self, run: Run, *, now: float) -> int:
        """Deletes the run's answers. Returns how many there were."""
        n_answers = self._db.change("DELETE FROM answers WHERE run_id = ?", (run.id,))
        return n_answers + self._forget(f"run {run.id}", now)

    def forget_measurement(self, measurement: Measurement, *, now: float) -> int:
        """Deletes the measurement's answers. Returns how many there were."""
        return self._forget(f"m{measurement.id}", now)

    def _forget(self, owner: str, now: float) -> int:
        self._db.insert_once("expired", {"subject": owner, "at": now})
        return self._db.change("DELETE FROM replies WHERE owner = ?", (owner,))


LEAST_FREED_BYTES = 8_000_000
PAGES_A_STEP = 500
PAUSE_S = 0.01  # in which others may write
MOST_TRIES = 200  # to find the log empty, which a long reader prevents

ENTRY_BYTES = 5  # of a page in a pointer map: its kind, and the number of its parent
TREE_KINDS = (1, 5)  # in a pointer map: a root and any other page of a table or an index
FIRST_PAGE_OFFSET = 100  # the file's own header
LOCK_BYTE = 1 << 30  # SQLite never uses the page that contains it
INTERIOR = (2, 5)
LEAVES = (10, 13)


class Wipes(Table):
    """Requests to overwrite what SQLite leaves of deleted rows, which is done in the night, and free pages.

    `secure_delete` overwrites a deleted row and a free page at once. But SQLite moves rows between pages as tables
    grow, and a copy may stay behind in the gap between a page's list of cells and its first cell (up to 9 of 1,500
    deleted rows, as measured). A VACUUM would overwrite it, but keeps the whole database in memory and the write lock
    for 4 s a GB or, on a slow disk, for a minute.

    So the gaps are overwritten in the file itself, a few pages at a time; SQLite has no statement for that. Nothing
    ever reads a gap, so a kill or a loss of power at any moment is harmless. The format of the pages is that of
    https://www.sqlite.org/fileformat2.html.
    """

    def request(self, *, now: float) -> None:
        """Requests a wipe. Call it in the transaction that erases rows."""
        self._db.change("INSERT INTO wipe_requests (at) VALUES (?)", (now,))

    def requested_at(self) -> float | None:
        """Returns when the oldest open request was made, None if there is none."""
        at: float | None = self._db.value("SELECT min(at) FROM wipe_requests")
        return at

    def empty_log(self) -> bool:
        return self._db.empty_log()

    def wipe(self, is_stopping: Callable[[], bool] = never) -> bool:
        """Overwrites every trace of the rows that were deleted before. Returns False if a reader prevents it or the
        process stops: try again later."""
        newest = self._db.value("SELECT max(id) FROM wipe_requests")
        if newest is None:
            return True
        if not overwrite_gaps(self._db, is_stopping):
            return False
        self._db.change("DELETE FROM wipe_requests WHERE id <= ?", (newest,))
        return True

    def return_pages(self, is_stopping: Callable[[], bool] = never) -> bool:
        """Returns free pages to the disk if they are a quarter of the file and more than 8 MB, a few at a time, so that
        no writer waits for long. Returns True if it did."""
        if not self._has_much_free():
            return False
        while self._value("freelist_count") and not is_stopping():
            self._db.value(f"PRAGMA incremental_vacuum({PAGES_A_STEP})")
            time.sleep(PAUSE_S)
        return self.empty_log()  # in WAL mode the file shrinks only at a checkpoint

    def _has_much_free(self) -> bool:
        free = self._value("freelist_count")
        is_quarter = free * 4 >= self._value("page_count")
        return is_quarter and free * self._value("page_size") >= LEAST_FREED_BYTES

    def _value(self, pragma: str) -> int:
        return int(self._db.value(f"PRAGMA {pragma}"))


@dataclass(frozen=True)
class Group:
    """The pages from `map_page`, which says of which kind the others are, up to `last`. Pages are numbered from 1."""

    map_page: int
    last: int


def overwrite_gaps(database: Database, is_stopping: Callable[[], bool] = never) -> bool:
    """Returns False if a reader keeps the log from being emptied, or the process stops: try again later."""
    database.close_connection()  # its cached pages would bring old gaps back
    page_size = int(database.value("PRAGMA page_size"))
    number = 0
    try:
        while (group := _group(number, page_size, _n_pages(database))) is not None:
            if is_stopping() or not _overwrite_group(database, group, page_size):
                return False
            number += 1
            time.sleep(PAUSE_S)
        os.fsync(database.descriptor)
        return True
    finally:
        database.close_connection()


def find_gap(page: bytes, header: int = 0) -> tuple[int, int]:
    """Returns where the gap of a table's or an index's page begins and ends. `header` is where the page's header
    begins."""
    kind = page[header]
    if kind not in INTERIOR + LEAVES:
        raise StorageError(f"A page of the database has the kind {kind}, which there is not.")
    header_bytes = 12 if kind in INTERIOR else 8
    n_cells = int.from_bytes(page[header + 3 : header + 5], "big")
    begin = header + header_bytes + 2 * n_cells
    end = int.from_bytes(page[header + 5 : header + 7], "big") or 65536
    if not begin <= end <= len(page):
        raise StorageError("A page of the database overlaps itself.")
    return begin, end


def _n_pages(database: Database) -> int:
    return int(database.value("PRAGMA page_count"))


def _group(number: int, page_size: int, n_pages: int) -> Group | None:
    """Returns the group with a number from 0, None if the file ends before it."""
    n_entries = page_size // ENTRY_BYTES
    first = 2 + number * (n_entries + 1)
    map_page = first + 1 if first == _lock_byte_page(page_size) else first
    return Group(map_page, min(first + n_entries, n_pages)) if map_page <= n_pages else None


def _lock_byte_page(page_size: int) -> int:
    return LOCK_BYTE // page_size + 1


def _overwrite_group(database: Database, group: Group, page_size: int) -> bool:
    """Overwrites the gaps while the log is empty and nobody writes: then the file has every page as it is. Returns
    False if the log doesn't become empty."""
    real = database.path.resolve()
    log = real.with_name(f"{real.name}-wal")
    for _ in range(MOST_TRIES):
        if database.empty_log():
            with database.immediate():
                if not log.exists() or log.stat().st_size == 0:
                    for begin, end in _filled_gaps(database.descriptor, group, page_size):
                        os.pwrite(database.descriptor, bytes(end - begin), begin)
                    # A write makes other connections forget the pages that they have in memory.
                    database.change("UPDATE wipe_requests SET at = at")
                    return True
        time.sleep(PAUSE_S)
    return False


def _filled_gaps(descriptor: int, group: Group, page_size: int) -> Iterator[tuple[int, int]]:
    """Yields where in the file the gaps begin and end that aren't empty."""
    start = (group.map_page - 1) * page_size
    content = os.pread(descriptor, (group.last - group.map_page + 1) * page_size, start)
    if group.map_page <= 3:  # the first page has no entry in any map
        first = os.pread(descriptor, page_size, 0)
        begin, end = find_gap(first, FIRST_PAGE_OFFSET)
        if any(first[begin:end]):
            yield begin, end
    for index in range(1, len(content) // page_size):
        kind = content[(index - 1) * ENTRY_BYTES]
        if kind not in TREE_KINDS or group.map_page + index == _lock_byte_page(page_size):
            continue
        offset = index * page_size
        page = content[offset : offset + page_size]
        begin, end = find_gap(page)
        if any(page[begin:end]):
            yield start + offset + begin, start + offset + end


def _dataset_deletion(**row: Any) -> DatasetDeletion:
    lists = {name: tuple(json.loads(row[name])) for name in ("datasets", "paths", "files")}
    elsewhere = tuple(RemoteCopy(**copy) for copy in json.loads(row["elsewhere"]))
    return DatasetDeletion(**{**row, **lists, "elsewhere": elsewhere})
