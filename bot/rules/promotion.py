"""Is a model shown to be better than the one it would replace, or cheaper and not worse, and what are the objections to
using it? Forbids nothing: an objection only means that a person has to give a reason."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import NormalDist, fmean, stdev
from typing import Literal

from bot.rules.permissions import DEFAULT_PROMOTION_LIMITS, PromotionLimits
from bot.rules.plans import ascii_name
from trainers.evaluation.results import Rung
from trainers.evaluation.statistics import (
    FEWEST_ROWS,
    Interval,
    LabelLoss,
    paired_interval,
    small_sample_interval,
    wilson,
)

Objection = Literal[
    "gone",
    "unmeasured",
    "no_go",
    "nothing_beside",
    "not_better",
    "other_rows",
    "not_better_than_used",
    "below_floor",
]

ALIASES = "team/"
TWO_SIDED_95 = NormalDist().inv_cdf(0.975)
ONE_SIDED_95 = 0.9  # level of a two-sided interval whose ends are one-sided 95% bounds


@dataclass(frozen=True)
class ModelComparison:
    """A model's answers compared with another model's to the same rows. `other` is the other model's name in plain text
    and `score` its score; `difference` is how much better the model is, with its 95% interval from `low` to `high`.
    `usd` and `other_usd` are the costs of 1,000 requests to each; None if unknown."""

    other: str
    score: float
    difference: float
    low: float
    high: float
    rows: int
    usd: Decimal | None = None
    other_usd: Decimal | None = None

    @property
    def is_better(self) -> bool:
        return self.low > 0

    @property
    def is_cheaper(self) -> bool:
        """False if either price is unknown."""
        return self.usd is not None and self.other_usd is not None and self.usd < self.other_usd

    @property
    def is_worse(self) -> bool:
        return self.high < 0

    def is_not_worse(self, margin: float) -> bool:
        """Tests non-inferiority: the lower end of the two-sided 95% interval is above -margin (ICH E9, 3.3.2)."""
        return self.low > -margin

    def wins_by_price(self, margin: float) -> bool:
        """True if the model is not shown to be better, but is cheaper and not worse."""
        return not self.is_better and self.is_cheaper and self.is_not_worse(margin)

    def is_enough(self, margin: float) -> bool:
        return self.is_better or self.wins_by_price(margin)


@dataclass(frozen=True)
class LabelRecall:
    """Of the `rows` held-out rows with this label, `right` were answered correctly."""

    label: str
    rows: int
    right: int


@dataclass(frozen=True)
class PromotionEvidence:
    """What is known about a model that may be promoted.

    - `rung` is its measurement, None if it was never measured.
    - `best` compares it with the best other candidate on the same held-out rows.
    - `used` is the model in use now; `against_used` is None if the two did not answer the same rows.
    - `no_go` is the verdict of its run, if that was a no.
    - `is_gone` is true if the model no longer answers.
    - `low` labels are shown to be below the floor in the policy's `limits`, `worse` labels to be right less often than
      with the model in use.
    """

    rung: Rung | None
    best: ModelComparison | None = None
    used: str | None = None
    against_used: ModelComparison | None = None
    no_go: str | None = None
    is_gone: bool = False
    limits: PromotionLimits = DEFAULT_PROMOTION_LIMITS
    low: tuple[LabelRecall, ...] = ()
    worse: tuple[LabelLoss, ...] = ()


def alias_for(dataset: str) -> str:
    """Returns the name that programs call to get the model in use for a dataset."""
    return f"{ALIASES}{ascii_name(dataset)}"


def best_comparison(comparisons: Iterable[ModelComparison], margin: float) -> ModelComparison | None:
    """Returns the comparison with the best of the other candidates, None without any.

    If the model isn't shown to be better than that one, a comparison in which it can't replace the other goes first: a
    model that is cheaper than the best candidate may still cost more than the second best.
    """
    ranked = sorted(comparisons, key=lambda comparison: comparison.score, reverse=True)
    if ranked and not ranked[0].is_better:
        ranked.sort(key=lambda comparison: comparison.is_enough(margin))
    return next(iter(ranked), None)


def labels_below_floor(labels: Iterable[LabelRecall], limits: PromotionLimits) -> tuple[LabelRecall, ...]:
    """Returns the labels with enough rows whose one-sided 95% upper bound is below the floor, the lowest first."""
    floor = limits.floor
    if floor is None:
        return ()
    judged = (label for label in labels if label.rows >= limits.floor_rows)
    low = [label for label in judged if wilson(label.right, label.rows, ONE_SIDED_95).high < floor]
    return tuple(sorted(low, key=lambda label: label.right / label.rows))


def compare_models(
    other: str,
    scores: Sequence[float],
    other_scores: Sequence[float],
    usd: Decimal | None = None,
    other_usd: Decimal | None = None,
) -> ModelComparison:
    """Compares two models row by row; both scores are in the holdout's order.

    The interval is Newcombe's if every row is either right or wrong, one for few rows if there are few, and otherwise
    the normal interval of the mean difference. Raises ValueError if the numbers of rows differ.
    """
    pairs = list(zip(scores, other_scores, strict=True))
    differences = [score - other_score for score, other_score in pairs]
    middle, n = fmean(differences), len(differences)
    if {*scores, *other_scores} <= {0.0, 1.0}:
        both, gained, lost, neither = (
            pairs.count(pair) for pair in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0))
        )
        likely = paired_interval(both, gained, lost, neither)
    elif n < FEWEST_ROWS:
        likely = small_sample_interval(other_scores, scores)
    else:
        reach = TWO_SIDED_95 * stdev(differences) / math.sqrt(n)
        likely = Interval(middle - reach, middle + reach)
    return ModelComparison(other, fmean(other_scores), middle, likely.low, likely.high, n, usd, other_usd)


def find_objections(proof: PromotionEvidence) -> tuple[Objection, ...]:
    """Returns the objections to using the model; none if it is shown to be better, or cheaper and not worse."""
    names: list[Objection] = []
    margin = proof.limits.margin
    if proof.is_gone:
        names.append("gone")
    if proof.no_go is not None:
        names.append("no_go")
    if proof.rung is None:
        return (*names, "unmeasured")
    if proof.best is None:
        names.append("nothing_beside")
    elif not proof.best.is_enough(margin):
        names.append("not_better")
    if proof.used is not None and proof.against_used is None:
        names.append("other_rows")
    elif proof.against_used is not None and not proof.against_used.is_enough(margin):
        names.append("not_better_than_used")
    if proof.low:
        names.append("below_floor")
    return tuple(names)
