"""Overwrites what SQLite leaves of deleted rows, and returns free pages to the disk. Both are done in the night.

`secure_delete` overwrites a deleted row and a free page at once. But SQLite moves rows between pages as tables grow,
and a copy may stay behind in the gap between a page's list of cells and its first cell (up to 9 of 1,500 deleted rows,
as measured). A VACUUM would overwrite it, but keeps the whole database in memory and the write lock for 4 s a GB or, on
a slow disk, for a minute.

So the gaps are overwritten in the file itself, a few pages at a time; SQLite has no statement for that. Nothing ever
reads a gap, so a kill or a loss of power at any moment is harmless. The format of the pages is that of
https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from storage.database import Database, StorageError, Table, never

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
    """Requests to overwrite what is left of the rows that a transaction erased."""

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
        # Requests that came meanwhile stay: their rows may be in pages that were done before.
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
        is_quarter = 4 * free >= self._value("page_count")
        free_bytes = free * self._value("page_size")
        return is_quarter and free_bytes >= LEAST_FREED_BYTES

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
            if is_stopping():
                return False
            if not _overwrite_group(database, group, page_size):
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
    header_bytes = 8
    if kind in INTERIOR:
        header_bytes = 12
    n_cells = _big_endian(page, header + 3)
    begin = header + header_bytes + 2 * n_cells
    end = _big_endian(page, header + 5) or 65536  # which two bytes can't hold
    if not begin <= end <= len(page):
        raise StorageError("A page of the database overlaps itself.")
    return begin, end


def _big_endian(page: bytes, offset: int) -> int:
    two_bytes = page[offset : offset + 2]
    return int.from_bytes(two_bytes, "big")


def _n_pages(database: Database) -> int:
    return int(database.value("PRAGMA page_count"))


def _group(number: int, page_size: int, n_pages: int) -> Group | None:
    """Returns the group with a number from 0, None if the file ends before it."""
    n_entries = page_size // ENTRY_BYTES
    first = 2 + number * (n_entries + 1)
    map_page = first
    if first == _lock_byte_page(page_size):
        map_page = first + 1  # the group is a page shorter, as SQLite leaves that page out
    if map_page > n_pages:
        return None
    last = min(first + n_entries, n_pages)
    return Group(map_page, last)


def _lock_byte_page(page_size: int) -> int:
    return LOCK_BYTE // page_size + 1


def _overwrite_group(database: Database, group: Group, page_size: int) -> bool:
    """Overwrites the gaps while the log is empty and nobody writes: then the file has every page as it is. Returns
    False if the log doesn't become empty."""
    real = database.path.resolve()
    log = real.with_name(f"{real.name}-wal")
    for _ in range(MOST_TRIES):
        if database.empty_log():
            # Somebody may have written between the log's emptying and our lock, so it is looked at once more.
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
    n_pages = group.last - group.map_page + 1
    content = os.pread(descriptor, n_pages * page_size, start)
    if group.map_page <= 3:  # the first page has no entry in any map
        first = os.pread(descriptor, page_size, 0)
        begin, end = find_gap(first, FIRST_PAGE_OFFSET)
        if any(first[begin:end]):
            yield begin, end
    for index in range(1, len(content) // page_size):
        entry = (index - 1) * ENTRY_BYTES  # in the map page, with which the content begins
        kind = content[entry]
        if kind not in TREE_KINDS:
            continue
        if group.map_page + index == _lock_byte_page(page_size):
            continue
        offset = index * page_size
        page = content[offset : offset + page_size]
        begin, end = find_gap(page)
        if any(page[begin:end]):
            yield start + offset + begin, start + offset + end
