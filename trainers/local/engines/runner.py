"""Trains a job with another engine, like training/loop.py does with our own: writes the engine's config, runs it,
follows its log, publishes its checkpoints, and stops it at the job's ceiling or patience. After a kill it resumes from
the engine's newest checkpoint."""

from __future__ import annotations

import errno
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import assert_never

from trainers.host import child_environment
from trainers.local.engines import axolotl, llamafactory, unsloth
from trainers.local.engines.artifacts import (
    LoggedResults,
    engine_checkpoints,
    finish_job,
    publish_checkpoints,
    read_last_position,
    read_results,
    remove_unlogged,
)
from trainers.local.engines.attempt import (
    LAST_LINES,
    NOTE_INTERVAL_S,
    attempt,
    crash,
    failure,
)
from trainers.local.engines.catalog import Engine, Installation
from trainers.local.engines.compatibility import (
    refuse_int8_on_cpu,
    refuse_key,
    refuse_unknown_keys,
    refuse_unquantized,
)
from trainers.local.engines.log_parser import (
    Line,
    LogPosition,
    TrainedStep,
    Trouble,
    ValidatedStep,
    read_line,
)
from trainers.local.engines.plan import OUTPUT, EngineConfig, EnginePlan, engine_folder, write_files
from trainers.local.engines.process import GRACE_S, LOG, follow_log, run_engine
from trainers.local.engines.workdir import prepare
from trainers.local.job_directory import TrainingJob, read_json, replace_json
from trainers.local.training.errors import Pauses, TrainingFailed, TrainingPaused
from trainers.local.training.metrics_logger import MetricsLogger, Progress, Scores, Step
from trainers.local.training.schedule import (
    START,
    Pace,
    Position,
    Stop,
    Validation,
    is_out_of_patience,
    is_over_ceiling,
)

STOP_FILE = "STOP"  # read by scripts/callback.py
RECENT = 10
SAVING_S = 2.0  # the time until a checkpoint is written and found


def train_with_engine(engine: Engine, folder: Path, job: TrainingJob) -> None:
    """Trains the job in `folder` and ends with adapter/ and DONE.

    Raises TrainingFailed if another attempt would fail too, EngineCrashed if another attempt may succeed, and
    TrainingPaused.
    """
    with attempt(engine, folder, job) as (installation, logger):
        EngineRun(engine, installation, folder, job, logger).train()


@dataclass
class EngineRun:
    """One attempt at a job. `reading` is the position in the engine's log, and `position` the job's progress. `stop` is
    the reason to end the engine before its last step, and `stop_step` the last step at that decision."""

    engine: Engine
    installation: Installation
    folder: Path
    job: TrainingJob
    logger: MetricsLogger
    reading: LogPosition = field(default_factory=lambda: LogPosition(0))
    position: Position = START
    stop: Stop | None = None
    stop_step: int = 0

    def train(self) -> None:
        started = time.monotonic()
        self.home = engine_folder(self.folder)
        self.output = self.home / OUTPUT
        self.home.mkdir(exist_ok=True)
        self.prepared = prepare(self.job, self.home, self.installation.has_cuda, self.logger)
        plan = self.prepared.plan
        config = build_config(self.engine, plan, self.installation.env)
        refusal = None
        if plan.device == "cpu":
            refusal = refuse_int8_on_cpu(self.job.settings)
        refusal = refusal or refuse_unknown_keys(self.engine, self.installation, config.keys)
        if refusal:
            raise failure(refusal)
        script = write_files(self.home, config)

        self._resume(started)
        if self.stop is None and self._is_out_of_time:
            self._stop_for("ceiling")
        if self.stop is None:
            try:
                self._run(script)
            except TrainingPaused:
                self.logger.write_progress(self._progress(), is_paused=True)
                raise

        self._publish_checkpoints()
        last_step = plan.total_steps
        if self.stop:
            last_step = self.position.step
        self.position = self._position_at(last_step)
        finish_job(
            self.folder, self.job, self.output, self.position, plan.total_steps, self.stop, self.logger
        )

    @property
    def seconds(self) -> float:
        """The seconds of all attempts at the job together."""
        return time.monotonic() - self.started

    def _resume(self, started: float) -> None:
        """Resumes from the newest checkpoint whose steps were logged. If an earlier attempt decided to stop, nothing is
        trained, and the position is that of its last step."""
        plan = self.prepared.plan
        logged = read_results(self.folder, plan.is_validated)
        self.started = started - max(read_last_position(self.folder).seconds, self.logger.seconds_known)
        self.times = StepTimes(self.prepared.validation_steps)
        self.noted_at = time.monotonic()

        self.stop = self._stop_of_earlier_attempt(logged)
        step = logged.steps
        if self.stop is None:
            remove_unlogged(self.output, logged.complete_steps)
            step = max(engine_checkpoints(self.output), default=0)
        validations = tuple(validation for validation in logged.validations if validation.step <= step)
        self.position = replace(self._position_at(step), validations=validations)
        self.reading = LogPosition(step, validated=step)
        self.logger.begin(after=step)
        if self.stop is None:
            self._log_begin(step)

    def _stop_of_earlier_attempt(self, logged: LoggedResults) -> Stop | None:
        decision = read_json(self.home / STOP_FILE)
        if decision and decision["why"] == "ceiling":
            return "ceiling"
        if decision:
            return "patience"
        if is_out_of_patience(logged.validations, self.job.settings.patience):
            return "patience"  # a kill came before this decision was stored
        return None

    def _log_begin(self, step: int) -> None:
        plan = self.prepared.plan
        number = "fp32"
        if plan.is_bf16:
            number = "bf16"
        elif plan.is_fp16:
            number = "fp16"
        base = ""
        if plan.settings.quantization != "none":
            base = f", the base in {plan.settings.quantization}"
        trainer = f"Training {self.job.base_name} with {self.engine.name} {self.installation.version}"
        self.logger.log(f"{trainer} on {plan.device} in {number}{base}")
        if step:
            self.logger.log(f"Resuming from the checkpoint of step {step}/{plan.total_steps}")

    def _run(self, script: Path) -> None:
        log = self.home / LOG
        log.touch()
        start = log.stat().st_size
        last_lines: list[str] = []
        pauses = Pauses(self.folder)
        with run_engine(self.home, script, engine_environment()) as process:
            for line in follow_log(log, start, process):
                if line is None:
                    pauses.check_pause()
                    self._publish_checkpoints()
                    # Store the seconds regularly: an engine loads for minutes, which count towards a ceiling even if it
                    # is killed meanwhile.
                    if time.monotonic() - self.noted_at >= NOTE_INTERVAL_S:
                        self.noted_at = time.monotonic()
                        self.logger.write_progress(self._progress())
                else:
                    if line.strip():
                        last_lines = [*last_lines, line][-LAST_LINES:]
                    self._handle(read_line(line))
                if self._is_over():
                    break
            self._publish_checkpoints()
            if self.stop is None and process.returncode != 0:
                raise crash(self.engine, process.returncode, last_lines)

    def _is_over(self) -> bool:
        """True if nothing more is expected from the engine. At a ceiling it still validates and saves a last
        checkpoint, if there is time; a regular checkpoint in between doesn't count, since it isn't validated."""
        if self.stop is None and self._is_out_of_time:
            self._stop_for("ceiling")
        if self.stop != "ceiling":
            return self.stop == "patience"
        if self._is_out_of_time:
            return True
        saved_step = read_last_position(self.folder).step
        if saved_step <= self.stop_step:
            return False
        is_validated = any(each.step == saved_step for each in self.position.validations)
        return is_validated or not self.prepared.plan.has_validation

    def _handle(self, line: Line | None) -> None:
        match line:
            case None:
                return
            case TrainedStep():
                self._record_step(line)
            case ValidatedStep():
                self._record_validation(line)
            case Trouble(code="engine_config_changed"):
                raise failure(refuse_key(self.engine, self.installation, line.key))
            case Trouble(code="disk_full"):
                raise OSError(errno.ENOSPC, f"{self.engine.name} could not write", str(self.home))
            case Trouble(code="engine_cannot"):
                raise failure(refuse_unquantized(self.engine, self.job.settings.quantization, line.message))
            case Trouble():
                text = (
                    "The memory is full. Set batch_size, max_length or lora_r lower, or use a smaller model."
                )
                raise TrainingFailed("out_of_memory", text, "batch_size")
            case _:
                assert_never(line)

    def _record_step(self, line: TrainedStep) -> None:
        self.reading = self.reading.after(line)
        step = self.reading.step
        plan = self.prepared.plan
        if not line.is_finite:
            raise _explain_step(line, step)
        self.position = self._position_at(step)
        self.times.record_step(time.monotonic())
        is_validated = plan.is_validated(step)
        self.last_step = Step(
            number=step,
            total=plan.total_steps,
            train=Scores(line.loss, None),
            learning_rate=line.learning_rate,
            trained_tokens=self.position.trained_tokens,
            seconds=self.position.seconds,
        )
        self.logger.record(self.last_step, is_validated_next=is_validated)
        if not is_validated:
            self._check_ceiling()
        if step % plan.steps_an_epoch == 0:
            epochs = f"{step // plan.steps_an_epoch}/{plan.settings.n_epochs}"
            self.logger.log(f"Epoch {epochs} finished after step {step}/{plan.total_steps}")

    def _record_validation(self, line: ValidatedStep) -> None:
        step = self.reading.step
        if not math.isfinite(line.loss):
            text = f"After step {step} the validation loss is {line.loss}. Set learning_rate lower."
            raise TrainingFailed("loss_not_finite", text, "learning_rate")
        if self.reading.is_new_validation(line):
            self.logger.record_validation(self.last_step, Scores(line.loss, line.accuracy))
            validations = (*self.position.validations, Validation(step, line.loss, line.accuracy))
            self.position = replace(self.position, validations=validations)
            self.times.record_validation(time.monotonic())
            is_lost = is_out_of_patience(validations, self.job.settings.patience)
            if is_lost and self.position.step < self.prepared.plan.total_steps:
                self._stop_for("patience")
            self._check_ceiling()
        self.reading = self.reading.after(line)

    def _check_ceiling(self) -> None:
        """Stops the engine if the next steps would exceed the ceiling. Called after a step and its validation, when the
        engine is already computing the next step."""
        step = self.position.step
        plan = self.prepared.plan
        pace = self.times.until_end(is_validated_next=plan.is_validated(step + 1))
        is_over = is_over_ceiling(self.seconds, pace, self._ceiling_s)
        if is_over and self.stop is None and step < plan.total_steps:
            self._stop_for("ceiling")

    def _stop_for(self, why: Stop) -> None:
        replace_json(self.home / STOP_FILE, {"why": why})
        self.stop = why
        self.stop_step = self.position.step
        self.logger.write_progress(self._progress())

    @property
    def _ceiling_s(self) -> float | None:
        """The job's ceiling minus the time to end an engine that has to be killed."""
        ceiling_s = self.job.settings.ceiling_s
        if ceiling_s is None:
            return None
        return ceiling_s - GRACE_S

    @property
    def _is_out_of_time(self) -> bool:
        return self._ceiling_s is not None and self.seconds > self._ceiling_s

    def _publish_checkpoints(self) -> None:
        for step in publish_checkpoints(self.folder, self.output, self.position):
            self.logger.log(f"Checkpoint of step {step}/{self.prepared.plan.total_steps} saved")

    def _position_at(self, step: int) -> Position:
        tokens = self.prepared.tokens_after(step)
        return replace(self.position, step=step, trained_tokens=tokens, seconds=self.seconds)

    def _progress(self) -> Progress:
        return Progress(
            step=self.position.step,
            total_steps=self.prepared.plan.total_steps,
            trained_tokens=self.position.trained_tokens,
            seconds=self.seconds,
            step_s=self.logger.step_s,
        )


@dataclass
class StepTimes:
    """The duration of steps and validations, by the times when their lines were read. Since reading lags behind, the
    slowest of the recent steps counts.

    `validation_steps` is the expected duration of the first validation, as a number of steps.
    """

    validation_steps: float
    steps_s: tuple[float, ...] = ()
    validation_s: float | None = None
    _read_at: float | None = None

    def record_step(self, now: float) -> None:
        """Records a step, except the first one of an attempt, which includes the engine's start."""
        if self._read_at is not None:
            self.steps_s = (*self.steps_s, now - self._read_at)[-RECENT:]
        self._read_at = now

    def record_validation(self, now: float) -> None:
        if self._read_at is not None:
            self.validation_s = max(self.validation_s or 0.0, now - self._read_at)
            self._read_at = now

    def until_end(self, *, is_validated_next: bool) -> Pace:
        """Returns the time until the engine could end: its current step, one more step, the final validation and its
        checkpoint, and a validation between the two steps if there is one."""
        step_s = max(self.steps_s, default=0.0)
        guess_s = self.validation_steps * step_s
        validation_s = self.validation_s
        if validation_s is None:
            validation_s = guess_s
        between_s = 0.0
        if is_validated_next:
            between_s = validation_s
        return Pace(2 * step_s + between_s + SAVING_S, self.validation_s, guess_s)


def build_config(engine: Engine, plan: EnginePlan, env: Path) -> EngineConfig:
    """`env` is the engine's virtual environment."""
    match engine.name:
        case "unsloth":
            return unsloth.build_config(plan, env)
        case "axolotl":
            return axolotl.build_config(plan, env)
        case "llamafactory":
            return llamafactory.build_config(plan, env)
        case "tinker" | "vllm":
            raise ValueError(f"{engine.name} doesn't train on this machine")
        case _:
            assert_never(engine.name)


def engine_environment() -> dict[str, str]:
    """Returns an environment without keys, which the engine doesn't need since the base is already downloaded, and
    without variables by which the engine's Python would find our packages.

    It shows only one GPU, since engines would use all. It lets threads sleep while they wait, since engines don't leave
    cores to other programs like devices.py does.
    """
    inherited = child_environment()
    for name in ("PYTHONPATH", "PYTHONHOME"):
        inherited.pop(name, None)
    return {"CUDA_VISIBLE_DEVICES": "0", "OMP_WAIT_POLICY": "passive"} | inherited


def _explain_step(line: TrainedStep, step: int) -> TrainingFailed:
    """Explains a loss or a gradient that isn't finite."""
    if step <= 1:  # nothing has been learnt yet, so the learning rate can't be the reason
        text = (
            f"At the first step, before anything was learnt, the loss became {line.loss} and its gradient "
            f"{line.gradient_norm}. The base model's files may be damaged: download them again, or choose another."
        )
        return TrainingFailed("base_not_finite", text, "model")
    text = f"At step {step} the loss became {line.loss} and its gradient {line.gradient_norm}. Set learning_rate lower."
    return TrainingFailed("loss_not_finite", text, "learning_rate")
