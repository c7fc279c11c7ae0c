"""The rules on how much usable data there is: rows, rows per label, held-out rows, labels that are probably
wrong, and what more rows would bring."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import Literal

from bot.rules.facts import ENOUGH_ROWS, FEW_PER_LABEL, NOT_YET_ROWS, SMALL_HOLDOUT, Facts
from bot.rules.reasons import (
    BarUnprovable,
    HoldOutAtLeast,
    HoldoutSmall,
    HoldoutTooSmall,
    LabelMore,
    LabelRows,
    MoreRows,
    RareLabels,
    Reason,
    RowCount,
    Step,
    WrongLabels,
    answer_step,
    labelling_step,
)
from bot.rules.task_fit import about_task

Z2 = Decimal("2.7055")  # the square of the normal's 95% point: Wilson's one-sided bound
# Northcutt, Athalye and Mueller, Pervasive Label Errors in Test Sets, 2021: with 5% (CIFAR-10) or 6% (ImageNet) more
# wrong labels in a test set the worse of two models comes out ahead.
MISLEADING = 0.05


def about_rows(facts: Facts) -> tuple[Reason, ...]:
    """Counted are different questions: copies of a row are no more data."""
    if facts.questions >= ENOUGH_ROWS:
        return (Reason("rows", "go", RowCount(facts.rows, facts.questions, "enough")),)
    if facts.evidence.is_good:
        few = RowCount(facts.rows, facts.questions, "few, and it is good")
        return (Reason("rows", "unknown", few, weighs=False),)
    if facts.questions < NOT_YET_ROWS:
        is_style = facts.task_kind in ("style", "format")
        too_few = RowCount(facts.rows, facts.questions, "too few", is_style=is_style)
        collect = labelling_step(NOT_YET_ROWS - facts.questions, "collect rows")
        return (Reason("rows", "no_go", too_few, step=collect),)
    few_of_a_label = facts.has_own_classes and facts.has_few_of_a_label
    if _is_good_reason(facts) and not few_of_a_label:
        return (Reason("rows", "go", RowCount(facts.rows, facts.questions, "enough for the task")),)
    try_it = RowCount(facts.rows, facts.questions, "worth a try", few_of_a_label=few_of_a_label)
    return (Reason("rows", "unknown", try_it, step=_more_rows(facts)),)


def _is_good_reason(facts: Facts) -> bool:
    """A style or format that prompting nearly reaches; own classes that prompting misses."""
    return any(
        reason.kind == "go" and reason.rule in ("style", "own classes") for reason in about_task(facts)
    )


def _more_rows(facts: Facts) -> Step:
    if facts.task_kind is None:
        return answer_step("say the task")
    if facts.has_own_classes and facts.has_few_of_a_label:
        return _label_more(facts)
    lacking = ENOUGH_ROWS - facts.questions
    return labelling_step(lacking, LabelRows(lacking))


def about_labels(facts: Facts) -> tuple[Reason, ...]:
    """Said and not weighed: a rare label holds nobody back from the others, but it won't be learnt."""
    if not facts.has_few_of_a_label and not facts.lacking:
        return ()
    rare = RareLabels(len(facts.lacking) or None, facts.smallest_label)
    return (Reason("labels", "unknown", rare, weighs=False, step=_label_more(facts)),)


def _label_more(facts: Facts) -> Step:
    if facts.lacking:
        return labelling_step(sum(lacks for _, lacks in facts.lacking), LabelMore(facts.lacking))
    wanted = max(FEW_PER_LABEL - (facts.smallest_label or 0), 1)
    return labelling_step(wanted, LabelMore((), wanted))


def about_holdout(facts: Facts) -> tuple[Reason, ...]:
    """Before anything is measured: could this holdout show anything? Afterwards the intervals say it."""
    n, bar, evidence = facts.n_holdout, facts.evidence.bar, facts.evidence
    needed = least_holdout(bar)
    if needed is None:
        lower = answer_step("lower the bar")
        return (Reason("bar", "unknown", BarUnprovable(bar), not evidence.is_good, lower),)
    if n < needed:
        more = labelling_step(needed - n, HoldOutAtLeast(needed - n))
        is_measured = bool(evidence.rungs or evidence.trained)
        too_small = HoldoutTooSmall(n, needed, bar)
        return (Reason("holdout", "unknown", too_small, weighs=not is_measured, step=more),)
    if n < SMALL_HOLDOUT:
        return (Reason("holdout", "unknown", HoldoutSmall(n), weighs=False),)
    return ()


def least_holdout(bar: float) -> int | None:
    """Rows that, all right, claim `bar` by Wilson's one-sided 95% bound n / (n + z²); None: none do."""
    share = Decimal(str(bar))
    if share >= 1:
        return None
    return int((Z2 * max(share, Decimal(0)) / (1 - share)).to_integral_value(ROUND_CEILING))


def about_more_rows(facts: Facts) -> tuple[Reason, ...]:
    """What the learning curve says: whether labelling alone would get there."""
    curve, evidence = facts.evidence.curve, facts.evidence
    if curve is None or evidence.is_good:
        return ()
    enough = (size for size in curve.predicted if size.score >= evidence.bar and size.rows > facts.rows)
    there, far = next(enough, None), curve.farthest
    is_unclear = far is not None and not far.is_told
    more = MoreRows(curve.arm.rung, None if is_unclear else curve.points_per_100, there)
    step = None
    if there is not None:
        rows = there.rows - facts.rows
        step = labelling_step(rows, LabelRows(rows, is_another_way=True))
    return (Reason("more rows", "unknown", more, weighs=False, step=step),)


def about_wrong_labels(facts: Facts) -> tuple[Reason, ...]:
    """A no where so many look wrong that a model which is always right would still miss the bar. What was measured to
    meet it has shown that most of them are right."""
    share, bar, faults = facts.wrong_share, facts.evidence.bar, facts.faults
    if share < MISLEADING:
        return ()

    def wrong(effect: Literal["none", "misleads", "hides the bar"]) -> WrongLabels:
        return WrongLabels(faults.doubted, faults.contradicting, share, facts.rows, bar, effect)

    if facts.evidence.is_good:
        return (Reason("wrong labels", "unknown", wrong("none"), weighs=False),)
    correct = labelling_step(faults.wrong, "correct rows")
    if share > 1 - bar:
        return (Reason("wrong labels", "no_go", wrong("hides the bar"), step=correct),)
    return (Reason("wrong labels", "unknown", wrong("misleads"), step=correct),)
