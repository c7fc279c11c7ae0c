"""Which model is in use for a dataset, read without opening the database as ours: beside a running bot, for scripts."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from storage.chain import reader
from storage.database import StorageError
from storage.driver import sqlite3

ONE = """
SELECT models.provider_model FROM promotions JOIN models ON models.name = promotions.model
WHERE promotions.dataset = ? AND promotions.ended_at IS NULL
"""


def current(database: Path, dataset: str) -> str | None:
    """As its provider knows it; None where none is in use. Raises StorageError."""
    with closing(reader(database)) as connection:
        try:
            row = connection.execute(ONE, (dataset,)).fetchone()
        except sqlite3.DatabaseError as error:
            raise StorageError(
                f"Looking in {database} for the model in use: {error}. A database of an older version gets what it "
                "lacks when the bot is started once."
            ) from error
    return str(row[0]) if row else None
