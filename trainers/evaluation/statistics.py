"""Intervals of shares, paired tests of two candidates, confusion matrices and F1 of labels, the agreement of two
judges, and the bootstrap where there is no formula. Results are reproducible. numpy is imported when needed; scipy,
which takes half a second to import, is not used, because the bot's own process compares candidates too."""

from __future__ import annotations

import math
import operator
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

ALPHA = 0.05
POWER = 0.8
OTHER = "(something else)"
DRAWS = 2_000
FEWEST_ROWS = 30
_AT_ONCE = 2_000_000  # row numbers drawn at a time: 16 MB
_QUOTES = "\"'`*“”‘’«»"


@dataclass(frozen=True)
class Interval:
    """An interval of shares, from 0 to 1, or of differences of shares, from -1 to 1."""

    low: float
    high: float


def wilson(correct: int, n: int, level: float = 0.95) -> Interval:
    """Returns the two-sided score interval (Wilson 1927) without continuity correction. Raises ValueError if n is 0."""
    return wilson_of_share(correct / max(n, 1), n, level)


def wilson_of_share(share: float, n: float, level: float = 0.95) -> Interval:
    """Like `wilson`, for rows that may be partly right. Then the interval is too wide, never too narrow, because among
    scores from 0 to 1 with the same mean, those that are only 0 and 1 vary most. Raises ValueError if n is 0."""
    if n == 0:
        raise ValueError("computing the interval of a share of 0 rows: there is none")
    z = NormalDist().inv_cdf((1 + level) / 2)
    z_squared = z * z
    shrink = 1 + z_squared / n
    middle = (share + z_squared / (2 * n)) / shrink
    sampling = share * (1 - share) / n
    variance = sampling + z_squared / (4 * n * n)
    half = z * math.sqrt(variance) / shrink
    # Wilson's interval lies between 0 and 1; rounding may put an end slightly outside.
    low = max(middle - half, 0.0)
    high = min(middle + half, 1.0)
    return Interval(low, high)


@dataclass(frozen=True)
class PairedComparison:
    """Two candidates on the same rows. Only the tuned candidate is right on `gained` rows, only the base on `lost`
    rows.

    `difference` is tuned minus base, and `p` is that of McNemar's exact two-sided test. `detectable_gap` is the
    smallest true difference that would be detected in 80% of cases with this many rows and this share of disagreement,
    or None if none would.
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


def compare(base: Sequence[bool], tuned: Sequence[bool]) -> PairedComparison:
    """Compares two candidates. `base[i]` and `tuned[i]` say whether each was right on row i. Raises ValueError if the
    lengths differ or are 0."""
    _check_rows(len(base), len(tuned))
    base_right = map(bool, base)
    tuned_right = map(bool, tuned)
    pairs = Counter(zip(base_right, tuned_right, strict=True))
    both = pairs[True, True]
    gained = pairs[False, True]
    lost = pairs[True, False]
    neither = pairs[False, False]
    n = len(base)
    base_correct = both + lost
    tuned_correct = both + gained
    discordant = (gained + lost) / n
    return PairedComparison(
        n=n,
        base_correct=base_correct,
        tuned_correct=tuned_correct,
        gained=gained,
        lost=lost,
        base=wilson(base_correct, n),
        tuned=wilson(tuned_correct, n),
        difference=(gained - lost) / n,
        difference_interval=paired_interval(both, gained, lost, neither),
        p=mcnemar_exact(gained, lost),
        detectable_gap=detectable_gap(n, discordant),
    )


def _check_rows(base: int, tuned: int) -> None:
    if base != tuned or not base:
        raise ValueError(f"comparing {base} rows with {tuned}: both need the same rows, at least one")


def mcnemar_exact(b: int, c: int) -> float:
    """Returns the two-sided p of b against c discordant pairs, by a binomial test with p = 1/2; 1.0 if there are none.

    With p = 1/2 both tails are equal, so the p-value is twice the smaller one. The sum is in whole numbers and exact.
    """
    n = b + c
    fewer = min(b, c)
    ways = [math.comb(n, k) for k in range(fewer + 1)]
    tail = sum(ways)
    p = Fraction(2 * tail, 2**n)  # a float can't hold the whole numbers of many rows
    return min(float(p), 1.0)


def paired_interval(
    both: int,
    gained: int,
    lost: int,
    neither: int,
    level: float = 0.95,
) -> Interval:
    """Returns Newcombe's square-and-add interval for (gained - lost) / n, with the correlation of the pairs.

    R. G. Newcombe, Improved confidence intervals for the difference between binomial proportions based on paired data,
    Statistics in Medicine 17 (1998) 2635-2650, method 10.
    """
    n = both + gained + lost + neither
    base = (both + lost) / n
    tuned = (both + gained) / n
    phi = _correlation(both, gained, lost, neither)
    return _square_and_add(base, tuned, n, phi, level)


def small_sample_interval(
    base: Sequence[float],
    tuned: Sequence[float],
    level: float = 0.95,
) -> Interval:
    """Returns an interval for the difference of the means of a few scores between 0 and 1: Newcombe's, without the
    correlation. It is rather too wide, on purpose: two rows with equal gains have no spread, but prove nothing."""
    n = len(base)
    base_mean = math.fsum(base) / n
    tuned_mean = math.fsum(tuned) / n
    return _square_and_add(base_mean, tuned_mean, n, 0.0, level)


def _square_and_add(
    base: float,
    tuned: float,
    n: int,
    phi: float,
    level: float,
) -> Interval:
    def root(x: float, y: float) -> float:
        square = x * x - 2 * phi * x * y + y * y
        return math.sqrt(max(square, 0.0))  # rounding may make it slightly negative

    of_tuned = wilson_of_share(tuned, n, level)
    of_base = wilson_of_share(base, n, level)
    tuned_below = tuned - of_tuned.low
    tuned_above = of_tuned.high - tuned
    base_below = base - of_base.low
    base_above = of_base.high - base
    below = root(tuned_below, base_above)
    above = root(tuned_above, base_below)
    difference = tuned - base
    return Interval(difference - below, difference + above)


def _correlation(both: int, gained: int, lost: int, neither: int) -> float:
    """Returns phi, with Newcombe's continuity correction if it is positive."""
    tuned_margins = (both + gained) * (lost + neither)
    base_margins = (both + lost) * (gained + neither)
    margins = tuned_margins * base_margins
    if margins == 0:
        return 0.0
    is_same = both * neither
    is_different = gained * lost
    product = float(is_same - is_different)
    if product > 0:
        n = both + gained + lost + neither
        product = max(product - n / 2, 0)
    return product / math.sqrt(margins)


def rows_needed(gap: float, discordant: float) -> int:
    """Returns how many pairs McNemar's test needs to detect a `gap` if the share `discordant` of pairs disagrees.

    n = (z(alpha/2)·√d + z(power)·√(d - g²))² / g²: R. J. Connor, Sample size for testing differences in
    proportions for the paired-sample design, Biometrics 43 (1987) 207-211.
    Raises ValueError unless 0 < gap <= discordant <= 1.
    """
    if not 0 < gap <= discordant <= 1:
        raise ValueError(f"a gap of {gap} is impossible if the share {discordant} of pairs disagrees")
    normal = NormalDist()
    # The standard deviation of a pair's difference is √d if there is no gap, and √(d - g²) if there is one.
    square = gap * gap
    z_of_level = normal.inv_cdf(1 - ALPHA / 2)
    z_of_power = normal.inv_cdf(POWER)
    without_gap = z_of_level * math.sqrt(discordant)
    with_gap = z_of_power * math.sqrt(discordant - square)
    spread = without_gap + with_gap
    return math.ceil(spread * spread / square)


def detectable_gap(n: int, discordant: float) -> float | None:
    """Returns the smallest gap for which `rows_needed` is at most n, or None if even disagreement in one direction only
    would not be detected."""
    if discordant <= 0:
        return None
    low = 0.0
    high = discordant  # disagreement in one direction only
    if rows_needed(high, discordant) > n:
        return None
    for _ in range(40):  # halvings, until the two are equal to 12 digits
        middle = (low + high) / 2
        if rows_needed(middle, discordant) <= n:
            high = middle
        else:
            low = middle
    return high


def holm(ps: Sequence[float]) -> tuple[float, ...]:
    """Corrects p-values for multiple tests, in order: a result is below alpha exactly if Holm's step-down test rejects.

    S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6
    (1979) 65-70.
    """
    corrected = [1.0] * len(ps)
    least = 0.0
    ascending = sorted(range(len(ps)), key=lambda test: ps[test])
    for rank, test in enumerate(ascending):
        tests_left = len(ps) - rank
        own = min(tests_left * ps[test], 1.0)
        least = max(least, own)  # never below that of a smaller p
        corrected[test] = least
    return tuple(corrected)


@dataclass(frozen=True)
class LabelScore:
    """The counts of one label. `recall` is None if no row has this label; `f1` is then 0."""

    label: str
    expected: int
    answered: int
    correct: int

    @property
    def recall(self) -> float | None:
        if self.expected == 0:
            return None
        return self.correct / self.expected

    @property
    def f1(self) -> float:
        both = self.expected + self.answered
        if both == 0:
            return 0.0
        return 2 * self.correct / both


@dataclass(frozen=True)
class LabelLoss:
    """A label that got worse: of its `rows`, `before` were right and `after` are right now. `p` is that of McNemar's
    exact test with Holm's correction over all labels."""

    label: str
    rows: int
    before: int
    after: int
    p: float


def find_worse_labels(
    expected: Sequence[str],
    before: Sequence[bool],
    after: Sequence[bool],
) -> tuple[LabelLoss, ...]:
    """Returns the labels that are significantly less often right, those that lost most first."""
    names: dict[str, str] = {}  # the first spelling of each
    counts: dict[str, Counter[tuple[bool, bool]]] = defaultdict(Counter)
    for label, was, now in zip(expected, before, after, strict=True):
        key = normalise(label)
        names.setdefault(key, label)
        counts[key][bool(was), bool(now)] += 1

    ps: list[float] = []
    for pairs in counts.values():
        lost = pairs[True, False]
        gained = pairs[False, True]
        p = mcnemar_exact(lost, gained)
        ps.append(p)
    losses: list[LabelLoss] = []
    for key, p in zip(counts, holm(ps), strict=True):
        pairs = counts[key]
        both = pairs[True, True]
        lost = pairs[True, False]
        gained = pairs[False, True]
        if lost > gained and p < ALPHA:
            loss = LabelLoss(
                label=names[key],
                rows=pairs.total(),
                before=both + lost,
                after=both + gained,
                p=p,
            )
            losses.append(loss)
    losses.sort(key=lambda loss: (loss.after - loss.before, loss.label))
    return tuple(losses)


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: counts[i][j] is the number of rows with the right label labels[i] and the answer columns[j].

    `columns` are the labels and, last, OTHER for answers that are not one of the labels.
    """

    labels: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def normalise(answer: str) -> str:
    """Returns a form that is equal for answers that count as the same: NFKC, case-folded, single spaces, without quotes
    around it and a full stop at its end. "Label: refund" still differs from "refund", because a program could not use
    it."""
    folded = unicodedata.normalize("NFKC", answer).casefold()
    text = " ".join(folded.split())
    around = _QUOTES + " "
    # Twice, because the full stop may be inside the quotes or outside.
    return text.strip(around).removesuffix(".").strip(around)


def exact_match(expected: str, answer: str) -> bool:
    return normalise(expected) == normalise(answer)


def confusion(expected: Sequence[str], answers: Sequence[str]) -> Confusion:
    """Builds the confusion matrix. Its labels are the expected ones, sorted. Answers are matched to them by
    `exact_match`, and so are different spellings of a label to the first one."""
    index: dict[str, int] = {}
    labels: list[str] = []
    for label in sorted(set(expected)):
        key = normalise(label)
        if key not in index:
            index[key] = len(labels)
            labels.append(label)
    columns = (*labels, OTHER)
    other = len(labels)
    counts = [[0] * len(columns) for _ in labels]
    for right, answer in zip(expected, answers, strict=True):
        row = index[normalise(right)]
        column = index.get(normalise(answer), other)
        counts[row][column] += 1
    return Confusion(tuple(labels), columns, tuple(map(tuple, counts)))


def label_scores(matrix: Confusion) -> tuple[LabelScore, ...]:
    """Returns the counts of each label, in order."""
    scores: list[LabelScore] = []
    for index, label in enumerate(matrix.labels):
        row = matrix.counts[index]
        column = [counts[index] for counts in matrix.counts]
        score = LabelScore(
            label=label,
            expected=sum(row),
            answered=sum(column),
            correct=row[index],
        )
        scores.append(score)
    return tuple(scores)


@dataclass(frozen=True)
class Mistake:
    """A kind of wrong answer: `rows` of the `of` rows with the label `expected` were answered with `answered`."""

    expected: str
    answered: str
    rows: int
    of: int


def mistakes(matrix: Confusion) -> tuple[Mistake, ...]:
    """Returns the kinds of wrong answers, the most frequent first, then by name."""
    mistakes: list[Mistake] = []
    for index, expected in enumerate(matrix.labels):
        row = matrix.counts[index]
        for column, count in enumerate(row):
            if count and column != index:
                mistake = Mistake(
                    expected=expected,
                    answered=matrix.columns[column],
                    rows=count,
                    of=sum(row),
                )
                mistakes.append(mistake)
    mistakes.sort(key=lambda mistake: (-mistake.rows, mistake.expected, mistake.answered))
    return tuple(mistakes)


def macro_f1(matrix: Confusion) -> float:
    """Returns the unweighted mean of the labels' F1, in which rare and frequent labels count the same. Raises
    ValueError if there are no labels."""
    scores = label_scores(matrix)
    if not scores:
        raise ValueError("computing the macro F1: there are no labels")
    total = sum(score.f1 for score in scores)
    return total / len(scores)


@dataclass(frozen=True)
class Difference:
    """The difference of two candidates on the same rows, tuned minus base, with its 95% interval and two-sided p."""

    value: float
    low: float
    high: float
    p: float


def mean_interval(scores: Sequence[float], level: float = 0.95) -> Interval:
    """Returns the bootstrap interval of the mean of scores between 0 and 1.

    With fewer than 30 rows, or if all scores are equal, resampling would understate the uncertainty, so Wilson's wider
    interval is returned. Raises ValueError if there are no rows.
    """
    import numpy as np

    values = np.asarray(scores, dtype=np.float64)
    if len(values) < FEWEST_ROWS or values.min() == values.max():
        mean = 0.0
        if len(values):
            mean = float(values.mean())
        return wilson_of_share(mean, len(values), level)
    means = _bootstrap_means(values)
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(means, ends).tolist()
    return Interval(low, high)


def paired_means(base: Sequence[float], tuned: Sequence[float]) -> Difference:
    """Returns the mean difference per row, with its 95% interval and p, by the bootstrap or, with fewer than 30 rows,
    by `small_sample_interval`. Raises ValueError if the lengths differ or are 0."""
    import numpy as np

    _check_rows(len(base), len(tuned))
    if len(base) < FEWEST_ROWS:
        return _few_means(base, tuned)
    tuned_scores = np.asarray(tuned, dtype=np.float64)
    base_scores = np.asarray(base, dtype=np.float64)
    differences = tuned_scores - base_scores
    means = _bootstrap_means(differences)
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    # The observed sample counts as a draw, so that p is never 0: Davison and Hinkley 1997, section 4.2.5.
    not_above = int((means <= 0).sum()) + 1
    not_below = int((means >= 0).sum()) + 1
    fewer = min(not_above, not_below)
    draws = len(means) + 1
    p = min(2 * fewer / draws, 1.0)
    return Difference(float(differences.mean()), low, high, p)


def _few_means(base: Sequence[float], tuned: Sequence[float]) -> Difference:
    """Compares the means of a few rows. p is chosen so that it is below 0.05 exactly if the interval excludes 0."""
    likely = small_sample_interval(base, tuned)
    total = math.fsum(tuned) - math.fsum(base)
    value = total / len(base)
    reach = likely.high - value
    if value > 0:
        reach = value - likely.low
    normal = NormalDist()
    deviations = abs(value) / reach * normal.inv_cdf(0.975)
    p = 2 * normal.cdf(-deviations)
    return Difference(value, likely.low, likely.high, p)


def _bootstrap_means(values: Numbers) -> Numbers:
    """Returns the means of DRAWS bootstrap samples, which are drawn with a fixed seed."""
    import numpy as np

    generator = np.random.default_rng(0)
    n = len(values)
    at_once = max(_AT_ONCE // n, 1)
    means = []
    for start in range(0, DRAWS, at_once):
        size = min(at_once, DRAWS - start)
        drawn = generator.integers(0, n, size=(size, n))
        samples = values[drawn]
        means.append(samples.mean(axis=1))
    return np.concatenate(means)


@dataclass(frozen=True)
class Agreement:
    """The agreement of two judges on the same n items. `kappa` is Cohen's kappa, from -1 to 1, and `low` and `high` are
    its 95% interval. All three are None if chance alone gives full agreement (both judges gave a single verdict) or n
    is 0."""

    n: int
    agreed: int
    kappa: float | None
    low: float | None
    high: float | None


def agreement(first: Sequence[str], second: Sequence[str]) -> Agreement:
    """Compares verdicts item by item by Cohen's kappa (1960).

    Raises ValueError if the numbers of items differ.
    """
    if len(first) != len(second):
        raise ValueError(
            f"comparing {len(first)} verdicts with {len(second)}: they must be about the same items"
        )
    n = len(first)
    agreed = sum(map(operator.eq, first, second))
    rows = Counter(first)
    columns = Counter(second)
    by_chance = 1.0
    if n:
        pairs_by_chance = sum(rows[verdict] * columns[verdict] for verdict in rows)
        by_chance = pairs_by_chance / (n * n)
    if by_chance == 1:
        return Agreement(n, agreed, None, None, None)
    kappa = (agreed / n - by_chance) / (1 - by_chance)
    reach = 1.959964 * _kappa_error(first, second, kappa, by_chance)
    low = max(kappa - reach, -1.0)
    high = min(kappa + reach, 1.0)
    return Agreement(n, agreed, kappa, low, high)


def _kappa_error(first: Sequence[str], second: Sequence[str], kappa: float, by_chance: float) -> float:
    """Returns the standard error of kappa. Fleiss, Cohen and Everitt, Large sample standard errors of kappa and
    weighted kappa, Psychological Bulletin 72 (1969) 323-327."""
    n = len(first)
    cells = Counter(zip(first, second, strict=True))
    rows = Counter(first)
    columns = Counter(second)
    disagreement = 1 - kappa
    on_diagonal = 0.0
    off_diagonal = 0.0
    for (verdict, other), count in cells.items():
        share = count / n
        if verdict == other:
            margins = (rows[verdict] + columns[verdict]) / n
            on_diagonal += share * (1 - margins * disagreement) ** 2
        else:
            margins = (columns[verdict] + rows[other]) / n
            off_diagonal += share * margins**2
    squared_mean = (kappa - by_chance * disagreement) ** 2
    variance = on_diagonal + disagreement**2 * off_diagonal - squared_mean
    # Rounding may make the variance of full agreement slightly negative.
    return math.sqrt(max(variance, 0.0) / n) / (1 - by_chance)
