"""Trains a sweep in a job's folder: its trials share one base and compete by successive halving, with one ceiling and
one result.

Each trial uses the learning rate schedule of its own full course and the same seed. So at every step it equals a single
job with its settings, byte for byte on machines where jobs are reproducible. The trials' folders determine which trial
trains next (successive_halving.py), so a kill loses only the steps since the last checkpoint. Several processes train
each trial together, like a job; only the first one reads and writes the trials' folders and decides which trial is
next.

Each trial has a job's folder inside the sweep's folder, and sweep.csv lists all:

arms/01/job.json      TrainingJob with the trial's own settings and an id that ends in -arm-01
arms/01/checkpoints/  like a job's, until the sweep is over
arms/01/OUT           {"message", "step", "trained_tokens", "seconds"}: the trial has dropped out
arms/WINNER           {"arm", "step", "stopped", …}: the winner is chosen but not yet published

Files and events still call a trial `arm` and a round `rung`: a newer version may continue an older one's job.
"""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from safetensors.torch import load
from torch import OutOfMemoryError

from trainers.hyperparameters import Value, combinations, halving_rounds, halving_steps
from trainers.local.job_directory import (
    TrainingJob,
    append_event,
    atomic_folder,
    read_events,
    read_json,
    replace_json,
    write_job,
)
from trainers.local.training import distributed
from trainers.local.training.base_model import remove_lora
from trainers.local.training.checkpoints import (
    CHECKPOINT_S,
    delete_old_checkpoints,
    list_checkpoints,
    read_position,
    save_checkpoint_as_result,
)
from trainers.local.training.data import Row
from trainers.local.training.errors import Pauses, TrainingFailed
from trainers.local.training.loop import TrainingLoop, start_loop
from trainers.local.training.memory import map_machine_errors
from trainers.local.training.methods import sft
from trainers.local.training.metrics_logger import (
    MetricsLogger,
    NullLogger,
    Progress,
    Scores,
    Step,
    create_logger,
    format_number,
)
from trainers.local.training.schedule import (
    START,
    Pace,
    Position,
    Stop,
    best_validation,
    describe_ceiling,
    steps_an_epoch,
    stop_sentence,
)
from trainers.local.training.setup import TrainingSetup, prepare_training
from trainers.local.training.sweeps.successive_halving import (
    Decision,
    Round,
    TrialScore,
    find_winner,
    list_rounds,
    next_decision,
    steps_left,
)
from trainers.local.training.tuned_weights import WEIGHTS


@dataclass
class Sweep:
    """A sweep as one process sees it. All trials share `setup`. `started` is a time of time.monotonic, moved forward by
    all breaks. `pace` is that of the trial trained last."""

    folder: Path
    job: TrainingJob
    trials: tuple[Trial, ...]
    setup: TrainingSetup
    logger: MetricsLogger
    pauses: Pauses
    started: float
    checkpoint_s: float
    pace: Pace = field(default=Pace(0.0, None, 0.0))

    @property
    def trial_scores(self) -> list[TrialScore]:
        return [read_trial_score(trial, self.course(trial)) for trial in self.trials]

    def course(self, trial: Trial) -> int:
        settings = trial.job.settings
        rows = len(self.setup.training.rows)
        return steps_an_epoch(rows, settings) * settings.n_epochs


def train_sweep(folder: Path, job: TrainingJob, checkpoint_s: float = CHECKPOINT_S) -> None:
    """Trains the sweep and ends with adapter/, sweep.csv and DONE. Raises TrainingFailed if no trial can be trained,
    and TrainingPaused."""
    distributed.join(job.seed)
    try:
        with map_machine_errors(folder):
            logger = create_logger(folder, job)
            started = time.monotonic() - logger.seconds_known
            trials = create_trials(folder, job)
            if not distributed.run_in_first((folder / TRIALS / WINNER).exists):
                pauses = Pauses(folder)
                setup = prepare_training(folder, job, logger, pauses)
                sweep = Sweep(folder, job, trials, setup, logger, pauses, started, checkpoint_s)
                run_rounds(sweep)
            if distributed.is_first():
                seconds = time.monotonic() - started
                publish_winner(folder, trials, logger, seconds)
    finally:
        distributed.leave()


def run_rounds(sweep: Sweep) -> None:
    """Trains the trials, and stores the winner."""
    courses = [sweep.course(trial) for trial in sweep.trials]
    sweep.logger.log(
        f"Sweep of {len(sweep.trials)} trials by successive halving: at most {halving_steps(courses):,} steps instead "
        f"of {sum(courses):,} for training every trial to its end"
    )
    report_rounds(sweep)
    stop: Stop | None = None
    while stop is None:
        decision = distributed.run_in_first(lambda: next_decision(sweep.trial_scores))
        if decision is None:
            break
        distributed.check_pause(sweep.pauses)
        stop = train_trial(sweep, sweep.trials[decision.number - 1], decision)
        report_rounds(sweep)
    if distributed.is_first():
        choose_winner(sweep, stop)


def train_trial(sweep: Sweep, trial: Trial, decision: Decision) -> Stop | None:
    """Trains a trial to the end of its round, or until it drops out. Leaves the base as it was."""
    logger = create_trial_logger(sweep, trial)
    is_done = False
    try:
        method = sft.create_method(trial.folder, trial.job, sweep.setup)
        loop = start_loop(trial.folder, trial.job, method, logger, sweep.pauses)
        begun = time.monotonic() - max(loop.position.seconds, logger.seconds_known)
        loop.pace = sweep.pace
        # A trial has no ceiling of its own, but may not take more than is left of the sweep's.
        loop.settings = replace(loop.settings, max_seconds=trial_ceiling_s(sweep, begun))
        until = decision.until
        logger.log(f"trains to step {until}/{loop.total} in round {decision.round}: {trial.values}")
        stop = loop.train_until(begun, sweep.checkpoint_s, until)
        sweep.pace = loop.pace
        seconds = time.monotonic() - begun
        save_trial(trial, loop, seconds, is_last=until == loop.total)
        is_done = True
        return stop
    except (TrainingFailed, OutOfMemoryError) as error:
        if isinstance(error, OutOfMemoryError) and not distributed.is_alone():
            raise  # the other processes may have enough memory and wait for this one
        if isinstance(logger, TrialLogger):
            drop_trial(trial, logger, error)
        return None
    finally:
        logger.end(is_done=is_done)
        remove_lora(sweep.setup.base)


def create_trial_logger(sweep: Sweep, trial: Trial) -> MetricsLogger:
    if not distributed.is_first():
        return NullLogger(trial.folder)
    positions = [read_trial_position(other) for other in sweep.trials]
    steps = sum(position.step for position in positions)
    tokens = sum(position.trained_tokens for position in positions)
    own = positions[trial.number - 1]
    total = steps + steps_left(sweep.trial_scores)
    others = OtherTrials(
        steps - own.step,
        tokens - own.trained_tokens,
        total,
        sweep.started,
    )
    return TrialLogger(sweep.logger, sweep.folder, trial, others)


def trial_ceiling_s(sweep: Sweep, begun: float) -> int | None:
    """Returns the trial's ceiling: the seconds that it has taken plus those left of the sweep's ceiling."""
    ceiling_s = sweep.job.settings.ceiling_s
    if ceiling_s is None:
        return None
    now = time.monotonic()
    taken_s = now - begun
    left_s = ceiling_s - (now - sweep.started)
    return math.floor(taken_s + left_s)


def save_trial(trial: Trial, loop: TrainingLoop[Row, Scores], seconds: float, *, is_last: bool) -> None:
    """Saves a checkpoint for the trial's next round and deletes older ones. At the end of the course its last
    checkpoints are kept, like those of a job."""
    loop.position = replace(loop.position, seconds=seconds)
    if loop.position.step:
        loop.save()
    if not is_last and distributed.is_first():
        # The trial may continue from its newest checkpoint, and its best one is needed if it wins.
        delete_old_checkpoints(trial.folder, read_trial_position(trial), keep=1)


def drop_trial(trial: Trial, logger: TrialLogger, error: TrainingFailed | OutOfMemoryError) -> None:
    """Stores why the trial dropped out, and how far it had come."""
    message = f"Memory is full: {error}"
    if isinstance(error, TrainingFailed):
        message = error.message
    reached = read_trial_position(trial)
    last = logger.last
    if last and last.number > reached.step:  # steps since the last checkpoint took time too
        reached = replace(reached, step=last.number, trained_tokens=last.trained_tokens, seconds=last.seconds)
    drop_out = {
        "message": message,
        "step": reached.step,
        "trained_tokens": reached.trained_tokens,
        "seconds": reached.seconds,
    }
    replace_json(trial.folder / OUT, drop_out)
    logger.warn(f"drops out: {message}")


def report_rounds(sweep: Sweep) -> None:
    """Writes one event for each round that is over, and the table, in the first process only."""
    if not distributed.is_first():
        return
    trial_scores = sweep.trial_scores
    rounds = list_rounds(trial_scores)
    # An earlier attempt of the job may have reported rounds.
    reported = set()
    for event in read_events(sweep.folder):
        data = event.get("data") or {}
        reported.add(data.get("rung"))
    for each in rounds:
        is_over = each.waiting is None
        if each.trials and is_over and each.number not in reported:
            continuing: Sequence[TrialScore] = ()
            if each.number < len(rounds):
                continuing = rounds[each.number].trials  # of the next round, since numbers begin at 1
            message, rows = describe_round(each, sweep.trials, continuing)
            sweep.logger.log(message, data={"rung": each.number, "arms": rows})
    write_table(sweep.folder, sweep.trials, trial_scores, rounds, None)


def choose_winner(sweep: Sweep, stop: Stop | None) -> None:
    """Stores the winner. Raises TrainingFailed if there is none."""
    trial_scores = sweep.trial_scores
    score = find_winner(trial_scores)
    if score is None or score.lowest is None:
        raise explain_no_winner(sweep, trial_scores)
    positions = [read_trial_position(trial) for trial in sweep.trials]
    validations = positions[score.number - 1].validations
    # The sweep's own figures are those of all trials together, which is what was paid.
    seconds = time.monotonic() - sweep.started
    steps = sum(position.step for position in positions)
    tokens = sum(position.trained_tokens for position in positions)
    total = steps + steps_left(trial_scores)
    stopped = None
    if stop:
        reached = Position(steps, tokens, seconds, validations)
        stopped = stop_sentence(stop, reached, total, sweep.job.settings)
        sweep.logger.warn(stopped)
    sweep.logger.write_progress(Progress(steps, total, tokens, seconds, sweep.logger.step_s), is_over=True)
    write_table(sweep.folder, sweep.trials, trial_scores, list_rounds(trial_scores), score.number)
    loss, step = score.lowest
    choice = {
        "arm": score.number,
        "step": step,
        "loss": loss,
        "stopped": stopped,
        "steps": steps,
        "trained_tokens": tokens,
    }
    replace_json(sweep.folder / TRIALS / WINNER, choice)


def explain_no_winner(sweep: Sweep, trial_scores: Sequence[TrialScore]) -> TrainingFailed:
    pairs = zip(sweep.trials, trial_scores, strict=True)
    lines = [f"{trial}: {score.out}" for trial, score in pairs if score.out]
    if len(lines) == len(trial_scores):
        text = f"All {len(lines)} trials of the sweep failed. {' '.join(lines)}"
        return TrainingFailed("all_arms_out", text, "sweep")
    text = (
        f"The ceiling of {describe_ceiling(sweep.job.settings)} was reached before any trial of the sweep was "
        "validated. Set max_seconds or max_usd higher."
    )
    return TrainingFailed("ceiling_reached", text, "max_seconds")


def publish_winner(folder: Path, trials: Sequence[Trial], logger: MetricsLogger, seconds: float) -> None:
    """Copies the winner's checkpoints, curve and adapter to the job's folder and writes DONE. Can be repeated after a
    kill."""
    choice = read_json(folder / TRIALS / WINNER) or {}
    trial = trials[choice["arm"] - 1]
    step = int(choice["step"])
    tokens = int(choice["trained_tokens"])
    (folder / "checkpoints").mkdir(exist_ok=True)
    for checkpoint in list_checkpoints(trial.folder):
        target = folder / "checkpoints" / checkpoint.name
        if target.exists():
            continue
        with atomic_folder(target) as temporary:
            for file in checkpoint.iterdir():
                os.link(file, temporary / file.name)  # takes no space, unlike a copy
    shutil.copyfile(trial.folder / "results.csv", folder / "results.csv")
    save_checkpoint_as_result(folder, step)
    # Only now, since the result was copied from them.
    for each in trials:
        shutil.rmtree(each.folder / "checkpoints", ignore_errors=True)
    logger.log(f"{trial} won: its validation loss of {choice['loss']:.4f} at step {step} is the lowest")
    logger.log(f"All trials trained on {tokens:,} tokens in {seconds:,.0f} s; adapter saved")
    weights = load((folder / "adapter" / WEIGHTS).read_bytes())
    done = {
        "trained_tokens": tokens,
        "seconds": round(seconds, 1),
        "trainable_parameters": sum(tensor.numel() for tensor in weights.values()),
        "step": choice["steps"],
        "result_step": step,
        "stopped": choice["stopped"],
        "winner": trial.number,
    }
    replace_json(folder / "DONE", done)


TRIALS = "arms"
OUT = "OUT"
WINNER = "WINNER"
TABLE_FILE = "sweep.csv"
MEASURED = (
    *("step", "total_steps", "best_step", "valid_loss", "valid_mean_token_accuracy"),
    *("trained_tokens", "seconds", "outcome"),
)


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep. `chosen` are the values of the swept hyperparameters. `job` has the trial's settings
    without ceilings, which apply to the whole sweep."""

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
        integrations = []
        for integration in job.integrations:
            if integration.name:
                integration = replace(integration, name=f"{integration.name}-{name}")
            integrations.append(integration)
        settings = replace(
            job.trials[number - 1], max_seconds=None, max_usd_micros=None, usd_per_hour_micros=None
        )
        own = replace(
            job, id=f"{job.id}-{name}", settings=settings, trials=(), integrations=tuple(integrations)
        )
        trial = Trial(number, chosen, own, folder / TRIALS / f"{number:02d}")
        if distributed.is_first() and not (trial.folder / "job.json").exists():
            write_job(trial.folder, own)
        trials.append(trial)
    return tuple(trials)


def read_trial_position(trial: Trial) -> Position:
    """Returns the position of the newest checkpoint, or of the last step if the trial has dropped out."""
    paths = list_checkpoints(trial.folder)
    position = read_position(paths[-1]) if paths else START
    out = read_json(trial.folder / OUT)
    if out is None:
        return position
    return replace(position, step=out["step"], trained_tokens=out["trained_tokens"], seconds=out["seconds"])


def read_trial_score(trial: Trial, course: int) -> TrialScore:
    """Reads a trial's progress. `course` is its total number of steps."""
    position = read_trial_position(trial)
    losses = {each.step: each.loss for each in position.validations}
    out = read_json(trial.folder / OUT) or {}
    return TrialScore(trial.number, course, position.step, losses, out.get("message"))


@dataclass(frozen=True)
class OtherTrials:
    """The progress of all other trials together. `total` is the maximum number of steps of the whole sweep. `started`
    is the sweep's start by time.monotonic, moved forward by all breaks."""

    step: int
    trained_tokens: int
    total: int
    started: float


class TrialLogger(MetricsLogger):
    """Writes curves and progress to the trial's folder, and events and the progress of the whole sweep to the job's.
    `sweep` is the job's logger, and `folder` the job's folder."""

    def __init__(self, sweep: MetricsLogger, folder: Path, trial: Trial, others: OtherTrials) -> None:
        super().__init__(trial.folder, trial.job.integrations)
        self._sweep = sweep
        self._job_folder = folder
        self._trial = trial
        self._others = others
        self.last: Step | None = None
        self.step_s = self.step_s or sweep.step_s

    def log(
        self, message: str, level: Literal["info", "warn"] = "info", data: Mapping[str, object] | None = None
    ) -> None:
        number = self._trial.number
        if data:
            data = {**data, "arm": number}
        append_event(self._job_folder, f"Trial {number}: {message}", level=level, data=data)

    def record(self, step: Step, *, is_validated_next: bool = False) -> None:
        self.last = step
        super().record(step, is_validated_next=is_validated_next)
        self._sweep.step_s = self.step_s

    def write_progress(self, progress: Progress, *, is_paused: bool = False, is_over: bool = False) -> None:
        super().write_progress(progress, is_paused=is_paused, is_over=is_over)
        others = self._others
        of_all = Progress(
            step=others.step + progress.step,
            total_steps=others.total,
            trained_tokens=others.trained_tokens + progress.trained_tokens,
            seconds=time.monotonic() - others.started,
            step_s=self.step_s,
        )
        self._sweep.write_progress(of_all, is_paused=is_paused)


def write_table(
    folder: Path,
    trials: Sequence[Trial],
    trial_scores: Sequence[TrialScore],
    rounds: Sequence[Round],
    winner: int | None,
) -> None:
    """Writes sweep.csv atomically. Column `valid_loss` is a trial's lowest loss, at its `best_step`. `winner` is None
    until a trial has won."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["arm", *trials[0].chosen, *MEASURED])
    for trial, score in zip(trials, trial_scores, strict=True):
        position = read_trial_position(trial)
        values: dict[str, object] = {
            "step": position.step,
            "total_steps": score.course,
            "trained_tokens": position.trained_tokens,
            "seconds": round(position.seconds, 1),
            "outcome": describe_outcome(score, rounds, winner),
        }
        lowest = best_validation(position.validations)
        if lowest is not None:
            values["best_step"] = lowest.step
            values["valid_loss"] = format_number(lowest.loss)
            values["valid_mean_token_accuracy"] = format_number(lowest.accuracy)
        measured = [values.get(column, "") for column in MEASURED]
        rows.writerow([trial.number, *trial.chosen.values(), *measured])
    temporary = folder / (TABLE_FILE + ".tmp")
    temporary.write_text(text.getvalue(), encoding="utf-8", newline="")
    temporary.replace(folder / TABLE_FILE)


def describe_outcome(score: TrialScore, rounds: Sequence[Round], winner: int | None) -> str:
    if score.out is not None:
        return f"out after step {score.step}: {score.out}"
    if score.number == winner:
        return "won"
    reached = [each.number for each in rounds if score in each.trials]
    if reached and reached[-1] < rounds[-1].number:
        return f"stopped after round {reached[-1]}"
    return "not finished"


def describe_round(
    over: Round, trials: Sequence[Trial], continuing: Sequence[TrialScore]
) -> tuple[str, list[dict[str, object]]]:
    """Returns an event's message, with a line for each trial from best to worst, and the same facts as data."""
    count = len(halving_rounds(len(trials)))
    share = "all"
    if over.planned.share < 1:
        share = f"{over.planned.share.numerator}/{over.planned.share.denominator}"
    lines = [f"Round {over.number}/{count} is over, {share} of the course"]
    data: list[dict[str, object]] = []
    for score in over.ranking:
        trial = trials[score.number - 1]
        loss = score.loss_at(over.planned)
        outcome = "stopped"
        if over.number == count:
            outcome = "has finished its course"
        elif score in continuing:
            outcome = "continues"
        lines.append(f"{trial}: step {score.step}/{score.course}, validation loss {loss:.4f}, {outcome}")
        facts = {"step": score.step, "valid_loss": loss, "outcome": outcome}
        data.append({"arm": trial.number, **trial.chosen, **facts})
    return "\n".join(lines), data
