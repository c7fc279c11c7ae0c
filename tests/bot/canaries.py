"""Finds words where they must not be: in a database's columns, in files, or in the arguments of processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from storage.driver import sqlite3


def in_database(path: Path, canaries: Mapping[str, str]) -> set[tuple[str, str]]:
    """(table.column, name of the canary), over every column of every table, because SQLite keeps text in any."""
    hits = set()
    with closing(sqlite3.connect(path)) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            cursor = database.execute(f'SELECT * FROM "{table}"')  # noqa: S608  a table's own name
            columns = [column[0] for column in cursor.description]
            for row in cursor:
                for column, value in zip(columns, row, strict=True):
                    hits |= {(f"{table}.{column}", name) for name in _in(_text(value), canaries)}
    return hits


def in_text(text: str, canaries: Mapping[str, str]) -> set[str]:
    return set(_in(text, canaries))


def in_files(paths: Iterable[Path], canaries: Mapping[str, str]) -> set[tuple[str, str]]:
    """(path, name of the canary)."""
    files = [path for path in paths if path.is_file()]
    return {
        (str(path), name)
        for path in files
        for name in _in(path.read_bytes().decode("utf-8", "replace"), canaries)
    }


def _in(text: str, canaries: Mapping[str, str]) -> Iterator[str]:
    return (name for name, word in canaries.items() if word in text)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@contextmanager
def watched_arguments(every_s: float = 0.1) -> Iterator[set[str]]:
    """Collects the command lines of this process' descendants until the block ends."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(every_s):
            seen.update(_command_lines(os.getpid()))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _command_lines(root: int) -> set[str]:
    parents = {int(path.name): _parent(path) for path in Path("/proc").iterdir() if path.name.isdecimal()}
    return {_command_line(pid) for pid in parents if _descends(pid, root, parents)}


def _descends(pid: int, root: int, parents: Mapping[int, int]) -> bool:
    while pid in parents and pid != root:
        pid = parents[pid]
    return pid == root


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):  # it has ended
        return 0


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\x00", b" ").decode("utf-8", "replace")
    except OSError:
        return ""
