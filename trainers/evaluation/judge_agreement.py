"""Measures how far a judge's verdicts can be trusted: their agreement with people's, and with the judge's own when the
two answers are swapped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainers.evaluation.scores import Choice


@dataclass(frozen=True)
class Agreement:
    """The agreement of two judges on the same n items. `kappa` is Cohen's kappa, from -1 to 1, and `low` and `high` are
    its 95% interval. All three are None if chance alone gives full agreement (both judges gave a single verdict) or n
    is 0."""

    n: int
    agreed: int
    kappa: float | None
    low: float | None
    high: float | None


def agreement(first: Sequence[str], second: Sequence[str]) -> Agreement:
    """Compares verdicts item by item by Cohen's kappa (1960). The interval uses the standard error of Fleiss, Cohen and
    Everitt, Large sample standard errors of kappa and weighted kappa, Psychological Bulletin 72 (1969) 323-327.

    Raises ValueError if the numbers of items differ.
    """
    if len(first) != len(second):
        raise ValueError(
            f"comparing {len(first)} verdicts with {len(second)}: they must be about the same items"
        )
    n = len(first)
    cells = Counter(zip(first, second, strict=True))
    agreed = sum(count for (verdict, other), count in cells.items() if verdict == other)
    rows = Counter(first)
    columns = Counter(second)
    by_chance = 1.0
    if n:
        by_chance = sum(rows[verdict] * columns[verdict] for verdict in rows) / (n * n)
    if by_chance == 1:
        return Agreement(n, agreed, None, None, None)
    kappa = (agreed / n - by_chance) / (1 - by_chance)

    on_diagonal = 0.0
    off_diagonal = 0.0
    for (verdict, other), count in cells.items():
        if verdict == other:
            on_diagonal += count / n * (1 - (rows[verdict] + columns[verdict]) / n * (1 - kappa)) ** 2
        else:
            off_diagonal += count / n * ((columns[verdict] + rows[other]) / n) ** 2
    variance = on_diagonal + (1 - kappa) ** 2 * off_diagonal - (kappa - by_chance * (1 - kappa)) ** 2
    reach = 1.959964 * math.sqrt(max(variance, 0.0) / n) / (1 - by_chance)
    return Agreement(n, agreed, kappa, max(kappa - reach, -1.0), min(kappa + reach, 1.0))


def consolidate(verdict: Choice | None, swapped: Choice | None) -> Choice | None:
    """Combines a judge's two verdicts, the second of which was given with the answers swapped. Returns None unless both
    prefer the same answer: the judge then went by position, or a verdict could not be read."""
    turned: dict[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}
    if verdict is None or swapped is None or turned[swapped] != verdict:
        return None
    return verdict
