"""Looks for words that must not be where they are: in a database's columns, in files, in arguments of processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from storage.driver import sqlite3


def in_database(path: Path, canaries: Mapping[str, str]) -> set[tuple[str, str]]:
    """(table.column, name of the canary), over every column of every table: SQLite keeps text in any."""
    matches = set()
    with closing(sqlite3.connect(path)) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            cursor = database.execute(f'SELECT * FROM "{table}"')  # noqa: S608  a table's own name
            columns = [column[0] for column in cursor.description]
            for row in cursor:
                for column, value in zip(columns, row, strict=True):
                    matches |= {(f"{table}.{column}", name) for name in in_text(_text(value), canaries)}
    return matches


def in_text(text: str, canaries: Mapping[str, str]) -> set[str]:
    return {name for name, word in canaries.items() if word in text}


def in_files(paths: Iterable[Path], canaries: Mapping[str, str]) -> set[tuple[str, str]]:
    """(path, name of the canary)."""
    return {
        (str(path), name)
        for path in paths
        if path.is_file()
        for name in in_text(_text(path.read_bytes()), canaries)
    }


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@contextmanager
def watched_arguments(every_s: float = 0.1) -> Iterator[set[str]]:
    """Collects the command lines of this process's descendants while the context is open."""
    seen: set[str] = set()
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(every_s):
            seen.update(_command_line(pid) for pid in _descendants(os.getpid()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


def _descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:  # the thread has ended in the meantime
            continue
        for child in children:
            yield child
            yield from _descendants(child)


def _command_line(pid: int) -> str:
    try:
        return _text(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\x00", b" "))
    except OSError:  # the process has ended in the meantime
        return ""
