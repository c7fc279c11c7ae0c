"""What moves the net value of an estimate most: one input at a time at its 5% and 95% point, with all others as
expected. Exact, without draws; those are in forecast.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from bot.rules.roi import Inputs, Quality, Range, net_value
from bot.rules.units import format_requests, format_runs
from trainers.money import usd


@dataclass(frozen=True)
class Swing:
    """One uncertain input. `at_low` and `at_high` are the net value over the horizon, in USD, with this input at
    its 5% and 95% point and all others as expected; `low_value` and `high_value` describe those points in words."""

    name: str
    low_value: str
    high_value: str
    at_low: Decimal
    at_high: Decimal

    @property
    def width(self) -> Decimal:
        return abs(self.at_high - self.at_low)


MAX_SWINGS = 8
# The points at which each input is tried.
LOW = Decimal("0.05")
HIGH = Decimal("0.95")
# Work takes people 0.75 to 2 times as long as planned (our assumption, not a measurement).
LABOUR = Range(Decimal("0.75"), Decimal(1), Decimal(2))
# If nobody said how many hours people will spend: anything from none to a week.
UNKNOWN_HOURS = Decimal(40)


def rank_swings(inputs: Inputs, gaps: tuple[Decimal, Decimal] | None) -> tuple[Swing, ...]:
    """Returns the swings, the widest first. `gaps` are the 5% and 95% points of the difference in quality, None
    if it was not measured or has no price."""
    swings = (
        _volume_swing(inputs),
        _people_swing(inputs),
        _price_fall_swing(inputs),
        _runs_swing(inputs),
        _training_time_swing(inputs),
        _quality_swing(inputs, gaps),
        _speed_swing(inputs),
    )
    moving = [swing for swing in swings if swing and swing.width]
    return tuple(sorted(moving, key=lambda swing: -swing.width)[:MAX_SWINGS])


def _volume_swing(inputs: Inputs) -> Swing:
    """Uses the points of a lognormal distribution whose median is the given volume."""
    up = 1 + inputs.volume_spread
    low = replace(inputs, monthly_input_tokens=round(inputs.monthly_input_tokens / up))
    high = replace(inputs, monthly_input_tokens=round(inputs.monthly_input_tokens * up))
    return _make_swing(
        "volume",
        f"{format_requests(low.requests)} requests a month",
        f"{format_requests(high.requests)} requests a month",
        low,
        high,
    )


def _people_swing(inputs: Inputs) -> Swing:
    hours = inputs.people_hours
    if hours is None:
        low_hours = Decimal(0)
        high_hours = UNKNOWN_HOURS
        low_text = f"{low_hours:.3g} hours (not given)"
    else:
        low_hours = hours * LABOUR.quantile(LOW)
        high_hours = hours * LABOUR.quantile(HIGH)
        low_text = f"{low_hours:.3g} hours"
    return _make_swing(
        "staff time",
        low_text,
        f"{high_hours:.3g} hours at {usd(inputs.people_usd_per_hour)}",
        replace(inputs, people_hours=low_hours),
        replace(inputs, people_hours=high_hours),
    )


def _price_fall_swing(inputs: Inputs) -> Swing:
    low, high = (inputs.price_fall.quantile(p) for p in (LOW, HIGH))
    return _make_swing(
        "price of the alternative",
        f"{low:.0%} cheaper a year",
        f"{high:.0%} cheaper a year",
        replace(inputs, price_fall=Range.exactly(low)),
        replace(inputs, price_fall=Range.exactly(high)),
    )


def _runs_swing(inputs: Inputs) -> Swing:
    """From the planned number of runs to that plus the 95% point of repeated ones."""
    planned = inputs.training.runs
    fails = min(inputs.run_fails, Decimal("0.99"))  # at 1 no number of runs would ever be enough
    most = planned + extra_runs(planned, fails, HIGH)
    again = replace(inputs, training=replace(inputs.training, runs=most))
    return _make_swing("training runs", format_runs(planned), format_runs(most), inputs, again)


def extra_runs(planned: int, fails: Decimal, p: Decimal) -> int:
    """Returns the number of failures before `planned` runs have succeeded that a share `p` of all cases doesn't exceed
    (a quantile of the negative binomial distribution)."""
    more = 0
    chance = (1 - fails) ** planned  # of exactly `more` failures
    so_far = chance
    while so_far < p:
        more += 1
        chance *= fails * (planned + more - 1) / more
        so_far += chance
    return more


def _training_time_swing(inputs: Inputs) -> Swing | None:
    minutes = inputs.training.minutes
    # Paid by the token, a longer training costs the same.
    if minutes is None or not inputs.training.usd_per_hour:
        return None
    low = minutes.quantile(LOW)
    high = minutes.quantile(HIGH)
    shorter = replace(inputs.training, minutes=Range.exactly(low))
    longer = replace(inputs.training, minutes=Range.exactly(high))
    return _make_swing(
        "training time",
        f"{low:.0f} minutes",
        f"{high:.0f} minutes",
        replace(inputs, training=shorter),
        replace(inputs, training=longer),
    )


def _quality_swing(inputs: Inputs, gaps: tuple[Decimal, Decimal] | None) -> Swing | None:
    if inputs.quality is None or gaps is None:
        return None
    low, high = gaps
    return _make_swing(
        "quality",
        f"{low * 100:+.1f} points",
        f"{high * 100:+.1f} points",
        replace(inputs, quality=_quality_with_gap(inputs.quality, low)),
        replace(inputs, quality=_quality_with_gap(inputs.quality, high)),
    )


def _quality_with_gap(quality: Quality, gap: Decimal) -> Quality:
    gained = max(gap, Decimal(0)) * quality.rows
    lost = max(-gap, Decimal(0)) * quality.rows
    return replace(quality, gained=gained, lost=lost)


def _speed_swing(inputs: Inputs) -> Swing | None:
    """The throughput of the machine that serves the tuned model, if it is a guess."""
    capacity = inputs.tuned.capacity
    # A throughput that was measured has no spread.
    if capacity is None or capacity.spread <= 1:
        return None

    slow = capacity.times(1 / capacity.spread)
    fast = capacity.times(capacity.spread)
    return _make_swing(
        "serving speed",
        f"{slow.reads:,.0f} tokens read a second",
        f"{fast.reads:,.0f} tokens read a second",
        replace(inputs, tuned=replace(inputs.tuned, capacity=slow)),
        replace(inputs, tuned=replace(inputs.tuned, capacity=fast)),
    )


def _make_swing(name: str, low_value: str, high_value: str, low: Inputs, high: Inputs) -> Swing:
    return Swing(name, low_value, high_value, round(net_value(low), 2), round(net_value(high), 2))
