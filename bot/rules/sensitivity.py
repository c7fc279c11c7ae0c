"""Which uncertain input moves the result most: each at its own 5% and 95% point, all others as expected.
Exact sums, no draws."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from bot.rules.roi import Inputs, Quality, Range, net_value
from bot.rules.units import tokens
from trainers.money import usd


@dataclass(frozen=True)
class Swing:
    """One input of the tornado: the net value over the horizon in USD with this input at its own 5% and 95%
    point and all others as expected. `low_value`, `high_value` say those points in words."""

    name: str
    low_value: str
    high_value: str
    at_low: Decimal
    at_high: Decimal

    @property
    def width(self) -> Decimal:
        return abs(self.at_high - self.at_low)


MAX_SWINGS = 8
LOW, HIGH = Decimal("0.05"), Decimal("0.95")
# Work that people plan takes three quarters to twice as long (our habit, not a measurement).
LABOUR = Range(Decimal("0.75"), Decimal(1), Decimal(2))
# Where nobody said how long people work on it: from nothing to a week.
UNSAID_HOURS = Decimal(40)


def rank_swings(inputs: Inputs, gaps: tuple[Decimal, Decimal] | None) -> tuple[Swing, ...]:
    """`gaps`: the 5% and 95% point of the difference in quality, where it is measured and worth something."""
    swings = (
        _volume(inputs),
        _people(inputs),
        _price_fall(inputs),
        _runs(inputs),
        _training_time(inputs),
        _quality(inputs, gaps),
    )
    moving = [swing for swing in swings if swing and swing.width]
    return tuple(sorted(moving, key=lambda swing: -swing.width)[:MAX_SWINGS])


def quantile(between: Range, p: Decimal) -> Decimal:
    """Of the triangular distribution."""
    width, rise = between.high - between.low, between.expected - between.low
    if not width:
        return between.expected
    if p * width <= rise:
        return between.low + (p * width * rise).sqrt()
    return between.high - ((1 - p) * width * (between.high - between.expected)).sqrt()


def _volume(inputs: Inputs) -> Swing:
    """The points of a lognormal with its median at the figure that was said."""
    up = 1 + inputs.volume_spread
    low, high = (
        replace(inputs, monthly_input_tokens=round(inputs.monthly_input_tokens * factor))
        for factor in (1 / up, up)
    )
    least, most = (f"{tokens(inputs.monthly_input_tokens)} tokens a month" for inputs in (low, high))
    return _swing("volume", least, most, low, high)


def _people(inputs: Inputs) -> Swing:
    hours = inputs.people_hours
    if hours is None:
        low_hours, high_hours, unsaid = Decimal(0), UNSAID_HOURS, " (nobody has said)"
    else:
        low_hours, high_hours, unsaid = (*(hours * quantile(LABOUR, p) for p in (LOW, HIGH)), "")
    an_hour = usd(inputs.people_usd_per_hour)
    return _swing(
        "people's time",
        f"{low_hours:.3g} hours{unsaid}",
        f"{high_hours:.3g} hours at {an_hour}",
        replace(inputs, people_hours=low_hours),
        replace(inputs, people_hours=high_hours),
    )


def _price_fall(inputs: Inputs) -> Swing:
    low, high = (quantile(inputs.price_fall, p) for p in (LOW, HIGH))
    return _swing(
        "price of the alternative",
        f"{low:.0%} cheaper a year",
        f"{high:.0%} cheaper a year",
        replace(inputs, price_fall=Range.exactly(low)),
        replace(inputs, price_fall=Range.exactly(high)),
    )


def _runs(inputs: Inputs) -> Swing:
    """The 95% point of how many are done again."""
    planned = inputs.training.runs
    more = extra_runs(planned, min(inputs.run_fails, Decimal("0.99")), HIGH)
    again = replace(inputs, training=replace(inputs.training, runs=planned + more))
    return _swing("training runs", _runs_said(planned), _runs_said(planned + more), inputs, again)


def extra_runs(planned: int, fails: Decimal, p: Decimal) -> int:
    """Failures before `planned` runs have succeeded: the least number that `p` of all cases don't exceed (the negative
    binomial distribution)."""
    more, chance = 0, (1 - fails) ** planned
    so_far = chance
    while so_far < p:
        more += 1
        chance *= fails * (planned + more - 1) / more
        so_far += chance
    return more


def _runs_said(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _training_time(inputs: Inputs) -> Swing | None:
    minutes = inputs.training.minutes
    if minutes is None or not inputs.training.usd_per_hour:
        return None
    low, high = (quantile(minutes, p) for p in (LOW, HIGH))
    return _swing(
        "training time",
        f"{low:.0f} minutes",
        f"{high:.0f} minutes",
        replace(inputs, training=replace(inputs.training, minutes=Range.exactly(low))),
        replace(inputs, training=replace(inputs.training, minutes=Range.exactly(high))),
    )


def _quality(inputs: Inputs, gaps: tuple[Decimal, Decimal] | None) -> Swing | None:
    if inputs.quality is None or gaps is None:
        return None
    low, high = (replace(inputs, quality=_at(inputs.quality, gap)) for gap in gaps)
    worst, best = (f"{gap * 100:+.1f} points" for gap in gaps)
    return _swing("quality", worst, best, low, high)


def _at(quality: Quality, gap: Decimal) -> Quality:
    return replace(
        quality, gained=max(gap, Decimal(0)) * quality.rows, lost=max(-gap, Decimal(0)) * quality.rows
    )


def _swing(name: str, low_value: str, high_value: str, low: Inputs, high: Inputs) -> Swing:
    return Swing(name, low_value, high_value, _cents(net_value(low)), _cents(net_value(high)))


def _cents(amount: Decimal) -> Decimal:
    return round(amount, 2)
