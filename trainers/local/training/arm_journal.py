"""What an arm of a sweep tells: curves and progress in its own folder, events and the sum of all arms in the job's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainers.local.spool import append_event
from trainers.local.training.arms import Arm
from trainers.local.training.journal import Journal, Progress, Step


@dataclass(frozen=True)
class Others:
    """What all other arms have done; `total` steps are those of the whole sweep, at most. `started` as of
    time.monotonic, as if the sweep had had no break."""

    step: int
    trained_tokens: int
    total: int
    started: float


class ArmJournal(Journal):
    """`sweep` is the job's own journal, `folder` the job's."""

    def __init__(self, sweep: Journal, folder: Path, arm: Arm, others: Others) -> None:
        super().__init__(arm.folder, arm.job.integrations)
        self._sweep = sweep
        self._job_folder = folder
        self._arm = arm
        self._others = others
        self.last: Step | None = None
        self.step_s = self.step_s or sweep.step_s

    def append(
        self, message: str, level: Literal["info", "warn"], data: Mapping[str, object] | None = None
    ) -> None:
        of_arm = {**data, "arm": self._arm.number} if data else None
        append_event(self._job_folder, f"Arm {self._arm.number}: {message}", level=level, data=of_arm)

    def record(self, step: Step, *, is_validated_next: bool = False) -> None:
        self.last = step
        super().record(step, is_validated_next=is_validated_next)
        self._sweep.step_s = self.step_s

    def place(self, progress: Progress, *, is_paused: bool = False, is_over: bool = False) -> None:
        super().place(progress, is_paused=is_paused, is_over=is_over)
        others = self._others
        of_all = Progress(
            others.step + progress.step,
            others.total,
            others.trained_tokens + progress.trained_tokens,
            time.monotonic() - others.started,
            self.step_s,
        )
        self._sweep.place(of_all, is_paused=is_paused)
