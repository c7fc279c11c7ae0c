"""Datasets that people want gone: asked → deleting → done. The database's part is erased here (erasing.py).

Rows that money, approvals and the audit log rest on stay, without what customers said: a forgotten version is a row
with `forgotten_at`. Its name stays its channel's, and the next upload under it is the next version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from storage.database import Database
from storage.erasing import FILES, LATE_ANSWERS, OF_NAME, OF_VERSIONS

FILE_NAME = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True)
class Elsewhere:
    """What a run left at its trainer; `alias` where programs call the model by a name."""

    provider: str
    job_id: str | None
    model: str | None
    alias: str | None = None


@dataclass(frozen=True)
class Forgetting:
    """`datasets` are ids of versions. `channel` None: asked for in the terminal, or by the retention.

    Once deleting: `paths` in the data folder, `files` (sha256) that trainers may have, and what is `elsewhere`.
    """

    id: int
    dataset: str
    datasets: tuple[int, ...]
    person: str
    channel: str | None
    state: Literal["asked", "deleting", "done"]
    paths: tuple[str, ...]
    files: tuple[str, ...]
    elsewhere: tuple[Elsewhere, ...]
    at: float
    next_at: float


class Forgettings:
    def __init__(self, database: Database) -> None:
        self._db = database

    def ask(
        self, dataset: str, datasets: Collection[int], *, person: str, channel: str | None, now: float
    ) -> Forgetting | None:
        """None where one of this dataset is under way."""
        row = self._db.row(
            "INSERT INTO forgettings (dataset, datasets, person, channel, at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING RETURNING *",
            (dataset, json.dumps(sorted(datasets)), person, channel, now),
        )
        return _forgetting(row) if row else None

    def open(self, now: float = float("inf")) -> list[Forgetting]:
        """Those whose next step's time has come, oldest first."""
        rows = self._db.rows(
            "SELECT * FROM forgettings WHERE state <> 'done' AND next_at <= ? ORDER BY id", (now,)
        )
        return [_forgetting(row) for row in rows]

    def of(self, dataset: str) -> Forgetting | None:
        """The one that is under way."""
        return next((one for one in self.open() if one.dataset == dataset), None)

    def begin(
        self,
        forgetting: Forgetting,
        paths: Iterable[str],
        files: Iterable[str],
        elsewhere: Iterable[Elsewhere],
    ) -> None:
        """What has to be deleted outside the database; call it in the transaction of `erase`."""
        lists = (
            json.dumps(sorted(paths)),
            json.dumps(sorted(files)),
            json.dumps([vars(one) for one in elsewhere]),
        )
        self._db.change(
            "UPDATE forgettings SET state = 'deleting', paths = ?, files = ?, elsewhere = ? WHERE id = ?",
            (*lists, forgetting.id),
        )

    def later(self, forgetting: Forgetting, *, next_at: float) -> None:
        self._db.change("UPDATE forgettings SET next_at = ? WHERE id = ?", (next_at, forgetting.id))

    def end(self, forgetting: Forgetting) -> bool:
        """False where another hand was quicker."""
        sql = "UPDATE forgettings SET state = 'done', paths = '[]' WHERE id = ? AND state <> 'done'"
        return self._db.change(sql, (forgetting.id,)) == 1

    def files_of(self, datasets: Collection[int], *, documents_of: str | None) -> set[str]:
        """The sha256 of every file of these versions and of what was made of them, and of the documents that were given
        beside the dataset, that nothing else needs."""
        ours, ids, name = set[str](), json.dumps(list(datasets)), documents_of or ""
        others = set[str]()
        for row in self._db.rows(FILES, (ids, ids, ids, name)):
            (ours if row["is_ours"] else others).update(FILE_NAME.findall(row["text"]))
        return ours - others

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
        """What the database has of these versions; call it in a transaction. `files` as `files_of` gave them;
        `about` as in erasing.py; `is_whole`: no version is left."""
        values = {
            "ids": json.dumps(list(datasets)),
            "name": dataset,
            "files": json.dumps(list(files)),
            "about": json.dumps(list(about)),
            "now": now,
        }
        script = OF_VERSIONS + (OF_NAME if is_whole else "")
        for sql in script.strip().removesuffix(";").split(";\n"):
            self._db.change(sql, values)

    def erase_late_answers(self) -> None:
        """Those that were under way when their dataset was deleted."""
        self._db.change(LATE_ANSWERS)

    def wipe(self) -> bool:
        """Bytes that deleting has freed leave the database's files. False while somebody reads: try again later."""
        self._db.change("VACUUM")
        return bool(self._db.value("PRAGMA wal_checkpoint(TRUNCATE)") == 0)


def _forgetting(row: dict[str, Any]) -> Forgetting:
    lists = {name: tuple(json.loads(row[name])) for name in ("datasets", "paths", "files")}
    elsewhere = tuple(Elsewhere(**one) for one in json.loads(row["elsewhere"]))
    return Forgetting(**{**row, **lists, "elsewhere": elsewhere})
