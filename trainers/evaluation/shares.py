"""One arm: how sure is a share of so many rows? Standard library alone, so that the bot's own process can ask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class Interval:
    """Shares, between 0 and 1; differences of shares, between -1 and 1."""

    low: float
    high: float


def wilson(correct: int, n: int, level: float = 0.95) -> Interval:
    """Two-sided score interval (Wilson 1927), without continuity correction. ValueError for n = 0."""
    return wilson_of_share(correct / n if n else 0.0, n, level)


def reaches(bar: float, correct: int, n: int) -> bool:
    """May "at least `bar`" be claimed? Only if the one-sided 95% bound (Wilson) says so."""
    return n > 0 and wilson(correct, n, 0.90).low >= bar


def wilson_of_share(share: float, n: int, level: float = 0.95) -> Interval:
    """As `wilson`, also where rows are right in part. Then it is too wide, never too narrow: of all scores from
    0 to 1 with one mean, those of 0 and 1 alone vary most. ValueError for n = 0."""
    if n == 0:
        raise ValueError("an interval for a share of 0 rows: there is nothing to say")
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(max(middle - half, 0.0), min(middle + half, 1.0))
