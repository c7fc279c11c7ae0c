"""Decides how long a run goes on, at which learning rate, and which of its checkpoints is the result. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainers.methods import Parameters
from trainers.money import usd_micros

MAX_NORM = 1.0
Stop = Literal["patience", "ceiling"]
WARM_UP = 0.05


@dataclass(frozen=True)
class Validation:
    """Scores on the validation file after `step` steps. `loss` is in nats a supervised token; `accuracy` is None where
    it is not measured."""

    step: int
    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class Position:
    """How far a run is: steps, tokens of the rows that it trained on (each row once an epoch), and seconds.

    `room` is the number of tokens computed at a time, once memory was too small for the usual one; `recomputes`:
    activations are computed again instead of kept.
    """

    step: int
    trained_tokens: int
    seconds: float
    validations: tuple[Validation, ...] = ()
    room: int | None = None
    recomputes: bool = False


START = Position(0, 0, 0.0)


@dataclass(frozen=True)
class Pace:
    """Seconds of the last step and of the last validation, and a guess for the first validation."""

    step_s: float
    validation_s: float | None
    validation_guess_s: float

    @property
    def needed_s(self) -> float:
        """The seconds for one more step and a validation after it."""
        guess = self.validation_guess_s if self.validation_s is None else self.validation_s
        return self.step_s + guess


def steps_an_epoch(rows: int, settings: Parameters) -> int:
    return math.ceil(rows / settings.batch_size)


def learning_rate_share(step: int, total: int) -> float:
    """Returns the share of the learning rate: linear from 0 to 1 over the first steps, then linear down, not quite to 0
    at the last step."""
    warm_up = max(1, round(WARM_UP * total))
    return min(step / warm_up, (total - step + 1) / (total - warm_up + 1))


def best_validation(validations: Sequence[Validation]) -> Validation | None:
    """Returns the validation with the lowest loss; of equal ones the first."""
    return min(validations, key=lambda each: each.loss, default=None)


def is_validation_due(step: int, steps_an_epoch: int, settings: Parameters) -> bool:
    """Whether a validation follows this step."""
    return step % steps_an_epoch == 0 or (settings.eval_steps is not None and step % settings.eval_steps == 0)


def is_out_of_patience(validations: Sequence[Validation], patience: int | None) -> bool:
    """Whether none of the last `patience` validations was lower than the best before them."""
    lowest = best_validation(validations)
    if patience is None or lowest is None:
        return False
    return len([each for each in validations if each.step > lowest.step]) >= patience


def is_over_ceiling(seconds: float, pace: Pace, ceiling_s: float | None) -> bool:
    """Whether one more step, and the validation that must follow, would pass the ceiling."""
    return ceiling_s is not None and seconds + pace.needed_s > ceiling_s


def needs_validation(position: Position) -> bool:
    return position.step > 0 and all(each.step != position.step for each in position.validations)


def find_stop(position: Position, pace: Pace, settings: Parameters) -> Stop | None:
    if is_out_of_patience(position.validations, settings.patience):
        return "patience"
    return "ceiling" if is_over_ceiling(position.seconds, pace, settings.ceiling_s) else None


def stop_sentence(why: Stop, position: Position, total: int, settings: Parameters) -> str:
    """`why` the run of `total` steps stopped, and what it had reached."""
    lowest = best_validation(position.validations)
    reached = f"Reached: {position.trained_tokens:,} tokens in {position.seconds:,.0f} s"
    reached += f", validation loss {lowest.loss:.4f} at best." if lowest else "."
    stopped = f"Stopped at step {position.step}/{total}"
    if why == "patience":
        count = f"{settings.patience} validation" + ("s" if settings.patience != 1 else "")
        return f"{stopped}: {count} in a row brought no lower loss. {reached}"
    most, hourly = settings.max_usd_micros, settings.usd_per_hour_micros
    ceiling = f"{settings.ceiling_s:,.0f} s"
    if settings.ceiling_s != settings.max_seconds and most is not None and hourly is not None:
        ceiling = f"{usd_micros(most)} at {usd_micros(hourly)} an hour ({ceiling})"
    return f"{stopped}: the ceiling of {ceiling} leaves no time for another step. {reached}"


def result_sentence(position: Position, total: int) -> str | None:
    """Names the checkpoint that is the result; None without a validation file."""
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
