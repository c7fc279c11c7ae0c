"""The SQLite that sqlite-utils uses: pysqlite3's newer build where it is installed, else Python's own."""

from __future__ import annotations

try:
    import pysqlite3 as sqlite3
except ImportError:
    import sqlite3

__all__ = ["sqlite3"]
