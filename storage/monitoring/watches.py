"""What a team has watched: for which datasets, each past week's figures, and people's labels of sampled calls.

The sampled calls themselves are in a file of their own (trainers/recipes/samples.py), which no backup copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from storage.database import Table

Every = Literal["month", "never"]


@dataclass(frozen=True)
class Watch:
    """A `person` has a dataset watched, and its card posted in `channel`, until `ended_at`.

    `share` (0 to 1) of the calls should be sampled; none are until somebody who decides about the dataset's rows has
    agreed (`consented_by`, at `consented_at`). `time_zone` is the person's, like 'Europe/Berlin', or 'UTC'. `every`
    says how often what is in use is measured again.
    """

    id: int
    dataset: str
    person: str
    channel: str
    share: float
    time_zone: str
    at: float
    consented_by: str | None
    consented_at: float | None
    ended_at: float | None
    ended_by: str | None
    every: Every = "never"

    @property
    def samples(self) -> bool:
        """True if calls are being sampled."""
        return self.share > 0 and self.consented_at is not None and self.ended_at is None

    @property
    def awaits_consent(self) -> bool:
        return self.share > 0 and self.consented_at is None and self.ended_at is None


@dataclass(frozen=True)
class NewWatch:
    dataset: str
    person: str
    channel: str
    share: float
    time_zone: str
    consented_by: str | None = None
    consented_at: float | None = None
    every: Every = "never"


class Watches(Table):
    def begin(self, new: NewWatch, *, now: float) -> Watch:
        """Adds a watch in place of the dataset's current one. Call it in a transaction."""
        # An index allows one current watch of a dataset.
        self.end(new.dataset, new.person, now=now)
        row = self._db.insert("watches", {**vars(new), "at": now})
        return Watch(**row)

    def consent(self, watch: Watch, person: str, *, now: float) -> Watch | None:
        """Records that calls may be sampled. Returns None if that was recorded before, or the watch has ended."""
        sql = (
            "UPDATE watches SET consented_by = ?, consented_at = ?"
            " WHERE id = ? AND consented_at IS NULL AND ended_at IS NULL RETURNING *"
        )
        return self._db.first(Watch, sql, (person, now, watch.id))

    def end(self, dataset: str, person: str, *, now: float) -> Watch | None:
        """Ends the dataset's watch. Returns None if it has none."""
        sql = (
            "UPDATE watches SET ended_at = ?, ended_by = ? WHERE dataset = ? AND ended_at IS NULL RETURNING *"
        )
        return self._db.first(Watch, sql, (now, person, dataset))

    def get(self, number: int) -> Watch | None:
        return self._db.first(Watch, "SELECT * FROM watches WHERE id = ?", (number,))

    def current(self, dataset: str) -> Watch | None:
        return self._db.first(
            Watch, "SELECT * FROM watches WHERE dataset = ? AND ended_at IS NULL", (dataset,)
        )

    def all_current(self) -> list[Watch]:
        """Returns the current watch of each watched dataset, ordered by the dataset's name."""
        return self._db.all(Watch, "SELECT * FROM watches WHERE ended_at IS NULL ORDER BY dataset")


@dataclass(frozen=True)
class WatchedWeek:
    """A past week of a watched dataset. `week` is its Monday ('2026-11-23', UTC), `facts` JSON as it was counted at the
    time `at`."""

    dataset: str
    week: str
    facts: str
    at: float


class WatchedWeeks(Table):
    def add(self, week: WatchedWeek) -> bool:
        """Returns False if that week was stored before."""
        return self._db.insert_once("watched_weeks", vars(week)) is not None

    def get(self, dataset: str, week: str) -> WatchedWeek | None:
        sql = "SELECT * FROM watched_weeks WHERE dataset = ? AND week = ?"
        return self._db.first(WatchedWeek, sql, (dataset, week))

    def of(self, dataset: str) -> list[WatchedWeek]:
        """Returns a dataset's weeks, oldest first."""
        sql = "SELECT * FROM watched_weeks WHERE dataset = ? ORDER BY week"
        return self._db.all(WatchedWeek, sql, (dataset,))


@dataclass(frozen=True)
class LiveLabel:
    """A person's verdict on the answer to a sampled `call`, which `recipe` gave at `called_at`: what they chose as the
    right `label`, and whether the answer was that. Both are None if they couldn't tell."""

    dataset: str
    call: str
    recipe: str
    called_at: float
    person: str
    label: str | None
    is_right: bool | None
    at: float


class LiveLabels(Table):
    def add(self, label: LiveLabel) -> bool:
        """Returns False if somebody has labelled this call already."""
        return self._db.insert_once("live_labels", vars(label)) is not None

    def of(self, dataset: str) -> list[LiveLabel]:
        """Returns a dataset's live labels, in the order of the calls."""
        sql = "SELECT * FROM live_labels WHERE dataset = ? ORDER BY called_at, call"
        return [_live_label(**row) for row in self._db.rows(sql, (dataset,))]


def _live_label(**row: object) -> LiveLabel:
    is_right = row["is_right"]
    if is_right is not None:  # SQLite has no booleans: it stores 0 or 1
        is_right = bool(is_right)
    return LiveLabel(**{**row, "is_right": is_right})  # type: ignore[arg-type]
