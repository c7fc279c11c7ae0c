"""How strong the evidence for a claim about held-out rows has to be, when people have looked at these rows before.

Each look that shows scores of new candidates is another chance to be wrong. So the looks share one budget of error: the
first look may be wrong with 3.5%, the k-th with 1.8%/k. Ten looks then add up to 7%, whatever the candidates, their
correlation, the bar, and the rows that were added in between (by the union bound). A claim keeps the level of the look
at which its candidate was first measured, so later looks never take it back. Promotions have a budget of their own.

Imports only the standard library, so that the bot's own process can use it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

FIRST_LEVEL = 0.035
LATER_LEVEL = 0.018  # divided by the number of the look: looks 2 to 10 add up to 3.5%
PROMISED_LOOKS = 10  # for this many looks, benchmarks/evidence.py checks the promises of docs/deciding.md
PROMOTION_LEVEL = 0.0175  # of the first tuned model; all later ones together may be wrong as often
FEWEST_ROWS = 30  # with fewer, the spread of scores between 0 and 1 is too unreliable


def claim_level(look: int) -> float:
    """Returns the probability of any false "meets" that the `look`-th look at held-out rows may have."""
    if look <= 1:
        return FIRST_LEVEL
    return LATER_LEVEL / look


def promotion_level(look: int) -> float:
    """Returns the one-sided level of the comparisons that decide on a promotion, for the `look`-th tuned model that was
    measured on these rows. Together they stay below 3.5%, however many there are.

    It falls with the square of their number because people choose the settings of the next training by the scores of
    the earlier ones, of which there are k - 1. A level that falls only with k, 0.9%/k, lets a model pass wrongly in 4%
    of such histories (benchmarks/evidence.py simulates them).
    """
    return PROMOTION_LEVEL / max(look * (look - 1), 1)


def chance_of_scores(scores: Sequence[float], bar: float) -> float:
    """Returns the one-sided p-value of "the true score is at least `bar`": how probable scores as high as these are at
    most, if the true score is below the bar. Raises ValueError if there are no scores."""
    n = len(scores)
    if not n:
        raise ValueError("judging 0 held-out rows by a bar: there is nothing to judge")
    if spread_of(scores) is None:
        # Partly right rows vary less than right and wrong ones. Rounding the total down keeps the p-value safe.
        right = math.fsum(scores)
        whole_rows = math.floor(right + 1e-9)
        return binomial_tail(whole_rows, n, bar)
    distance = _skewed_distance(scores, bar)
    return 1 - NormalDist().cdf(distance)


def least_right(n: int, bar: float, look: int, among: int = 1) -> int | None:
    """Returns the fewest right answers of `n` that show that the bar is met, for the best of `among` candidates of a
    look; None if even `n` don't."""
    level = claim_level(look) / among
    if not n:
        return None
    if binomial_tail(n, n, bar) > level:
        return None
    low = -1
    high = n
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_tail(middle, n, bar) <= level:
            high = middle
        else:
            low = middle
    return high


def binomial_tail(right: int, n: int, bar: float) -> float:
    """Returns the probability of at least `right` right answers of `n`, if each is right with probability `bar`.

    It is exact. Wilson's bound is not: with a bar of 50% or below it claims too much at small levels.
    """
    if right <= 0 or bar >= 1:
        return 1.0
    if bar <= 0:
        return 0.0
    logarithms = [_log_binomial(count, n, bar) for count in range(right, n + 1)]
    chances = map(math.exp, logarithms)
    total = math.fsum(chances)
    return min(total, 1.0)  # a sum of rounded numbers may exceed 1


def spread_of(scores: Sequence[float]) -> float | None:
    """Returns the standard deviation of scores. Returns None for scores that are only right or wrong, all equal, or too
    few: then the binomial distribution is used, which varies more."""
    distinct = set(scores)
    if distinct <= {0.0, 1.0} or len(distinct) == 1:
        return None
    n = len(scores)
    if n < FEWEST_ROWS:
        return None
    mean = math.fsum(scores) / n
    squares = [(score - mean) ** 2 for score in scores]
    variance = math.fsum(squares) / (n - 1)
    return math.sqrt(variance)


def _log_binomial(count: int, n: int, bar: float) -> float:
    # In logarithms, because the number of ways overflows a float with many rows.
    wrong = n - count
    ways = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(wrong + 1)
    of_right = count * math.log(bar)
    of_wrong = wrong * math.log1p(-bar)
    return ways + of_right + of_wrong


def _skewed_distance(scores: Sequence[float], bar: float) -> float:
    """Returns the distance of the mean from the bar in standard errors, corrected for the scores' skewness.

    Most scores lie near 100% with a tail of bad ones. Without the correction, such means exceed the normal bound of a
    level of 0.2% three times as often as they should, with 200 rows. P. Hall, On the removal of skewness by
    transformation, Journal of the Royal Statistical Society B 54 (1992) 221-228.
    """
    n = len(scores)
    mean = math.fsum(scores) / n
    differences = [score - mean for score in scores]
    squares = math.fsum(difference**2 for difference in differences)
    cubes = math.fsum(difference**3 for difference in differences)
    spread = math.sqrt(squares / n)
    skewness = cubes / n / spread**3
    distance = (mean - bar) * math.sqrt(n) / spread
    lean = skewness / math.sqrt(n)
    # Hall's cubic transformation; unlike the quadratic one it is monotone.
    by_square = lean * distance**2 / 3
    by_cube = lean**2 * distance**3 / 27
    return distance + by_square + by_cube + lean / 6
