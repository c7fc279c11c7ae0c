"""When an engine has trained enough: by its ceiling or its patience. What was decided stands in the file STOP.

So a kill after the decision changes nothing about the end. Ends no process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.local.spool import read_json, replace_json
from trainers.local.training.course import Pace, Stop, Validation, has_lost_patience

STOP = "STOP"  # read by scripts/callback.py
RECENT = 10
SAVING_S = 2.0  # for a checkpoint, and for reading that it is there


@dataclass
class Times:
    """How long steps and validations take, by when the log told of them. Reading lags: the slowest of late count.

    `guess`: a first validation's length in steps.
    """

    guess: float
    steps_s: tuple[float, ...] = ()
    validation_s: float | None = None
    _told_at: float | None = None

    def step(self, now: float) -> None:
        """The first one of a try took the engine's loading, too, and doesn't count."""
        if self._told_at is not None:
            self.steps_s = (*self.steps_s, now - self._told_at)[-RECENT:]
        self._told_at = now

    def validation(self, now: float) -> None:
        if self._told_at is not None:
            self.validation_s = max(self.validation_s or 0.0, now - self._told_at)
            self._told_at = now

    def until_end(self, *, is_validated_next: bool) -> Pace:
        """Of the step that the engine is at by now, one more, the validation at the end and its checkpoint. Of a
        validation between them, too."""
        step_s = max(self.steps_s, default=0.0)
        guess_s = self.guess * step_s
        between_s = (guess_s if self.validation_s is None else self.validation_s) * is_validated_next
        return Pace(2 * step_s + between_s + SAVING_S, self.validation_s, guess_s)


def decided(home: Path, validations: Sequence[Validation], patience: int | None) -> Stop | None:
    """By an earlier try of the job, in the engine's folder `home`, or by what it left."""
    found = read_json(home / STOP)
    if found:
        return "ceiling" if found["why"] == "ceiling" else "patience"
    return "patience" if has_lost_patience(validations, patience) else None


def decide(home: Path, why: Stop) -> None:
    replace_json(home / STOP, {"why": why})
