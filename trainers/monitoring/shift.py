"""Whether recent calls differ from earlier ones: in what they ask (the mean of their vectors) and in how they are
answered (the shares of labels). Also which of them are unlike all earlier ones.

Both tests permute: they draw who is "recent" at random again and again, and count how often the calls then differ as
much. So p is exact for any number of calls and any vectors, if calls don't depend on each other; of a conversation,
pass one call. An alarm needs p <= `alarm_level`, so that all the weekly tests of a year together are wrong with 5% at
most, although they share one reference. Drawing stops early when p is clearly large.

The reference are the calls of the first REFERENCE_WEEKS, not the training rows: these are often balanced by label, and
would differ from any real week. Recent are those of the last RECENT_WEEKS: with twice the calls of a week, a new
kind of call is seen within four weeks in 9 of 10 cases instead of 7, and that weeks overlap costs nothing, as the level
allows for any dependence. Figures are in docs/watching.md; `python benchmarks/watch.py` measures them.

numpy is imported when needed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.evaluation.statistics import normalise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Numbers = NDArray[np.float64]

REFERENCE_WEEKS = 4
RECENT_WEEKS = 2
FEWEST_CALLS = 200  # of each side
MOST_CALLS = 1_000  # of each side that are compared; more are thinned evenly
FALSE_ALARMS = 0.05  # of years, all datasets and tests together
WEEKS = 52
MOST_TESTS = 100  # a week; for more, the draws would take too long
FEWEST_DRAWS = 20_000
_ENOUGH = 10  # draws that differ as much end the drawing
_AT_ONCE = 2_000_000  # random numbers at a time: 16 MB
_FIRST_DRAWS = 200
_ROWS_AT_ONCE = 1_000
_USUAL = 0.95  # share of earlier calls that have an earlier one this near


@dataclass(frozen=True)
class TooFewCalls:
    """Nothing was compared: fewer than `needed` calls on one side."""

    reference: int
    recent: int
    needed: int = FEWEST_CALLS


@dataclass(frozen=True)
class Shift:
    """A comparison of `recent` calls with `reference` ones. `distance` is how far their means, or label shares, are
    apart, in multiples of what is usual for calls that don't differ: 1 is nothing. It is an alarm if `p` is at most
    `level`."""

    reference: int
    recent: int
    distance: float
    p: float
    level: float
    draws: int

    @property
    def is_alarm(self) -> bool:
        return self.p <= self.level


def alarm_level(datasets: int, tests: int = 1) -> float:
    """Returns the p-value at which each of the weekly `tests` of each watched dataset alarms. Raises ValueError for
    fewer than 1 or more than MOST_TESTS tests a week."""
    each_week = datasets * tests
    if datasets < 1 or tests < 1 or each_week > MOST_TESTS:
        raise ValueError(
            f"watching {datasets} datasets with {tests} tests each: from 1 to {MOST_TESTS} tests a week are possible"
        )
    return FALSE_ALARMS / (WEEKS * each_week)


def vector_shift(reference: Vectors, recent: Vectors, level: float, seed: int = 0) -> Shift | TooFewCalls:
    """Compares the means of the vectors (n, d) of calls from before and of recent ones. Raises ValueError unless both
    are matrices of finite numbers with the same width."""
    import numpy as np

    _check_vectors(reference, recent)
    fewest = min(len(reference), len(recent))
    if fewest < FEWEST_CALLS:
        return TooFewCalls(len(reference), len(recent))
    earlier = _thin(reference)
    later = _thin(recent)
    vectors = np.concatenate([earlier, later]).astype(np.float32)  # calls x d
    vectors -= vectors.mean(axis=0)
    # All vectors add up to 0, so the sum of the recent ones alone says how far the two means are apart.
    centred_recent = vectors[len(earlier) :]
    sum_of_recent = centred_recent.sum(axis=0)  # d
    observed = float(np.square(sum_of_recent).sum())
    generator = np.random.default_rng(seed)

    def draw(count: int) -> Numbers:
        luck = generator.random((count, len(vectors)))  # draws x calls
        # The recent ones of a draw are as many as in truth: those with the least luck.
        in_order = np.partition(luck, len(later), axis=1)
        limit = in_order[:, len(later), None]
        is_recent = (luck < limit).astype(np.float32)
        sums = is_recent @ vectors  # draws x d
        squares: Numbers = np.einsum("ij,ij->i", sums, sums)
        return squares

    drawn = _permute(observed, draw, level, len(vectors))
    return Shift(len(earlier), len(later), drawn.distance, drawn.p, level, drawn.count)


def label_shift(
    before: Mapping[str, int], now: Mapping[str, int], level: float, seed: int = 0
) -> Shift | TooFewCalls:
    """Compares how many calls got which label, by Pearson's chi-squared statistic. It is compared with tables of the
    same totals that are drawn at random, so rare labels need no minimum. Raises ValueError for a negative count."""
    import numpy as np

    earlier, later = _align(before, now)
    n_before = int(earlier.sum())
    n_now = int(later.sum())
    if min(n_before, n_now) < FEWEST_CALLS:
        return TooFewCalls(n_before, n_now)
    totals = earlier + later
    expected = totals * n_now / totals.sum()
    generator = np.random.default_rng(seed)

    def measure(counts: Any) -> Numbers:
        # The other row differs by as much, so that this is proportional to the statistic of both.
        squares = np.square(counts - expected)
        parts: Numbers = squares / expected
        sums: Numbers = parts.sum(axis=-1)
        return sums

    def draw(count: int) -> Numbers:
        tables = generator.multivariate_hypergeometric(totals, n_now, size=count, method="marginals")
        return measure(tables)

    observed = float(measure(later))
    drawn = _permute(observed, draw, level, len(totals))
    return Shift(n_before, n_now, drawn.distance, drawn.p, level, drawn.count)


def choose_new(reference: Vectors, recent: Vectors, count: int = 20) -> list[int]:
    """Returns the indices of up to `count` recent calls that are unlike every earlier one, and unlike each other, the
    most unusual first. A call counts as new if its nearest earlier call is farther away than that of 95% of the earlier
    ones themselves.

    They are an uncertain sample: their labels teach a model what it doesn't know, and never measure it, because they
    were chosen for being unusual. Raises ValueError as `vector_shift` does, and if there is no earlier call.
    """
    import numpy as np

    from trainers.evaluation.row_choice import choose_diverse  # it imports much that the tests don't need

    _check_vectors(reference, recent)
    if not len(reference):
        raise ValueError("looking for new calls: there are no earlier ones to compare them with")
    if not len(recent):
        return []
    earlier = _unit(_thin(reference))
    later = _unit(recent)
    among_earlier = _distances(earlier, earlier, skip_self=True)
    usual = np.quantile(among_earlier, _USUAL)
    distances = _distances(later, earlier)
    new = np.flatnonzero(distances > usual)
    chosen = choose_diverse(later[new], distances[new], count)
    return [int(new[index]) for index in chosen]


@dataclass(frozen=True)
class _Drawn:
    p: float
    count: int
    distance: float


def _permute(observed: float, draw: Callable[[int], Numbers], level: float, width: int) -> _Drawn:
    """Draws until enough draws are as large as `observed`, which makes p their share (J. Besag and P. Clifford,
    Sequential Monte Carlo p-values, Biometrika 78 (1991) 301-304), or until two would be expected at `level`; then p
    counts the observed value as a draw too."""
    import numpy as np

    # Rounding makes sums that are equal differ slightly; counting them as equal keeps p safe.
    least = observed * (1 - 1e-5)
    most = max(FEWEST_DRAWS, math.ceil(2 / level))
    at_once = max(_AT_ONCE // width, 1)
    count = _FIRST_DRAWS
    drawn = 0
    as_large = 0
    total = 0.0
    while drawn < most:
        count = min(count, most - drawn, at_once)
        values = draw(count)
        total += float(values.sum())
        larger = np.flatnonzero(values >= least)
        if as_large + len(larger) >= _ENOUGH:
            # Up to the draw that made them enough, as the method of Besag and Clifford stops there.
            missing = _ENOUGH - as_large
            last = int(larger[missing - 1]) + 1
            until_enough = drawn + last
            p = _ENOUGH / until_enough
            usual = total / (drawn + count)
            distance = _times_as_far(observed, usual)
            return _Drawn(p, until_enough, distance)
        as_large += len(larger)
        drawn += count
        count *= 4
    p = (as_large + 1) / (drawn + 1)
    distance = _times_as_far(observed, total / drawn)
    return _Drawn(p, drawn, distance)


def _times_as_far(observed: float, usual: float) -> float:
    """Returns the ratio of two squared distances as one of distances; 1 if all calls are equal."""
    if usual == 0:
        return 1.0
    return math.sqrt(observed / usual)


def _check_vectors(reference: Vectors, recent: Vectors) -> None:
    import numpy as np

    shapes = f"{reference.shape} and {recent.shape}"
    are_matrices = reference.ndim == recent.ndim == 2
    if not are_matrices or reference.shape[1] != recent.shape[1]:
        raise ValueError(
            f"comparing vectors of the shapes {shapes}: two matrices of the same width are needed"
        )
    for vectors in (reference, recent):
        if not np.isfinite(vectors).all():
            raise ValueError(
                f"comparing vectors of the shapes {shapes}: some of their numbers are not finite"
            )


def _thin(vectors: Vectors) -> Vectors:
    """Returns at most MOST_CALLS of the vectors, evenly spread over their order."""
    import numpy as np

    if len(vectors) <= MOST_CALLS:
        return vectors
    even = np.linspace(0, len(vectors) - 1, MOST_CALLS)
    indices = even.round().astype(np.int64)
    return vectors[indices]


def _align(before: Mapping[str, int], now: Mapping[str, int]) -> tuple[Any, Any]:
    """Returns both counts as arrays, of labels that either has, spellings of a label together."""
    import numpy as np

    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for side, labels in enumerate((before, now)):
        for label, count in labels.items():
            if count < 0:
                raise ValueError(f"comparing labels: a label has {count} calls; there can't be fewer than 0")
            counts[normalise(label)][side] += count
    used = []
    for label in sorted(counts):
        both = counts[label]
        if sum(both):
            used.append(both)
    table = np.array(used, dtype=np.int64).reshape(-1, 2)  # labels x (before, now)
    return table[:, 0], table[:, 1]


def _unit(vectors: Vectors) -> Vectors:
    """Returns the vectors with length 1, and zeros as they are."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    divisors = np.maximum(lengths, 1e-12)
    scaled: Vectors = (vectors / divisors).astype(np.float32)
    return scaled


def _distances(vectors: Vectors, earlier: Vectors, skip_self: bool = False) -> Numbers:
    """Returns 1 less the cosine of each vector and its nearest earlier one."""
    import numpy as np

    parts = []
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        rows = vectors[start : start + _ROWS_AT_ONCE]
        cosines = rows @ earlier.T  # rows x earlier
        if skip_self:
            own = np.arange(len(cosines))
            itself = start + own
            cosines[own, itself] = -1
        nearest = cosines.max(axis=1)
        parts.append(1 - nearest)
    return np.concatenate(parts).astype(np.float64)
