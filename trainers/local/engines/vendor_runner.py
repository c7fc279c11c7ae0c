"""Trains a job at Tinker, like runner.py does with an engine on this machine: writes the rows, starts the process that
calls Tinker, turns what it prints into events and results, and ends with adapter/ and DONE. After a kill the process
goes on from the newest state at Tinker."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainers.local.base_download import fetch_tokenizer
from trainers.local.base_files import ensure_same_base
from trainers.local.engines.artifacts import finish_job, read_results
from trainers.local.engines.attempt import LAST_LINES, NOTE_INTERVAL_S, attempt, crash
from trainers.local.engines.catalog import Engine, Installation
from trainers.local.engines.plan import OUTPUT, ROWS, engine_folder, write_files
from trainers.local.engines.process import LOG, follow_log, run_engine
from trainers.local.engines.tinker import STEPS, TRAIN, build_config, write_steps
from trainers.local.engines.vendor_jobs import STATE_DAYS, hosted_base, refuse_job, vendor_environment
from trainers.local.engines.workdir import write_rows
from trainers.local.job_directory import TrainingJob
from trainers.local.training.base_model import load_tokenizer
from trainers.local.training.data import read_rows, report_rows
from trainers.local.training.errors import Pauses, TrainingFailed, TrainingPaused
from trainers.local.training.metrics_logger import MetricsLogger, Progress, Scores, Step
from trainers.local.training.schedule import START, Position, steps_an_epoch


def train_hosted(engine: Engine, folder: Path, job: TrainingJob) -> None:
    """Trains the job in `folder` and ends with adapter/ and DONE.

    Raises TrainingFailed if another attempt would fail too, EngineCrashed if another attempt may succeed, and
    TrainingPaused.
    """
    with attempt(engine, folder, job, refuse_job(job)) as (installation, logger):
        HostedRun(engine, installation, folder, job, logger).train()


@dataclass
class HostedRun:
    """One attempt at a job. `sent` are the tokens that all attempts have sent to be trained, which the vendor bills."""

    engine: Engine
    installation: Installation
    folder: Path
    job: TrainingJob
    logger: MetricsLogger
    position: Position = START
    total: int = 0
    sent: int = 0
    is_unpaid_told: bool = False

    def train(self) -> None:
        self.started = time.monotonic() - self.logger.seconds_known
        self.home = engine_folder(self.folder)
        (self.home / ROWS).mkdir(parents=True, exist_ok=True)
        rows = self._write_rows()
        self.total = write_steps(self.home / STEPS, rows, self.job)
        self.steps_an_epoch = steps_an_epoch(rows, self.job.settings)
        self.logged = read_results(self.folder, lambda step: False).steps
        self.position = self._position_at(self.logged)
        config = build_config(self.job, rows, self.logged, self.installation)
        script = write_files(self.home, config)
        try:
            self._run(script)
        except TrainingPaused:
            self.logger.write_progress(self._progress(), is_paused=True)
            raise
        finish_job(
            self.folder,
            self.job,
            self.home / OUTPUT,
            self._position_at(self.total),
            self.total,
            None,
            self.logger,
        )

    def _write_rows(self) -> int:
        """Writes the rows as tokens and returns their number. The base's weights aren't needed for that."""
        base = fetch_tokenizer(self.job.base, self.logger.log)
        if any(base.glob("*.safetensors")):
            ensure_same_base(self.folder, base, self.job.base_name)
        settings = self.job.settings
        rows = read_rows(
            Path(self.job.training_file),
            load_tokenizer(str(base)),
            settings.max_length,
            "training_file",
            settings.too_long,
        )
        write_rows(self.home / TRAIN, rows)
        report_rows(self.logger, "Training", rows, settings.max_length)
        return len(rows.rows)

    def _run(self, script: Path) -> None:
        log = self.home / LOG
        log.touch()
        start = log.stat().st_size
        last_lines: list[str] = []
        pauses = Pauses(self.folder)
        noted_at = time.monotonic()
        with run_engine(self.home, script, vendor_environment()) as process:
            for line in follow_log(log, start, process):
                if line is None:
                    pauses.check_pause()
                    if time.monotonic() - noted_at >= NOTE_INTERVAL_S:
                        noted_at = time.monotonic()
                        self.logger.write_progress(self._progress())
                    continue
                message = read_message(line)
                if message is not None:
                    self._handle(message)
                elif line.strip():
                    last_lines = [*last_lines, line][-LAST_LINES:]
            if process.returncode != 0:
                raise crash(self.engine, process.returncode, last_lines)

    def _warn_of_credit(self) -> None:
        """The package waits by itself until the account has credit again, and repeats that each minute."""
        if self.is_unpaid_told:
            return
        self.is_unpaid_told = True
        self.logger.warn(
            f"{self.engine.name} has stopped for billing: add credit to the account, and the job goes on by itself."
        )

    def _handle(self, message: dict[str, Any]) -> None:
        match message["kind"]:
            case "resumed":
                self.sent = message["sent"]
                self._begin(message["step"])
            case "step":
                self._record_step(message)
            case "saved":
                self.logger.log(f"State of step {message['step']}/{self.total} saved at {self.engine.name}")
            case "unpaid":
                self._warn_of_credit()
            case "result":
                self.sent = message["sent"]
            case "refused":
                raise TrainingFailed("engine_cannot", message["message"], message["param"])
            case "left":
                self.logger.warn(
                    f"The job's states could not be deleted at {self.engine.name} ({message['message']}). They expire "
                    f"{STATE_DAYS} days after they were saved; deleting the job tries again."
                )

    def _begin(self, step: int) -> None:
        """Goes on after `step`, the newest state's. What was logged after it is trained again; what it has and the log
        lacks is printed once more."""
        start = min(step, self.logged)
        self.position = self._position_at(start)
        self.logger.begin(after=start)
        trainer = f"Training {self.job.base_name} with {self.engine.name} {self.installation.version}"
        self.logger.log(f"{trainer} as {hosted_base(self.job)}: the rows are sent to {self.engine.name}")
        if step:
            self.logger.log(f"Resuming from the state of step {step}/{self.total}")

    def _record_step(self, message: dict[str, Any]) -> None:
        step = message["step"]
        loss = message["loss"]
        if not math.isfinite(loss):
            text = f"At step {step} the loss became {loss}. Set learning_rate lower."
            raise TrainingFailed("loss_not_finite", text, "learning_rate")
        self.sent = message["sent"]
        self.position = self._position_at(step)
        self.logger.record(
            Step(
                number=step,
                total=self.total,
                train=Scores(loss, None),
                learning_rate=message["rate"],
                trained_tokens=self.position.trained_tokens,
                seconds=self.position.seconds,
            )
        )
        if step % self.steps_an_epoch == 0:
            epochs = f"{step // self.steps_an_epoch}/{self.job.settings.n_epochs}"
            self.logger.log(f"Epoch {epochs} finished after step {step}/{self.total}")

    def _position_at(self, step: int) -> Position:
        seconds = time.monotonic() - self.started
        return replace(self.position, step=step, trained_tokens=self.sent, seconds=seconds)

    def _progress(self) -> Progress:
        seconds = time.monotonic() - self.started
        return Progress(
            self.position.step, self.total, self.position.trained_tokens, seconds, self.logger.step_s
        )


def read_message(line: str) -> dict[str, Any] | None:
    """Returns what a line of the process says, None if it is somebody else's."""
    if not line.startswith('{"kind": '):
        return None
    try:
        message: dict[str, Any] = json.loads(line)
    except ValueError:  # cut off by a kill
        return None
    return message
