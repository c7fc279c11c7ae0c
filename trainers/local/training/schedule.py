"""How long a run goes on, at which learning rate, and which of its checkpoints is the result. Pure."""

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
    """What the validation file said of the model after `step` steps; `loss` in nats a supervised token.
    `accuracy` None: not measured."""

    step: int
    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class Position:
    """Steps done, tokens of rows trained on (an epoch counts each row's once), seconds spent.

    `room`: tokens computed at a time, once memory was too small for what is usual; `recomputes`: activations are
    computed again instead of kept.
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
    """Seconds of the last step and of the last validation, and what a first validation may take."""

    step_s: float
    validation_s: float | None
    validation_guess_s: float

    @property
    def needed_s(self) -> float:
        """For one more step, and a validation after it."""
        guess = self.validation_guess_s if self.validation_s is None else self.validation_s
        return self.step_s + guess


def steps_an_epoch(rows: int, settings: Parameters) -> int:
    return math.ceil(rows / settings.batch_size)


def rate_share(step: int, total: int) -> float:
    """Linear from 0 to 1 over the first steps, then linear down, not quite to 0 at the last step."""
    warm_up = max(1, round(WARM_UP * total))
    return min(step / warm_up, (total - step + 1) / (total - warm_up + 1))


def best(validations: Sequence[Validation]) -> Validation | None:
    """The lowest loss; of equal ones the first."""
    return min(validations, key=lambda each: each.loss, default=None)


def is_due(step: int, steps_an_epoch: int, settings: Parameters) -> bool:
    """Does a validation follow on this step?"""
    return step % steps_an_epoch == 0 or (settings.eval_steps is not None and step % settings.eval_steps == 0)


def has_lost_patience(validations: Sequence[Validation], patience: int | None) -> bool:
    """The last `patience` validations were none lower than the best before them."""
    lowest = best(validations)
    if patience is None or lowest is None:
        return False
    return len([each for each in validations if each.step > lowest.step]) >= patience


def is_over_ceiling(seconds: float, pace: Pace, ceiling_s: float | None) -> bool:
    """Would one more step, and the validation that must follow, pass the ceiling?"""
    return ceiling_s is not None and seconds + pace.needed_s > ceiling_s


def lacks_validation(position: Position) -> bool:
    return position.step > 0 and all(each.step != position.step for each in position.validations)


def why_stop(position: Position, pace: Pace, settings: Parameters) -> Stop | None:
    if has_lost_patience(position.validations, settings.patience):
        return "patience"
    return "ceiling" if is_over_ceiling(position.seconds, pace, settings.ceiling_s) else None


def stop_sentence(why: Stop, position: Position, total: int, settings: Parameters) -> str:
    where = f"Stopped at step {position.step}/{total}"
    if why == "patience":
        count = f"{settings.patience} validation" + ("s" if settings.patience != 1 else "")
        return f"{where}: {count} in a row brought no lower loss. {_reached(position)}"
    return f"{where}: {_ceiling(settings)} leaves no time for another step. {_reached(position)}"


def result_sentence(position: Position, total: int) -> str | None:
    """Which checkpoint is the result; None without a validation file."""
    lowest = best(position.validations)
    if lowest is None:
        return None
    last = position.validations[-1]
    if lowest.step == last.step:
        return f"The result is the last step, {last.step}/{total}: its validation loss {lowest.loss:.4f} is the lowest"
    return (
        f"The result is the checkpoint of step {lowest.step}/{total}: its validation loss of {lowest.loss:.4f} is the "
        f"lowest; the last, of step {last.step}, was {last.loss:.4f}"
    )


def _ceiling(settings: Parameters) -> str:
    by_money = settings.max_usd_micros is not None and settings.ceiling_s != settings.max_seconds
    if by_money and settings.max_usd_micros is not None and settings.usd_per_hour_micros is not None:
        price = f"{usd_micros(settings.max_usd_micros)} at {usd_micros(settings.usd_per_hour_micros)} an hour"
        return f"the ceiling of {price} ({settings.ceiling_s:,.0f} s)"
    return f"the ceiling of {settings.max_seconds:,} s"


def _reached(position: Position) -> str:
    lowest = best(position.validations)
    spent = f"{position.trained_tokens:,} tokens in {position.seconds:,.0f} s"
    return f"Reached: {spent}" + (f", validation loss {lowest.loss:.4f} at best." if lowest else ".")
