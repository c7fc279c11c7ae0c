"""Trains a job by another engine: writes its config, runs it, follows its log, and stops it by its ceiling
or its patience. Goes on from the engine's newest checkpoint after a kill."""

from __future__ import annotations

import errno
import math
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import assert_never

from trainers.host import child_environment
from trainers.local.engines import axolotl, llamafactory, unsloth
from trainers.local.engines.artifacts import (
    Ended,
    engine_checkpoints,
    finish_job,
    last_position,
    publish_checkpoints,
    read_results,
    remove_unlogged,
)
from trainers.local.engines.catalog import Engine, Installed, engine_in_use, engines_folder, installed
from trainers.local.engines.compatibility import (
    Refused,
    key_refused,
    not_quantized,
    refusal,
    refusal_on_cpu,
    unknown_keys,
)
from trainers.local.engines.log_parser import Line, Reading, Trained, Trouble, Validated, read_line
from trainers.local.engines.plan import OUTPUT, EngineConfig, EnginePlan, engine_folder, write_files
from trainers.local.engines.process import GRACE_S, LOG, lines, running
from trainers.local.engines.workdir import prepare
from trainers.local.job_directory import TrainingJob, is_disk_full, read_json, replace_json
from trainers.local.training.errors import Pauses, TrainingFailed, TrainingPaused, pause_for_disk
from trainers.local.training.metrics_logger import MetricsLogger, Progress, Scores, Step
from trainers.local.training.schedule import (
    START,
    Pace,
    Position,
    Stop,
    Validation,
    has_lost_patience,
    is_over_ceiling,
)

STOP_FILE = "STOP"  # read by scripts/callback.py
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


def decided_stop(home: Path, validations: Sequence[Validation], patience: int | None) -> Stop | None:
    """By an earlier try of the job, in the engine's folder `home`, or by what it left."""
    values = read_json(home / STOP_FILE)
    if values:
        return "ceiling" if values["why"] == "ceiling" else "patience"
    return "patience" if has_lost_patience(validations, patience) else None


def decide_stop(home: Path, why: Stop) -> None:
    replace_json(home / STOP_FILE, {"why": why})


# Trains a job by another engine, as training/loop.py does by ours: writes its config, runs it, tells and keeps
# what it does.
#
# Ends with adapter/ and DONE, goes on from the engine's newest checkpoint after a kill.


SAID_LINES = 3
TOLD_S = 5.0  # between two notes of the time that a job took


class EngineCrashed(Exception):
    """It ended without a result and without a reason that we know; the job goes on from its last checkpoint."""


def train_by(engine: Engine, folder: Path, job: TrainingJob) -> None:
    """`folder` is the job's. Raises TrainingFailed where it cannot, TrainingPaused where it must wait, EngineCrashed
    where another try may help."""
    root = engines_folder(folder)
    refused = refusal(root, job.settings)
    there = installed(root, engine)
    if refused or there is None:
        raise _failed(refused)
    with engine_in_use(there.home, alone=False) as is_ours:
        if not is_ours:
            text = f"The engine {engine.name} is being installed or removed. Start the job again afterwards."
            raise TrainingFailed("engine_busy", text, "engine")
        journal = MetricsLogger(folder, job.integrations, job.settings.ceiling_s)
        _train_and_close(folder, job, Run(engine, there, folder, job, journal))


def _train_and_close(folder: Path, job: TrainingJob, run: Run) -> None:
    """Whatever the end, the journal is closed; a full disk is a pause."""
    is_done = False
    try:
        run.train()
        is_done = True
    except OSError as error:
        if not is_disk_full(error):
            raise
        pause_for_disk(folder, error)
        raise TrainingPaused from error
    finally:
        run.journal.end(is_done=is_done)


@dataclass
class Run:
    """One try of one job. `reading` is how far the engine's log was read, `position` what the job has done. `stop`:
    why the engine is ended before its last step, and `stop_step` the last one that it had done by then."""

    engine: Engine
    there: Installed
    folder: Path
    job: TrainingJob
    journal: MetricsLogger
    reading: Reading = field(default_factory=lambda: Reading(0))
    position: Position = START
    stop: Stop | None = None
    stop_step: int = 0

    def train(self) -> None:
        started = time.monotonic()
        self.home = engine_folder(self.folder)
        self.output = self.home / OUTPUT
        self.home.mkdir(exist_ok=True)
        self.prepared = prepare(self.job, self.home, self.there.has_cuda, self.journal)
        written = write_plan(self.engine, self.prepared.plan, self.there.env)
        on_cpu = refusal_on_cpu(self.job.settings) if self.prepared.plan.device == "cpu" else None
        refused = on_cpu or unknown_keys(self.engine, self.there, written.keys)
        if refused:
            raise _failed(refused)
        script = write_files(self.home, written)
        self._begin(started)
        if self.stop is None and self._is_out_of_time:
            self._decide("ceiling")
        try:
            if self.stop is None:
                self._run(script)
        except TrainingPaused:
            self.journal.place(self._progress(), is_paused=True)
            raise
        self._keep_checkpoints()
        total = self.prepared.plan.total_steps
        self.position = self._at(self.position.step if self.stop else total)
        finish_job(self.folder, self.job, self.output, Ended(self.position, total, self.stop), self.journal)

    @property
    def seconds(self) -> float:
        """Of all tries together."""
        return time.monotonic() - self.started

    def _begin(self, started: float) -> None:
        """From the newest checkpoint whose steps were told; where an earlier try decided to stop, from what it did."""
        before = read_results(self.folder, self.prepared.plan.is_validated)
        self.started = started - max(last_position(self.folder).seconds, self.journal.seconds_known)
        self.times = Times(self.prepared.validation_steps)
        self.told_at = time.monotonic()
        self.stop, done = (
            decided_stop(self.home, before.validations, self.job.settings.patience),
            before.steps,
        )
        if self.stop is None:
            remove_unlogged(self.output, before.whole)
            done = max(engine_checkpoints(self.output), default=0)
        validations = tuple(each for each in before.validations if each.step <= done)
        self.position = replace(self._at(done), validations=validations)
        self.reading = Reading(done, validated=done)
        self.journal.begin(after=done)
        if self.stop is None:
            self._say_how(done)

    def _say_how(self, done: int) -> None:
        plan = self.prepared.plan
        number = "bf16" if plan.is_bf16 else "fp16" if plan.is_fp16 else "fp32"
        kind = plan.settings.quantization
        base = "" if kind == "none" else f", the base in {kind}"
        what = f"Training {self.job.base_name} by {self.engine.name} {self.there.version}"
        self.journal.say(f"{what} on {plan.device} in {number}{base}")
        if done:
            self.journal.say(f"Going on from the checkpoint of step {done}/{plan.total_steps}")

    def _at(self, step: int) -> Position:
        return replace(
            self.position, step=step, trained_tokens=self.prepared.tokens_after(step), seconds=self.seconds
        )

    def _run(self, script: Path) -> None:
        log = self.home / LOG
        log.touch()
        start = log.stat().st_size
        last: list[str] = []
        pauses = Pauses(self.folder)
        with running(self.home, script, engine_environment()) as process:
            for line in lines(log, start, process):
                if line is None:
                    pauses.look()
                    self._keep_checkpoints()
                    self._note_time()
                else:
                    last = [*last, line][-SAID_LINES:] if line.strip() else last
                    self._hear(read_line(line))
                if self._is_over():
                    break
            self._keep_checkpoints()
            self._judge_end(process, last)

    def _note_time(self) -> None:
        """An engine loads for minutes, which count towards a ceiling also where a kill comes meanwhile."""
        now = time.monotonic()
        if now - self.told_at >= TOLD_S:
            self.told_at = now
            self.journal.place(self._progress())

    @property
    def _until_s(self) -> float | None:
        """An engine that has to be killed takes a while to end."""
        ceiling_s = self.job.settings.ceiling_s
        return None if ceiling_s is None else ceiling_s - GRACE_S

    @property
    def _is_out_of_time(self) -> bool:
        return self._until_s is not None and self.seconds > self._until_s

    def _is_over(self) -> bool:
        """Is there nothing to wait for? One that stops at its ceiling saves a checkpoint yet, if time allows."""
        if self.stop is None and self._is_out_of_time:
            self._decide("ceiling")
        if self.stop == "ceiling":
            return self._is_out_of_time or last_position(self.folder).step > self.stop_step
        return self.stop == "patience"

    def _look_at_ceiling(self) -> None:
        """Asked when a step or its validation is over, while the engine is at the next one."""
        step = self.position.step
        pace = self.times.until_end(is_validated_next=self.prepared.plan.is_validated(step + 1))
        is_over = is_over_ceiling(self.seconds, pace, self._until_s)
        if is_over and self.stop is None and step < self.prepared.plan.total_steps:
            self._decide("ceiling")

    def _decide(self, why: Stop) -> None:
        decide_stop(self.home, why)
        self.stop, self.stop_step = why, self.position.step
        self.journal.place(self._progress())

    def _hear(self, line: Line | None) -> None:
        match line:
            case None:
                return
            case Trouble():
                self._fail(line)
            case Trained():
                self._step(line)
            case Validated():
                self._validation(line)
            case _:
                assert_never(line)

    def _step(self, line: Trained) -> None:
        self.reading = self.reading.after(line)
        step, plan = self.reading.step, self.prepared.plan
        if not line.is_finite:
            text = (
                f"At step {step} the loss became {line.loss} and its gradient {line.gradient_norm}. "
                "Set learning_rate lower."
            )
            raise TrainingFailed("loss_not_finite", text, "learning_rate")
        self.position = self._at(step)
        self.times.step(time.monotonic())
        is_validated = plan.is_validated(step)
        self.last = Step(
            number=step,
            total=plan.total_steps,
            train=Scores(line.loss, None),
            learning_rate=line.learning_rate,
            trained_tokens=self.position.trained_tokens,
            seconds=self.position.seconds,
        )
        self.journal.record(self.last, is_validated_next=is_validated)
        if not is_validated:
            self._look_at_ceiling()
        if step % plan.steps_an_epoch == 0:
            epoch = step // plan.steps_an_epoch
            where = f"finished after step {step}/{plan.total_steps}"
            self.journal.say(f"Epoch {epoch}/{plan.settings.n_epochs} {where}")

    def _validation(self, line: Validated) -> None:
        if not math.isfinite(line.loss):
            text = (
                f"After step {self.reading.step} the validation loss is {line.loss}. Set learning_rate lower."
            )
            raise TrainingFailed("loss_not_finite", text, "learning_rate")
        if self.reading.is_news(line):
            self.journal.record_validation(self.last, Scores(line.loss, line.accuracy))
            validation = Validation(self.reading.step, line.loss, line.accuracy)
            self.position = replace(self.position, validations=(*self.position.validations, validation))
            self.times.validation(time.monotonic())
            self._look_at_patience()
            self._look_at_ceiling()
        self.reading = self.reading.after(line)

    def _look_at_patience(self) -> None:
        is_lost = has_lost_patience(self.position.validations, self.job.settings.patience)
        if is_lost and self.position.step < self.prepared.plan.total_steps:
            self._decide("patience")

    def _keep_checkpoints(self) -> None:
        for step in publish_checkpoints(self.folder, self.output, self.position):
            self.journal.say(f"Checkpoint of step {step}/{self.prepared.plan.total_steps} saved")

    def _fail(self, trouble: Trouble) -> None:
        """Reasons that another try would meet again."""
        if trouble.code == "engine_config_changed":
            raise _failed(key_refused(self.engine, self.there, trouble.key))
        if trouble.code == "disk_full":
            raise OSError(errno.ENOSPC, f"{self.engine.name} could not write", str(self.home))
        if trouble.code == "engine_cannot":
            raise _failed(not_quantized(self.engine, self.job.settings.quantization, trouble.what))
        text = "The memory is full. Set batch_size, max_length or lora_r lower, or take a smaller model."
        raise TrainingFailed("out_of_memory", text, "batch_size")

    def _judge_end(self, process: subprocess.Popen[bytes], last: list[str]) -> None:
        if self.stop is None and process.returncode != 0:
            text = " / ".join(" ".join(line.split())[:200] for line in last) or "nothing"
            raise EngineCrashed(f"{self.engine.name} ended with exit code {process.returncode}: {text}")

    def _progress(self) -> Progress:
        at, total = self.position, self.prepared.plan.total_steps
        return Progress(at.step, total, at.trained_tokens, self.seconds, self.journal.step_s)


def write_plan(engine: Engine, plan: EnginePlan, env: Path) -> EngineConfig:
    match engine.name:
        case "unsloth":
            return unsloth.write(plan, env)
        case "axolotl":
            return axolotl.write(plan, env)
        case "llamafactory":
            return llamafactory.write(plan, env)
        case "vllm":
            raise ValueError("vLLM answers; it trains nothing")
        case _:
            assert_never(engine.name)


def engine_environment() -> dict[str, str]:
    """No key (the base is fetched before it starts), and nothing that would lead the engine's Python to our packages.
    One GPU: engines would take all. Threads that sleep while they wait: an engine does not make room for other work,
    as devices.py does."""
    own = child_environment()
    for name in ("PYTHONPATH", "PYTHONHOME"):
        own.pop(name, None)
    return {"CUDA_VISIBLE_DEVICES": "0", "OMP_WAIT_POLICY": "passive"} | own


def _failed(refused: Refused | None) -> TrainingFailed:
    if refused is None:
        return TrainingFailed(
            "engine_not_installed", "The engine is not installed on this trainer.", "engine"
        )
    return TrainingFailed(refused.code, refused.message, refused.param)
