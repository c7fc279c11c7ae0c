"""Intervals of a share, paired tests of two candidates, confusion and F1 of labels, and the bootstrap for what no
formula gives. The same seed gives the same figures. scipy, whose import takes half a second, and numpy are
imported at use."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

ALPHA, POWER = 0.05, 0.8
OTHER = "(something else)"
DRAWS = 2_000
FEWEST_ROWS = 30
_AT_ONCE = 2_000_000  # row numbers drawn at a time: 16 MB
_QUOTES = "\"'`*“”‘’«»"


@dataclass(frozen=True)
class Interval:
    """Shares, between 0 and 1; differences of shares, between -1 and 1."""

    low: float
    high: float


def wilson(correct: int, n: int, level: float = 0.95) -> Interval:
    """Returns the two-sided score interval (Wilson 1927), without continuity correction. Raises ValueError for n =
    0."""
    return wilson_of_share(correct / n if n else 0.0, n, level)


def wilson_of_share(share: float, n: int, level: float = 0.95) -> Interval:
    """Does the same as `wilson`, also where rows are right in part. Then it is too wide, never too narrow: of all
    scores from 0 to 1 with one mean, those of 0 and 1 alone vary most. Raises ValueError for n = 0."""
    if n == 0:
        raise ValueError("an interval for a share of 0 rows: there is nothing to say")
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(max(middle - half, 0.0), min(middle + half, 1.0))


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
        return self.p < ALPHA and self.difference > 0

    @property
    def is_worse(self) -> bool:
        return self.p < ALPHA and self.difference < 0


def compare(base: Sequence[bool], tuned: Sequence[bool]) -> Comparison:
    """Compares two arms; `base[i]` and `tuned[i]` say whether each had row i right. Raises ValueError unless both are
    filled and equally long."""
    _check_rows(len(base), len(tuned))
    pairs = Counter(zip(map(bool, base), map(bool, tuned), strict=True))
    both, gained, lost = pairs[True, True], pairs[False, True], pairs[True, False]
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
        difference_interval=paired_interval(both, gained, lost, pairs[False, False]),
        p=mcnemar_exact(gained, lost),
        detectable_gap=detectable_gap(n, (gained + lost) / n),
    )


def _check_rows(base: int, tuned: int) -> None:
    if base != tuned or not base:
        raise ValueError(f"comparing {base} rows with {tuned}: both arms need the same rows, one at least")


def mcnemar_exact(b: int, c: int) -> float:
    """Returns the two-sided p for b against c discordant pairs: binomial with one half. 1.0 where there are none."""
    from scipy.stats import binomtest

    return float(binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0


def paired_interval(both: int, gained: int, lost: int, neither: int, level: float = 0.95) -> Interval:
    """Returns Newcombe's square-and-add interval for (gained - lost) / n, with the correlation of the pairs.

    R. G. Newcombe, Improved confidence intervals for the difference between binomial proportions based on
    paired data, Statistics in Medicine 17 (1998) 2635-2650, method 10. Without scipy, for the bot's own process.
    """

    n = both + gained + lost + neither
    phi = _correlation(both, gained, lost, neither)
    return _square_and_add((both + lost) / n, (both + gained) / n, n, phi, level)


def small_sample_interval(base: Sequence[float], tuned: Sequence[float]) -> Interval:
    """Returns a 95% interval for the difference of the means of a few scores between 0 and 1: Newcombe's, without the
    correlation. Too wide rather than too narrow, for two rows that gain alike have no spread and prove nothing."""
    n = len(base)
    return _square_and_add(math.fsum(base) / n, math.fsum(tuned) / n, n, 0.0, 0.95)


def _square_and_add(base: float, tuned: float, n: int, phi: float, level: float) -> Interval:
    def root(x: float, y: float) -> float:
        return math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))

    t = wilson_of_share(tuned, n, level)
    b = wilson_of_share(base, n, level)
    below, above = root(tuned - t.low, b.high - base), root(t.high - tuned, base - b.low)
    return Interval(tuned - base - below, tuned - base + above)


def _correlation(both: int, gained: int, lost: int, neither: int) -> float:
    """Returns phi, with Newcombe's continuity correction where it is positive."""
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    product = float(both * neither - gained * lost)
    if product > 0:
        product = max(product - (both + gained + lost + neither) / 2, 0)
    return product / math.sqrt(margins)


def rows_needed(gap: float, discordant: float) -> int:
    """Returns how many pairs McNemar's test needs to show a `gap`, where the share `discordant` of them disagrees.

    n = (z(alpha/2)·√d + z(power)·√(d - g²))² / g²: R. J. Connor, Sample size for testing differences in
    proportions for the paired-sample design, Biometrics 43 (1987) 207-211.
    Raises ValueError unless 0 < gap <= discordant <= 1.
    """
    from scipy.stats import norm

    if not 0 < gap <= discordant <= 1:
        raise ValueError(f"a gap of {gap} can't come from a share of {discordant} that disagrees")
    spread = float(norm.ppf(1 - ALPHA / 2) * math.sqrt(discordant))
    spread += float(norm.ppf(POWER) * math.sqrt(discordant - gap * gap))
    return math.ceil(spread * spread / (gap * gap))


def detectable_gap(n: int, discordant: float) -> float | None:
    """Returns the smallest gap for which `rows_needed` is within n; None where even disagreement in one
    direction only would not show."""
    if discordant <= 0 or rows_needed(discordant, discordant) > n:
        return None
    low, high = 0.0, discordant
    for _ in range(40):
        middle = (low + high) / 2
        if rows_needed(middle, discordant) <= n:
            high = middle
        else:
            low = middle
    return high


def holm(ps: Sequence[float]) -> tuple[float, ...]:
    """Corrects each p for their number, in their order: below alpha where Holm's step-down test rejects.

    S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6
    (1979) 65-70.
    """
    corrected = [1.0] * len(ps)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min((len(ps) - rank) * ps[place], 1.0))
        corrected[place] = least
    return tuple(corrected)


@dataclass(frozen=True)
class LabelScore:
    """`recall` is None where no row was expected so; f1 is then 0."""

    label: str
    expected: int
    answered: int
    correct: int

    @property
    def recall(self) -> float | None:
        return self.correct / self.expected if self.expected else None

    @property
    def f1(self) -> float:
        both = self.expected + self.answered
        return 2 * self.correct / both if both else 0.0


@dataclass(frozen=True)
class LabelLoss:
    """Of `rows` with this label `before` were right and `after` are. `p` is McNemar's exact one, with Holm's correction
    over all labels."""

    label: str
    rows: int
    before: int
    after: int
    p: float


def find_worse_labels(
    expected: Sequence[str], before: Sequence[bool], after: Sequence[bool]
) -> tuple[LabelLoss, ...]:
    """Returns the labels that are told to be right less often, those that lost most first."""
    pairs: dict[str, list[tuple[bool, bool]]] = {}
    for label, was, now in zip(expected, before, after, strict=True):
        pairs.setdefault(normalise(label), []).append((bool(was), bool(now)))
    names = {normalise(label): label for label in reversed(expected)}
    counted = {key: Counter(of_label) for key, of_label in pairs.items()}
    corrected = holm([mcnemar_exact(each[True, False], each[False, True]) for each in counted.values()])
    losses = []
    for (key, each), p in zip(counted.items(), corrected, strict=True):
        both, lost, gained = each[True, True], each[True, False], each[False, True]
        if lost > gained and p < ALPHA:
            losses.append(LabelLoss(names[key], each.total(), both + lost, both + gained, p))
    return tuple(sorted(losses, key=lambda loss: (loss.after - loss.before, loss.label)))


@dataclass(frozen=True)
class Confusion:
    """counts[i][j]: rows whose right label is labels[i] and whose answer is columns[j].

    `columns` are the labels and, last, OTHER for an answer that is no label.
    """

    labels: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def normalise(answer: str) -> str:
    """Returns what equal answers share: NFKC, no case, single spaces, without quotes around it and a full stop
    at its end. "Label: refund" stays another answer than "refund": a program could not use it."""
    text = " ".join(unicodedata.normalize("NFKC", answer).casefold().split())
    return text.strip(_QUOTES + " ").removesuffix(".").strip(_QUOTES + " ")


def exact_match(expected: str, answer: str) -> bool:
    return normalise(expected) == normalise(answer)


def confusion(expected: Sequence[str], answers: Sequence[str]) -> Confusion:
    """Counts answers by their right label. Labels are those expected, by name; answers are matched to them as
    `exact_match` does, and so are spellings of one label to its first."""
    spelled = {normalise(label): label for label in sorted(set(expected), reverse=True)}
    labels = tuple(sorted(spelled.values()))
    place = {normalise(label): i for i, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for right, answer in zip(expected, answers, strict=True):
        counts[place[normalise(right)]][place.get(normalise(answer), len(labels))] += 1
    return Confusion(labels, (*labels, OTHER), tuple(map(tuple, counts)))


def label_scores(matrix: Confusion) -> tuple[LabelScore, ...]:
    """Returns a score for each label, in their order."""
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
    """`rows` whose right label is `expected` were answered `answered`, of `of` rows with that label."""

    expected: str
    answered: str
    rows: int
    of: int


def mistakes(matrix: Confusion) -> tuple[Mistake, ...]:
    """Returns the wrong answers by label, the most frequent first, then by name."""
    mistakes = [
        Mistake(label, matrix.columns[j], count, sum(matrix.counts[i]))
        for i, label in enumerate(matrix.labels)
        for j, count in enumerate(matrix.counts[i])
        if count and i != j
    ]
    return tuple(sorted(mistakes, key=lambda mistake: (-mistake.rows, mistake.expected, mistake.answered)))


def macro_f1(matrix: Confusion) -> float:
    """Returns the plain mean of the labels' F1: a rare label counts as much as a frequent one. Raises ValueError if
    there are none."""
    scores = label_scores(matrix)
    if not scores:
        raise ValueError("macro F1 of no labels: there is nothing to say")
    return sum(score.f1 for score in scores) / len(scores)


@dataclass(frozen=True)
class Difference:
    """The difference of two arms on the same rows, tuned minus base; `p` is two-sided."""

    value: float
    low: float
    high: float
    p: float


def mean_interval(scores: Sequence[float], level: float = 0.95) -> Interval:
    """Returns the bootstrap's interval of the mean of scores between 0 and 1.

    With fewer than 30 rows, or where all are the same, it is Wilson's, which is wider: drawing those rows again shows
    too little. Raises ValueError without rows.
    """
    import numpy as np

    values = np.asarray(scores, dtype=np.float64)
    if len(values) < FEWEST_ROWS or values.min() == values.max():
        return wilson_of_share(float(values.mean()) if len(values) else 0.0, len(values), level)
    low, high = np.quantile(_bootstrap_means(values), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def paired_means(base: Sequence[float], tuned: Sequence[float]) -> Difference:
    """Returns the mean of the rows' differences, its 95% interval and p by the bootstrap; with fewer than 30 rows by
    `small_sample_interval`. Raises ValueError unless both are filled and equally long."""
    import numpy as np

    _check_rows(len(base), len(tuned))
    if len(base) < FEWEST_ROWS:
        return _few_means(base, tuned)
    differences = np.asarray(tuned, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    means = _bootstrap_means(differences)
    low, high = np.quantile(means, [0.025, 0.975])
    # counted with the one draw that was seen, so that p is never 0: Davison and Hinkley 1997, section 4.2.5
    sides = (int((means <= 0).sum()) + 1, int((means >= 0).sum()) + 1)
    p = min(2 * min(sides) / (len(means) + 1), 1.0)
    return Difference(float(differences.mean()), float(low), float(high), p)


def _few_means(base: Sequence[float], tuned: Sequence[float]) -> Difference:
    """p is below 0.05 where the interval leaves 0 out."""
    likely, value = small_sample_interval(base, tuned), (math.fsum(tuned) - math.fsum(base)) / len(base)
    reach = value - likely.low if value > 0 else likely.high - value
    normal = NormalDist()
    p = 2 * normal.cdf(-abs(value) / reach * normal.inv_cdf(0.975))
    return Difference(value, likely.low, likely.high, p)


def _bootstrap_means(values: Numbers) -> Numbers:
    """Returns the mean of each of DRAWS draws of as many values, with replacement; the same draws each time."""
    import numpy as np

    generator, n = np.random.default_rng(0), len(values)
    at_once = max(_AT_ONCE // n, 1)
    sizes = [min(at_once, DRAWS - start) for start in range(0, DRAWS, at_once)]
    return np.concatenate([values[generator.integers(0, n, size=(size, n))].mean(axis=1) for size in sizes])
