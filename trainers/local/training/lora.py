"""LoRA fine-tuning of a chat model on a job's folder: a flat loop from the rows to the adapter.

Everything that is told goes through Journal, everything that is kept through checkpoints. A run that was
killed or paused goes on from its newest checkpoint and ends as if it had not been. Knows no HTTP and no other job.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from peft import PeftModel

from trainers.local.spool import LoraSettings, TrainingJob
from trainers.local.training.base import add_lora, count_parameters, recompute_activations
from trainers.local.training.checkpoints import (
    random_states,
    restore_checkpoint,
    restore_random,
    save_checkpoint,
)
from trainers.local.training.continuing import go_on_from
from trainers.local.training.course import (
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
from trainers.local.training.data import Row
from trainers.local.training.endings import known_endings
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.ground import Ground, lay_ground
from trainers.local.training.journal import Journal, Progress, Scores, Step
from trainers.local.training.memory import Room
from trainers.local.training.packing import (
    Abilities,
    Loss,
    fill_packs,
    measure,
    pack_rows,
    pack_tokens,
    width,
)
from trainers.local.training.pauses import Pauses, TrainingPaused
from trainers.local.training.result import finish

CHECKPOINT_S = 60.0
MAX_NORM = 1.0


@dataclass
class Trainee:
    """The model with all that a step on it takes. `look` raises TrainingPaused where somebody wants a pause."""

    model: PeftModel
    optimizer: torch.optim.Optimizer
    able: Abilities
    room: Room[Row]
    look: Callable[[], None]


def train(folder: Path, job: TrainingJob, checkpoint_s: float = CHECKPOINT_S) -> None:
    """Ends with adapter/ and DONE. Raises TrainingFailed where it cannot, TrainingPaused where it must wait."""
    journal = Journal(folder, job.integrations, job.settings.ceiling_s)
    is_done = False
    try:
        with known_endings(folder):
            run(folder, job, checkpoint_s, journal)
        is_done = True
    finally:
        journal.end(is_done=is_done)


def run(folder: Path, job: TrainingJob, checkpoint_s: float, journal: Journal) -> None:
    started = time.monotonic()
    look = Pauses(folder).look
    ground = lay_ground(folder, job, journal, look)
    course = begin(folder, job, ground, journal, look)
    started -= max(course.position.seconds, journal.seconds_known)
    journal.say(str(count_parameters(course.trainee.model)))
    stop = go_on(course, started, checkpoint_s, course.total)
    course.position = replace(course.position, seconds=time.monotonic() - started)
    finish(folder, job, course.trainee.model, course.position, course.total, stop, journal)


@dataclass
class Course:
    """An adapter on its way over the rows. `folder` keeps its checkpoints; `position` is where it stands."""

    folder: Path
    settings: LoraSettings
    seed: int
    ground: Ground
    trainee: Trainee
    journal: Journal
    position: Position
    pace: Pace = field(default=Pace(0.0, None, 0.0))

    @property
    def steps_an_epoch(self) -> int:
        return steps_an_epoch(self.ground, self.settings)

    @property
    def total(self) -> int:
        return self.steps_an_epoch * self.settings.n_epochs

    def save(self) -> None:
        save_checkpoint(self.folder, self.trainee.model, self.trainee.optimizer, self.position)


def steps_an_epoch(ground: Ground, settings: LoraSettings) -> int:
    return math.ceil(len(ground.training.rows) / settings.batch_size)


def begin(
    folder: Path, job: TrainingJob, ground: Ground, journal: Journal, look: Callable[[], None]
) -> Course:
    """A new adapter on the base, or the one of the newest checkpoint."""
    settings, able = job.settings, ground.able
    torch.manual_seed(job.seed)  # here, so that an arm of a sweep begins as it would alone
    model = go_on_from(folder, ground.base, settings) if job.continues else add_lora(ground.base, settings)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    position = restore_checkpoint(folder, model, optimizer)
    usual = min(pack_tokens(ground.device), able.widest)
    room = Room(
        usual,
        position.room,
        packs=able.packs,
        fill=fill_packs,
        width=width,
        tell=journal.warn,
        recompute=lambda: recompute_activations(model),
    )
    trainee = Trainee(model, optimizer, able, room, look)
    course = Course(folder, settings, job.seed, ground, trainee, journal, position)
    journal.begin(after=position.step)
    if position.step:
        journal.say(f"Going on from the checkpoint of step {position.step}/{course.total}")
    return course


def go_on(course: Course, started: float, checkpoint_s: float, until: int) -> Stop | None:
    """Train to step `until`, validated where it isn't the last. `started`: as if without a break, time.monotonic.

    Raises TrainingPaused with a checkpoint saved, and TrainingFailed.
    """
    settings, trainee, journal, total = course.settings, course.trainee, course.journal, course.total
    training, validation, steps_an_epoch = (
        course.ground.training,
        course.ground.validation,
        course.steps_an_epoch,
    )
    saved_at, stop = time.monotonic(), None

    def is_validated(step: int) -> bool:
        return validation is not None and (step == until or is_due(step, steps_an_epoch, settings))

    def validate() -> None:
        """The step that the course stands at; told."""
        assert validation is not None  # noqa: S101
        position = course.position
        scores = evaluate(trainee, validation.rows)
        if not math.isfinite(scores.loss):
            text = (
                f"After step {position.step} the validation loss is {scores.loss}. Set learning_rate lower."
            )
            raise TrainingFailed("loss_not_finite", text, "learning_rate")
        rate = settings.learning_rate * rate_share(position.step, total)
        step = Step(position.step, total, journal.last_scores(), rate, position.trained_tokens)
        journal.record_validation(step, scores)
        found = Validation(position.step, scores.loss, scores.accuracy)
        validations = (*position.validations, found)
        course.position = replace(position, validations=validations, room=trainee.room.remembered)

    try:
        if is_validated(course.position.step) and lacks_validation(course.position):
            validate()
        for step, batch in steps_after(training.rows, settings, course.seed, course.position.step):
            if step > until:
                break
            elapsed = time.monotonic() - started
            stop = why_stop(replace(course.position, seconds=elapsed), course.pace, settings)
            if stop:
                break
            begun = time.monotonic()
            rate = settings.learning_rate * rate_share(step, total)
            scores = learn(trainee, batch, rate, step)
            now = time.monotonic()
            tokens = sum(len(row.ids) for row in batch)
            position = course.position = replace(
                course.position,
                step=step,
                trained_tokens=course.position.trained_tokens + tokens,
                seconds=now - started,
                room=trainee.room.remembered,
            )
            guess_s = (
                validation.tokens / tokens * (now - begun) / 3 if validation else 0.0
            )  # without backward
            course.pace = replace(course.pace, step_s=now - begun, validation_guess_s=guess_s)
            told = Step(step, total, scores, rate, position.trained_tokens, position.seconds)
            journal.record(told, is_validated_next=is_validated(step))
            if is_validated(step):
                validate()
                course.pace = replace(course.pace, validation_s=time.monotonic() - now)
            ends_epoch, lowest = step % steps_an_epoch == 0, best(course.position.validations)
            if ends_epoch:
                journal.say(
                    f"Epoch {step // steps_an_epoch}/{settings.n_epochs} finished after step {step}/{total}"
                )
            is_best = lowest is not None and lowest.step == step
            if ends_epoch or is_best or time.monotonic() - saved_at >= checkpoint_s:
                course.save()
                journal.say(f"Checkpoint of step {step}/{total} saved")
                saved_at = time.monotonic()
        if stop == "ceiling" and validation and course.position.step and lacks_validation(course.position):
            validate()
    except TrainingPaused:
        position = course.position = replace(course.position, seconds=time.monotonic() - started)
        if position.step:
            course.save()
        seconds = position.seconds
        progress = Progress(position.step, total, position.trained_tokens, seconds, journal.step_s)
        journal.place(progress, is_paused=True)
        raise
    return stop


def batches(rows: Sequence[Row], size: int, seed: int, epoch: int) -> list[list[Row]]:
    """Shuffled anew each epoch, the same for the same seed. Not grouped by length: nothing is padded."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed + epoch)).tolist()
    return [[rows[place] for place in order[start : start + size]] for start in range(0, len(rows), size)]


def steps_after(
    rows: Sequence[Row], settings: LoraSettings, seed: int, after: int
) -> Iterator[tuple[int, list[Row]]]:
    """Steps, counted from 1 over all epochs, with their rows."""
    step = 0
    for epoch in range(settings.n_epochs):
        for batch in batches(rows, settings.batch_size, seed, epoch):
            step += 1
            if step > after:
                yield step, batch


def learn(trainee: Trainee, batch: Sequence[Row], rate: float, step: int) -> Scores:
    """One step on the mean loss of the batch's supervised tokens. One that is paused leaves no trace."""
    model, optimizer = trainee.model, trainee.optimizer
    model.train()
    targets = sum(sum(row.supervised) for row in batch)
    random = random_states()

    def add_up(parts: list[list[Row]]) -> Scores:
        try:
            return add_gradients(trainee, parts, targets)
        except BaseException:  # memory full or paused: nothing of this step has happened
            optimizer.zero_grad()
            restore_random(random)
            raise

    scores = trainee.room.try_out(batch, add_up, f"at step {step}")
    learnt = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(learnt, MAX_NORM).item()
    if not math.isfinite(scores.loss) or not math.isfinite(norm):
        text = (
            f"At step {step} the loss became {scores.loss} and its gradient {norm}. Set learning_rate lower."
        )
        raise TrainingFailed("loss_not_finite", text, "learning_rate")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return scores


def add_gradients(trainee: Trainee, parts: Sequence[Sequence[Row]], targets: int) -> Scores:
    loss, right = 0.0, 0
    for rows in parts:
        trainee.look()
        part = measure_rows(trainee.model, rows, trainee.able)
        (part.total / targets).backward()  # type: ignore[no-untyped-call]
        loss, right = loss + part.total.item() / targets, right + part.right
    return Scores(loss, right / targets)


def evaluate(trainee: Trainee, rows: Sequence[Row]) -> Scores:
    trainee.model.eval()
    by_length = sorted(rows, key=lambda row: len(row.ids))

    def measure_all(parts: list[list[Row]]) -> list[Loss]:
        losses = []
        for part in parts:
            trainee.look()
            with torch.no_grad():
                losses.append(measure_rows(trainee.model, part, trainee.able))
        return losses

    losses = trainee.room.try_out(by_length, measure_all, "while validating")
    targets = sum(loss.tokens for loss in losses)
    return Scores(sum(loss.total.item() for loss in losses) / targets, sum(x.right for x in losses) / targets)


def measure_rows(model: PeftModel, rows: Sequence[Row], able: Abilities) -> Loss:
    """Frozen weights in bfloat16 meet LoRA's in float32: autocast multiplies both in bfloat16."""
    weight = next(model.parameters())
    pack = pack_rows(rows, weight.device, weight.dtype)
    with torch.autocast(weight.device.type, weight.dtype, enabled=weight.dtype != torch.float32):
        return measure(model, pack, able)
