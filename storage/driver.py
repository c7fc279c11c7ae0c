"""Imports SQLite, and sqlite-utils without pandas and numpy.

sqlite-utils imports both if they are installed, to store their types. We store none, and they would cost `finetune run`
0.7 s at its start and 60 MB, so they are hidden during that import.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import pysqlite3 as sqlite3  # a newer build than most systems ship
except ImportError:
    import sqlite3


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None makes `import` raise ImportError
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _hidden("pandas", "numpy"):
    from sqlite_utils import Database as SqliteUtils
    from sqlite_utils import Migrations

__all__ = ["Migrations", "SqliteUtils", "sqlite3"]
