"""Whether what is in use should be trained or measured again, and whether it then answers the same held-out rows
differently than when it was chosen. Pure.

A vendor may change a model under its name. Each monthly measurement is one of twelve a year, so that a year without a
change has an alarm in 5% of cases at most, whatever the twelve have in common (the union bound).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from trainers.evaluation.statistics import compare, paired_means

LEVEL = 0.05 / 12
FEWEST_NEW_ROWS = 100  # with fewer, calls that have changed are still hardly among the rows

RepetitionReason = Literal["worse", "changed"]


@dataclass(frozen=True)
class Change:
    """How the new answers compare with the earlier ones on the `rows` that have both: `difference` is the mean of the
    new scores less that of the earlier ones, and `p` that of a two-sided test by row. `is_same_question`: the models
    got the same instructions and learnt from the same rows, so that only the model can have changed."""

    rows: int
    difference: float
    p: float
    is_same_question: bool

    @property
    def is_shown(self) -> bool:
        """True if it is more than chance."""
        return self.p <= LEVEL


def repetition_reason(*, is_worse: bool, is_changed: bool, new_rows: int) -> RepetitionReason | None:
    """Returns why what is in use should be trained or measured again, None if it needn't: live answers are shown to be
    worse than measured, or calls are shown to have changed and enough rows were labelled since. The end of its model
    has a message of its own."""
    if is_worse:
        return "worse"
    if is_changed and new_rows >= FEWEST_NEW_ROWS:
        return "changed"
    return None


def judge_change(before: Sequence[float], now: Sequence[float], *, is_same_question: bool) -> Change:
    """Compares scores from 0 to 1 of the same rows. If all are 0 or 1, the test is McNemar's, which is exact; else the
    bootstrap of the mean difference. Raises ValueError if their numbers differ or are 0."""
    if set(before) | set(now) <= {0.0, 1.0}:
        answers = compare([score == 1 for score in before], [score == 1 for score in now])
        return Change(answers.n, answers.difference, answers.p, is_same_question)
    means = paired_means(before, now)
    return Change(len(now), means.value, means.p, is_same_question)


def month_of_card(week: date) -> str:
    """Returns the month ('2026-12') in which the card of the week that begins with this Monday is posted."""
    return f"{week + timedelta(days=7):%Y-%m}"
