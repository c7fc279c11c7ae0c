"""Trains a job by another engine, as lora.py does by ours: writes its config, runs it, tells and keeps what it does.

Ends with adapter/ and DONE, goes on from the engine's newest checkpoint after a kill.
"""

from __future__ import annotations

import errno
import os
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import assert_never

from trainers.local.engines import axolotl, llamafactory, unsloth
from trainers.local.engines.catalog import Engine
from trainers.local.engines.environments import Installed, engines_folder, in_use, installed
from trainers.local.engines.logs import Line, Reading, Trained, Trouble, Validated, read_line
from trainers.local.engines.plan import OUTPUT, EnginePlan, Written, engine_folder
from trainers.local.engines.preparing import prepare
from trainers.local.engines.process import LOG, lines, running
from trainers.local.engines.publishing import (
    engine_checkpoints,
    last_position,
    publish_checkpoints,
    publish_result,
    remove_untold,
    told_steps,
)
from trainers.local.engines.refusing import Refused, key_refused, refusal, unknown_keys
from trainers.local.engines.writing import write_files
from trainers.local.spool import TrainingJob, is_disk_full, replace_json
from trainers.local.training.course import START, Position, Validation, best, result_sentence
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.journal import Journal, Progress, Scores, Step
from trainers.local.training.pauses import Pauses, TrainingPaused, pause_for_disk

SAID_LINES = 3


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
    with in_use(there.home, alone=False) as is_ours:
        if not is_ours:
            text = f"The engine {engine.name} is being installed or removed. Start the job again afterwards."
            raise TrainingFailed("engine_busy", text, "engine")
        _told(folder, job, Run(engine, there, folder, job, Journal(folder, job.integrations)))


def _told(folder: Path, job: TrainingJob, run: Run) -> None:
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
    """One try of one job. `reading` is how far the engine's log was read, `position` what the job has done."""

    engine: Engine
    there: Installed
    folder: Path
    job: TrainingJob
    journal: Journal
    reading: Reading = field(default_factory=lambda: Reading(0))
    position: Position = START

    def train(self) -> None:
        started = time.monotonic()
        self.home = engine_folder(self.folder)
        self.output = self.home / OUTPUT
        self.home.mkdir(exist_ok=True)
        self.prepared = prepare(self.job, self.home, self.there.has_cuda, self.journal)
        written = write(self.engine, self.prepared.plan, self.there.env)
        refused = unknown_keys(self.engine, self.there, written.keys)
        if refused:
            raise _failed(refused)
        script = write_files(self.home, written)
        self._begin(started)
        try:
            self._run(script)
        except TrainingPaused:
            self.journal.place(self._progress(), is_paused=True)
            raise
        self._finish()

    @property
    def seconds(self) -> float:
        """Of all tries together."""
        return time.monotonic() - self.started

    def _begin(self, started: float) -> None:
        plan, total = self.prepared.plan, self.prepared.plan.total_steps
        remove_untold(
            self.output, told_steps(self.folder, plan.steps_an_epoch if plan.has_validation else None)
        )
        done = max(engine_checkpoints(self.output), default=0)
        kept = last_position(self.folder)
        self.started = started - max(kept.seconds, self.journal.seconds_known)
        known = tuple(each for each in kept.validations if each.step <= done)
        self.position = replace(self._at(done), validations=known)
        self.reading = Reading(done, validated=done)
        self.journal.begin(after=done)
        number = "bf16" if plan.is_bf16 else "fp32"
        what = f"Training {self.job.base_name} by {self.engine.name} {self.there.version}"
        self.journal.say(f"{what} on {plan.device} in {number}")
        if done:
            self.journal.say(f"Going on from the checkpoint of step {done}/{total}")

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
        with running(self.home, script, environment()) as process:
            for line in lines(log, start, process):
                if line is None:
                    pauses.look()
                    self._keep_checkpoints()
                    continue
                last = [*last, line][-SAID_LINES:] if line.strip() else last
                self._hear(read_line(line))
            self._keep_checkpoints()
            self._judge_end(process, last)

    def _hear(self, line: Line | None) -> None:
        match line:
            case None:
                return
            case Trouble():
                self._stop(line)
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
        ends_epoch = step % plan.steps_an_epoch == 0
        self.last = Step(
            number=step,
            total=plan.total_steps,
            train=Scores(line.loss, None),
            learning_rate=line.learning_rate,
            trained_tokens=self.position.trained_tokens,
            seconds=self.position.seconds,
        )
        self.journal.record(self.last, is_validated_next=ends_epoch and plan.has_validation)
        if ends_epoch:
            epoch = step // plan.steps_an_epoch
            where = f"finished after step {step}/{plan.total_steps}"
            self.journal.say(f"Epoch {epoch}/{plan.settings.n_epochs} {where}")

    def _validation(self, line: Validated) -> None:
        if self.reading.is_news(line):
            self.journal.record_validation(self.last, Scores(line.loss, line.accuracy))
            found = Validation(self.reading.step, line.loss, line.accuracy)
            self.position = replace(self.position, validations=(*self.position.validations, found))
        self.reading = self.reading.after(line)

    def _keep_checkpoints(self) -> None:
        for step in publish_checkpoints(self.folder, self.output, self.position):
            self.journal.say(f"Checkpoint of step {step}/{self.prepared.plan.total_steps} saved")

    def _stop(self, trouble: Trouble) -> None:
        """Reasons that another try would meet again."""
        if trouble.code == "engine_config_changed":
            raise _failed(key_refused(self.engine, self.there, trouble.key))
        if trouble.code == "disk_full":
            raise OSError(errno.ENOSPC, f"{self.engine.name} could not write", str(self.home))
        text = "The memory is full. Set batch_size, max_length or lora_r lower, or take a smaller model."
        raise TrainingFailed("out_of_memory", text, "batch_size")

    def _judge_end(self, process: subprocess.Popen[bytes], last: list[str]) -> None:
        if process.returncode != 0:
            said = " / ".join(" ".join(line.split())[:200] for line in last) or "nothing"
            raise EngineCrashed(f"{self.engine.name} ended with exit code {process.returncode}: {said}")

    def _finish(self) -> None:
        """The result is the checkpoint of the lowest validation loss, as the built-in engine's is."""
        total = self.prepared.plan.total_steps
        self.position = self._at(total)
        chosen, lowest = result_sentence(self.position, total), best(self.position.validations)
        if chosen:
            self.journal.say(chosen)
        result_step = lowest.step if lowest else total
        trainable = publish_result(self.folder, self.output, result_step, self.engine.name)
        tokens, seconds = self.position.trained_tokens, self.position.seconds
        self.journal.say(f"Trained on {tokens:,} tokens in {seconds:,.0f} s; adapter saved")
        self.journal.place(self._progress(), is_over=True)
        done = {
            "trained_tokens": tokens,
            "seconds": round(seconds, 1),
            "trainable_parameters": trainable,
            "step": total,
            "result_step": result_step,
            "stopped": None,
        }
        replace_json(self.folder / "DONE", done)

    def _progress(self) -> Progress:
        at, total = self.position, self.prepared.plan.total_steps
        return Progress(at.step, total, at.trained_tokens, self.seconds, self.journal.step_s)


def write(engine: Engine, plan: EnginePlan, env: Path) -> Written:
    match engine.name:
        case "unsloth":
            return unsloth.write(plan, env)
        case "axolotl":
            return axolotl.write(plan, env)
        case "llamafactory":
            return llamafactory.write(plan, env)
        case _:
            assert_never(engine.name)


def environment() -> dict[str, str]:
    """Ours without what would lead the engine's Python to our packages. One GPU: engines would take all. Threads that
    sleep while they wait: an engine does not make room for other work, as cores.py does."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {"CUDA_VISIBLE_DEVICES": "0", "OMP_WAIT_POLICY": "passive"} | own


def _failed(refused: Refused | None) -> TrainingFailed:
    if refused is None:
        return TrainingFailed(
            "engine_not_installed", "The engine is not installed on this trainer.", "engine"
        )
    return TrainingFailed(refused.code, refused.message, refused.param)
