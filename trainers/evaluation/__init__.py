"""Evaluates answers to a frozen holdout: statistics, scoring, prompts, the ladder of candidates and learning
curves. No model is asked here."""

from __future__ import annotations

from trainers.evaluation.statistics import (
    OTHER,
    Comparison,
    Confusion,
    Difference,
    Interval,
    LabelScore,
    Mistake,
    compare,
    confusion,
    detectable_gap,
    exact_match,
    holm,
    is_not_worse,
    label_scores,
    macro_f1,
    mcnemar_exact,
    mean_interval,
    mistakes,
    normalise,
    paired_interval,
    paired_macro_f1,
    paired_means,
    reaches,
    rows_needed,
    wilson,
    wilson_of_share,
)

# How good are answers, and is one arm better than another? Pure statistics; no model is asked, nothing
# drawn.
#
# shares.py one arm: intervals, may "at least 85%" be claimed pairs.py two arms, right or wrong: McNemar,
# Newcombe, power, Holm labels.py answers that are labels: confusion, F1 resampling.py shares and macro
# F1: the bootstrap; not worse than


__all__ = [
    "OTHER",
    "Comparison",
    "Confusion",
    "Difference",
    "Interval",
    "LabelScore",
    "Mistake",
    "compare",
    "confusion",
    "detectable_gap",
    "exact_match",
    "holm",
    "is_not_worse",
    "label_scores",
    "macro_f1",
    "mcnemar_exact",
    "mean_interval",
    "mistakes",
    "normalise",
    "paired_interval",
    "paired_macro_f1",
    "paired_means",
    "reaches",
    "rows_needed",
    "wilson",
    "wilson_of_share",
]


# Measures alternatives on one frozen holdout: rungs 0 to 3 of the ladder, and whether more data is worth
# it.
