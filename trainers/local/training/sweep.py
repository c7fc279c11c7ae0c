"""Trains a sweep in a job's folder: its arms share one base and compete by successive halving, with one ceiling and one
result.

Each arm uses the learning rate schedule of its own full course and the same seed. So at every step it equals a single
job with its settings, byte for byte on machines where jobs are reproducible. The arms' folders determine which arm
trains next (successive_halving.py), so a kill loses only the steps since the last checkpoint. Several processes train
each arm together, like a job; only the first one reads and writes the arms' folders and decides which arm is next.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors.torch import load
from torch import OutOfMemoryError

from trainers.hyperparameters import halving_steps
from trainers.local.job_directory import (
    TrainingJob,
    atomic_folder,
    read_events,
    read_json,
    replace_json,
)
from trainers.local.training import distributed
from trainers.local.training.base_model import remove_lora
from trainers.local.training.checkpoints import (
    CHECKPOINT_S,
    WEIGHTS,
    delete_old_checkpoints,
    list_checkpoints,
    save_checkpoint_as_result,
)
from trainers.local.training.data import Row
from trainers.local.training.errors import Pauses, TrainingFailed
from trainers.local.training.loop import TrainingLoop, start_loop
from trainers.local.training.memory import map_machine_errors
from trainers.local.training.methods import sft
from trainers.local.training.metrics_logger import MetricsLogger, NullLogger, Progress, Scores, create_logger
from trainers.local.training.schedule import (
    Pace,
    Position,
    Stop,
    describe_ceiling,
    steps_an_epoch,
    stop_sentence,
)
from trainers.local.training.setup import TrainingSetup, prepare_training
from trainers.local.training.successive_halving import (
    Decision,
    TrialScore,
    find_winner,
    list_rounds,
    next_decision,
    steps_left,
)
from trainers.local.training.trials import (
    ARMS,
    OUT,
    WINNER,
    OtherTrials,
    Trial,
    TrialLogger,
    create_trials,
    describe_round,
    read_trial_position,
    read_trial_score,
    write_table,
)


@dataclass
class Sweep:
    """A sweep as one process sees it. All arms share `setup`. `started` is a time of time.monotonic, moved forward by
    all breaks. `pace` is that of the arm trained last."""

    folder: Path
    job: TrainingJob
    arms: tuple[Trial, ...]
    setup: TrainingSetup
    logger: MetricsLogger
    pauses: Pauses
    started: float
    checkpoint_s: float
    pace: Pace = field(default=Pace(0.0, None, 0.0))

    @property
    def trial_scores(self) -> list[TrialScore]:
        return [read_trial_score(arm, self.course(arm)) for arm in self.arms]

    def course(self, arm: Trial) -> int:
        settings = arm.job.settings
        return steps_an_epoch(len(self.setup.training.rows), settings) * settings.n_epochs


def train_sweep(folder: Path, job: TrainingJob, checkpoint_s: float = CHECKPOINT_S) -> None:
    """Trains the sweep and ends with adapter/, sweep.csv and DONE. Raises TrainingFailed if no arm can be trained, and
    TrainingPaused."""
    distributed.join(job.seed)
    try:
        with map_machine_errors(folder):
            logger = create_logger(folder, job)
            started = time.monotonic() - logger.seconds_known
            arms = create_trials(folder, job)
            if not distributed.run_in_first((folder / ARMS / WINNER).exists):
                pauses = Pauses(folder)
                setup = prepare_training(folder, job, logger, pauses)
                run_rounds(Sweep(folder, job, arms, setup, logger, pauses, started, checkpoint_s))
            if distributed.is_first():
                publish_winner(folder, arms, logger, time.monotonic() - started)
    finally:
        distributed.leave()


def run_rounds(sweep: Sweep) -> None:
    """Trains the arms, and stores the winner."""
    logger, stop = sweep.logger, None
    courses = [sweep.course(arm) for arm in sweep.arms]
    logger.log(
        f"Sweep of {len(sweep.arms)} trials by successive halving: at most {halving_steps(courses):,} steps instead "
        f"of {sum(courses):,} for training every trial to its end"
    )
    report_rounds(sweep)
    while stop is None and (move := distributed.run_in_first(lambda: next_decision(sweep.trial_scores))):
        distributed.check_pause(sweep.pauses)
        stop = train_arm(sweep, sweep.arms[move.number - 1], move)
        report_rounds(sweep)
    if distributed.is_first():
        choose_winner(sweep, stop)


def train_arm(sweep: Sweep, arm: Trial, move: Decision) -> Stop | None:
    """Trains an arm to the end of its rung, or until it drops out. Leaves the base as it was."""
    logger, is_done = create_arm_logger(sweep, arm), False
    try:
        method = sft.create_method(arm.folder, arm.job, sweep.setup)
        course = start_loop(arm.folder, arm.job, method, logger, sweep.pauses)
        begun = time.monotonic() - max(course.position.seconds, logger.seconds_known)
        course.pace = sweep.pace
        course.settings = replace(course.settings, max_seconds=arm_ceiling_s(sweep, begun))
        logger.log(f"trains to step {move.until}/{course.total} in rung {move.round}: {arm.values}")
        stop = course.train_until(begun, sweep.checkpoint_s, move.until)
        sweep.pace = course.pace
        save_arm(arm, course, time.monotonic() - begun, is_last=move.until == course.total)
        is_done = True
        return stop
    except (TrainingFailed, OutOfMemoryError) as error:
        if isinstance(error, OutOfMemoryError) and not distributed.is_alone():
            raise  # the other processes may have enough memory and wait for this one
        if isinstance(logger, TrialLogger):
            drop_arm(arm, logger, error)
        return None
    finally:
        logger.end(is_done=is_done)
        remove_lora(sweep.setup.base)


def create_arm_logger(sweep: Sweep, arm: Trial) -> MetricsLogger:
    if not distributed.is_first():
        return NullLogger(arm.folder)
    positions = [read_trial_position(other) for other in sweep.arms]
    steps = sum(position.step for position in positions)
    tokens = sum(position.trained_tokens for position in positions)
    own = positions[arm.number - 1]
    total = steps + steps_left(sweep.trial_scores)
    others = OtherTrials(steps - own.step, tokens - own.trained_tokens, total, sweep.started)
    return TrialLogger(sweep.logger, sweep.folder, arm, others)


def arm_ceiling_s(sweep: Sweep, begun: float) -> int | None:
    """Returns the arm's ceiling: the seconds that it has taken plus those left of the sweep's ceiling."""
    ceiling_s, now = sweep.job.settings.ceiling_s, time.monotonic()
    return None if ceiling_s is None else math.floor(now - begun + ceiling_s - (now - sweep.started))


def save_arm(arm: Trial, course: TrainingLoop[Row, Scores], seconds: float, *, is_last: bool) -> None:
    """Saves a checkpoint for the arm's next rung and deletes older ones. At the end of the course its last checkpoints
    are kept, like those of a job."""
    course.position = replace(course.position, seconds=seconds)
    if course.position.step:
        course.save()
    if not is_last and distributed.is_first():
        # The arm may continue from its newest checkpoint, and its best one is needed if it wins.
        delete_old_checkpoints(arm.folder, read_trial_position(arm), keep=1)


def drop_arm(arm: Trial, logger: TrialLogger, error: TrainingFailed | OutOfMemoryError) -> None:
    """Stores why the arm dropped out, and how far it had come."""
    message = error.message if isinstance(error, TrainingFailed) else f"Memory is full: {error}"
    last, reached = logger.last, read_trial_position(arm)
    if last and last.number > reached.step:
        reached = replace(reached, step=last.number, trained_tokens=last.trained_tokens, seconds=last.seconds)
    values = {"message": message, "step": reached.step, "trained_tokens": reached.trained_tokens}
    replace_json(arm.folder / OUT, {**values, "seconds": reached.seconds})
    logger.warn(f"drops out: {message}")


def report_rounds(sweep: Sweep) -> None:
    """Writes one event for each rung that is over, and the table, in the first process only."""
    if not distributed.is_first():
        return
    trial_scores = sweep.trial_scores
    played = list_rounds(trial_scores)
    reported = {(event.get("data") or {}).get("rung") for event in read_events(sweep.folder)}
    for number, each in enumerate(played, start=1):
        if each.arms and each.waiting is None and number not in reported:
            going_on = played[number].arms if number < len(played) else ()
            message, rows = describe_round(each, sweep.arms, going_on)
            sweep.logger.log(message, data={"rung": number, "arms": rows})
    write_table(sweep.folder, sweep.arms, trial_scores, played, None)


def choose_winner(sweep: Sweep, stop: Stop | None) -> None:
    """Stores the winner. Raises TrainingFailed if there is none."""
    trial_scores = sweep.trial_scores
    score = find_winner(trial_scores)
    if score is None or score.lowest is None:
        raise explain_no_winner(sweep, trial_scores)
    positions = [read_trial_position(arm) for arm in sweep.arms]
    validations = positions[score.number - 1].validations
    seconds = time.monotonic() - sweep.started
    steps = sum(position.step for position in positions)
    tokens = sum(position.trained_tokens for position in positions)
    reached, total = Position(steps, tokens, seconds, validations), steps + steps_left(trial_scores)
    stopped = stop_sentence(stop, reached, total, sweep.job.settings) if stop else None
    if stopped:
        sweep.logger.warn(stopped)
    sweep.logger.write_progress(Progress(steps, total, tokens, seconds, sweep.logger.step_s), is_over=True)
    write_table(sweep.folder, sweep.arms, trial_scores, list_rounds(trial_scores), score.number)
    loss, step = score.lowest
    choice = {"arm": score.number, "step": step, "loss": loss, "stopped": stopped}
    replace_json(sweep.folder / ARMS / WINNER, {**choice, "steps": steps, "trained_tokens": tokens})


def explain_no_winner(sweep: Sweep, trial_scores: Sequence[TrialScore]) -> TrainingFailed:
    lines = [f"{arm}: {score.out}" for arm, score in zip(sweep.arms, trial_scores, strict=True) if score.out]
    if len(lines) == len(trial_scores):
        text = f"All {len(lines)} trials of the sweep failed. {' '.join(lines)}"
        return TrainingFailed("all_arms_out", text, "sweep")
    text = (
        f"The ceiling of {describe_ceiling(sweep.job.settings)} was reached before any trial of the sweep was "
        "validated. Set max_seconds or max_usd higher."
    )
    return TrainingFailed("ceiling_reached", text, "max_seconds")


def publish_winner(folder: Path, arms: Sequence[Trial], logger: MetricsLogger, seconds: float) -> None:
    """Copies the winner's checkpoints, curve and adapter to the job's folder and writes DONE. Can be repeated after a
    kill."""
    values = read_json(folder / ARMS / WINNER) or {}
    arm, step, tokens = arms[values["arm"] - 1], int(values["step"]), int(values["trained_tokens"])
    (folder / "checkpoints").mkdir(exist_ok=True)
    for checkpoint in list_checkpoints(arm.folder):
        target = folder / "checkpoints" / checkpoint.name
        if not target.exists():
            with atomic_folder(target) as temporary:
                for file in checkpoint.iterdir():
                    os.link(file, temporary / file.name)
    shutil.copyfile(arm.folder / "results.csv", folder / "results.csv")
    save_checkpoint_as_result(folder, step)
    for each in arms:
        shutil.rmtree(each.folder / "checkpoints", ignore_errors=True)
    logger.log(f"{arm} won: its validation loss of {values['loss']:.4f} at step {step} is the lowest")
    logger.log(f"All trials trained on {tokens:,} tokens in {seconds:,.0f} s; adapter saved")
    weights = load((folder / "adapter" / WEIGHTS).read_bytes())
    done = {
        "trained_tokens": tokens,
        "seconds": round(seconds, 1),
        "trainable_parameters": sum(tensor.numel() for tensor in weights.values()),
        "step": values["steps"],
        "result_step": step,
        "stopped": values["stopped"],
        "winner": arm.number,
    }
    replace_json(folder / "DONE", done)
