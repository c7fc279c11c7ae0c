"""Decides whether a quality bar is met, given the rows and the looks at them, and how many more rows would settle an
undecided case. Imports nothing heavy, so that the bot's own process can use it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from statistics import NormalDist

from trainers.dataset.splits import HOLDOUT_MOST
from trainers.evaluation.claims import chance_of_scores, claim_level, spread_of
from trainers.evaluation.results import Candidate, Comparison, MeasuredCandidate, Standing
from trainers.evaluation.statistics import wilson_of_share

MOST_ROWS = 10_000  # nobody labels more: if this many don't decide, the share practically equals the bar
MISS_LEVEL = 0.05  # probability of "misses" for an alternative that meets the bar
# Standard deviation of true scores around the bar, among alternatives that are worth judging.
USUAL_DISTANCE = 0.05
POWER = 0.8  # probability that the stated number of further rows settles an undecided case


@dataclass(frozen=True)
class Judgement:
    """Whether an alternative meets the bar. `rows_to_decide` is the number of further rows that would settle an
    undecided case with a probability of 80%; None if 10,000 would not, or if the case is decided."""

    standing: Standing
    rows_to_decide: int | None = None


@dataclass(frozen=True)
class _Case:
    """An alternative to judge. "Meets" is decided by the `counted` scores alone, "misses" by all `scores`."""

    scores: Sequence[float]
    counted: Sequence[float]
    look: int
    choices: int = 1


def judge_all(
    scores: Sequence[Sequence[float]], bar: float, looks: Sequence[int] | None = None
) -> tuple[Judgement, ...]:
    """Judges for each of these alternatives, which were measured on the same rows, whether its score is at least `bar`.
    `looks[i]` is the number of the look in which alternative i was first measured; without `looks` it is the first.

    Choosing whichever of many alternatives passes is wrong more often than judging a single one: with 13 just below the
    bar, one passed a 95% bound in a third of all cases. Therefore "meets" is corrected for the number of alternatives
    of the same look (Holm 1979), and each look has its own level (claims.py): over ten looks, the probability of any
    false "meets" is at most 7%. "Misses" is not corrected, because no decision depends on which one misses. Raises
    ValueError for an alternative without scores.
    """
    numbers = looks or [1] * len(scores)
    cases = [_Case(own, own, look) for own, look in zip(scores, numbers, strict=True)]
    return _judge(cases, bar)


def judge_candidates(candidates: Sequence[MeasuredCandidate], bar: float) -> tuple[MeasuredCandidate, ...]:
    """Judges candidates that were measured on the same rows against this bar, each at the level of its own look. If a
    candidate has `choices`, its level is divided by them; if it has `fresh` rows, only these can show that it meets the
    bar; rows that people had `read` count as wrong."""
    cases = [
        _Case(candidate.scores, _counted(candidate), candidate.look, candidate.choices)
        for candidate in candidates
    ]
    judgements = _judge(cases, bar)
    judged = []
    for candidate, judgement in zip(candidates, judgements, strict=True):
        now = replace(
            candidate,
            standing=judgement.standing,
            rows_to_decide=judgement.rows_to_decide,
        )
        judged.append(now)
    return tuple(judged)


def without_read(scores: Sequence[float], read: Collection[int]) -> Sequence[float]:
    """Returns the scores with 0 for the rows that people had read before they made the training rows."""
    if not read:
        return scores
    read_rows = frozenset(read)
    return [0.0 if row in read_rows else score for row, score in enumerate(scores)]


def rows_to_hold_out(candidate: MeasuredCandidate) -> int | None:
    """Returns how many more held-out rows would settle whether this candidate meets the bar, None if that is unknown or
    more than a dataset may hold out."""
    more = candidate.rows_to_decide
    if more is None or candidate.n + more > HOLDOUT_MOST:
        return None
    return more


def cheapest_passing(candidates: Sequence[MeasuredCandidate]) -> Candidate | None:
    """Returns the cheapest candidate that meets the bar, or None. A candidate without a price is chosen only if none
    has one; among equally cheap candidates, the lowest wins."""

    def price(candidate: MeasuredCandidate) -> Decimal:
        if candidate.usd_per_1000 is None:
            return Decimal("Infinity")
        return candidate.usd_per_1000

    met = [candidate for candidate in candidates if candidate.standing == "meets"]
    if not met:
        return None
    return min(met, key=price).identity


def rejudge_comparison(comparison: Comparison, bar: float) -> Comparison:
    """Judges a stored comparison's answers again by this bar and by the current rules, which may have changed since."""
    candidates = judge_candidates(comparison.candidates, bar)
    return replace(comparison, bar=bar, candidates=candidates, cheapest=cheapest_passing(candidates))


def rows_to_decide(
    share: float,
    n: int,
    bar: float,
    spread: float | None = None,
    level: float = claim_level(1),
    *,
    counted: int | None = None,
    counted_share: float | None = None,
) -> int | None:
    """Returns how many more rows settle, with a probability of 80%, whether the bar is met, or None if 10,000 don't.
    `spread` is the scores' standard deviation, if rows can be partly right. `counted` of the `n` rows, by default all,
    can show that the bar is met; their share is `counted_share`, by default `share`.

    The true share isn't known but lies around `share`, as far away as `n` rows allow. Asking only when the bound at
    today's share would exclude the bar gives half of these rows' number and decides in half of the cases.
    """
    counts = n
    if counted is not None:
        counts = counted
    total = counts * share
    if counted_share is not None:
        total = counts * counted_share

    def is_settled(more: int) -> bool:
        chance = _chance_to_settle(share, n, counts, total, more, bar, spread, level)
        return chance >= POWER

    if not is_settled(MOST_ROWS):
        return None
    low = 0
    high = MOST_ROWS
    while high - low > 1:
        middle = (low + high) // 2
        if is_settled(middle):
            high = middle
        else:
            low = middle
    return high


def _judge(cases: Sequence[_Case], bar: float) -> tuple[Judgement, ...]:
    chances = [_chance(case, bar) for case in cases]
    next_look = max((case.look for case in cases), default=0) + 1
    judged: dict[int, Judgement] = {}
    for look in {case.look for case in cases}:
        # Holm's procedure within the look: each one that passes leaves a larger share of the level to the rest.
        waiting = [index for index, case in enumerate(cases) if case.look == look]
        waiting.sort(key=lambda index: chances[index], reverse=True)
        while waiting and chances[waiting[-1]] <= claim_level(look) / len(waiting):
            judged[waiting.pop()] = Judgement("meets")
        for index in waiting:
            case = cases[index]
            next_level = claim_level(next_look) / len(waiting) / case.choices
            judged[index] = _unmet(case, bar, next_level)
    return tuple(judged[index] for index in range(len(cases)))


def _chance(case: _Case, bar: float) -> float:
    """Returns the p-value of "meets", corrected for the candidates that could have been made in its place."""
    if not case.counted:
        return 1.0
    chance = chance_of_scores(case.counted, bar) * case.choices
    return min(chance, 1.0)


def _unmet(case: _Case, bar: float, next_level: float) -> Judgement:
    """Judges an alternative that is not shown to meet the bar. Further rows are another look, at `next_level`."""
    n = len(case.scores)
    share = _mean(case.scores)
    spread = spread_of(case.scores)
    if _high(share, n, spread) < bar:
        return Judgement("misses")
    counted = len(case.counted)
    counted_share = share
    if counted:
        counted_share = _mean(case.counted)
    more = rows_to_decide(
        share,
        n,
        bar,
        spread,
        next_level,
        counted=counted,
        counted_share=counted_share,
    )
    return Judgement("undecided", more)


def _counted(candidate: MeasuredCandidate) -> Sequence[float]:
    scores = without_read(candidate.scores, candidate.read)
    if candidate.fresh is None:
        return scores
    return [scores[row] for row in candidate.fresh]


def _chance_to_settle(
    share: float,
    n: int,
    counted: int,
    total: float,
    more: int,
    bar: float,
    spread: float | None,
    level: float,
) -> float:
    """Returns the probability that `more` rows settle the case, by the normal distribution. The `counted` rows have a
    `total` score.

    The score of the rows that count then varies because of the new rows, and because the true share isn't known. That
    one is taken to be within about 5 points of the bar, as most alternatives are that are neither met nor missed: a
    case that is undecided because of luck doesn't stay as lucky.
    """
    normal = NormalDist()
    rows = counted + more
    at_bar = spread
    if at_bar is None:
        at_bar = math.sqrt(bar * (1 - bar))
    noise = at_bar**2 / n
    usual = USUAL_DISTANCE**2
    trust = usual / (usual + noise)
    likely = bar + trust * (share - bar)

    mean = (total + more * likely) / rows
    # of the new rows' mean: their own chance, and what isn't known of the true share
    variance = at_bar**2 / more + trust * noise
    varies = more / rows * math.sqrt(variance)
    error = at_bar / math.sqrt(rows)
    meets_from = bar + normal.inv_cdf(1 - level) * error
    misses_below = bar - normal.inv_cdf(1 - MISS_LEVEL) * error
    meets = 1 - normal.cdf((meets_from - mean) / varies)
    misses = normal.cdf((misses_below - mean) / varies)
    return meets + misses


def _mean(scores: Sequence[float]) -> float:
    if not scores:
        raise ValueError("judging 0 held-out rows by a bar: there is nothing to judge")
    return math.fsum(scores) / len(scores)


def _high(share: float, rows: int, spread: float | None) -> float:
    """Returns the one-sided upper bound: Wilson's, or a normal one by `spread` if rows can be partly right."""
    if spread is None:
        return wilson_of_share(share, rows, 1 - 2 * MISS_LEVEL).high
    standard_error = spread / math.sqrt(rows)
    return share + NormalDist().inv_cdf(1 - MISS_LEVEL) * standard_error
