"""Is a model shown to be better than the one it would replace, and what speaks against using it? Forbids
nothing: an objection asks a person for a reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Literal

from bot.rules.plans import ascii_name
from trainers.evaluation import Interval, paired_interval
from trainers.evaluation.results import Rung

Objection = Literal[
    "gone", "unmeasured", "no_go", "nothing_beside", "not_better", "other_rows", "not_better_than_used"
]

ALIASES = "team/"
TWO_SIDED_95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class ModelComparison:
    """A model's answers held against another's to the same rows: the other's `score`, and the `difference` that the
    model makes, with its 95% interval, on `rows`. `other` is plain text."""

    other: str
    score: float
    difference: float
    low: float
    high: float
    rows: int

    @property
    def is_better(self) -> bool:
        return self.low > 0

    @property
    def is_worse(self) -> bool:
        return self.high < 0


@dataclass(frozen=True)
class Proof:
    """What is known of a model. `rung` None: it was never measured. `best`: against the best that was measured on the
    same held-out rows without it. `used` is the model in use now, `against_used` None where the two did not answer the
    same rows. `no_go`: the verdict of its run, where that was no."""

    rung: Rung | None
    best: ModelComparison | None = None
    used: str | None = None
    against_used: ModelComparison | None = None
    no_go: str | None = None
    is_gone: bool = False


def alias_for(dataset: str) -> str:
    """What programs call to get the model that is in use for a dataset."""
    return f"{ALIASES}{ascii_name(dataset)}"


def compare_models(other: str, scores: Sequence[float], other_scores: Sequence[float]) -> ModelComparison:
    """Compares row by row; both are in the holdout's order. Newcombe's interval where rows are right or wrong, else the
    normal one of the mean of the differences. ValueError where they are not of the same rows."""
    pairs = list(zip(scores, other_scores, strict=True))
    differences = [score - other_score for score, other_score in pairs]
    middle = fmean(differences)
    if {*scores, *other_scores} <= {0.0, 1.0}:
        both, gained, lost, neither = (
            pairs.count(pair) for pair in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0))
        )
        likely = paired_interval(both, gained, lost, neither)
    else:
        n = len(differences)
        reach = TWO_SIDED_95 * stdev(differences) / math.sqrt(n) if n > 1 else 1.0
        likely = Interval(middle - reach, middle + reach)
    return ModelComparison(other, fmean(other_scores), middle, likely.low, likely.high, len(differences))


def objections(proof: Proof) -> tuple[Objection, ...]:
    """What speaks against using it; empty where the model is shown to be better."""
    names: list[Objection] = []
    if proof.is_gone:
        names.append("gone")
    if proof.no_go is not None:
        names.append("no_go")
    if proof.rung is None:
        return (*names, "unmeasured")
    if proof.best is None:
        names.append("nothing_beside")
    elif not proof.best.is_better:
        names.append("not_better")
    if proof.used is not None and proof.against_used is None:
        names.append("other_rows")
    elif proof.against_used is not None and not proof.against_used.is_better:
        names.append("not_better_than_used")
    return tuple(names)
