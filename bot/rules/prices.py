"""Turns a row of the price list into the values that an estimate needs, or says which price is missing."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from bot.rules.bills import MILLION, ZERO, Rates
from bot.rules.roi import Range, Training, Usage
from trainers.pricing import PriceRow


@dataclass(frozen=True)
class MissingPrice:
    """A value that a sum needs and that is unknown. Of `row`: the price of a "token", of "training" or of "hosting" by
    the hour, or the "hours" of a training that is paid by the hour. "today" is today's model and its volume."""

    what: Literal["token", "training", "hours", "today", "hosting"]
    row: PriceRow | None = None


def rates_from_row(row: PriceRow) -> Rates | MissingPrice:
    price = row.price
    if price.input is None or price.output is None:
        return MissingPrice("token", row)
    if row.is_hosted and row.hosted_usd_per_hour is None:
        return MissingPrice("hosting", row)
    return Rates(
        model=row.model,
        input=price.input,
        output=price.output,
        said_by=row.said_by,
        usd_per_hour=row.usd_per_hour or row.hosted_usd_per_hour or ZERO,
        idle_window_s=row.idle_window_s,
        note=row.note,
        cached_input=price.cached_input,
        batch_discount=row.batch_discount or ZERO,
        ends=row.ends,
        successor=row.successor,
        on_own_machine=row.usd_per_hour is not None,
    )


def training_from_row(
    row: PriceRow, tokens: int, epochs: int, minutes: Range | None
) -> Training | MissingPrice:
    """Returns the training's tokens, time and price. `tokens` are those of one epoch.

    `minutes` is None if the speed is unknown. If the team's own machine costs money, the speed has to be measured; for
    a rented machine, which is stopped in time, a guess is enough."""
    if row.rental is not None:
        return Training(tokens, epochs, usd_per_hour=row.rental.usd_per_hour, minutes=minutes)
    if row.usd_per_hour is not None:
        if row.usd_per_hour and minutes is None:
            return MissingPrice("hours", row)
        return Training(tokens, epochs, usd_per_hour=row.usd_per_hour, minutes=minutes)
    if row.price.training is None:
        return MissingPrice("training", row)
    return Training(tokens, epochs, usd_per_million=row.price.training, minutes=minutes)


def evaluation_usd(holdout: Usage, base: Rates, tuned: Rates) -> Decimal:
    """Returns the USD to ask both models once about every held-out row: the base model with the long prompt and the
    tuned model with the short one."""
    asked_base = holdout.prompt_before * base.input + holdout.output * base.output
    asked_tuned = holdout.prompt_after * tuned.input + holdout.output * tuned.output
    return (asked_base + asked_tuned) / MILLION


def missing_keys(row: PriceRow) -> tuple[str, ...]:
    """Returns the keys that have to be added to finetune.toml before the row can be priced."""
    price = row.price
    needed = [("input", price.input), ("output", price.output)]
    if row.kind == "tuned" and row.usd_per_hour is None:
        needed.append(("training", price.training))
    if row.is_hosted:
        needed.append(("serving_usd_per_hour", row.hosted_usd_per_hour))
    return tuple(key for key, amount in needed if amount is None)
