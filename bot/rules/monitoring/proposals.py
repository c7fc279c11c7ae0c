"""What the card of a week proposes, and which of its lines are shown. Pure; money is in USD.

A new model is proposed by its price and by how long it lives, since nobody has measured it yet.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, timedelta
from decimal import Decimal
from typing import Literal, get_args

from trainers.money import to_micros

# At the same number of tokens. Another model's tokenizer may count a quarter more (rules/prices.py), and then it still
# costs no more than what is in use.
LEAST_SAVING = Decimal("0.2")
LIVES = timedelta(days=182)
# So that a dataset that is watched later, or a price that comes later, isn't too late.
NEW_FOR = timedelta(days=90)
MOST_LINES = 6  # under the card's title

WeekLine = Literal[
    "failed", "live", "again", "month", "shift", "tried", "ending", "new", "sample", "feedback"
]
BY_IMPORTANCE: tuple[WeekLine, ...] = get_args(WeekLine)


def is_cheaper(usd: Decimal, in_use_usd: Decimal) -> bool:
    """True if a model at `usd` saves enough of what the same calls cost now; never if those are free."""
    if in_use_usd <= 0:
        return False
    highest = in_use_usd * (1 - LEAST_SAVING)
    return usd <= highest


def saved_percent(micros: int, in_use_micros: int) -> int:
    """Returns how many percent cheaper it is, rounded down so as to promise nothing. `in_use_micros` is above 0."""
    saved = in_use_micros - micros
    return 100 * saved // in_use_micros


def lives_long(ends: date | None, today: date) -> bool:
    """True if its maker has announced no end within six months."""
    return ends is None or ends - today >= LIVES


def is_new(first_listed: date | None, since: date, today: date) -> bool:
    """True if it was listed lately for the first time, and not in its provider's first list, of the day `since`."""
    if first_listed is None:
        return False
    # What the first list has may be old: nobody asked this provider before.
    if first_listed <= since:
        return False
    return today - first_listed <= NEW_FOR


def measuring_micros(rows: int, micros: int) -> int:
    """Returns about what asking a model this many rows costs, in micro-dollars, rounded up. `micros` is the price of
    1,000 calls."""
    # Floor division of the negative rounds up.
    return -(-rows * micros // 1_000)


def left_micros(usd_per_month: Decimal, committed_micros: int) -> int:
    """Returns the micro-dollars that may still be spent this month without asking anybody; 0 if that is none."""
    return max(to_micros(usd_per_month) - committed_micros, 0)


def choose_lines(lines: Collection[WeekLine]) -> frozenset[WeekLine]:
    """Returns those that are shown of the lines that have something to say: the most important ones."""
    to_say = [line for line in BY_IMPORTANCE if line in lines]
    return frozenset(to_say[:MOST_LINES])
