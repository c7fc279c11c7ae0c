"""The training loop of all methods: steps, validations, checkpoints, pauses and ceilings, in a job's folder.

A method (methods/sft.py, methods/dpo.py) provides its rows, a model with an adapter, the gradients of rows, and the
scores of a validation. All reports go through the metrics logger. A checkpoint holds the whole state, so that a run
that was killed or paused resumes from its newest checkpoint and ends with the same result. Knows nothing of HTTP or
other jobs.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW, Optimizer

from trainers.local.job_directory import TrainingJob
from trainers.local.training import distributed
from trainers.local.training.base_model import count_parameters, recompute_activations, recompute_if_packed
from trainers.local.training.checkpoints import (
    finish_job,
    get_random_states,
    restore_checkpoint,
    restore_random_states,
    save_checkpoint,
)
from trainers.local.training.devices import CpuThreads, new_scaler, unscale_gradients
from trainers.local.training.errors import Pauses, TrainingFailed, TrainingPaused
from trainers.local.training.finite_numbers import explain_first_step
from trainers.local.training.memory import (
    MicroBatcher,
    end_team,
    fill_parts,
    map_machine_errors,
    tokens_after_shortage,
)
from trainers.local.training.metrics_logger import MetricsLogger, Progress, Scores, Step, create_logger
from trainers.local.training.schedule import (
    MAX_NORM,
    UNREDUCED,
    Pace,
    Position,
    Room,
    Stop,
    Validation,
    best_validation,
    find_stop,
    is_validation_due,
    learning_rate_share,
    needs_validation,
    steps_an_epoch,
)
from trainers.methods import Parameters

T = TypeVar("T")
R = TypeVar("R")  # the method's kind of row
P = TypeVar("P")  # this process's results of a step


class TrainingMethod(ABC, Generic[R, P]):
    """A method with its rows and the model that learns, with one adapter or with all its weights. `validation` is empty
    without a validation file. `usual_tokens` is the number of tokens computed at a time if memory allows, and
    `first_room` what a first step has memory for by an estimate. `metrics` are the names of Scores.more.
    `forward_share` is the time of a validation per token, as a share of a training step's. If `seed` is set, it and the
    step determine a step's random numbers."""

    metrics: ClassVar[tuple[str, ...]] = ()
    forward_share: ClassVar[float]
    model: Any
    rows: Sequence[R]
    validation: Sequence[R]
    device: torch.device
    dtype: torch.dtype
    usual_tokens: int
    packs: bool = True
    first_room: Room = UNREDUCED
    is_sharded: bool = False
    looks_ahead: bool = False
    seed: int | None = None

    @abstractmethod
    def tokens(self, rows: Sequence[R]) -> int:
        """Returns the number of tokens that count as trained."""

    @abstractmethod
    def width(self, rows: Sequence[R]) -> int:
        """Returns the number of tokens that are computed for these rows together."""

    def line(self, row: R) -> int | None:
        """Returns the row's line in the training file, or None if it isn't known."""
        return None

    def fill(self, rows: Sequence[R], limit: int) -> list[list[R]]:
        """Groups the rows into parts of at most `limit` tokens. A longer row is a part of its own."""
        return fill_parts(rows, limit, self.width)

    def look_ahead(self, parts: Sequence[Sequence[R]]) -> None:
        """Is called before a step with the parts of the next one, which are none after the last, if the method has
        `looks_ahead`."""

    @abstractmethod
    def add_gradients(self, state: TrainState[R, P], parts: list[list[R]], batch: Sequence[R]) -> P:
        """Adds the gradients of `parts`, this process's rows of the `batch`, scaled so that those of all processes add
        up to the gradient of the batch's mean loss."""

    @abstractmethod
    def total(self, computed: P) -> Scores:
        """Returns the scores of all processes together."""

    @abstractmethod
    def evaluate(self, state: TrainState[R, P]) -> Scores:
        """Returns the scores on the validation rows."""

    @cached_property
    def validation_tokens(self) -> int:
        return self.tokens(self.validation)

    def close(self) -> None:
        """Ends other programs that the method has started."""


@dataclass
class TrainState(Generic[R, P]):
    """The method and everything else that a step needs. `check_pause` raises TrainingPaused if a pause is requested;
    with several processes it does nothing, since they check between steps."""

    method: TrainingMethod[R, P]
    optimizer: Optimizer
    batcher: MicroBatcher[R]
    check_pause: Callable[[], None]
    cores: CpuThreads = field(default_factory=CpuThreads)
    scaler: GradScaler = field(default_factory=lambda: GradScaler(enabled=False))

    @property
    def model(self) -> Any:
        return self.method.model

    @property
    def learnt(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


Prepare = Callable[[Path, TrainingJob, MetricsLogger, Pauses], TrainingMethod[Any, Any]]


def train(
    folder: Path, job: TrainingJob, prepare: Prepare, metrics: Sequence[str], checkpoint_s: float
) -> None:
    """Trains the job in `folder` and ends with adapter/ and DONE. Raises TrainingFailed or TrainingPaused."""
    distributed.join(job.seed)
    logger = create_logger(folder, job, metrics)
    is_done = False
    try:
        with map_machine_errors(folder):
            started = time.monotonic()
            pauses = Pauses(folder)
            with closing(prepare(folder, job, logger, pauses)) as method:
                loop = start_loop(folder, job, method, logger, pauses)
                # The time of earlier attempts counts too. A kill may have lost the steps, but not the time, since the
                # last checkpoint.
                started -= max(loop.position.seconds, logger.seconds_known)
                logger.log(str(count_parameters(loop.state.model)))
                stop = loop.train_until(started, checkpoint_s, loop.total)
                loop.position = replace(loop.position, seconds=time.monotonic() - started)
            finish_job(folder, job, loop.state.model, loop.position, loop.total, stop, logger)
        is_done = True
    finally:
        logger.end(is_done=is_done)
        distributed.leave()


def start_loop(
    folder: Path, job: TrainingJob, method: TrainingMethod[R, P], logger: MetricsLogger, pauses: Pauses
) -> TrainingLoop[R, P]:
    """Returns a loop at the beginning, or at the position of the newest checkpoint in `folder`."""
    model = method.model
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = new_optimizer(learnt, job.settings)
    # All start from the same values, since each applies the summed gradients to its own copy.
    distributed.broadcast_parameters(learnt)
    scaler = new_scaler(method.device, method.dtype)
    position = restore_checkpoint(folder, model, optimizer, scaler)
    if not position.step:
        position = replace(position, room=method.first_room)
    if method.is_sharded:
        position = _reduce_room(position, folder)

    is_packed = recompute_if_packed(model)
    recomputes = is_packed
    # A resumed run computes as before, or memory would run out once more.
    if not is_packed and position.room.recomputes:
        recomputes = recompute_activations(model)
    batcher = MicroBatcher(
        method.usual_tokens,
        replace(position.room, recomputes=recomputes),
        packs=method.packs,
        fill=method.fill,
        width=method.width,
        tell=logger.warn,
        recompute=lambda: recompute_activations(model),
        end_team=partial(end_team, folder) if method.is_sharded else None,
    )
    state = TrainState(method, optimizer, batcher, distributed.step_pause_check(pauses), scaler=scaler)

    step_s = 0.0
    if position.step:
        # Start with the pace before the break, since even the first step may pass the ceiling.
        step_s = logger.step_s or 0.0
    pace = Pace(step_s, None, 0.0)
    loop = TrainingLoop(folder, job.settings, job.seed, state, logger, position, pauses, pace)
    logger.begin(after=position.step)
    if is_packed:
        logger.log(
            "The experts are in 4 bits, so activations are recomputed in the backward pass instead of kept"
        )
    if position.step:
        logger.log(f"Resuming from the checkpoint of step {position.step}/{loop.total}")
    return loop


def _reduce_room(position: Position, folder: Path) -> Position:
    """Returns `position` with the tokens for which there is memory, if an earlier attempt on a divided base ended for
    lack of it."""
    shortage = tokens_after_shortage(folder)
    if shortage is None:
        return position
    tokens, recomputes = shortage
    room = replace(
        position.room,
        tokens=min(tokens, position.room.tokens or tokens),
        recomputes=recomputes or position.room.recomputes,
    )
    return replace(position, room=room)


def new_optimizer(learnt: Sequence[torch.nn.Parameter], settings: Parameters) -> Optimizer:
    return AdamW(learnt, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


@dataclass
class TrainingLoop(Generic[R, P]):
    """The training of one adapter, of a job or of a sweep's trial. `folder` has its checkpoints, `position` is its
    progress, and `pauses` are the job's."""

    folder: Path
    settings: Parameters
    seed: int
    state: TrainState[R, P]
    logger: MetricsLogger
    position: Position
    pauses: Pauses
    pace: Pace = field(default=Pace(0.0, None, 0.0))
    started: float = field(default_factory=time.monotonic)
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def steps_an_epoch(self) -> int:
        return steps_an_epoch(len(self.state.method.rows), self.settings)

    @property
    def total(self) -> int:
        return self.steps_an_epoch * self.settings.n_epochs

    @property
    def seconds(self) -> float:
        """The seconds of all attempts together, without the breaks between them."""
        return time.monotonic() - self.started

    def train_until(self, started: float, checkpoint_s: float, until: int) -> Stop | None:
        """Trains to step `until` and validates there. Returns why it stopped earlier, or None. `started` is a time of
        time.monotonic, moved forward by all breaks.

        Saves a checkpoint before it raises TrainingPaused. Raises TrainingFailed.
        """
        self.started = started
        self.saved_at = time.monotonic()
        stop: Stop | None = None
        rows = self.state.method.rows
        try:
            # The checkpoint may have been saved before its step was validated.
            if self._is_validated(self.position.step, until) and needs_validation(self.position):
                self._validate()
            steps = steps_after(rows, self.settings, self.seed, self.position.step)
            for (step, batch), following in with_next(steps):
                if step > until:
                    break
                distributed.check_pause(self.pauses)
                # The first process decides for all, since clocks differ.
                now = replace(self.position, seconds=self.seconds)
                stop = distributed.broadcast(find_stop(now, self.pace, self.settings))
                if stop:
                    break
                is_validated = self._is_validated(step, until)
                self._look_ahead(following)
                self._run_step(step, batch, is_validated_next=is_validated)
                if is_validated:
                    self._validate()
                self._save_if_due(checkpoint_s)
            is_unmeasured = self.position.step and needs_validation(self.position)
            # The ceiling left time for it. Without it, the steps since the last validation can't win.
            if stop == "ceiling" and self.state.method.validation and is_unmeasured:
                self._validate()
        except TrainingPaused:
            position = self.position = replace(self.position, seconds=self.seconds)
            if position.step:
                self.save()
            progress = Progress(
                step=position.step,
                total_steps=self.total,
                trained_tokens=position.trained_tokens,
                seconds=position.seconds,
                step_s=self.logger.step_s,
            )
            self.logger.write_progress(progress, is_paused=True)
            raise
        return stop

    def _look_ahead(self, following: tuple[int, Sequence[R]] | None) -> None:
        """Tells the method the parts of the next step, if it makes use of that."""
        method = self.state.method
        if not method.looks_ahead:
            return
        parts: list[list[R]] = []
        if following is not None:
            _, batch = following
            parts = self.state.batcher.parts(share_of_step(method, batch))
        method.look_ahead(parts)

    def save(self) -> None:
        state = self.state
        save_checkpoint(self.folder, state.model, state.optimizer, self.position, state.scaler)

    def _is_validated(self, step: int, until: int) -> bool:
        has_rows = bool(self.state.method.validation)
        return has_rows and (step == until or is_validation_due(step, self.steps_an_epoch, self.settings))

    def _rate(self, step: int) -> float:
        return self.settings.learning_rate * learning_rate_share(step, self.total)

    def _run_step(self, step: int, batch: Sequence[R], *, is_validated_next: bool) -> None:
        """Trains one step and records it."""
        method = self.state.method
        rate = self._rate(step)
        begun = time.monotonic()
        scores = train_step(self.state, batch, rate, step)
        took = time.monotonic() - begun
        tokens = method.tokens(batch)
        self.state.batcher.finish_step()
        position = self.position = replace(
            self.position,
            step=step,
            trained_tokens=self.position.trained_tokens + tokens,
            seconds=self.seconds,
            room=self.state.batcher.room,
        )
        # How long a validation would take: the ceiling leaves time for it before one has been measured.
        guess_s = method.validation_tokens / tokens * took * method.forward_share
        self.pace = self.pace.after_step(took, guess_s)
        step_metrics = Step(step, self.total, scores, rate, position.trained_tokens, position.seconds)
        self.logger.record(step_metrics, is_validated_next=is_validated_next)

    def _validate(self) -> None:
        """Validates the model after the last step and records the scores. Raises TrainingFailed."""
        position = self.position
        begun = time.monotonic()
        scores = self.state.method.evaluate(self.state)
        if not math.isfinite(scores.loss):
            text = (
                f"After step {position.step} the validation loss is {scores.loss}. Set learning_rate lower."
            )
            raise TrainingFailed("loss_not_finite", text, "learning_rate")
        last_step = Step(
            position.step,
            self.total,
            self.logger.last_scores(),
            self._rate(position.step),
            position.trained_tokens,
        )
        self.logger.record_validation(last_step, scores)
        validation = Validation(position.step, scores.loss, scores.accuracy)
        self.position = replace(
            position,
            validations=(*position.validations, validation),
            room=self.state.batcher.room,
        )
        self.pace = replace(self.pace, validation_s=time.monotonic() - begun)

    def _save_if_due(self, checkpoint_s: float) -> None:
        """Saves a checkpoint after an epoch, after the best validation so far, and every `checkpoint_s` seconds."""
        step = self.position.step
        ends_epoch = step % self.steps_an_epoch == 0
        if ends_epoch:
            epoch = f"Epoch {step // self.steps_an_epoch}/{self.settings.n_epochs}"
            self.logger.log(f"{epoch} finished after step {step}/{self.total}")
        best = best_validation(self.position.validations)
        is_best = best is not None and best.step == step
        is_due = time.monotonic() - self.saved_at >= checkpoint_s
        if ends_epoch or is_best or is_due:
            self.save()
            self.logger.log(f"Checkpoint of step {step}/{self.total} saved")
            self.saved_at = time.monotonic()


def train_step(state: TrainState[R, P], batch: Sequence[R], rate: float, step: int) -> Scores:
    """Trains one step on the batch's mean loss. A step that is interrupted by a pause changes nothing."""
    method = state.method
    optimizer = state.optimizer
    # A validation leaves the model without dropout.
    method.model.train()
    if method.seed is not None:
        torch.manual_seed(method.seed + step)
    distributed.reseed(step)
    # A step that is computed again has to see the same dropout.
    random = get_random_states()

    def undo() -> None:
        optimizer.zero_grad()
        restore_random_states(random)

    def add_gradients(parts: list[list[R]]) -> P:
        if not distributed.is_alone():
            # Memory may have been full in another process, so that all start again.
            undo()
        try:
            return method.add_gradients(state, parts, batch)
        except BaseException:  # memory is full, or a pause is requested
            undo()
            raise

    learnt = state.learnt
    share = share_of_step(method, batch)
    while True:
        computed = state.batcher.compute_in_parts(share, add_gradients, f"at step {step}")
        distributed.sum_gradients(learnt)
        scores = method.total(computed)
        if not math.isfinite(scores.loss) or unscale_gradients(state.scaler, optimizer):
            break
        undo()  # float16's gradients were too large for the scale, which is now smaller
    norm = torch.nn.utils.clip_grad_norm_(learnt, MAX_NORM).item()
    if not math.isfinite(scores.loss) or not math.isfinite(norm):
        raise explain_step(state, batch, step, scores.loss, norm)
    # Set at each step, so that it depends on the step alone, also after a restart.
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return scores


def share_of_step(method: TrainingMethod[R, P], batch: Sequence[R]) -> Sequence[R]:
    """Returns the rows of a step that this process computes."""
    return distributed.share(batch, lambda row: method.tokens([row]))


def explain_step(
    state: TrainState[R, P], batch: Sequence[R], step: int, loss: float, norm: float
) -> TrainingFailed:
    """Explains a loss or a gradient that isn't finite."""
    if step == 1:  # nothing has been learnt yet, so the learning rate can't be the reason
        state.optimizer.zero_grad()
        return explain_first_step(state.model, find_faulty_line(state, batch))
    wider = ""
    if state.scaler.is_enabled():
        wider = " Or set FINETUNE_DTYPE=fp32, which allows larger numbers."
    text = f"At step {step} the loss became {loss} and its gradient {norm}. Set learning_rate lower.{wider}"
    return TrainingFailed("loss_not_finite", text, "learning_rate")


def find_faulty_line(state: TrainState[R, P], batch: Sequence[R]) -> int | None:
    """Returns the line of the first row whose loss alone isn't finite, or None. Doesn't look with several processes,
    since one can't compute without the others."""
    if not distributed.is_alone():
        return None
    for row in batch:
        scores = state.method.total(state.method.add_gradients(state, [[row]], [row]))
        state.optimizer.zero_grad()
        if not math.isfinite(scores.loss):
            return state.method.line(row)
    return None


def batches(rows: Sequence[R], size: int, seed: int, epoch: int) -> Iterator[list[R]]:
    """Yields the rows in batches, in an order that depends on seed and epoch only. Which rows are learnt together
    doesn't depend on their length; only those of a step are padded to each other, if at all."""
    dice = torch.Generator().manual_seed(seed + epoch)
    order = torch.randperm(len(rows), generator=dice)
    for places in torch.split(order, size):
        yield [rows[place] for place in places.tolist()]


def steps_after(
    rows: Sequence[R], settings: Parameters, seed: int, after: int
) -> Iterator[tuple[int, list[R]]]:
    """Yields each step after step `after`, counted from 1 over all epochs, with its rows."""
    step = 0
    for epoch in range(settings.n_epochs):
        for batch in batches(rows, settings.batch_size, seed, epoch):
            step += 1
            if step > after:
                yield step, batch


def with_next(values: Iterable[T]) -> Iterator[tuple[T, T | None]]:
    """Yields each value with the one after it."""
    previous: list[T] = []
    for value in values:
        if previous:
            yield previous.pop(), value
        previous.append(value)
    if previous:
        yield previous.pop(), None
