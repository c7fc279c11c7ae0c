"""Two arms on the same rows, right or wrong: is one better, and what could so many rows show?

scipy is imported at use: it takes about half a second.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainers.evaluation.shares import Interval, wilson, wilson_of_share


@dataclass(frozen=True)
class Comparison:
    """Two arms on the same rows. `gained` rows only the tuned arm has right, `lost` only the base.

    `difference` is tuned minus base, `p` McNemar's exact, two-sided. `detectable_gap` is the smallest true
    difference that this many rows, with this share of disagreement, would show 4 times in 5; None where the
    arms never disagree.
    """

    n: int
    base_correct: int
    tuned_correct: int
    gained: int
    lost: int
    base: Interval
    tuned: Interval
    difference: float
    difference_interval: Interval
    p: float
    detectable_gap: float | None

    @property
    def is_better(self) -> bool:
        return self.p < 0.05 and self.difference > 0

    @property
    def is_worse(self) -> bool:
        return self.p < 0.05 and self.difference < 0


def compare(base: Sequence[bool], tuned: Sequence[bool]) -> Comparison:
    """`base[i]` and `tuned[i]` say whether each arm had row i right. ValueError unless both are filled."""
    if len(base) != len(tuned) or not base:
        raise ValueError(
            f"comparing {len(base)} rows with {len(tuned)}: both arms need the same rows, one at least"
        )
    pairs = Counter(zip(map(bool, base), map(bool, tuned), strict=True))
    both, gained, lost, neither = (
        pairs[True, True],
        pairs[False, True],
        pairs[True, False],
        pairs[False, False],
    )
    n = len(base)
    return Comparison(
        n=n,
        base_correct=both + lost,
        tuned_correct=both + gained,
        gained=gained,
        lost=lost,
        base=wilson(both + lost, n),
        tuned=wilson(both + gained, n),
        difference=(gained - lost) / n,
        difference_interval=paired_interval(both, gained, lost, neither),
        p=mcnemar_exact(gained, lost),
        detectable_gap=detectable_gap(n, (gained + lost) / n),
    )


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided p for b against c discordant pairs: binomial with one half. 1.0 where there are none."""
    from scipy.stats import binomtest

    return float(binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0


def paired_interval(both: int, gained: int, lost: int, neither: int, level: float = 0.95) -> Interval:
    """For (gained - lost) / n: Newcombe's square-and-add interval with the correlation of the pairs.

    R. G. Newcombe, Improved confidence intervals for the difference between binomial proportions based on
    paired data, Statistics in Medicine 17 (1998) 2635-2650, method 10. Without scipy, for the bot's own process.
    """
    n = both + gained + lost + neither
    tuned, base = (both + gained) / n, (both + lost) / n
    t = wilson_of_share(tuned, n, level)
    b = wilson_of_share(base, n, level)
    phi = _correlation(both, gained, lost, neither)
    below = _root(tuned - t.low, b.high - base, phi)
    above = _root(t.high - tuned, base - b.low, phi)
    return Interval(tuned - base - below, tuned - base + above)


def _correlation(both: int, gained: int, lost: int, neither: int) -> float:
    """Phi, with Newcombe's continuity correction of a positive one."""
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    product = float(both * neither - gained * lost)
    if product > 0:
        product = max(product - (both + gained + lost + neither) / 2, 0)
    return product / math.sqrt(margins)


def _root(x: float, y: float, phi: float) -> float:
    return math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))


def rows_needed(gap: float, discordant: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Pairs that McNemar's test needs to show a `gap`, where the share `discordant` of them disagrees.

    n = (z(alpha/2)·√d + z(power)·√(d - g²))² / g²: R. J. Connor, Sample size for testing differences in
    proportions for the paired-sample design, Biometrics 43 (1987) 207-211.
    ValueError unless 0 < gap <= discordant <= 1.
    """
    from scipy.stats import norm

    if not 0 < gap <= discordant <= 1:
        raise ValueError(f"a gap of {gap} can't come from a share of {discordant} that disagrees")
    spread = float(norm.ppf(1 - alpha / 2) * math.sqrt(discordant))
    spread += float(norm.ppf(power) * math.sqrt(discordant - gap * gap))
    return math.ceil(spread * spread / (gap * gap))


def detectable_gap(n: int, discordant: float, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """The smallest gap for which `rows_needed` is within n; None where even disagreement in one
    direction only would not show."""
    if discordant <= 0 or rows_needed(discordant, discordant, power, alpha) > n:
        return None
    low, high = 0.0, discordant
    for _ in range(40):
        middle = (low + high) / 2
        if rows_needed(middle, discordant, power, alpha) <= n:
            high = middle
        else:
            low = middle
    return high


def holm(ps: Sequence[float]) -> tuple[float, ...]:
    """Each p corrected for there being so many, in their order: below alpha where Holm's step-down test rejects.

    S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6
    (1979) 65-70.
    """
    corrected = [1.0] * len(ps)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min((len(ps) - rank) * ps[place], 1.0))
        corrected[place] = least
    return tuple(corrected)
