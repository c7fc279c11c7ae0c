"""How good are answers, and is one arm better than another? Pure statistics; no model is asked, nothing drawn.

shares.py      one arm: intervals, may "at least 85%" be claimed
pairs.py       two arms, right or wrong: McNemar, Newcombe, power, Holm
labels.py      answers that are labels: confusion, F1
resampling.py  shares and macro F1: the bootstrap; not worse than
"""

from trainers.evaluation.labels import (
    OTHER,
    Confusion,
    LabelScore,
    Mistake,
    confusion,
    exact_match,
    label_scores,
    macro_f1,
    mistakes,
    normalise,
)
from trainers.evaluation.pairs import (
    Comparison,
    compare,
    detectable_gap,
    holm,
    mcnemar_exact,
    paired_interval,
    rows_needed,
)
from trainers.evaluation.resampling import (
    Difference,
    is_not_worse,
    mean_interval,
    paired_macro_f1,
    paired_means,
)
from trainers.evaluation.shares import Interval, reaches, wilson, wilson_of_share

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
