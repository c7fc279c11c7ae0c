"""Decides when a run stops, its learning rate at each step, and which checkpoint is the result. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from trainers.methods import Parameters
from trainers.money import usd_micros

MAX_NORM = 1.0
Stop = Literal["patience", "ceiling"]
WARM_UP = 0.05


FIRST_PATIENCE = 50  # steps without a shortage before more tokens are tried


@dataclass(frozen=True)
class Validation:
    """Scores on the validation file after `step` steps. `loss` is in nats per supervised token. `accuracy` is None if
    not measured."""

    step: int
    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class Room:
    """What there is memory for. `tokens` are computed at a time, or as many as usual if None. `recomputes`: activations
    are recomputed in the backward pass instead of kept.

    `calm_steps` have been trained since `tokens` last changed. After `patience` of them more tokens are tried. All of
    this is part of a checkpoint, so that a resumed run computes alike.
    """

    tokens: int | None = None
    recomputes: bool = False
    calm_steps: int = 0
    patience: int = FIRST_PATIENCE


UNREDUCED = Room()


@dataclass(frozen=True)
class Position:
    """A run's progress: steps, trained tokens (each row counts once per epoch), seconds, and what there is memory
    for."""

    step: int
    trained_tokens: int
    seconds: float
    validations: tuple[Validation, ...] = ()
    room: Room = UNREDUCED


START = Position(0, 0, 0.0)


@dataclass(frozen=True)
class Pace:
    """Seconds of the last step and of the last validation, and a guess until the first validation was measured.
    `has_stepped`: this process has trained a step."""

    step_s: float
    validation_s: float | None
    validation_guess_s: float
    has_stepped: bool = False

    @property
    def needed_s(self) -> float:
        """The seconds of one more step and a validation."""
        if self.validation_s is None:
            return self.step_s + self.validation_guess_s
        return self.step_s + self.validation_s

    def after_step(self, took: float, validation_guess_s: float) -> Pace:
        """Returns the pace after a step of `took` seconds. A process's first step may take ten times as long as the
        others: it counts only if nothing else is known, and not for the guess, which would multiply it."""
        if self.has_stepped:
            return replace(self, step_s=took, validation_guess_s=validation_guess_s)
        return replace(self, step_s=self.step_s or took, has_stepped=True)


def steps_an_epoch(rows: int, settings: Parameters) -> int:
    return math.ceil(rows / settings.batch_size)


def warm_up_steps(total: int) -> int:
    return max(1, round(WARM_UP * total))


def learning_rate_share(step: int, total: int) -> float:
    """Returns the factor of the learning rate: it rises linearly to 1 over the warm-up, then falls linearly to almost 0
    at the last step."""
    warm_up = warm_up_steps(total)
    rising = step / warm_up
    falling = (total - step + 1) / (total - warm_up + 1)
    return min(rising, falling)


def best_validation(validations: Sequence[Validation]) -> Validation | None:
    """Returns the validation with the lowest loss, or None. The first of equal ones wins."""
    return min(validations, key=lambda each: each.loss, default=None)


def is_validation_due(step: int, steps_an_epoch: int, settings: Parameters) -> bool:
    """True if a validation follows this step."""
    ends_epoch = step % steps_an_epoch == 0
    if settings.eval_steps is None:
        return ends_epoch
    return ends_epoch or step % settings.eval_steps == 0


def is_out_of_patience(validations: Sequence[Validation], patience: int | None) -> bool:
    """True if none of the last `patience` validations had a lower loss than the best before them."""
    lowest = best_validation(validations)
    if patience is None or lowest is None:
        return False
    worse = [each for each in validations if each.step > lowest.step]
    return len(worse) >= patience


def is_over_ceiling(seconds: float, pace: Pace, ceiling_s: float | None) -> bool:
    """True if one more step and a validation would exceed the ceiling."""
    if ceiling_s is None:
        return False
    return seconds + pace.needed_s > ceiling_s


def needs_validation(position: Position) -> bool:
    if position.step == 0:
        return False
    return all(each.step != position.step for each in position.validations)


def find_stop(position: Position, pace: Pace, settings: Parameters) -> Stop | None:
    if is_out_of_patience(position.validations, settings.patience):
        return "patience"
    if is_over_ceiling(position.seconds, pace, settings.ceiling_s):
        return "ceiling"
    return None


def stop_sentence(why: Stop, position: Position, total: int, settings: Parameters) -> str:
    """Explains why a run of `total` steps stopped, and how far it had come."""
    lowest = best_validation(position.validations)
    best = ""
    if lowest:
        best = f", validation loss {lowest.loss:.4f} at best"
    reached = f"Reached: {position.trained_tokens:,} tokens in {position.seconds:,.0f} s{best}."
    stopped = f"Stopped at step {position.step}/{total}"
    if why == "patience":
        noun = "validations"
        if settings.patience == 1:
            noun = "validation"
        return f"{stopped}: {settings.patience} {noun} in a row had no lower loss. {reached}"
    return (
        f"{stopped}: the ceiling of {describe_ceiling(settings)} leaves no time for another step. {reached}"
    )


def describe_ceiling(settings: Parameters) -> str:
    """Returns the ceiling in seconds, and in dollars if that limit is the lower one."""
    most = settings.max_usd_micros
    hourly = settings.usd_per_hour_micros
    ceiling = f"{settings.ceiling_s:,.0f} s"
    if settings.ceiling_s == settings.max_seconds or most is None or hourly is None:
        return ceiling
    return f"{usd_micros(most)} at {usd_micros(hourly)} an hour ({ceiling})"


def result_sentence(position: Position, total: int) -> str | None:
    """Says which checkpoint is the result and why. Returns None without validations."""
    lowest = best_validation(position.validations)
    if lowest is None:
        return None
    last = position.validations[-1]
    if lowest.step == last.step:
        return f"The result is the last step, {last.step}/{total}: its validation loss {lowest.loss:.4f} is the lowest"
    return (
        f"The result is the checkpoint of step {lowest.step}/{total}: its validation loss of {lowest.loss:.4f} is the "
        f"lowest; the last, of step {last.step}, was {last.loss:.4f}"
    )
