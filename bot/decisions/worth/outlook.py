"""What an estimate says once its inputs are uncertain: probabilities, ranges, and which input matters most."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

# economics.md: go from P(payback in time) of 0.8 on, no-go up to 0.2.
LIKELY, UNLIKELY = 0.8, 0.2


@dataclass(frozen=True)
class Quantiles:
    """None: never (a payback that no draw at this quantile reaches)."""

    p5: Decimal | None
    p50: Decimal | None
    p95: Decimal | None


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


@dataclass(frozen=True)
class Month:
    """Net cumulative USD after `month` months (saved minus spent), by quantile over the draws."""

    month: Decimal
    p5: Decimal
    p50: Decimal
    p95: Decimal


@dataclass(frozen=True)
class Outlook:
    """The seeded Monte Carlo over an estimate's inputs.

    `p_payback` is the share of draws that pay back within `target_months`. `npv` is over `horizon_months`,
    which the provider's end date cuts. `tornado` has the widest swing first, around `expected`: the net value with
    every input as expected, which is not the median draw where inputs lean to one side. USD throughout.

    `is_time_said`: people's time is counted; else it is taken to be none, and `bearable_hours` of it are the most with
    which LIKELY of the draws still pay back in time (None where even without any fewer do, and where it is said).
    `likely_from` is the volume, in input tokens a month, from which on the share that pays back in time is `LIKELY` or
    more; None where no volume does that.
    """

    draws: int
    seed: int
    target_months: Decimal
    horizon_months: Decimal
    p_payback: float
    payback_months: Quantiles
    saving_month: Quantiles
    npv: Quantiles
    tornado: tuple[Swing, ...]
    months: tuple[Month, ...]
    expected: Decimal | None = None
    is_time_said: bool = True
    bearable_hours: Decimal | None = None
    likely_from: int | None = None
