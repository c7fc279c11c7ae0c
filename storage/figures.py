"""Counts over everything, for those who watch over the bot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from storage.database import Database
from storage.outbox import PATIENT_TRIES
from storage.records import RunState

STUCK_S = 600.0


@dataclass(frozen=True)
class Figures:
    """`runs` has every state. `oldest_s`: for how long the oldest message waits, 0 where none does. `given_up`:
    messages that never got through. `stuck`: messages that failed again and again, and wait for longer than STUCK_S."""

    runs: dict[str, int]
    measurements: int
    waiting: int
    oldest_s: float
    given_up: int
    stuck: int


def figures(database: Database, now: float) -> Figures:
    counted = {
        row["state"]: row["n"] for row in database.rows("SELECT state, count(*) n FROM runs GROUP BY state")
    }
    oldest = database.value("SELECT min(created_at) FROM outbox WHERE state = 'due'")
    return Figures(
        runs={state: counted.get(state, 0) for state in get_args(RunState)},
        measurements=database.value("SELECT count(*) FROM measurements WHERE state IN ('asked', 'running')"),
        waiting=database.value("SELECT count(*) FROM outbox WHERE state = 'due'"),
        oldest_s=max(now - oldest, 0.0) if oldest is not None else 0.0,
        given_up=database.value("SELECT count(*) FROM outbox WHERE state = 'dead'"),
        stuck=database.value(
            "SELECT count(*) FROM outbox WHERE state = 'due' AND tries >= ? AND created_at < ?",
            (PATIENT_TRIES, now - STUCK_S),
        ),
    )
