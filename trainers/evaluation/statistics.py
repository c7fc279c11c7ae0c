"""Intervals of a share, paired tests of two candidates, confusion and F1 of labels, and the bootstrap for
what no formula gives. scipy and numpy are imported at use."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING


@dataclass(frozen=True)
class Interval:
    """Shares, between 0 and 1; differences of shares, between -1 and 1."""

    low: float
    high: float


def wilson(correct: int, n: int, level: float = 0.95) -> Interval:
    """Two-sided score interval (Wilson 1927), without continuity correction. ValueError for n = 0."""
    return wilson_of_share(correct / n if n else 0.0, n, level)


def reaches(bar: float, correct: int, n: int) -> bool:
    """May "at least `bar`" be claimed? Only if the one-sided 95% bound (Wilson) says so."""
    return n > 0 and wilson(correct, n, 0.90).low >= bar


def wilson_of_share(share: float, n: int, level: float = 0.95) -> Interval:
    """As `wilson`, also where rows are right in part. Then it is too wide, never too narrow: of all scores from
    0 to 1 with one mean, those of 0 and 1 alone vary most. ValueError for n = 0."""
    if n == 0:
        raise ValueError("an interval for a share of 0 rows: there is nothing to say")
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(max(middle - half, 0.0), min(middle + half, 1.0))


# Two arms on the same rows, right or wrong: is one better, and what could so many rows show?
#
# scipy is imported at use: it takes about half a second.


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


# Answers that are labels: which count as the same, what is taken for what, and each label's score.


OTHER = "(something else)"
_QUOTES = "\"'`*“”‘’«»"


@dataclass(frozen=True)
class LabelScore:
    """`precision` and `recall` are None where nothing was answered, or expected, so; f1 is then 0."""

    label: str
    expected: int
    answered: int
    correct: int

    @property
    def precision(self) -> float | None:
        return self.correct / self.answered if self.answered else None

    @property
    def recall(self) -> float | None:
        return self.correct / self.expected if self.expected else None

    @property
    def f1(self) -> float:
        both = self.expected + self.answered
        return 2 * self.correct / both if both else 0.0


@dataclass(frozen=True)
class Confusion:
    """counts[i][j]: rows whose right label is labels[i] and whose answer is columns[j].

    `columns` are the labels and, last, OTHER for an answer that is no label.
    """

    labels: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def normalise(answer: str) -> str:
    """What counts as the same answer: NFKC, no case, single spaces, without quotes around it and a full stop
    at its end. "Label: refund" stays another answer than "refund": a program could not use it."""
    text = " ".join(unicodedata.normalize("NFKC", answer).casefold().split())
    return text.strip(_QUOTES + " ").removesuffix(".").strip(_QUOTES + " ")


def exact_match(expected: str, answer: str) -> bool:
    return normalise(expected) == normalise(answer)


def confusion(expected: Sequence[str], answers: Sequence[str]) -> Confusion:
    """Labels are those expected, by name; answers are matched to them as `exact_match` does, and so are
    spellings of one label to its first."""
    spelled = {normalise(label): label for label in sorted(set(expected), reverse=True)}
    labels = tuple(sorted(spelled.values()))
    place = {normalise(label): i for i, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for right, answer in zip(expected, answers, strict=True):
        counts[place[normalise(right)]][place.get(normalise(answer), len(labels))] += 1
    return Confusion(labels, (*labels, OTHER), tuple(map(tuple, counts)))


def label_scores(matrix: Confusion) -> tuple[LabelScore, ...]:
    """One for each label, in their order."""
    return tuple(
        LabelScore(
            label=label,
            expected=sum(matrix.counts[i]),
            answered=sum(row[i] for row in matrix.counts),
            correct=matrix.counts[i][i],
        )
        for i, label in enumerate(matrix.labels)
    )


@dataclass(frozen=True)
class Mistake:
    """`rows` whose right label is `expected` were answered `answered`, of `of` that are so labelled."""

    expected: str
    answered: str
    rows: int
    of: int


def mistakes(matrix: Confusion) -> tuple[Mistake, ...]:
    """What is taken for what, the most frequent first, then by name."""
    mistakes = [
        Mistake(label, matrix.columns[j], count, sum(matrix.counts[i]))
        for i, label in enumerate(matrix.labels)
        for j, count in enumerate(matrix.counts[i])
        if count and i != j
    ]
    return tuple(sorted(mistakes, key=lambda mistake: (-mistake.rows, mistake.expected, mistake.answered)))


def macro_f1(matrix: Confusion) -> float:
    """The plain mean of the labels' F1: a rare label counts as much as a frequent one. ValueError if none."""
    scores = label_scores(matrix)
    if not scores:
        raise ValueError("macro F1 of no labels: there is nothing to say")
    return sum(score.f1 for score in scores) / len(scores)


# What no formula says: means of shares and macro F1, by drawing the rows again and again (the bootstrap).
#
# The same seed gives the same figures. numpy is imported at use.


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
        comparison = compare([score == 1 for score in other], [score == 1 for score in cheaper])
        return comparison.difference_interval.low > -margin
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
