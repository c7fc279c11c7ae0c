"""The demo's last lines, read from what the bot itself remembers after the run."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from bot.demo.workspace import PostedMessage, WorkspaceError
from bot.results import RunResult
from bot.views.words import duration, p_value, points, with_interval
from trainers.money import usd_micros


@dataclass(frozen=True)
class Summary:
    result: RunResult
    database: Path
    adapter: Path

    def lines(self, seconds: float) -> list[str]:
        result = self.result
        return [
            f"base, prompted:  {with_interval(result.base)} of {result.base.n} held-out rows right",
            f"tuned:           {with_interval(result.tuned)}",
            f"difference:      {points(result.gain)}, {p_value(result.p_value)}",
            f"cost:            {usd_micros(result.actual_micros)} (estimated {usd_micros(result.estimated_micros)})",
            f"time:            {duration(result.train_seconds)} of training, {duration(seconds)} for the whole story",
            f"database:        {self.database}",
            f"adapter:         {self.adapter}",
        ]


def summary(folder: Path, card: PostedMessage) -> Summary:
    """Looks into the database (read-only, beside the running bot) for the run that `card` tells of."""
    database = folder / "data" / "finetune.db"
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        row = connection.execute(
            "SELECT result, job_id FROM runs WHERE state = 'done' ORDER BY id DESC"
        ).fetchone()
    finally:
        connection.close()
    if row is None:
        raise WorkspaceError(f"the channel has a result ({card.text}), the database has none")
    adapter = folder / "data" / "trainer" / "jobs" / str(row[1]) / "adapter"
    if not (adapter / "adapter_model.safetensors").is_file():
        raise WorkspaceError(f"there is no adapter at {adapter}")
    return Summary(RunResult.from_json(row[0]), database, adapter)
