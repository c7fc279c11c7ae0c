"""Whether what is in use is still as often right as on the held-out rows, from random calls that people labelled.

A cumulative sum (CUSUM) of log-likelihood ratios grows while answers look as if they were right 10 points less often
than the reference, and starts again at 0 while they don't; it alarms above THRESHOLD. E. S. Page, Continuous inspection
schemes, Biometrika 41 (1954) 100-115. It is summed a week at a time, because the order of labels within a week means
nothing, and because 52 looks a year are then all that the threshold has to allow for, however many labels there are.

The reference is the holdout's share less 1.5 standard errors. The holdout's own share is an estimate too, and usually a
lucky one, as the best candidate was chosen by it. No threshold protects from that: an estimate that is 3 points too
high makes 3 points of drop out of nothing.

Wilson's interval of the last four weeks is shown beside it, and never alarms by itself: looked at each week, it would
in one year of five. Figures are in docs/watching.md; `python benchmarks/watch.py` measures them.

numpy is imported when needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from trainers.evaluation.statistics import POWER, Interval, wilson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

THRESHOLD = 5.2
DROP = 0.1  # that the sum is fastest at; a larger one is seen sooner, a smaller one late or never
STANDARD_ERRORS = 1.5
SHOWN_WEEKS = 4  # of Wilson's interval
MOST_POINTS = 30  # the largest drop that is looked for in `detectable_drop`
_CELLS = 200  # the sum's values between 0 and the threshold, for probabilities: exact to three digits


@dataclass(frozen=True)
class LabelledWeek:
    """Of `labelled` random calls that people labelled in a week, `right` were answered right. Both may be 0."""

    right: int
    labelled: int


@dataclass(frozen=True)
class Holdout:
    """What was promised: the mean score of what is in use on `rows` held-out rows, from 0 to 1."""

    share: float
    rows: int

    @cached_property
    def reference(self) -> float:
        """The share less 1.5 standard errors. Two right and two wrong rows are added for the error alone, so that a
        share of 1 has one too: A. Agresti and B. A. Coull, Approximate is better than "exact" for interval estimation
        of binomial proportions, The American Statistician 52 (1998) 119-126."""
        moderate = (self.share * self.rows + 2) / (self.rows + 4)
        error = math.sqrt(moderate * (1 - moderate) / self.rows)
        return max(self.share - STANDARD_ERRORS * error, 0.0)


@dataclass(frozen=True)
class LiveAccuracy:
    """What the labels of live calls say.

    `statistic` is the cumulative sum after the last week, `alarm_week` the first week (counted from 1) after which it
    was above `threshold`, or None. `recent` is Wilson's 95% interval of the last four weeks, or None without labels in
    them. `detectable_drop` is the smallest drop from the holdout's share, in whole points, that would have alarmed by
    now in 80% of cases if it had been there since the first week; None if a drop of 30 points would not.
    """

    reference: float
    statistic: float
    threshold: float
    alarm_week: int | None
    labels: int
    recent_right: int
    recent_labels: int
    recent: Interval | None
    detectable_drop: int | None

    @property
    def is_alarm(self) -> bool:
        return self.alarm_week is not None


def judge_live_accuracy(weeks: Sequence[LabelledWeek], holdout: Holdout) -> LiveAccuracy:
    """Judges the labels of all weeks, in order, since the promotion or retraining that the holdout's share belongs to.

    After an alarm that led to another promotion, pass only the weeks since. Pass only weeks that have ended, each by
    when its labels were given: a week that changes after it was judged adds looks that the threshold doesn't allow for.

    Raises ValueError if the holdout has no rows or a share outside of 0 to 1, or if a week's counts are impossible.
    """
    _check(weeks, holdout)
    statistic, alarm_week = cumulative_sum(weeks, holdout.reference)
    shown = weeks[-SHOWN_WEEKS:]
    right = sum(week.right for week in shown)
    labels = sum(week.labelled for week in shown)
    recent = None
    if labels:
        recent = wilson(right, labels)
    labelled = [week.labelled for week in weeks]
    return LiveAccuracy(
        reference=holdout.reference,
        statistic=statistic,
        threshold=THRESHOLD,
        alarm_week=alarm_week,
        labels=sum(labelled),
        recent_right=right,
        recent_labels=labels,
        recent=recent,
        detectable_drop=detectable_drop(labelled, holdout),
    )


def cumulative_sum(weeks: Sequence[LabelledWeek], reference: float) -> tuple[float, int | None]:
    """Returns the sum after the last week, and the first week after which it alarmed."""
    of_right, of_wrong = _log_ratios(reference)
    total = 0.0
    alarm_week = None
    for number, week in enumerate(weeks, 1):
        wrong = week.labelled - week.right
        added = week.right * of_right + wrong * of_wrong
        total = max(total + added, 0.0)
        if total >= THRESHOLD and alarm_week is None:
            alarm_week = number
    return total, alarm_week


def detectable_drop(labelled: Sequence[int], holdout: Holdout) -> int | None:
    """Returns the smallest drop from the holdout's share, in whole points, that alarms within weeks with so many labels
    with a probability of 80%; None if a drop of 30 points, or to 0, does not."""
    enough = [count for count in labelled if count]
    reference = holdout.reference

    def is_detected(points: int) -> bool:
        share = holdout.share - points / 100
        return alarm_probability(enough, share, reference) >= POWER

    most = min(MOST_POINTS, math.floor(100 * holdout.share))
    if most < 1 or not is_detected(most):
        return None
    low = 0
    high = most
    while high - low > 1:
        middle = (low + high) // 2
        if is_detected(middle):
            high = middle
        else:
            low = middle
    return high


def alarm_probability(labelled: Sequence[int], share: float, reference: float) -> float:
    """Returns the probability of an alarm within weeks with so many labels, if answers are right with probability
    `share`. The sum is followed as a Markov chain on a grid: D. Brook and D. A. Evans, An approach to the probability
    distribution of CUSUM run length, Biometrika 59 (1972) 539-549."""
    import numpy as np

    steps: dict[int, Numbers] = {}
    chances = np.zeros(_CELLS)
    chances[0] = 1.0
    alarmed = 0.0
    for count in labelled:
        if count not in steps:
            steps[count] = _steps_of_week(count, share, reference)
        # Cell i of the spread is a sum of i - _CELLS cells: below 0 it starts again, from _CELLS on it has alarmed.
        spread = np.convolve(chances, steps[count])
        alarmed += float(spread[2 * _CELLS :].sum())
        chances = spread[_CELLS : 2 * _CELLS].copy()
        chances[0] += spread[:_CELLS].sum()
    return min(alarmed, 1.0)


def _check(weeks: Sequence[LabelledWeek], holdout: Holdout) -> None:
    if holdout.rows < 1 or not 0 <= holdout.share <= 1:
        raise ValueError(
            f"judging live answers by a holdout with a share of {holdout.share} of {holdout.rows} rows: "
            "a share from 0 to 1 of at least one row is needed"
        )
    for number, week in enumerate(weeks, 1):
        if not 0 <= week.right <= week.labelled:
            raise ValueError(
                f"judging live answers: week {number} has {week.right} right answers of {week.labelled} labels; "
                "they must be between 0 and the number of labels"
            )


def _log_ratios(reference: float) -> tuple[float, float]:
    """Returns what a right and a wrong answer add to the sum. From a reference below 20 points, half of it is the drop,
    as 10 points would leave little or nothing. Nothing can drop from 0."""
    dropped = max(reference - DROP, reference / 2)
    if dropped <= 0:
        return 0.0, 0.0
    of_right = math.log(dropped / reference)
    of_wrong = math.log((1 - dropped) / (1 - reference))
    return of_right, of_wrong


def _steps_of_week(count: int, share: float, reference: float) -> Numbers:
    """Returns the distribution of what a week with `count` labels adds to the sum, from -THRESHOLD in cell 0 to
    THRESHOLD in cell 2 * _CELLS. What lies between two cells is divided among them, so that the mean is kept; what
    lies outside counts as the ends, which is the same for a sum that starts again at 0 or has alarmed."""
    import numpy as np

    of_right, of_wrong = _log_ratios(reference)
    right = np.arange(count + 1)
    wrong = count - right
    added = right * of_right + wrong * of_wrong
    cells = np.clip(added / THRESHOLD, -1, 1) * _CELLS + _CELLS
    below = np.floor(cells).astype(np.int64)
    above_part = cells - below
    chances = _binomial(count, share)
    steps = np.zeros(2 * _CELLS + 2)
    np.add.at(steps, below, chances * (1 - above_part))
    np.add.at(steps, below + 1, chances * above_part)
    return steps


def _binomial(count: int, share: float) -> Numbers:
    """Returns the probabilities of 0 to `count` right answers."""
    import numpy as np

    likely = min(max(share, 1e-12), 1 - 1e-12)  # so that both logarithms exist
    right = np.arange(count + 1)
    wrong = count - right
    logs = np.log(np.arange(1, count + 1))
    log_factorials = np.concatenate([[0.0], np.cumsum(logs)])
    ways = log_factorials[count] - log_factorials[right] - log_factorials[wrong]
    chances: Numbers = np.exp(ways + right * math.log(likely) + wrong * math.log1p(-likely))
    return chances
