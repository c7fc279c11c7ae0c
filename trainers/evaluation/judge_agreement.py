"""Whether a judge may be trusted: how far its verdicts agree with people's, and with itself when the order is
swapped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainers.evaluation.scores import Choice


@dataclass(frozen=True)
class Agreement:
    """How far two agree who gave verdicts on the same n items. `kappa` is Cohen's, -1 to 1, with its 95% interval; all
    three are None where chance alone would agree always (both gave one verdict only) or n is 0."""

    n: int
    agreed: int
    kappa: float | None
    low: float | None
    high: float | None


def agreement(first: Sequence[str], second: Sequence[str]) -> Agreement:
    """Compares verdicts item by item. Cohen 1960; interval by the large-sample error of Fleiss, Cohen and Everitt,
    Large sample standard errors of kappa and weighted kappa, Psychological Bulletin 72 (1969) 323-327.

    Raises ValueError where they are not on the same number of items.
    """
    if len(first) != len(second):
        raise ValueError(
            f"comparing {len(first)} verdicts with {len(second)}: they must be on the same items"
        )
    n = len(first)
    cells = Counter(zip(first, second, strict=True))
    agreed = sum(count for (verdict, other), count in cells.items() if verdict == other)
    rows, columns = Counter(first), Counter(second)
    by_chance = sum(rows[verdict] * columns[verdict] for verdict in rows) / (n * n) if n else 1.0
    if by_chance == 1:
        return Agreement(n, agreed, None, None, None)
    kappa = (agreed / n - by_chance) / (1 - by_chance)

    on_diagonal = off_diagonal = 0.0
    for (verdict, other), count in cells.items():
        if verdict == other:
            on_diagonal += count / n * (1 - (rows[verdict] + columns[verdict]) / n * (1 - kappa)) ** 2
        else:
            off_diagonal += count / n * ((columns[verdict] + rows[other]) / n) ** 2
    variance = on_diagonal + (1 - kappa) ** 2 * off_diagonal - (kappa - by_chance * (1 - kappa)) ** 2
    reach = 1.959964 * math.sqrt(max(variance, 0.0) / n) / (1 - by_chance)
    return Agreement(n, agreed, kappa, max(kappa - reach, -1.0), min(kappa + reach, 1.0))


def consolidate(verdict: Choice | None, swapped: Choice | None) -> Choice | None:
    """Returns a judge's verdict from two askings, the second with both answers swapped. It counts only if both
    prefer the same answer; None where they don't, for then it went by the place, or wasn't readable."""
    turned: dict[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}
    if verdict is None or swapped is None or turned[swapped] != verdict:
        return None
    return verdict
