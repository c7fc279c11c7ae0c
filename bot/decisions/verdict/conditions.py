"""What a chance to pay back rests on: no share of draws is said without it. Values in, words out."""

from __future__ import annotations

from decimal import Decimal

from bot.decisions.amounts import HOURS_PER_MONTH, duration
from bot.decisions.worth.outlook import LIKELY


def condition(*, is_good: bool, is_time_said: bool) -> str:
    """', if it is good enough and takes no one's time'; '' where it is measured to be, and the time is counted."""
    parts = [] if is_good else ["is good enough"]
    parts += [] if is_time_said else ["takes no one's time"]
    return f", if it {' and '.join(parts)}" if parts else ""


def beyond(hours: Decimal | None, back: str = "") -> str:
    """What follows where people's time is not counted: how much of it would end the likelihood. `back`: to be back by
    then, where the chance before was one of something else."""
    return f"; with more than {spent(hours)} of it, {back}in under {LIKELY:.0%}" if hours else ""


def spent(hours: Decimal) -> str:
    """'4.2 hours', '35 minutes'."""
    return f"{hours:,.0f} hours" if hours >= 10 else _few(hours)


def _few(hours: Decimal) -> str:
    return f"{hours:.2g} hours" if hours >= 2 else duration(hours / HOURS_PER_MONTH)
