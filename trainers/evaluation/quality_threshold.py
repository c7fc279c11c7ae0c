"""Whether a quality bar may be claimed from so many rows, and how many more rows would settle an open case. Imports the
standard library alone, so that the bot's own process can use it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from statistics import NormalDist

from trainers.evaluation.results import Candidate, Ladder, Rung, Standing
from trainers.evaluation.statistics import wilson_of_share

MOST_ROWS = 1_000_000  # beyond that nobody labels: the share is the bar, as far as anybody can tell
ALPHA = 0.05  # the chance of "meets" for an alternative that does not meet the bar
FEWEST_ROWS = 30  # with fewer, a standard deviation says too little about scores between 0 and 1


@dataclass(frozen=True)
class Judgement:
    """`rows_to_decide`: how many more rows would settle an undecided one if its share stays as it is; None where a
    million would not, and where nothing is open."""

    standing: Standing
    rows_to_decide: int | None = None


def judge_all(scores: Sequence[Sequence[float]], bar: float) -> tuple[Judgement, ...]:
    """Judges whether "at least `bar`" holds for each of these alternatives, which were measured on the same rows.

    Taking the one of many that passes is wrong more often than judging one: of 13 that all are just below the bar, one
    passed a 95% bound in a third of all cases. So "meets" is corrected for their number (Holm 1979), and the chance of
    it for any that doesn't is 5% in all. "Misses" is not corrected: no decision rests on the one of many that misses.
    Raises ValueError for an alternative without scores.
    """
    judged: dict[int, Judgement] = {}
    met = 0
    for place in sorted(range(len(scores)), key=lambda place: -_distance(scores[place], bar)):
        own, alpha = scores[place], ALPHA / (len(scores) - met)
        n, share, spread = len(own), _mean(own), _spread(own)
        if _low(share, n, spread, alpha) >= bar:
            judged[place] = Judgement("meets")
            met += 1
        elif _high(share, n, spread) < bar:
            judged[place] = Judgement("misses")
        else:
            judged[place] = Judgement("undecided", rows_to_decide(share, n, bar, spread, alpha))
    return tuple(judged[place] for place in range(len(scores)))


def judge_rungs(rungs: Sequence[Rung], bar: float) -> tuple[Rung, ...]:
    """Judges alternatives that were measured on the same rows by this bar."""
    judged = judge_all([rung.scores for rung in rungs], bar)
    return tuple(
        replace(rung, standing=judgement.standing, rows_to_decide=judgement.rows_to_decide)
        for rung, judgement in zip(rungs, judged, strict=True)
    )


def cheapest_passing(rungs: Sequence[Rung]) -> Candidate | None:
    """Returns the cheapest that meets the bar; one without a price only where none has one; of equals the lower
    rung."""
    met = [rung for rung in rungs if rung.standing == "meets"]
    unknown = Decimal("Infinity")
    cheapest = min(met, key=lambda r: unknown if r.usd_per_1000 is None else r.usd_per_1000, default=None)
    return cheapest.arm if cheapest else None


def rejudge_ladder(ladder: Ladder, bar: float) -> Ladder:
    """Judges the same answers by this bar and by today's rules: a ladder may be older than these."""
    rungs = judge_rungs(ladder.rungs, bar)
    return replace(ladder, bar=bar, rungs=rungs, cheapest=cheapest_passing(rungs))


def rows_to_decide(
    share: float, n: int, bar: float, spread: float | None = None, alpha: float = ALPHA
) -> int | None:
    """Returns how many more rows it takes until the bound at this share is past the bar. `spread`: the scores' standard
    deviation, where rows are right in part."""

    def is_settled(rows: int) -> bool:
        return _low(share, rows, spread, alpha) >= bar or _high(share, rows, spread) < bar

    if not is_settled(MOST_ROWS):
        return None
    low, high = n, MOST_ROWS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_settled(middle) else (middle, high)
    return high - n


def _mean(scores: Sequence[float]) -> float:
    if not scores:
        raise ValueError("judging 0 held-out rows by a bar: there is nothing to say")
    return math.fsum(scores) / len(scores)


def _distance(scores: Sequence[float], bar: float) -> float:
    """Returns the distance from the bar in standard errors: Wilson's bound at one level is past the bar where this
    is past its z."""
    n, share = len(scores), _mean(scores)
    spread = _spread(scores) or math.sqrt(bar * (1 - bar)) or 1.0
    return (share - bar) * math.sqrt(n) / spread


def _low(share: float, rows: int, spread: float | None, alpha: float) -> float:
    """Returns the one-sided lower bound: Wilson's, or of the scores' own spread where rows are right in part."""
    if spread is None:
        return wilson_of_share(share, rows, 1 - 2 * alpha).low
    return share - NormalDist().inv_cdf(1 - alpha) * spread / math.sqrt(rows)


def _high(share: float, rows: int, spread: float | None) -> float:
    if spread is None:
        return wilson_of_share(share, rows, 1 - 2 * ALPHA).high
    return share + NormalDist().inv_cdf(1 - ALPHA) * spread / math.sqrt(rows)


def _spread(scores: Sequence[float]) -> float | None:
    """Returns the standard deviation; None, so that Wilson's wider interval is taken, for right and wrong, equal and
    few scores."""
    if set(scores) <= {0.0, 1.0} or len(set(scores)) == 1 or len(scores) < FEWEST_ROWS:
        return None
    mean = _mean(scores)
    return math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
