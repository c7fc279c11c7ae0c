"""Training on preference pairs (DPO) in a job's folder: from the pairs to the adapter, by TRL's trainer.

Files, checkpoints and ends are those of lora.py; a run that was killed or paused goes on from its newest checkpoint.
What is computed stands in dpo_trainer.py. Each process of a team runs all of it, on its part of every batch."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.utils import disable_dropout_in_model

from trainers.hyperparameters import BETA
from trainers.local.job_directory import TrainingJob
from trainers.local.kernels.liger import choose_kernels
from trainers.local.training import distributed
from trainers.local.training.base_files import fetch_base, remember_base
from trainers.local.training.base_model import (
    count_parameters,
    load_config,
    load_model,
    load_tokenizer,
    lora_config,
    recompute_activations,
    recompute_if_packed,
)
from trainers.local.training.checkpoints import (
    CHECKPOINT_S,
    finish_job,
    restore_checkpoint,
    resume_from_adapter,
    save_checkpoint,
)
from trainers.local.training.devices import CpuThreads, best_device, best_dtype, new_scaler
from trainers.local.training.errors import Pauses, TrainingFailed, TrainingPaused
from trainers.local.training.memory import MicroBatcher, map_machine_errors
from trainers.local.training.methods.dpo_trainer import (
    REWARDS,
    PairTrainer,
    SingleProcessConfig,
    settle_rates,
)
from trainers.local.training.metrics_logger import MetricsLogger, Progress, Step, logger_for
from trainers.local.training.packing import pack_tokens
from trainers.local.training.pairs import Pairs, fill_parts, read_pairs, width
from trainers.local.training.schedule import (
    MAX_NORM,
    START,
    Pace,
    Position,
    Stop,
    Validation,
    best,
    is_due,
    lacks_validation,
    rate_share,
    why_stop,
)
from trainers.local.training.setup import is_divided, report_kernels, tell_team, undivided, within_context
from trainers.methods import DpoParameters, Parameters


def train(folder: Path, job: TrainingJob, checkpoint_s: float = CHECKPOINT_S) -> None:
    """Ends with adapter/ and DONE. Raises TrainingFailed where it cannot, TrainingPaused where it must wait."""
    distributed.join(job.seed)
    journal = logger_for(folder, job, tuple(REWARDS))
    is_done = False
    try:
        with map_machine_errors(folder), calm_trl():
            run(folder, job, checkpoint_s, journal)
        is_done = True
    finally:
        journal.end(is_done=is_done)
        distributed.leave()


@contextmanager
def calm_trl() -> Iterator[None]:
    """TRL 1.16 and peft 0.21 use names of settings that transformers 5 has replaced."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
        yield


def run(folder: Path, job: TrainingJob, checkpoint_s: float, journal: MetricsLogger) -> None:
    started, pauses = time.monotonic(), Pauses(folder)
    torch.manual_seed(job.seed)
    device = best_device()
    with distributed.rank_zero_first():
        source = fetch_base(job.base, journal.say)
        remember_base(folder, source, job.base_name)
    dtype = distributed.decide(best_dtype(device, load_config(job.base).model_type))
    tokenizer = load_tokenizer(job.base)
    settings = within_context(job.settings, job.base, journal)
    training = read_file(job.training_file, tokenizer, settings, "training_file")
    validation = None
    if job.validation_file is not None:
        validation = read_file(job.validation_file, tokenizer, settings, "validation_file")
    distributed.look(pauses)
    if is_divided(settings, source, device):
        raise undivided("preference pairs")
    steps_an_epoch = math.ceil(len(training.rows) / settings.batch_size)
    course = PairCourse(folder, settings, journal, pauses, validation, steps_an_epoch, checkpoint_s)
    base = load_model(job.base, device, dtype, settings.quantization)
    kernels = choose_kernels(base, device)
    disable_dropout_in_model(base)  # the reference would answer otherwise each time; the adapter's own stays
    trainer = PairTrainer(
        model=resume_from_adapter(folder, base, settings) if job.continues else base,
        rows=training.rows,
        tokenizer=tokenizer,
        config=trl_config(folder, job, settings, device, dtype),
        lora=None if job.continues else lora_config(base, settings),
        dtype=dtype,
        callback=course,
    )
    learnt = [parameter for parameter in trainer.adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    distributed.broadcast_parameters(learnt)
    trainer.scaler = new_scaler(device, dtype)
    position = restore_checkpoint(folder, trainer.adapted, optimizer, trainer.scaler)
    trainer.room = MicroBatcher(
        pack_tokens(device),
        position.room,
        packs=True,
        fill=fill_parts,
        width=width,
        tell=journal.warn,
        recompute=lambda: recompute_activations(trainer.adapted),
        recomputes=recompute_if_packed(trainer.adapted)
        or (position.recomputes and recompute_activations(trainer.adapted)),
    )
    trainer.look, trainer.cores = distributed.look_in_step(pauses), CpuThreads()
    settle_rates(trainer, optimizer, position.step, lambda step: rate_share(step, course.total))
    course.begin(trainer, optimizer, position, started)
    where = f"on {device.type} in {str(dtype).removeprefix('torch.')}"
    journal.say(f"Training {job.base_name} on preference pairs by TRL {where}")
    report_kernels(folder, kernels, journal)
    tell_pairs(journal, "Training", training, settings)
    if validation:
        tell_pairs(journal, "Validation", validation, settings)
    tell_team(journal, is_sharded=False)
    journal.say(str(count_parameters(trainer.adapted)))
    if position.step:
        journal.say(f"Going on from the checkpoint of step {position.step}/{course.total}")
    try:
        course.catch_up()
        if course.stop is None:
            with trainer_state(course) as state:
                trainer.train(resume_from_checkpoint=state)
        course.end()
    except TrainingPaused:
        course.keep()
        raise
    finish_job(folder, job, trainer.adapted, course.position, course.total, course.stop, journal)


def read_file(file: str, tokenizer: Any, settings: Parameters, param: str) -> Pairs:
    return read_pairs(Path(file), tokenizer, settings.max_length, param, settings.too_long)


def trl_config(
    folder: Path, job: TrainingJob, settings: Parameters, device: torch.device, dtype: torch.dtype
) -> DPOConfig:
    """All that TRL and transformers would write, log and send is switched off: PairCourse does it."""
    return SingleProcessConfig(
        output_dir=str(folder / "checkpoints"),
        beta=settings.beta if isinstance(settings, DpoParameters) else BETA,
        max_length=None,  # pairs.py has seen to it
        disable_dropout=False,
        num_train_epochs=settings.n_epochs,
        per_device_train_batch_size=settings.batch_size,
        max_grad_norm=MAX_NORM,
        gradient_checkpointing=False,
        seed=job.seed,
        data_seed=job.seed,
        use_cpu=device.type == "cpu",
        bf16=dtype == torch.bfloat16,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )


@contextmanager
def trainer_state(course: PairCourse) -> Iterator[str | None]:
    """A folder with the file where transformers looks how many steps are done, and nothing else that it would restore;
    None at the start."""
    step = course.position.step
    if step == 0:
        yield None
        return
    with TemporaryDirectory() as where:
        state = TrainerState(global_step=step, train_batch_size=course.settings.batch_size)
        state.save_to_json(str(Path(where) / "trainer_state.json"))
        yield where


def tell_pairs(journal: MetricsLogger, what: str, pairs: Pairs, settings: Parameters) -> None:
    journal.say(
        f"{what} pairs: {len(pairs.rows):,} with {pairs.tokens:,} tokens, what was asked counted twice"
    )
    if pairs.same:
        journal.warn(f"{what} pairs left out, both answers are the same to this model: {pairs.same:,}")
    if pairs.too_long:
        journal.warn(f"{what} pairs left out, longer than max_length: {pairs.too_long:,}")
    if pairs.cut:
        text = (
            f"{what} pairs cut to max_length {settings.max_length} tokens, so that an answer may end early: "
        )
        journal.warn(f"{text}{pairs.cut:,}")


@dataclass(eq=False)
class PairCourse(TrainerCallback):
    """What follows on each step: it is told, validated where due, kept, and perhaps the last."""

    folder: Path
    settings: Parameters
    journal: MetricsLogger
    pauses: Pauses
    validation: Pairs | None
    steps_an_epoch: int
    checkpoint_s: float
    position: Position = START
    pace: Pace = field(default=Pace(0.0, None, 0.0))
    stop: Stop | None = None

    @property
    def total(self) -> int:
        return self.steps_an_epoch * self.settings.n_epochs

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def begin(
        self, trainer: PairTrainer, optimizer: torch.optim.Optimizer, position: Position, started: float
    ) -> None:
        self.trainer, self.optimizer, self.position = trainer, optimizer, position
        self.started = started - max(position.seconds, self.journal.seconds_known)
        self.saved_at = self.begun = time.monotonic()
        self.journal.begin(after=position.step)

    def catch_up(self) -> None:
        """A checkpoint may have been saved before its step was validated."""
        step = self.position.step
        if (
            self.validation
            and is_due(step, self.steps_an_epoch, self.settings)
            and lacks_validation(self.position)
        ):
            self._validate()
        self._look_at_ceilings()

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        distributed.look(self.pauses)
        self.begun = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        is_validated = self.validation is not None and is_due(
            state.global_step, self.steps_an_epoch, self.settings
        )
        self._record(state.global_step, is_validated=is_validated)
        if is_validated:
            self._validate()
        self._keep_if_due()
        self._look_at_ceilings()
        control.should_training_stop = control.should_training_stop or self.stop is not None

    def end(self) -> None:
        if self.stop == "ceiling" and self.validation and lacks_validation(self.position):
            self._validate()
        self.position = replace(self.position, seconds=self.seconds)

    def keep(self) -> None:
        """Where the run stands, for the one that goes on."""
        self.position = replace(self.position, seconds=self.seconds)
        if self.position.step:
            self._save()
        at = self.position
        progress = Progress(at.step, self.total, at.trained_tokens, at.seconds, self.journal.step_s)
        self.journal.place(progress, is_paused=True)

    def _record(self, step: int, *, is_validated: bool) -> None:
        tokens = sum(pair.tokens for pair in self.trainer.batch)
        self.position = replace(
            self.position,
            step=step,
            trained_tokens=self.position.trained_tokens + tokens,
            seconds=self.seconds,
            room=self.trainer.room.remembered,
            recomputes=self.trainer.room.recomputes,
        )
        taken = time.monotonic() - self.begun
        guess = self.validation.tokens / tokens * taken / 2 if self.validation else 0.0  # without backward
        self.pace = replace(self.pace, step_s=taken, validation_guess_s=guess)
        self.journal.record(self._told(), is_validated_next=is_validated)

    def _told(self) -> Step:
        at = self.position
        scores = self.trainer.scores or self.journal.last_scores()
        rate = self.settings.learning_rate * rate_share(at.step, self.total)
        return Step(at.step, self.total, scores, rate, at.trained_tokens, at.seconds)

    def _validate(self) -> None:
        assert self.validation is not None  # noqa: S101
        begun, at = time.monotonic(), self.position
        scores = self.trainer.evaluate_pairs(self.validation.rows)
        if not math.isfinite(scores.loss):
            text = f"After step {at.step} the validation loss is {scores.loss}. Set learning_rate lower."
            raise TrainingFailed("loss_not_finite", text, "learning_rate")
        self.journal.record_validation(self._told(), scores)
        found = Validation(at.step, scores.loss, scores.accuracy)
        room = self.trainer.room
        self.position = replace(
            at,
            validations=(*at.validations, found),
            room=room.remembered,
            recomputes=room.recomputes,
        )
        self.pace = replace(self.pace, validation_s=time.monotonic() - begun)

    def _keep_if_due(self) -> None:
        step, lowest = self.position.step, best(self.position.validations)
        ends_epoch = step % self.steps_an_epoch == 0
        if ends_epoch:
            epoch = step // self.steps_an_epoch
            self.journal.say(
                f"Epoch {epoch}/{self.settings.n_epochs} finished after step {step}/{self.total}"
            )
        is_best = lowest is not None and lowest.step == step
        if ends_epoch or is_best or time.monotonic() - self.saved_at >= self.checkpoint_s:
            self._save()
            self.journal.say(f"Checkpoint of step {step}/{self.total} saved")
            self.saved_at = time.monotonic()

    def _save(self) -> None:
        trainer = self.trainer
        save_checkpoint(self.folder, trainer.adapted, self.optimizer, self.position, trainer.scaler)

    def _look_at_ceilings(self) -> None:
        if self.position.step < self.total:
            here = replace(self.position, seconds=self.seconds)
            self.stop = distributed.decide(why_stop(here, self.pace, self.settings))
