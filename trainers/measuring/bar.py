"""May a quality bar be claimed of so many rows, and if that is open, how many more would probably tell?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from trainers.evaluation import mean_interval, reaches, wilson, wilson_of_share
from trainers.measuring.values import Standing

MOST_ROWS = 1_000_000  # beyond that nobody labels: the share is the bar, as far as anybody can tell
ONE_SIDED = 0.90  # the level of a two-sided interval whose bounds are one-sided 95% ones


def standing_of(scores: Sequence[float], bar: float) -> tuple[Standing, int | None]:
    """Whether "at least `bar`" holds, by the one-sided 95% bound: Wilson's for right and wrong, the bootstrap's
    for shares. Where it is undecided, also how many more rows would settle it if the share stays as it is, None
    where a million would not. ValueError without scores."""
    n = len(scores)
    share = sum(scores) / n
    if set(scores) <= {0.0, 1.0}:
        correct = round(sum(scores))
        meets, high = reaches(bar, correct, n), wilson(correct, n, ONE_SIDED).high
    else:
        interval = mean_interval(scores, ONE_SIDED)
        meets, high = interval.low >= bar, interval.high
    if meets:
        return "meets", None
    return ("misses", None) if high < bar else ("undecided", rows_to_decide(share, n, bar, _spread(scores)))


def rows_to_decide(share: float, n: int, bar: float, spread: float | None = None) -> int | None:
    """More rows until the bound at this share is past the bar. `spread`: the scores' standard deviation, where
    rows are right in part."""

    def is_settled(rows: int) -> bool:
        low, high = _bounds(share, rows, spread)
        return low >= bar or high < bar

    if not is_settled(MOST_ROWS):
        return None
    return _first(is_settled, n, MOST_ROWS) - n


def _bounds(share: float, rows: int, spread: float | None) -> tuple[float, float]:
    if spread is None:
        interval = wilson_of_share(share, rows, ONE_SIDED)
        return interval.low, interval.high
    reach = 1.644854 * spread / math.sqrt(rows)
    return share - reach, share + reach


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest number above `low` from which on it holds, at most `high`."""
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def _spread(scores: Sequence[float]) -> float | None:
    """None for right and wrong, and where all are the same."""
    if set(scores) <= {0.0, 1.0} or len(set(scores)) == 1:
        return None
    mean = sum(scores) / len(scores)
    return math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
