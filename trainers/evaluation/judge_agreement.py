"""May a judge be trusted? How far its verdicts agree with people's, and with itself when the order is
swapped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainers.evaluation.scores import Choice


@dataclass(frozen=True)
class Agreement:
    """Of two who gave verdicts on the same n items. `kappa` is Cohen's, -1 to 1, with its 95% interval; all
    three are None where chance alone would agree always (both said one thing only) or n is 0."""

    n: int
    agreed: int
    kappa: float | None
    low: float | None
    high: float | None


def agreement(first: Sequence[str], second: Sequence[str]) -> Agreement:
    """Item by item. Cohen 1960; interval by the large-sample error of Fleiss, Cohen and Everitt, Large sample
    standard errors of kappa and weighted kappa, Psychological Bulletin 72 (1969) 323-327.

    ValueError where they are not on the same number of items.
    """
    if len(first) != len(second):
        raise ValueError(
            f"comparing {len(first)} verdicts with {len(second)}: they must be on the same items"
        )
    n = len(first)
    cells = Counter(zip(first, second, strict=True))
    agreed = sum(count for (name, other), count in cells.items() if name == other)
    rows, columns = Counter(first), Counter(second)
    by_chance = sum(rows[word] * columns[word] for word in rows) / (n * n) if n else 1.0
    if by_chance == 1:
        return Agreement(n, agreed, None, None, None)
    kappa = (agreed / n - by_chance) / (1 - by_chance)
    reach = 1.959964 * _error(cells, rows, columns, n, agreed / n, by_chance)
    return Agreement(n, agreed, kappa, max(kappa - reach, -1.0), min(kappa + reach, 1.0))


def consolidate(question: Choice | None, swapped: Choice | None) -> Choice | None:
    """A judge's verdict from two askings, the second with both answers swapped. It counts only if both say the
    same of the same answer; None where they don't: then it went by the place, or wasn't readable."""
    turned: dict[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}
    if question is None or swapped is None or turned[swapped] != question:
        return None
    return question


def _error(
    cells: Counter[tuple[str, str]],
    rows: Counter[str],
    columns: Counter[str],
    n: int,
    seen: float,
    by_chance: float,
) -> float:
    """Standard error of kappa."""
    kappa = (seen - by_chance) / (1 - by_chance)
    same = other = 0.0
    for (name, two), count in cells.items():
        if name == two:
            same += count / n * (1 - (rows[name] + columns[name]) / n * (1 - kappa)) ** 2
        else:
            other += count / n * ((columns[name] + rows[two]) / n) ** 2
    spread = same + (1 - kappa) ** 2 * other - (kappa - by_chance * (1 - kappa)) ** 2
    return math.sqrt(max(spread, 0.0) / n) / (1 - by_chance)
