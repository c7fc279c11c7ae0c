"""Supervised fine-tuning with LoRA on a job's folder: a flat loop from the rows to the adapter, with one
training step and one validation. Goes on from its newest checkpoint after a kill or a pause."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from torch.amp.grad_scaler import GradScaler

from trainers.local.job_directory import TrainingJob
from trainers.local.training import distributed
from trainers.local.training.base_model import (
    add_lora,
    count_parameters,
    recompute_activations,
    recompute_if_packed,
)
from trainers.local.training.checkpoints import (
    CHECKPOINT_S,
    finish_job,
    random_states,
    restore_checkpoint,
    restore_random,
    resume_from_adapter,
    save_checkpoint,
)
from trainers.local.training.data import Row
from trainers.local.training.devices import CpuThreads, is_learnable, new_scaler
from trainers.local.training.errors import Pauses, TrainingFailed, TrainingPaused
from trainers.local.training.memory import MicroBatcher, end_team, map_machine_errors, tokens_after_shortage
from trainers.local.training.metrics_logger import MetricsLogger, Progress, Scores, Step, logger_for
from trainers.local.training.packing import (
    Abilities,
    Loss,
    fill_packs,
    measure,
    pack_rows,
    pack_tokens,
    width,
)
from trainers.local.training.schedule import (
    MAX_NORM,
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
from trainers.local.training.setup import TrainingSetup, prepare_training
from trainers.local.training.sharding import in_step, shard_rest
from trainers.methods import Parameters


@dataclass
class TrainState:
    """The model with all that a step on it takes. `look` raises TrainingPaused where somebody wants a pause;
    in a team that is asked between steps."""

    model: PeftModel
    optimizer: torch.optim.Optimizer
    able: Abilities
    room: MicroBatcher[Row]
    look: Callable[[], None]
    cores: CpuThreads = field(default_factory=CpuThreads)
    scaler: GradScaler = field(default_factory=lambda: GradScaler(enabled=False))


def train_step(trainee: TrainState, batch: Sequence[Row], rate: float, step: int) -> Scores:
    """One step on the mean loss of the batch's supervised tokens. One that is paused leaves no trace."""
    model, optimizer = trainee.model, trainee.optimizer
    model.train()
    targets = sum(sum(row.supervised) for row in batch)
    distributed.reseed(step)
    random = random_states()

    def forget() -> None:
        optimizer.zero_grad()
        restore_random(random)

    def add_all(parts: list[list[Row]]) -> Scores:
        if not distributed.is_alone():  # another process may have had no room for what this one has computed
            forget()
        try:
            return add_gradients(trainee, parts, targets, spare=batch[0])
        except BaseException:  # memory full or paused: nothing of this step has happened
            forget()
            raise

    learnt = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    while True:
        mine = trainee.room.try_out(distributed.share(batch), add_all, f"at step {step}")
        distributed.add_gradients(learnt)
        loss, accuracy = distributed.sum_all(mine.loss, mine.accuracy or 0.0)
        if not math.isfinite(loss) or is_learnable(trainee.scaler, optimizer):
            break
        forget()
    scores = Scores(loss, accuracy)
    norm = torch.nn.utils.clip_grad_norm_(learnt, MAX_NORM).item()
    if not math.isfinite(scores.loss) or not math.isfinite(norm):
        wider = (
            " In float32 numbers may be larger: FINETUNE_DTYPE=fp32." if trainee.scaler.is_enabled() else ""
        )
        text = (
            f"At step {step} the loss became {scores.loss} and its gradient {norm}. Set learning_rate lower."
            f"{wider}"
        )
        raise TrainingFailed("loss_not_finite", text, "learning_rate")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return scores


def add_gradients(trainee: TrainState, parts: Sequence[Sequence[Row]], targets: int, spare: Row) -> Scores:
    """This process's share of the batch's mean loss and of its accuracy."""
    loss, right = 0.0, 0
    for rows, counts in in_step(trainee.model, parts, spare):
        trainee.look()
        with trainee.cores.shared():
            part = measure_rows(trainee.model, rows, trainee.able)
            trainee.scaler.scale(part.total * counts / targets).backward()  # type: ignore[no-untyped-call]
        loss, right = loss + counts * part.total.item() / targets, right + counts * part.right
    return Scores(loss, right / targets)


def evaluate(trainee: TrainState, rows: Sequence[Row]) -> Scores:
    trainee.model.eval()
    by_length = sorted(rows, key=lambda row: len(row.ids))

    def measure_all(parts: list[list[Row]]) -> list[Loss]:
        losses = []
        for part, counts in in_step(trainee.model, parts, by_length[0]):
            trainee.look()
            with trainee.cores.shared(), torch.no_grad():
                loss = measure_rows(trainee.model, part, trainee.able)
            losses += [loss] * counts
        return losses

    losses = trainee.room.try_out(distributed.share(by_length), measure_all, "while validating")
    total, right, targets = distributed.sum_all(
        sum(loss.total.item() for loss in losses),
        sum(loss.right for loss in losses),
        sum(loss.tokens for loss in losses),
    )
    return Scores(total / targets, right / targets)


def measure_rows(model: PeftModel, rows: Sequence[Row], able: Abilities) -> Loss:
    """Frozen weights in bfloat16 meet LoRA's in float32: autocast multiplies both in bfloat16."""
    weight = next(model.parameters())
    ways = {"by_rows": able.by_rows, "by_blocks": able.by_blocks}
    pack = pack_rows(rows, weight.device, weight.dtype, **ways)
    with torch.autocast(weight.device.type, weight.dtype, enabled=weight.dtype != torch.float32):
        return measure(model, pack, able)


# LoRA fine-tuning of a chat model on a job's folder: a flat loop from the rows to the adapter.
#
# Everything that is told goes through Journal, everything that is kept through checkpoints. A run that
# was killed or paused goes on from its newest checkpoint and ends as if it had not been. Knows no HTTP
# and no other job.


def train(folder: Path, job: TrainingJob, checkpoint_s: float = CHECKPOINT_S) -> None:
    """Ends with adapter/ and DONE. Raises TrainingFailed where it cannot, TrainingPaused where it must wait."""
    distributed.join(job.seed)
    journal = logger_for(folder, job)
    is_done = False
    try:
        with map_machine_errors(folder):
            run(folder, job, checkpoint_s, journal)
        is_done = True
    finally:
        journal.end(is_done=is_done)
        distributed.leave()


def run(folder: Path, job: TrainingJob, checkpoint_s: float, journal: MetricsLogger) -> None:
    started, pauses = time.monotonic(), Pauses(folder)
    ground = prepare_training(folder, job, journal, pauses)
    course = begin(folder, job, ground, journal, pauses)
    started -= max(course.position.seconds, journal.seconds_known)
    journal.say(str(count_parameters(course.trainee.model)))
    stop = train_until(course, started, checkpoint_s, course.total)
    course.position = replace(course.position, seconds=time.monotonic() - started)
    finish_job(folder, job, course.trainee.model, course.position, course.total, stop, journal)


@dataclass
class Course:
    """An adapter on its way over the rows. `folder` keeps its checkpoints; `position` is where it stands; `pauses`
    are the job's, of which it may be an arm."""

    folder: Path
    settings: Parameters
    seed: int
    ground: TrainingSetup
    trainee: TrainState
    journal: MetricsLogger
    position: Position
    pauses: Pauses
    pace: Pace = field(default=Pace(0.0, None, 0.0))
    started: float = field(default_factory=time.monotonic)
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def steps_an_epoch(self) -> int:
        return steps_an_epoch(self.ground, self.settings)

    @property
    def total(self) -> int:
        return self.steps_an_epoch * self.settings.n_epochs

    @property
    def seconds(self) -> float:
        """As if without a break."""
        return time.monotonic() - self.started

    def is_validated(self, step: int, until: int) -> bool:
        has_rows = self.ground.validation is not None
        return has_rows and (step == until or is_due(step, self.steps_an_epoch, self.settings))

    def why_stop(self) -> Stop | None:
        """The same in every process of a team, whose clocks differ."""
        here = replace(self.position, seconds=self.seconds)
        return distributed.decide(why_stop(here, self.pace, self.settings))

    def learn(self, step: int, batch: Sequence[Row], *, is_validated_next: bool) -> None:
        """One step, told."""
        begun, validation = time.monotonic(), self.ground.validation
        rate = self.settings.learning_rate * rate_share(step, self.total)
        scores = train_step(self.trainee, batch, rate, step)
        took, tokens = time.monotonic() - begun, sum(len(row.ids) for row in batch)
        position = self.position = replace(
            self.position,
            step=step,
            trained_tokens=self.position.trained_tokens + tokens,
            seconds=self.seconds,
            room=self.trainee.room.remembered,
            recomputes=self.trainee.room.recomputes,
        )
        guess_s = validation.tokens / tokens * took / 3 if validation else 0.0  # without backward
        self.pace = replace(self.pace, step_s=took, validation_guess_s=guess_s)
        told = Step(step, self.total, scores, rate, position.trained_tokens, position.seconds)
        self.journal.record(told, is_validated_next=is_validated_next)

    def validate(self) -> None:
        """The step that the course stands at, told. Raises TrainingFailed."""
        begun, position, validation = time.monotonic(), self.position, self.ground.validation
        assert validation is not None  # noqa: S101
        scores = evaluate(self.trainee, validation.rows)
        if not math.isfinite(scores.loss):
            text = (
                f"After step {position.step} the validation loss is {scores.loss}. Set learning_rate lower."
            )
            raise TrainingFailed("loss_not_finite", text, "learning_rate")
        rate = self.settings.learning_rate * rate_share(position.step, self.total)
        step = Step(position.step, self.total, self.journal.last_scores(), rate, position.trained_tokens)
        self.journal.record_validation(step, scores)
        found = Validation(position.step, scores.loss, scores.accuracy)
        validations = (*position.validations, found)
        room = self.trainee.room
        self.position = replace(
            position, validations=validations, room=room.remembered, recomputes=room.recomputes
        )
        self.pace = replace(self.pace, validation_s=time.monotonic() - begun)

    def keep(self, checkpoint_s: float) -> None:
        """A checkpoint after an epoch, after the best validation so far, and every `checkpoint_s` seconds."""
        step, lowest = self.position.step, best(self.position.validations)
        ends_epoch = step % self.steps_an_epoch == 0
        if ends_epoch:
            epoch = f"Epoch {step // self.steps_an_epoch}/{self.settings.n_epochs}"
            self.journal.say(f"{epoch} finished after step {step}/{self.total}")
        is_best = lowest is not None and lowest.step == step
        if ends_epoch or is_best or time.monotonic() - self.saved_at >= checkpoint_s:
            self.save()
            self.journal.say(f"Checkpoint of step {step}/{self.total} saved")
            self.saved_at = time.monotonic()

    def pause(self) -> None:
        """With a checkpoint, where something was learnt."""
        position = self.position = replace(self.position, seconds=self.seconds)
        if position.step:
            self.save()
        step_s = self.journal.step_s
        progress = Progress(position.step, self.total, position.trained_tokens, position.seconds, step_s)
        self.journal.place(progress, is_paused=True)

    def save(self) -> None:
        trainee = self.trainee
        save_checkpoint(self.folder, trainee.model, trainee.optimizer, self.position, trainee.scaler)


def steps_an_epoch(ground: TrainingSetup, settings: Parameters) -> int:
    return math.ceil(len(ground.training.rows) / settings.batch_size)


def begin(
    folder: Path, job: TrainingJob, ground: TrainingSetup, journal: MetricsLogger, pauses: Pauses
) -> Course:
    """A new adapter on the base, or the one of the newest checkpoint."""
    settings, able = job.settings, ground.able
    torch.manual_seed(job.seed)  # here, so that an arm of a sweep begins as it would alone
    model = (
        resume_from_adapter(folder, ground.base, settings)
        if job.continues
        else add_lora(ground.base, settings)
    )
    if ground.is_sharded:
        shard_rest(model, ground.device)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    distributed.broadcast_parameters(learnt)
    scaler = new_scaler(ground.device, ground.dtype)
    position = restore_checkpoint(folder, model, optimizer, scaler)
    left = tokens_after_shortage(folder) if ground.is_sharded else None
    if left is not None:
        tokens, again = left
        tokens = min(tokens, position.room or tokens)
        position = replace(position, room=tokens, recomputes=again or position.recomputes)
    is_packed = recompute_if_packed(model)
    recomputes = is_packed or (position.recomputes and recompute_activations(model))
    usual = min(pack_tokens(ground.device), able.widest)
    room = MicroBatcher(
        usual,
        position.room,
        packs=able.packs,
        fill=fill_packs,
        width=width,
        tell=journal.warn,
        recompute=lambda: recompute_activations(model),
        recomputes=recomputes,
        end_team=partial(end_team, folder) if ground.is_sharded else None,
    )
    trainee = TrainState(model, optimizer, able, room, distributed.look_in_step(pauses), scaler=scaler)
    course = Course(folder, settings, job.seed, ground, trainee, journal, position, pauses)
    journal.begin(after=position.step)
    if is_packed:
        journal.say(
            "The experts are in 4 bits, so activations are computed again on the way back instead of kept"
        )
    if position.step:
        journal.say(f"Going on from the checkpoint of step {position.step}/{course.total}")
    return course


def train_until(course: Course, started: float, checkpoint_s: float, until: int) -> Stop | None:
    """Train to step `until`, validated where it isn't the last. `started`: as if without a break, time.monotonic.

    Raises TrainingPaused with a checkpoint saved, and TrainingFailed.
    """
    course.started, course.saved_at, stop = started, time.monotonic(), None
    rows, settings = course.ground.training.rows, course.settings
    try:
        if course.is_validated(course.position.step, until) and lacks_validation(course.position):
            course.validate()
        for step, batch in steps_after(rows, settings, course.seed, course.position.step):
            if step > until:
                break
            distributed.look(course.pauses)
            stop = course.why_stop()
            if stop:
                break
            is_validated = course.is_validated(step, until)
            course.learn(step, batch, is_validated_next=is_validated)
            if is_validated:
                course.validate()
            course.keep(checkpoint_s)
        is_unmeasured = course.position.step and lacks_validation(course.position)
        if stop == "ceiling" and course.ground.validation and is_unmeasured:
            course.validate()
    except TrainingPaused:
        course.pause()
        raise
    return stop


def batches(rows: Sequence[Row], size: int, seed: int, epoch: int) -> list[list[Row]]:
    """Shuffled anew each epoch, the same for the same seed. Not grouped by length: nothing is padded."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed + epoch)).tolist()
    return [[rows[place] for place in order[start : start + size]] for start in range(0, len(rows), size)]


def steps_after(
    rows: Sequence[Row], settings: Parameters, seed: int, after: int
) -> Iterator[tuple[int, list[Row]]]:
    """Steps, counted from 1 over all epochs, with their rows."""
    step = 0
    for epoch in range(settings.n_epochs):
        for batch in batches(rows, settings.batch_size, seed, epoch):
            step += 1
            if step > after:
                yield step, batch
