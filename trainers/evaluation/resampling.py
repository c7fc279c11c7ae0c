"""What no formula says: means of shares and macro F1, by drawing the rows again and again (the bootstrap).

The same seed gives the same figures. numpy is imported at use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainers.evaluation.labels import confusion, macro_f1, normalise
from trainers.evaluation.pairs import compare
from trainers.evaluation.shares import Interval, wilson_of_share

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

DRAWS = 2_000
FEWEST_ROWS = 30
_AT_ONCE = 2_000_000  # row numbers drawn at a time: 16 MB


@dataclass(frozen=True)
class Difference:
    """Of two arms on the same rows, tuned minus base; `p` is two-sided."""

    value: float
    low: float
    high: float
    p: float


def mean_interval(scores: Sequence[float], level: float = 0.95, *, seed: int = 0) -> Interval:
    """Of the mean of scores between 0 and 1: the bootstrap's percentiles.

    Wilson's, which is wider, with fewer than 30 rows or where all are the same: drawing those again shows too
    little. ValueError without rows.
    """
    import numpy as np

    values = np.asarray(scores, dtype=np.float64)
    if len(values) < FEWEST_ROWS or values.min() == values.max():
        return wilson_of_share(float(values.mean()) if len(values) else 0.0, len(values), level)
    means = np.concatenate([values[rows].mean(axis=1) for rows in _drawn(len(values), seed)])
    return _percentiles(means, level)


def paired_means(base: Sequence[float], tuned: Sequence[float], *, seed: int = 0) -> Difference:
    """Mean of the rows' differences, its 95% interval and p by the bootstrap. ValueError unless both are filled."""
    import numpy as np

    _same_rows(len(base), len(tuned))
    apart = np.asarray(tuned, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    means = np.concatenate([apart[rows].mean(axis=1) for rows in _drawn(len(apart), seed)])
    return _difference(float(apart.mean()), means)


def paired_macro_f1(
    expected: Sequence[str], base: Sequence[str], tuned: Sequence[str], *, seed: int = 0
) -> Difference:
    """Macro F1 of the answers `tuned` minus that of `base`. A draw's mean is over the labels expected in it."""
    import numpy as np

    _same_rows(len(base), len(tuned))
    value = macro_f1(confusion(expected, tuned)) - macro_f1(confusion(expected, base))
    place = {label: i for i, label in enumerate(sorted({normalise(label) for label in expected}))}
    right = _one_hot(expected, place)
    arms = [_one_hot(answers, place) for answers in (base, tuned)]
    drawn = []
    for rows in _drawn(len(expected), seed):
        weights = _counts(rows, len(expected))
        first, second = (_macro_f1s(weights, right, answered) for answered in arms)
        drawn.append(second - first)
    return _difference(value, np.concatenate(drawn))


def is_not_worse(cheaper: Sequence[float], other: Sequence[float], margin: float, *, seed: int = 0) -> bool:
    """Non-inferiority: does the 95% interval of `cheaper` minus `other`, on the same rows, stay above -margin?

    Newcombe's interval where rows are right or wrong, the bootstrap's where they are right in part.
    """
    if set(cheaper) | set(other) <= {0.0, 1.0}:
        found = compare([score == 1 for score in other], [score == 1 for score in cheaper])
        return found.difference_interval.low > -margin
    return paired_means(other, cheaper, seed=seed).low > -margin


def _same_rows(base: int, tuned: int) -> None:
    if base != tuned or not base:
        raise ValueError(f"comparing {base} rows with {tuned}: both arms need the same rows, one at least")


def _drawn(n: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Draws of n rows each, with replacement, some at a time."""
    import numpy as np

    chance = np.random.default_rng(seed)
    left = DRAWS
    while left:
        some = min(left, max(_AT_ONCE // n, 1))
        yield chance.integers(0, n, size=(some, n))
        left -= some


def _percentiles(values: Numbers, level: float) -> Interval:
    import numpy as np

    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _difference(value: float, drawn: Numbers) -> Difference:
    interval = _percentiles(drawn, 0.95)
    # counted with the one draw that was seen, so that p is never 0: Davison and Hinkley 1997, section 4.2.5
    sides = (int((drawn <= 0).sum()) + 1, int((drawn >= 0).sum()) + 1)
    return Difference(value, interval.low, interval.high, min(2 * min(sides) / (len(drawn) + 1), 1.0))


def _one_hot(answers: Sequence[str], place: dict[str, int]) -> Numbers:
    import numpy as np

    table = np.zeros((len(answers), len(place)))
    for row, answer in enumerate(answers):
        column = place.get(normalise(answer))
        if column is not None:
            table[row, column] = 1
    return table


def _counts(rows: NDArray[np.int64], n: int) -> Numbers:
    """How often each draw took each row, draws x n."""
    import numpy as np

    shifted = rows + np.arange(len(rows))[:, None] * n
    return np.bincount(shifted.ravel(), minlength=len(rows) * n).reshape(len(rows), n).astype(np.float64)


def _macro_f1s(weights: Numbers, right: Numbers, answered: Numbers) -> Numbers:
    expected = weights @ right
    both = expected + weights @ answered
    f1 = 2 * (weights @ (right * answered)) / both.clip(min=1)
    there = expected > 0
    means: Numbers = (f1 * there).sum(axis=1) / there.sum(axis=1)
    return means
