"""What a stream of monthly savings is worth today, with a falling price of the alternative, and when it pays
back. Money in USD."""

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

    def saving(self, amount: Decimal = ONE) -> Decimal:
        """With `kept` (0 to 1) of the alternative's price left."""
        return self.falling * amount + self.steady + self.errors + self.fixed

    def at_volume(self, factor: Decimal) -> Decimal:
        return self.by_volume * factor + self.fixed


@dataclass(frozen=True)
class Phase:
    """Months `start` to `end` from today, None: on and on. In each of them `flow` is saved."""

    start: Decimal
    end: Decimal | None
    flow: Flow

    def within(self, begin: Decimal, end: Decimal) -> Decimal:
        """Months of it between `begin` and `end`."""
        last = end if self.end is None else min(end, self.end)
        return max(Decimal(0), last - max(begin, self.start))


def month_weights(horizon: Decimal) -> tuple[Decimal, ...]:
    """1 for each whole month of the horizon, and what is left for its last one: 2.4 gives 1, 1, 0.4."""
    count = int(horizon.to_integral_value(ROUND_CEILING))
    return tuple(min(ONE, horizon - month) for month in range(count))


def months_to(horizon: Decimal) -> tuple[tuple[Decimal, Decimal], ...]:
    """Beginning and end of each: 2.4 gives (0, 1), (1, 2), (2, 2.4)."""
    return tuple((Decimal(i), i + weight) for i, weight in enumerate(month_weights(horizon)))


def monthly_savings(phases: Sequence[Phase], fall_a_year: Decimal, horizon: Decimal) -> tuple[Decimal, ...]:
    """Of month 1, 2, …: the alternative's price falls by `fall_a_year` (0 to 1) every twelve months."""
    return tuple(
        sum(
            (
                phase.within(begin, end) * phase.flow.saving(compound(1 - fall_a_year, month))
                for phase in phases
            ),
            Decimal(0),
        )
        for month, (begin, end) in enumerate(months_to(horizon), start=1)
    )


def payback_months(one_off: Decimal, phases: Sequence[Phase]) -> Decimal | None:
    """Months until `one_off` has come back; None where it never does while it is known what is saved."""
    left = one_off
    for phase in phases:
        saving = phase.flow.saving()
        if saving > 0 and (phase.end is None or left <= saving * (phase.end - phase.start)):
            return phase.start + left / saving
        if phase.end is None:
            return None
        left -= saving * (phase.end - phase.start)
    return None


def net_present_value(one_off: Decimal, savings: Sequence[Decimal], a_year: Decimal) -> Decimal:
    """-C₀ + Σ S_t / (1 + r)^(t/12), t from 1."""
    worth = (saving / compound(1 + a_year, month) for month, saving in enumerate(savings, start=1))
    return sum(worth, -one_off)


def compound(factor_a_year: Decimal, months: int) -> Decimal:
    return factor_a_year ** (Decimal(months) / 12)
