"""The journal of a process that is not the first of its team: it keeps time and tells nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from trainers.local.spool import TrainingJob
from trainers.local.training import team
from trainers.local.training.journal import Journal, Progress, Scores, Step


def journal_of(folder: Path, job: TrainingJob, more: Sequence[str] = ()) -> Journal:
    """One process of a team writes. The curves of a sweep are its arms'. `more`: the names of Scores.more."""
    if not team.is_first():
        return Silence(folder)
    return Journal(folder, () if job.arms else job.integrations, job.settings.ceiling_s, more)


class Silence(Journal):
    def begin(self, after: int) -> None: ...

    def say(self, message: str, level: Literal["info", "warn"] = "info") -> None: ...

    def record(self, step: Step, *, is_validated_next: bool = False) -> None: ...

    def record_validation(self, step: Step, valid: Scores) -> None: ...

    def last_scores(self) -> Scores:
        return Scores(0.0, None)

    def place(self, progress: Progress, *, is_paused: bool = False, is_over: bool = False) -> None: ...

    def end(self, *, is_done: bool) -> None: ...
