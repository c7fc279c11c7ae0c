"""Reads and writes the trials of a sweep. Each has a job's folder inside the sweep's folder, and sweep.csv lists all.

arms/01/job.json      TrainingJob with the arm's own settings and an id that ends in -arm-01
arms/01/checkpoints/  like a job's, until the sweep is over
arms/01/OUT           {"message", "step", "trained_tokens", "seconds"}: the arm has dropped out
arms/WINNER           {"arm", "step", "stopped", …}: the winner is chosen but not yet published
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from trainers.hyperparameters import Value, combinations, halving_rungs
from trainers.local.job_directory import TrainingJob, append_event, read_json, write_job
from trainers.local.training import distributed
from trainers.local.training.checkpoints import list_checkpoints, read_position
from trainers.local.training.metrics_logger import MetricsLogger, Progress, Step, format_number
from trainers.local.training.schedule import START, Position, best_validation
from trainers.local.training.successive_halving import Round, TrialScore

ARMS, OUT, WINNER = "arms", "OUT", "WINNER"
TABLE_FILE = "sweep.csv"
MEASURED = (
    *("step", "total_steps", "best_step", "valid_loss", "valid_mean_token_accuracy"),
    *("trained_tokens", "seconds", "outcome"),
)


@dataclass(frozen=True)
class Trial:
    """One arm of a sweep. `chosen` are the values of the swept hyperparameters. `job` has the arm's settings without
    ceilings, which apply to the whole sweep."""

    number: int
    chosen: Mapping[str, Value]
    job: TrainingJob
    folder: Path

    @property
    def values(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.chosen.items())

    def __str__(self) -> str:
        return f"Trial {self.number} ({self.values})"


def create_trials(folder: Path, job: TrainingJob) -> tuple[Trial, ...]:
    """Returns the trials of a job. The first process creates the folders that don't exist yet."""
    trials = []
    for number, chosen in enumerate(combinations(job.settings.sweep), start=1):
        name = f"arm-{number:02d}"
        named = tuple(
            replace(integration, name=f"{integration.name}-{name}" if integration.name else None)
            for integration in job.integrations
        )
        settings = replace(
            job.arms[number - 1], max_seconds=None, max_usd_micros=None, usd_per_hour_micros=None
        )
        own = replace(job, id=f"{job.id}-{name}", settings=settings, arms=(), integrations=named)
        arm = Trial(number, chosen, own, folder / ARMS / f"{number:02d}")
        if distributed.is_first() and not (arm.folder / "job.json").exists():
            write_job(arm.folder, own)
        trials.append(arm)
    return tuple(trials)


def read_trial_position(arm: Trial) -> Position:
    """Returns the position of the newest checkpoint, or of the last step if the trial has dropped out."""
    paths = list_checkpoints(arm.folder)
    position = read_position(paths[-1]) if paths else START
    out = read_json(arm.folder / OUT)
    if out is None:
        return position
    return replace(position, step=out["step"], trained_tokens=out["trained_tokens"], seconds=out["seconds"])


def read_trial_score(arm: Trial, course: int) -> TrialScore:
    """Reads a trial's progress. `course` is its total number of steps."""
    position, out = read_trial_position(arm), read_json(arm.folder / OUT)
    losses = {each.step: each.loss for each in position.validations}
    return TrialScore(arm.number, course, position.step, losses, out["message"] if out else None)


@dataclass(frozen=True)
class OtherTrials:
    """The progress of all other arms together. `total` is the maximum number of steps of the whole sweep. `started` is
    the sweep's start by time.monotonic, moved forward by all breaks."""

    step: int
    trained_tokens: int
    total: int
    started: float


class TrialLogger(MetricsLogger):
    """Writes curves and progress to the arm's folder, and events and the progress of the whole sweep to the job's.
    `sweep` is the job's logger, and `folder` the job's folder."""

    def __init__(self, sweep: MetricsLogger, folder: Path, arm: Trial, others: OtherTrials) -> None:
        super().__init__(arm.folder, arm.job.integrations)
        self._sweep = sweep
        self._job_folder = folder
        self._arm = arm
        self._others = others
        self.last: Step | None = None
        self.step_s = self.step_s or sweep.step_s

    def log(
        self, message: str, level: Literal["info", "warn"] = "info", data: Mapping[str, object] | None = None
    ) -> None:
        of_arm = {**data, "arm": self._arm.number} if data else None
        append_event(self._job_folder, f"Trial {self._arm.number}: {message}", level=level, data=of_arm)

    def record(self, step: Step, *, is_validated_next: bool = False) -> None:
        self.last = step
        super().record(step, is_validated_next=is_validated_next)
        self._sweep.step_s = self.step_s

    def write_progress(self, progress: Progress, *, is_paused: bool = False, is_over: bool = False) -> None:
        super().write_progress(progress, is_paused=is_paused, is_over=is_over)
        others = self._others
        of_all = Progress(
            others.step + progress.step,
            others.total,
            others.trained_tokens + progress.trained_tokens,
            time.monotonic() - others.started,
            self.step_s,
        )
        self._sweep.write_progress(of_all, is_paused=is_paused)


def write_table(
    folder: Path,
    arms: Sequence[Trial],
    trial_scores: Sequence[TrialScore],
    played: Sequence[Round],
    winner: int | None,
) -> None:
    """Writes sweep.csv atomically. Column `valid_loss` is an arm's lowest loss, at its `best_step`. `winner` is None
    until an arm has won."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["arm", *arms[0].chosen, *MEASURED])
    for arm, score in zip(arms, trial_scores, strict=True):
        position = read_trial_position(arm)
        lowest = best_validation(position.validations)
        scores = (
            ("", "", "")
            if lowest is None
            else (lowest.step, format_number(lowest.loss), format_number(lowest.accuracy))
        )
        taken = position.trained_tokens, round(position.seconds, 1), describe_outcome(score, played, winner)
        rows.writerow([arm.number, *arm.chosen.values(), position.step, score.course, *scores, *taken])
    temporary = folder / (TABLE_FILE + ".tmp")
    temporary.write_text(text.getvalue(), encoding="utf-8", newline="")
    temporary.replace(folder / TABLE_FILE)


def describe_outcome(score: TrialScore, played: Sequence[Round], winner: int | None) -> str:
    if score.out is not None:
        return f"out after step {score.step}: {score.out}"
    if score.number == winner:
        return "won"
    reached = [each.number for each in played if score in each.arms]
    if reached and reached[-1] < played[-1].number:
        return f"stopped after rung {reached[-1]}"
    return "not finished"


def describe_round(
    over: Round, arms: Sequence[Trial], going_on: Sequence[TrialScore]
) -> tuple[str, list[dict[str, object]]]:
    """Returns an event's message, with a line for each arm from best to worst, and the same facts as data."""
    last = halving_rungs(len(arms))
    share = f"{over.rung.share.numerator}/{over.rung.share.denominator}" if over.rung.share < 1 else "all"
    lines = [f"Rung {over.number}/{len(last)} is over, {share} of the course"]
    data: list[dict[str, object]] = []
    for score in over.ranking:
        arm, loss = arms[score.number - 1], score.loss_at(over.rung)
        fate = (
            "has finished its course"
            if over.number == len(last)
            else "continues"
            if score in going_on
            else "stopped"
        )
        lines.append(f"{arm}: step {score.step}/{score.course}, validation loss {loss:.4f}, {fate}")
        data.append(
            {"arm": arm.number, **arm.chosen, "step": score.step, "valid_loss": loss, "outcome": fate}
        )
    return "\n".join(lines), data
