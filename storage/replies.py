"""What models answered to which prompt, so that the same question is paid once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

from storage.database import Database
from storage.records import KeptReply

COLUMNS = "key, model, text, prompt_tokens, completion_tokens, seconds, at"
KEYS_A_LOOK = 500  # SQLite takes 999 parameters in its older builds


@dataclass(frozen=True)
class Heard:
    """How many of some questions have their answer, and the tokens of those that were paid."""

    answers: int
    prompt_tokens: int
    completion_tokens: int


class Replies:
    def __init__(self, database: Database) -> None:
        self._db = database

    def keep(self, replies: Iterable[KeptReply], owner: str | None = None) -> None:
        """The first answer to a question stays. `owner` is what asked, 'run 3' or 'm3': with its dataset they go."""
        with self._db.immediate():
            for reply in replies:
                self._db.change(
                    "INSERT INTO replies (key, model, text, prompt_tokens, completion_tokens, seconds, at, owner)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                    (*astuple(reply), owner),
                )

    def forget(self, key: str) -> None:
        self._db.change("DELETE FROM replies WHERE key = ?", (key,))

    def found(self, keys: Sequence[str]) -> Mapping[str, KeptReply]:
        """Those that are there, by key."""
        found: dict[str, KeptReply] = {}
        for start in range(0, len(keys), KEYS_A_LOOK):
            part = keys[start : start + KEYS_A_LOOK]
            marks = ", ".join("?" * len(part))
            rows = self._db.rows(f"SELECT {COLUMNS} FROM replies WHERE key IN ({marks})", part)  # noqa: S608
            found.update((row["key"], KeptReply(**row)) for row in rows)
        return found

    def answered(self, keys: Sequence[str]) -> frozenset[str]:
        """Those of these questions that have their answer."""
        sql = "SELECT key FROM replies WHERE key IN (SELECT value FROM json_each(?))"
        return frozenset(row["key"] for row in self._db.rows(sql, (json.dumps(keys),)))

    def heard(self, keys: Sequence[str], *, since: float) -> Heard:
        """Of these questions, each counted once; those answered `since` then were paid. The texts are not read."""
        (row,) = self._db.rows(
            "SELECT count(*) AS answers, coalesce(sum(prompt_tokens) FILTER (WHERE at >= ?1), 0) AS prompt_tokens,"
            " coalesce(sum(completion_tokens) FILTER (WHERE at >= ?1), 0) AS completion_tokens"
            " FROM replies WHERE key IN (SELECT value FROM json_each(?2))",
            (since, json.dumps(keys)),
        )
        return Heard(**row)

    def heard_of(self, model: str, *, since: float) -> Heard:
        """All that a model answered `since` then."""
        (row,) = self._db.rows(
            "SELECT count(*) AS answers, coalesce(sum(prompt_tokens), 0) AS prompt_tokens,"
            " coalesce(sum(completion_tokens), 0) AS completion_tokens FROM replies WHERE model = ? AND at >= ?",
            (model, since),
        )
        return Heard(**row)
