"""The journal of a process that is not the first of its team: it keeps time and tells nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from trainers.local.spool import TrainingJob
from trainers.local.training import team
from trainers.local.training.journal import Journal, Progress, Scores, Step


def journal_of(folder: Path, job: TrainingJob) -> Journal:
    """One process of a team writes."""
    if team.is_first():
        return Journal(folder, job.integrations, job.settings.ceiling_s)
    return Silence(folder)


class Silence(Journal):
    def begin(self, after: int) -> None: ...

    def say(self, message: str, level: Literal["info", "warn"] = "info") -> None: ...

    def record(self, step: Step, *, is_validated_next: bool = False) -> None: ...

    def record_validation(self, step: Step, valid: Scores) -> None: ...

    def last_scores(self) -> Scores:
        return Scores(0.0, None)

    def place(self, progress: Progress, *, is_paused: bool = False, is_over: bool = False) -> None: ...

    def end(self, *, is_done: bool) -> None: ...
