"""Memory that is full in one process while the base is divided: the team ends, and its next start takes less at a time.

The others wait for that process inside a layer and can't be told. It writes what the next start needs into the job's
folder and exits; its launcher ends the others, and the server starts the job again from its checkpoint.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from trainers.local.launch import SHORT
from trainers.local.spool import append_event, read_json, replace_json
from trainers.local.training import team
from trainers.local.training.failures import TrainingFailed, write_failure


@dataclass(frozen=True)
class Shortage:
    """`told` to the user. The next start computes `tokens` at a time; `failed`: there is nothing to take less of."""

    told: str
    failed: TrainingFailed | None = None
    tokens: int = 0
    recomputes: bool = False


def end_team(folder: Path, shortage: Shortage) -> NoReturn:
    """Without a farewell: leaving the group in order may wait for the others."""
    print(shortage.told, file=sys.stderr, flush=True)
    if shortage.failed is not None:
        write_failure(folder, shortage.failed)
        os._exit(1)
    append_event(folder, shortage.told, level="warn")
    less = {"tokens": shortage.tokens, "recomputes": shortage.recomputes}
    replace_json(folder / f"room-{team.rank()}.json", less)  # several processes may write at once
    os._exit(SHORT)


def room_left(folder: Path) -> tuple[int, bool] | None:
    """The least tokens at a time of all shortages, and whether activations are computed again; None without any. The
    first process looks for all: the others may be on machines that don't have it."""
    return team.ask_first(lambda: _read(folder))


def _read(folder: Path) -> tuple[int, bool] | None:
    notes = [read_json(path) or {} for path in folder.glob("room-*.json")]
    if not notes:
        return None
    return min(note["tokens"] for note in notes), any(note["recomputes"] for note in notes)
