"""Labels from people in Slack or from a teacher model: batches of rows (received → choosing → open → closing → done,
cancelled or failed), their rows, and each person's label of each row."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from storage.database import Table
from storage.records import Labelling, LabellingRow, LabellingState, RowLabel, due_sql

UNFINISHED = "state IN ('received', 'choosing', 'open', 'closing')"
BOT_IS_NEXT = "(state IN ('received', 'choosing', 'closing') OR (state = 'open' AND teacher IS NOT NULL))"


@dataclass(frozen=True)
class NewLabelling:
    """A batch to label. `source` is a Slack file with unlabelled rows, or says where they come from if their file is
    here already, as `sha256`; None for doubted rows of the dataset. `teacher` is the model that labels them, None if
    people do."""

    dataset: str
    dataset_id: int
    channel: str
    person: str
    count: int
    source: str | None = None
    filename: str | None = None
    teacher: str | None = None
    sha256: str | None = None


class Labellings(Table):
    def add(self, new: NewLabelling, *, now: float) -> Labelling | None:
        """Adds a batch. Returns None if the dataset has an unfinished one."""
        state: LabellingState = "choosing"
        if new.source and new.sha256 is None:
            state = "received"
        values = {**vars(new), "state": state, "created_at": now, "updated_at": now}
        row = self._db.insert_once("labellings", values)
        return Labelling(**row) if row else None

    def get(self, number: int) -> Labelling | None:
        return self._db.first(Labelling, "SELECT * FROM labellings WHERE id = ?", (number,))

    def under_way(self, dataset: str) -> Labelling | None:
        sql = f"SELECT * FROM labellings WHERE dataset = ? AND {UNFINISHED}"  # noqa: S608 - our names
        return self._db.first(Labelling, sql, (dataset,))

    def due(self, now: float) -> list[Labelling]:
        """Returns the batches whose next step is the bot's and is due, oldest first."""
        return self._db.all(
            Labelling,
            f"SELECT * FROM labellings WHERE {BOT_IS_NEXT} AND {due_sql('next_at')} ORDER BY id",  # noqa: S608 - our names
            (now, now),
        )

    def on(self, datasets: Collection[int]) -> list[Labelling]:
        """Returns the batches whose rows were chosen from or for these versions, oldest first."""
        sql = "SELECT * FROM labellings WHERE dataset_id IN (SELECT value FROM json_each(?)) ORDER BY id"
        return self._db.all(Labelling, sql, (json.dumps(list(datasets)),))

    def move(
        self, labelling: Labelling, to: LabellingState, *, now: float, **changes: Any
    ) -> Labelling | None:
        """Returns the moved batch, or None if it is no longer in its state."""
        changes = {**changes, "state": to, "updated_at": now}
        row = self._db.move("labellings", labelling.id, labelling.state, changes)
        return Labelling(**row) if row else None

    def add_rows(self, rows: Iterable[LabellingRow]) -> None:
        for row in rows:
            self._db.insert("labelling_rows", vars(row))

    def rows(self, labelling: Labelling) -> list[LabellingRow]:
        sql = "SELECT * FROM labelling_rows WHERE labelling_id = ? ORDER BY place"
        return self._db.all(LabellingRow, sql, (labelling.id,))

    def answer(self, label: RowLabel) -> None:
        """Records a person's label of a row, which replaces their earlier one."""
        self._db.change(
            "INSERT INTO row_labels (labelling_id, place, person, label, at)"
            " VALUES (:labelling_id, :place, :person, :label, :at)"
            " ON CONFLICT DO UPDATE SET label = excluded.label, at = excluded.at",
            vars(label),
        )

    def labels(self, labelling: Labelling) -> list[RowLabel]:
        sql = "SELECT * FROM row_labels WHERE labelling_id = ? ORDER BY place, person"
        return self._db.all(RowLabel, sql, (labelling.id,))
