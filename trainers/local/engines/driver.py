"""Trains a job by another engine, as lora.py does by ours: writes its config, runs it, tells and keeps what it does.

Ends with adapter/ and DONE, goes on from the engine's newest checkpoint after a kill.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from trainers.local.engines import axolotl, llamafactory, unsloth
from trainers.local.engines.catalog import Engine
from trainers.local.engines.environments import Installed, engines_folder, in_use, installed
from trainers.local.engines.logs import Line, Reading, Told, Trained, Trouble, Validated, read_line
from trainers.local.engines.plan import OUTPUT, EnginePlan, Written, engine_folder
from trainers.local.engines.preparing import Prepared, prepare
from trainers.local.engines.process import LOG, lines, running
from trainers.local.engines.publishing import (
    engine_checkpoints,
    last_position,
    publish_adapter,
    publish_checkpoints,
    remove_halves,
)
from trainers.local.engines.refusing import Refused, key_refused, refusal, unknown_keys
from trainers.local.engines.writing import write_files
from trainers.local.spool import TrainingJob, replace_json
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.journal import Journal, Scores, Step

SAID_LINES = 3


class EngineCrashed(Exception):
    """It ended without a result and without a reason that we know; the job goes on from its last checkpoint."""


def train_by(engine: Engine, folder: Path, job: TrainingJob) -> None:
    """`folder` is the job's. Raises TrainingFailed where it cannot, EngineCrashed where another try may help."""
    root = engines_folder(folder)
    refused = refusal(root, job.settings)
    there = installed(root, engine)
    if refused or there is None:
        raise _failed(refused)
    with in_use(there.home, alone=False) as is_ours:
        if not is_ours:
            text = f"The engine {engine.name} is being installed or removed. Start the job again afterwards."
            raise TrainingFailed("engine_busy", text, "engine")
        Run(engine, there, folder, job).train()


@dataclass
class Run:
    """One try of one job. `reading` is how far the engine's log was read, `position` what the job has done."""

    engine: Engine
    there: Installed
    folder: Path
    job: TrainingJob

    def __post_init__(self) -> None:
        self.journal = Journal(self.folder)
        self.home = engine_folder(self.folder)
        self.output = self.home / OUTPUT
        self.reading = Reading(0)
        self.started = time.monotonic()

    def train(self) -> None:
        self.home.mkdir(exist_ok=True)
        prepared = prepare(self.job, self.home, self.there.has_cuda, self.journal)
        written = write(self.engine, prepared.plan, self.there.env)
        refused = unknown_keys(self.engine, self.there, written.keys)
        if refused:
            raise _failed(refused)
        script = write_files(self.home, written)
        self._begin(prepared)
        self._run(script, prepared)
        self._finish(prepared)

    def _begin(self, prepared: Prepared) -> None:
        remove_halves(self.output)
        done = max(engine_checkpoints(self.output), default=0)
        self.started -= last_position(self.folder).seconds
        self.reading = Reading(done)
        self.journal.begin(after=done)
        version, plan = self.there.version, prepared.plan
        number = "bf16" if plan.is_bf16 else "fp32"
        self.journal.say(
            f"Training {self.job.base_name} by {self.engine.name} {version} on {plan.device} in {number}"
        )
        if done:
            self.journal.say(f"Going on from the checkpoint of step {done}/{plan.total_steps}")

    def _run(self, script: Path, prepared: Prepared) -> None:
        log = self.home / LOG
        log.touch()
        start = log.stat().st_size
        last: list[str] = []
        with running(self.home, script, environment()) as process:
            for line in lines(log, start, process):
                if line is None:
                    self._keep_checkpoints(prepared)
                    continue
                last = [*last, line][-SAID_LINES:] if line.strip() else last
                self._hear(read_line(line), prepared)
            self._judge_end(process, last)

    def _hear(self, line: Line | None, prepared: Prepared) -> None:
        match line:
            case None:
                return
            case Trouble():
                self._stop(line)
            case Trained() | Validated():
                self._step(line, prepared)
            case _:
                assert_never(line)

    def _step(self, line: Trained | Validated, prepared: Prepared) -> None:
        plan = prepared.plan
        every = plan.steps_an_epoch if plan.has_validation else None
        self.reading, told = self.reading.after(line, is_validated_at=every)
        if isinstance(line, Trained) and not line.is_finite:
            text = (
                f"At step {self.reading.step} the loss became {line.loss} and its gradient "
                f"{line.gradient_norm}. Set learning_rate lower."
            )
            raise TrainingFailed("loss_not_finite", text, "learning_rate")
        if told:
            self.journal.record(_as_step(told, prepared))
            self._tell_epoch(told.number, plan)

    def _tell_epoch(self, step: int, plan: EnginePlan) -> None:
        epoch, rest = divmod(step, plan.steps_an_epoch)
        if rest == 0:
            total = plan.total_steps
            self.journal.say(f"Epoch {epoch}/{plan.settings.n_epochs} finished after step {step}/{total}")

    def _keep_checkpoints(self, prepared: Prepared) -> None:
        seconds = time.monotonic() - self.started
        for step in publish_checkpoints(self.folder, self.output, seconds, prepared.tokens_after):
            self.journal.say(f"Checkpoint of step {step}/{prepared.plan.total_steps} saved")

    def _stop(self, trouble: Trouble) -> None:
        """Reasons that another try would meet again."""
        if trouble.code == "engine_config_changed":
            raise _failed(key_refused(self.engine, self.there, trouble.key))
        if trouble.code == "out_of_memory":
            text = "The memory is full. Set batch_size, max_length or lora_r lower, or take a smaller model."
            raise TrainingFailed("out_of_memory", text, "batch_size")
        text = "The disk is full. Free some space and start again."
        raise TrainingFailed("disk_full", text)

    def _judge_end(self, process: subprocess.Popen[bytes], last: list[str]) -> None:
        if process.returncode != 0:
            said = " / ".join(" ".join(line.split())[:200] for line in last) or "nothing"
            raise EngineCrashed(f"{self.engine.name} ended with exit code {process.returncode}: {said}")

    def _finish(self, prepared: Prepared) -> None:
        self._keep_checkpoints(prepared)
        trainable = publish_adapter(self.folder, self.output, self.engine.name)
        tokens = prepared.tokens_after(prepared.plan.total_steps)
        seconds = round(time.monotonic() - self.started, 1)
        self.journal.say(f"Trained on {tokens:,} tokens in {seconds:,.0f} s; adapter saved")
        done = {"trained_tokens": tokens, "seconds": seconds, "trainable_parameters": trainable}
        replace_json(self.folder / "DONE", done)


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
    """Ours without what would lead the engine's Python to our packages. One GPU: engines would take all."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {"CUDA_VISIBLE_DEVICES": "0"} | own


def _as_step(told: Told, prepared: Prepared) -> Step:
    valid = Scores(told.valid.loss, told.valid.accuracy) if told.valid else None
    return Step(
        number=told.number,
        total=prepared.plan.total_steps,
        train=Scores(told.train.loss, None),
        learning_rate=told.train.learning_rate,
        trained_tokens=prepared.tokens_after(told.number),
        valid=valid,
    )


def _failed(refused: Refused | None) -> TrainingFailed:
    if refused is None:
        return TrainingFailed(
            "engine_not_installed", "The engine is not installed on this trainer.", "engine"
        )
    return TrainingFailed(refused.code, refused.message, refused.param)
