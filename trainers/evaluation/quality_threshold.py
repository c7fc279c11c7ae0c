"""Decides whether a quality bar is met, given the number of rows, and how many more rows would settle an undecided
case. Imports only the standard library, so that the bot's own process can use it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from statistics import NormalDist

from trainers.evaluation.results import Candidate, Ladder, Rung, Standing
from trainers.evaluation.statistics import wilson_of_share

MOST_ROWS = 1_000_000  # nobody labels more: if this many don't decide, the share practically equals the bar
ALPHA = 0.05  # probability of "meets" for an alternative that does not meet the bar
FEWEST_ROWS = 30  # with fewer, the standard deviation of scores between 0 and 1 is too unreliable


@dataclass(frozen=True)
class Judgement:
    """Whether an alternative meets the bar. `rows_to_decide` is the number of further rows that would settle an
    undecided case if its share stays the same; None if a million would not, or if the case is decided."""

    standing: Standing
    rows_to_decide: int | None = None


def judge_all(scores: Sequence[Sequence[float]], bar: float) -> tuple[Judgement, ...]:
    """Judges for each of these alternatives, which were measured on the same rows, whether its score is at least `bar`.

    Choosing whichever of many alternatives passes is wrong more often than judging a single one: with 13 just below the
    bar, one passed a 95% bound in a third of all cases. Therefore "meets" is corrected for their number (Holm 1979), so
    that the probability of any false "meets" is 5% in total. "Misses" is not corrected, because no decision depends on
    which one misses. Raises ValueError for an alternative without scores.
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
    """Judges rungs that were measured on the same rows against this bar."""
    judged = judge_all([rung.scores for rung in rungs], bar)
    return tuple(
        replace(rung, standing=judgement.standing, rows_to_decide=judgement.rows_to_decide)
        for rung, judgement in zip(rungs, judged, strict=True)
    )


def cheapest_passing(rungs: Sequence[Rung]) -> Candidate | None:
    """Returns the cheapest rung that meets the bar, or None. A rung without a price is chosen only if none has one;
    among equally cheap rungs, the lowest wins."""
    met = [rung for rung in rungs if rung.standing == "meets"]
    unknown = Decimal("Infinity")
    cheapest = min(met, key=lambda r: unknown if r.usd_per_1000 is None else r.usd_per_1000, default=None)
    return cheapest.arm if cheapest else None


def rejudge_ladder(ladder: Ladder, bar: float) -> Ladder:
    """Judges a stored ladder's answers again by this bar and by the current rules, which may have changed since."""
    rungs = judge_rungs(ladder.rungs, bar)
    return replace(ladder, bar=bar, rungs=rungs, cheapest=cheapest_passing(rungs))


def rows_to_decide(
    share: float, n: int, bar: float, spread: float | None = None, alpha: float = ALPHA
) -> int | None:
    """Returns how many more rows are needed until the bound at this share excludes the bar, or None if a million are
    not enough. `spread` is the scores' standard deviation, if rows can be partly right."""

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
        raise ValueError("judging 0 held-out rows by a bar: there is nothing to judge")
    return math.fsum(scores) / len(scores)


def _distance(scores: Sequence[float], bar: float) -> float:
    """Returns the distance from the bar in standard errors. Wilson's bound at some level excludes the bar exactly if
    this distance exceeds the z of that level."""
    n, share = len(scores), _mean(scores)
    spread = _spread(scores) or math.sqrt(bar * (1 - bar)) or 1.0
    return (share - bar) * math.sqrt(n) / spread


def _low(share: float, rows: int, spread: float | None, alpha: float) -> float:
    """Returns the one-sided lower bound: Wilson's, or a normal one by `spread` if rows can be partly right."""
    if spread is None:
        return wilson_of_share(share, rows, 1 - 2 * alpha).low
    return share - NormalDist().inv_cdf(1 - alpha) * spread / math.sqrt(rows)


def _high(share: float, rows: int, spread: float | None) -> float:
    if spread is None:
        return wilson_of_share(share, rows, 1 - 2 * ALPHA).high
    return share + NormalDist().inv_cdf(1 - ALPHA) * spread / math.sqrt(rows)


def _spread(scores: Sequence[float]) -> float | None:
    """Returns the standard deviation of scores. Returns None for scores that are only right or wrong, all equal, or too
    few, so that Wilson's wider interval is used."""
    if set(scores) <= {0.0, 1.0} or len(set(scores)) == 1 or len(scores) < FEWEST_ROWS:
        return None
    mean = _mean(scores)
    return math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
