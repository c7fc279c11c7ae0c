"""What models answered to which prompt, so that the same question is paid once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple

from storage.database import Database
from storage.records import KeptReply

KEYS_A_LOOK = 500  # SQLite takes 999 parameters in its older builds


class Replies:
    def __init__(self, database: Database) -> None:
        self._db = database

    def keep(self, replies: Iterable[KeptReply]) -> None:
        """The first answer to a question stays."""
        with self._db.immediate():
            for reply in replies:
                self._db.change(
                    "INSERT INTO replies (key, model, text, prompt_tokens, completion_tokens, seconds, at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                    astuple(reply),
                )

    def found(self, keys: Sequence[str]) -> Mapping[str, KeptReply]:
        """Those that are there, by key."""
        found: dict[str, KeptReply] = {}
        for start in range(0, len(keys), KEYS_A_LOOK):
            part = keys[start : start + KEYS_A_LOOK]
            marks = ", ".join("?" * len(part))
            rows = self._db.rows(f"SELECT * FROM replies WHERE key IN ({marks})", part)  # noqa: S608
            found.update((row["key"], KeptReply(**row)) for row in rows)
        return found
