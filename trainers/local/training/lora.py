"""LoRA fine-tuning of a chat model on a job's folder: a flat loop from the rows to the adapter.

Everything that is told goes through Journal, everything that is kept through checkpoints. A run that was
killed or paused goes on from its newest checkpoint and ends as if it had not been. Knows no HTTP and no other job.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from trainers.local.spool import LoraSettings, TrainingJob
from trainers.local.training import team
from trainers.local.training.base import (
    add_lora,
    count_parameters,
    recompute_activations,
    recompute_if_packed,
)
from trainers.local.training.checkpoints import restore_checkpoint, save_checkpoint
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
from trainers.local.training.journal import Journal, Progress, Step
from trainers.local.training.loss_scale import new_scaler
from trainers.local.training.memory import Room
from trainers.local.training.packing import fill_packs, pack_tokens, width
from trainers.local.training.pauses import Pauses, TrainingPaused
from trainers.local.training.result import finish
from trainers.local.training.sharding import shard_rest
from trainers.local.training.shortage import end_team, room_left
from trainers.local.training.silence import journal_of
from trainers.local.training.steps import Trainee, evaluate, learn

CHECKPOINT_S = 60.0


def train(folder: Path, job: TrainingJob, checkpoint_s: float = CHECKPOINT_S) -> None:
    """Ends with adapter/ and DONE. Raises TrainingFailed where it cannot, TrainingPaused where it must wait."""
    team.join(job.seed)
    journal = journal_of(folder, job)
    is_done = False
    try:
        with known_endings(folder):
            run(folder, job, checkpoint_s, journal)
        is_done = True
    finally:
        journal.end(is_done=is_done)
        team.leave()


def run(folder: Path, job: TrainingJob, checkpoint_s: float, journal: Journal) -> None:
    started, pauses = time.monotonic(), Pauses(folder)
    ground = lay_ground(folder, job, journal, pauses)
    course = begin(folder, job, ground, journal, pauses)
    started -= max(course.position.seconds, journal.seconds_known)
    journal.say(str(count_parameters(course.trainee.model)))
    stop = go_on(course, started, checkpoint_s, course.total)
    course.position = replace(course.position, seconds=time.monotonic() - started)
    finish(folder, job, course.trainee.model, course.position, course.total, stop, journal)


@dataclass
class Course:
    """An adapter on its way over the rows. `folder` keeps its checkpoints; `position` is where it stands; `pauses`
    are the job's, of which it may be an arm."""

    folder: Path
    settings: LoraSettings
    seed: int
    ground: Ground
    trainee: Trainee
    journal: Journal
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
        return team.decide(why_stop(here, self.pace, self.settings))

    def learn(self, step: int, batch: Sequence[Row], *, is_validated_next: bool) -> None:
        """One step, told."""
        begun, validation = time.monotonic(), self.ground.validation
        rate = self.settings.learning_rate * rate_share(step, self.total)
        scores = learn(self.trainee, batch, rate, step)
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


def steps_an_epoch(ground: Ground, settings: LoraSettings) -> int:
    return math.ceil(len(ground.training.rows) / settings.batch_size)


def begin(folder: Path, job: TrainingJob, ground: Ground, journal: Journal, pauses: Pauses) -> Course:
    """A new adapter on the base, or the one of the newest checkpoint."""
    settings, able = job.settings, ground.able
    torch.manual_seed(job.seed)  # here, so that an arm of a sweep begins as it would alone
    model = go_on_from(folder, ground.base, settings) if job.continues else add_lora(ground.base, settings)
    if ground.is_sharded:
        shard_rest(model, ground.device)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    team.alike(learnt)
    scaler = new_scaler(ground.device, ground.dtype)
    position = restore_checkpoint(folder, model, optimizer, scaler)
    left = room_left(folder) if ground.is_sharded else None
    if left is not None:
        tokens, again = left
        tokens = min(tokens, position.room or tokens)
        position = replace(position, room=tokens, recomputes=again or position.recomputes)
    is_packed = recompute_if_packed(model)
    recomputes = is_packed or (position.recomputes and recompute_activations(model))
    usual = min(pack_tokens(ground.device), able.widest)
    room = Room(
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
    trainee = Trainee(model, optimizer, able, room, team.look_in_step(pauses), scaler=scaler)
    course = Course(folder, settings, job.seed, ground, trainee, journal, position, pauses)
    journal.begin(after=position.step)
    if is_packed:
        journal.say(
            "The experts are in 4 bits, so activations are computed again on the way back instead of kept"
        )
    if position.step:
        journal.say(f"Going on from the checkpoint of step {position.step}/{course.total}")
    return course


def go_on(course: Course, started: float, checkpoint_s: float, until: int) -> Stop | None:
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
            team.look(course.pauses)
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
    rows: Sequence[Row], settings: LoraSettings, seed: int, after: int
) -> Iterator[tuple[int, list[Row]]]:
    """Steps, counted from 1 over all epochs, with their rows."""
    step = 0
    for epoch in range(settings.n_epochs):
        for batch in batches(rows, settings.batch_size, seed, epoch):
            step += 1
            if step > after:
                yield step, batch
