"""What a stream of monthly savings is worth today, with a falling price of the alternative. Money in USD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

ONE = Decimal(1)


@dataclass(frozen=True)
class Flow:
    """A month's saving, by what it hangs on.

    With the volume grow `falling` (what the alternative's tokens cost: its price may fall), `steady` (all else,
    saved minus spent) and `errors` (worth of wrong answers avoided). `fixed`: saved minus spent at any volume.
    """

    falling: Decimal
    steady: Decimal
    errors: Decimal
    fixed: Decimal

    @property
    def by_volume(self) -> Decimal:
        return self.falling + self.steady + self.errors

    def saving(self, kept: Decimal = ONE) -> Decimal:
        """With `kept` (0 to 1) of the alternative's price left."""
        return self.falling * kept + self.steady + self.errors + self.fixed

    def at_volume(self, factor: Decimal) -> Decimal:
        return self.by_volume * factor + self.fixed


def month_weights(horizon: Decimal) -> tuple[Decimal, ...]:
    """1 for each whole month of the horizon, and what is left for its last one: 2.4 gives 1, 1, 0.4."""
    count = int(horizon.to_integral_value(ROUND_CEILING))
    return tuple(min(ONE, horizon - month) for month in range(count))


def monthly_savings(flow: Flow, fall_a_year: Decimal, horizon: Decimal) -> tuple[Decimal, ...]:
    """Of month 1, 2, …: the alternative's price falls by `fall_a_year` (0 to 1) every twelve months."""
    weights = enumerate(month_weights(horizon), start=1)
    return tuple(weight * flow.saving(after(1 - fall_a_year, month)) for month, weight in weights)


def net_present_value(one_off: Decimal, savings: Sequence[Decimal], a_year: Decimal) -> Decimal:
    """-C₀ + Σ S_t / (1 + r)^(t/12), t from 1."""
    worth = (saving / after(1 + a_year, month) for month, saving in enumerate(savings, start=1))
    return sum(worth, -one_off)


def after(factor_a_year: Decimal, months: int) -> Decimal:
    return factor_a_year ** (Decimal(months) / 12)
