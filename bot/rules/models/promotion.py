"""Is something shown to be better than what it would replace, or cheaper and not worse, and good enough? What are the
objections to using it? Forbids nothing: an objection only means that a person has to give a reason, and another one has
to approve."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import NormalDist, fmean, pstdev, stdev
from typing import Literal

from bot.rules.judge_agreement import CheckedJudge
from bot.rules.permissions import DEFAULT_PROMOTION_LIMITS, PromotionLimits
from bot.rules.plans import ascii_name
from storage.records import Promotable
from trainers.dataset.splits import HOLDOUT_MOST
from trainers.evaluation.claims import promotion_level
from trainers.evaluation.quality_threshold import without_read
from trainers.evaluation.results import MeasuredCandidate
from trainers.evaluation.statistics import (
    FEWEST_ROWS,
    POWER,
    Interval,
    LabelLoss,
    paired_interval,
    small_sample_interval,
    wilson,
)
from trainers.json_values import to_object

Objection = Literal[
    "gone",
    "unmeasured",
    "no_go",
    "judge",
    "other_judge",
    "nothing_beside",
    "not_better",
    "other_rows",
    "not_better_than_used",
    "below_bar",
    "bar_undecided",
    "below_floor",
    "sealed",
]

ALIASES = "team/"
TWO_SIDED_95 = 0.95
ONE_SIDED_95 = 0.9  # level of a two-sided interval whose ends are one-sided 95% bounds


@dataclass(frozen=True)
class ModelComparison:
    """A model's answers compared with another model's to the same rows. `other` is the other model's name in plain text
    and `score` its score; `difference` is how much better the model is, with its 95% interval from `low` to `high`.
    `usd` and `other_usd` are the costs of 1,000 requests to each; None if unknown.

    `least` is the lower bound that decides. It is below `low`, and lower for each further model that was tuned and
    measured on the same rows (claims.py); None in comparisons that were stored before there was one. `spread` is the
    standard deviation of the difference per row. `is_best` is True if the other model is the best alternative, as
    results and plans name it: it needn't have the highest score."""

    other: str
    score: float
    difference: float
    low: float
    high: float
    rows: int
    usd: Decimal | None = None
    other_usd: Decimal | None = None
    least: float | None = None
    spread: float | None = None
    look: int = 1
    is_best: bool = False

    @property
    def is_better(self) -> bool:
        return self.bound > 0

    @property
    def is_cheaper(self) -> bool:
        """False if either price is unknown."""
        return self.usd is not None and self.other_usd is not None and self.usd < self.other_usd

    @property
    def is_worse(self) -> bool:
        return self.high < 0

    def is_not_worse(self, margin: float) -> bool:
        """Tests non-inferiority: the lower bound of the difference is above -margin (ICH E9, 3.3.2)."""
        return self.bound > -margin

    def wins_by_price(self, margin: float) -> bool:
        """True if the model is not shown to be better, but is cheaper and not worse."""
        return not self.is_better and self.is_cheaper and self.is_not_worse(margin)

    def is_enough(self, margin: float) -> bool:
        return self.is_better or self.wins_by_price(margin)

    def rows_for_margin(self, margin: float) -> int | None:
        """Returns how many rows show with a probability of 80% that the model is not worse by the margin, if both are
        equally good. None if these rows show it in at least half of such cases, or if that is unknown.

        With fewer rows, "not shown" says more about the number of rows than about the model.
        """
        if self.spread is None or margin <= 0:
            return None
        z = NormalDist().inv_cdf(1 - promotion_level(self.look))
        # Answers that never differ on a few rows may differ on others: one row is taken to.
        spread = max(self.spread, math.sqrt(1 / self.rows))
        if margin * math.sqrt(self.rows) / spread - z >= 0:
            return None
        z_of_power = NormalDist().inv_cdf(POWER)
        return math.ceil(((z + z_of_power) * spread / margin) ** 2)

    @property
    def bound(self) -> float:
        return self.low if self.least is None else self.least


def exceeds_holdout(rows: int) -> bool:
    """True if no dataset may hold out so many rows."""
    return rows > HOLDOUT_MOST


@dataclass(frozen=True)
class LabelRecall:
    """Of the `rows` held-out rows with this label, `right` were answered correctly."""

    label: str
    rows: int
    right: int


@dataclass(frozen=True)
class LiveProof:
    """What a live test has shown on so many `calls` that both answered: it is right more often than what is in use, or
    with a `margin` (0 to 1) that it is cheaper, and not worse by more than that. Of the calls that people judged, it
    alone was right in `candidate` and what is in use in `incumbent`."""

    calls: int
    candidate: int
    incumbent: int
    margin: float | None


@dataclass(frozen=True)
class PromotionEvidence:
    """What is known about a tuned model or a candidate that may be promoted.

    - `candidate` is its measurement, None if it was never measured; whether it meets the `bar` is its standing.
    - `best` compares it with the best other candidate on the same held-out rows. Only a model that was tuned has to be
      better than that one (`is_tuned`). `skips_sealed` is True if it is to be used without the test on sealed rows.
    - `used` is what is in use now; `against_used` is None if the two did not answer the same rows. `live` is what a
      live test has shown against it, None if none has shown that this should replace it.
    - `no_go` is the verdict of its run, if that was a no.
    - `is_gone` is true if the model no longer answers.
    - `judge` is the model whose verdicts are the scores, None if they were scored without one. `others_judge` is the
      one that judged the alternatives since, None if it is the same: verdicts of two judges don't compare.
    - `low` labels are shown to be below the floor in the policy's `limits`, `worse` labels to be right less often than
      with `worse_than`, the name of the best alternative or of what answered before the training.
    """

    candidate: MeasuredCandidate | None
    best: ModelComparison | None = None
    used: str | None = None
    against_used: ModelComparison | None = None
    no_go: str | None = None
    is_gone: bool = False
    limits: PromotionLimits = DEFAULT_PROMOTION_LIMITS
    low: tuple[LabelRecall, ...] = ()
    worse: tuple[LabelLoss, ...] = ()
    worse_than: str = "the best alternative"
    judge: CheckedJudge | None = None
    others_judge: str | None = None
    bar: float = DEFAULT_PROMOTION_LIMITS.bar
    is_tuned: bool = True
    skips_sealed: bool = False
    live: LiveProof | None = None


def alias_for(dataset: str) -> str:
    """Returns the name that programs call to get the model in use for a dataset."""
    return f"{ALIASES}{ascii_name(dataset)}"


def best_comparison(comparisons: Iterable[ModelComparison], margin: float) -> ModelComparison | None:
    """Returns the comparison with the best of the other candidates, None without any.

    The model has to stand up to the highest score, even if that may be luck. If it isn't shown to be better than that
    one, a comparison in which it can't replace the other goes first: a model that is cheaper than the best candidate
    may still cost more than the second best.
    """
    ranked = sorted(comparisons, key=lambda comparison: comparison.score, reverse=True)
    if ranked and ranked[0].is_better:
        ranked.sort(key=lambda comparison: not (comparison.is_best and comparison.is_better))
    elif ranked:
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
    *,
    look: int = 1,
    read: Collection[int] = (),
) -> ModelComparison:
    """Compares two models row by row; both scores are in the holdout's order. The model is the `look`-th tuned one that
    was measured on these rows. In what decides, the rows at the places `read` count as wrong: people had read them
    before they made the model's training rows.

    The interval is Newcombe's if every row is either right or wrong, one for few rows if there are few, and otherwise
    the normal interval of the mean difference. Raises ValueError if the numbers of rows differ.
    """
    pairs = list(zip(scores, other_scores, strict=True))
    differences = [score - other_score for score, other_score in pairs]
    shown = _interval(pairs, differences, TWO_SIDED_95)
    counted = list(zip(without_read(scores, read), other_scores, strict=True))
    counted_differences = [score - other_score for score, other_score in counted]
    # Twice the level is shared by both ends, so that the lower one, which decides, has the level itself.
    decisive = _interval(counted, counted_differences, 1 - 2 * promotion_level(look))
    return ModelComparison(
        other,
        fmean(other_scores),
        fmean(differences),
        shown.low,
        shown.high,
        len(pairs),
        usd,
        other_usd,
        least=decisive.low,
        spread=pstdev(differences),
        look=look,
    )


def compare_change(
    other: str,
    other_score: float,
    shown: Interval,
    candidate: MeasuredCandidate,
    usd: Decimal | None = None,
    other_usd: Decimal | None = None,
    *,
    look: int = 1,
) -> ModelComparison:
    """Compares a model with one of which only the mean score is known and `shown`, the 95% interval of the difference
    on the same rows. What decides is read from that interval as `compare_models` reads it from the rows: at the level
    of the `look`-th tuned model, and with the rows that people had read as wrong."""
    difference = candidate.score - other_score
    counted = fmean(without_read(candidate.scores, candidate.read))
    level = 1 - 2 * promotion_level(look)
    # The standard error by the lower end, as that is the end that decides; an interval may be skewed.
    error = (difference - shown.low) / NormalDist().inv_cdf((1 + TWO_SIDED_95) / 2)
    least = counted - other_score - NormalDist().inv_cdf((1 + level) / 2) * error
    # On few rows the normal interval is too narrow.
    if candidate.n < FEWEST_ROWS:
        least = small_sample_interval([other_score] * candidate.n, [counted] * candidate.n, level).low
    return ModelComparison(
        other,
        other_score,
        difference,
        shown.low,
        shown.high,
        candidate.n,
        usd,
        other_usd,
        least=least,
        spread=error * math.sqrt(candidate.n),
        look=look,
    )


def _interval(pairs: Sequence[tuple[float, float]], differences: Sequence[float], level: float) -> Interval:
    is_right_or_wrong = all({score, other} <= {0.0, 1.0} for score, other in pairs)
    if is_right_or_wrong:
        counts = Counter(pairs)
        return paired_interval(counts[1.0, 1.0], counts[1.0, 0.0], counts[0.0, 1.0], counts[0.0, 0.0], level)
    if len(pairs) < FEWEST_ROWS:
        scores, others = zip(*pairs, strict=True)
        return small_sample_interval(others, scores, level)
    reach = NormalDist().inv_cdf((1 + level) / 2) * stdev(differences) / math.sqrt(len(differences))
    middle = fmean(differences)
    return Interval(middle - reach, middle + reach)


def find_objections(proof: PromotionEvidence) -> tuple[Objection, ...]:
    """Returns the objections to using it; none if it is good enough, and shown to be better than what it would replace,
    or cheaper and not worse."""
    names: list[Objection] = []
    if proof.is_gone:
        names.append("gone")
    if proof.no_go is not None:
        names.append("no_go")
    if proof.candidate is None:
        return (*names, "unmeasured")
    if proof.judge is not None and proof.judge.checks.trust == "distrusted":
        names.append("judge")
    if proof.is_tuned:
        names += _compared_with_alternatives(proof)
    if proof.live is None:
        names += _compared_with_used(proof)
    if proof.candidate.standing == "misses":
        names.append("below_bar")
    elif proof.candidate.standing == "undecided":
        names.append("bar_undecided")
    if proof.low:
        names.append("below_floor")
    if proof.skips_sealed:
        names.append("sealed")
    return tuple(names)


def _compared_with_alternatives(proof: PromotionEvidence) -> Iterator[Objection]:
    # After a change of judge there are alternatives, but none that can be compared.
    if proof.others_judge is not None:
        yield "other_judge"
    elif proof.best is None:
        yield "nothing_beside"
    if proof.best is not None and not proof.best.is_enough(proof.limits.margin):
        yield "not_better"


def _compared_with_used(proof: PromotionEvidence) -> Iterator[Objection]:
    if proof.used is not None and proof.against_used is None:
        yield "other_rows"
    elif proof.against_used is not None and not proof.against_used.is_enough(proof.limits.margin):
        yield "not_better_than_used"


def evidence_hash(what: Promotable, instead_of: int | None, proof: PromotionEvidence) -> str:
    """Returns the hash to which an approval is bound: of what is deployed, of the promotion `instead_of` that it
    replaces, and of the evidence that the card shows."""
    judge = None
    if proof.judge is not None:
        judge = (proof.judge.name, proof.judge.checks.trust)
    shown: dict[str, object] = {
        "what": what,
        "instead_of": instead_of,
        "candidate": proof.candidate,
        "best": proof.best,
        "used": proof.used,
        "against_used": proof.against_used,
        "no_go": proof.no_go,
        "is_gone": proof.is_gone,
        "bar": proof.bar,
        "margin": proof.limits.margin,
        "floor": proof.limits.floor,
        "low": proof.low,
        "worse": proof.worse,
        "judge": judge,
        "others_judge": proof.others_judge,
    }
    if proof.live is not None:  # so that requests from before there were live tests keep their hash
        shown["live"] = proof.live
    canonical = json.dumps(to_object(shown), sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()
