"""The rules on how much usable data there is: rows, rows per label, held-out rows, labels that are probably
wrong, and what more rows would bring."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

from bot.rules.candidates import LONG_NAMES, held_out_rows, percent
from bot.rules.facts import (
    ENOUGH_ROWS,
    FEW_PER_LABEL,
    NOT_YET_ROWS,
    SMALL_HOLDOUT,
    Facts,
    Reason,
    Step,
    answer_step,
    labelling_step,
)
from bot.rules.task_fit import about_task

SHOWN_LABELS = 5
Z2 = Decimal("2.7055")  # the square of the normal's 95% point: Wilson's one-sided bound


def about_rows(facts: Facts) -> tuple[Reason, ...]:
    """Counted are different questions: copies of a row are no more data."""
    count, rows = facts.questions, _counted(facts)
    if count >= ENOUGH_ROWS:
        return (Reason("rows", "go", f"{rows} are enough to fine-tune with."),)
    if facts.evidence.is_good:
        text = f"{rows} are few, yet the tuned model was measured to be good enough."
        return (Reason("rows", "unknown", text, weighs=False),)
    if count < NOT_YET_ROWS:
        return (_too_few(facts),)
    if _few_suffice(facts):
        text = f"{rows} do for this kind of task: {NOT_YET_ROWS} and a good reason are enough."
        return (Reason("rows", "go", text),)
    text = f"{rows} are worth a try; {ENOUGH_ROWS:,} and more are what usually carries a fine-tune."
    if facts.has_own_classes and facts.has_few_of_a_label:
        text += f" For own categories fewer do, if each has {FEW_PER_LABEL}."
    return (Reason("rows", "unknown", text, step=_more_rows(facts)),)


def _counted(facts: Facts) -> str:
    """'945 rows', '120 different questions in 1,200 rows'."""
    if facts.questions == facts.rows:
        return f"{facts.rows:,} rows"
    asked = "1 question" if facts.questions == 1 else f"{facts.questions:,} different questions"
    return f"{asked} in {facts.rows:,} rows"


def _too_few(facts: Facts) -> Reason:
    collect = labelling_step(
        NOT_YET_ROWS - facts.questions,
        "Collect labelled rows and upload again; until then put ten good examples into the prompt.",
    )
    text = f"{_counted(facts)} are too few: below {NOT_YET_ROWS} a better prompt with examples gains more."
    if facts.task_kind in ("style", "format"):
        text += " What is inconsistent on a few examples needs clearer instructions first."
    return Reason("rows", "no_go", text, step=collect)


def _few_suffice(facts: Facts) -> bool:
    """A style or format that prompting nearly reaches; own classes, each with rows, that prompting misses."""
    reasons = about_task(facts)
    is_good_reason = any(one.kind == "go" and one.rule in ("style", "own classes") for one in reasons)
    return is_good_reason and not (facts.has_own_classes and facts.has_few_of_a_label)


def _more_rows(facts: Facts) -> Step:
    if facts.task_kind is None:
        return answer_step(
            "Say what kind of task it is (task=): for a style, a format or own categories fewer rows do."
        )
    if facts.has_own_classes and facts.has_few_of_a_label:
        return _label_more(facts)
    lacking = ENOUGH_ROWS - facts.questions
    said = "1 more row" if lacking == 1 else f"{lacking} more rows"
    return labelling_step(lacking, f"Label {said}, or start a run all the same if it costs little.")


def about_labels(facts: Facts) -> tuple[Reason, ...]:
    """Said and not weighed: a rare label holds nobody back from the others, but it won't be learnt."""
    if not facts.has_few_of_a_label and not facts.lacking:
        return ()
    if facts.lacking:
        count = len(facts.lacking)
        has = "1 label has" if count == 1 else f"{count:,} labels have"
        text = f"{has} fewer than {FEW_PER_LABEL} rows and will hardly be learnt, nor can they be judged."
    else:
        text = f"The rarest label has {facts.smallest_label} rows: it will hardly be learnt, and can't be judged."
    return (Reason("labels", "unknown", text, weighs=False, step=_label_more(facts)),)


def _label_more(facts: Facts) -> Step:
    lacking = facts.lacking
    if not lacking:
        wanted = max(FEW_PER_LABEL - (facts.smallest_label or 0), 1)
        return labelling_step(wanted, f"Label at least {wanted} more of the rarest label.")
    shown = ", ".join(f"“{label[:40]}” ({lacks} more)" for label, lacks in lacking[:SHOWN_LABELS])
    more = f" and {len(lacking) - SHOWN_LABELS:,} other labels" if len(lacking) > SHOWN_LABELS else ""
    return labelling_step(sum(lacks for _, lacks in lacking), f"Label more rows for {shown}{more}.")


def about_holdout(facts: Facts) -> tuple[Reason, ...]:
    """Before anything is measured: could this holdout show anything? Afterwards the intervals say it."""
    n, needed = facts.n_holdout, least_holdout(facts.evidence.bar)
    is_measured = bool(facts.evidence.rungs or facts.evidence.trained)
    bar = percent(facts.evidence.bar)
    if needed is None:
        lower = answer_step("Say a lower bar (bar=).")
        return (
            Reason("bar", "unknown", f"No number of rows can show {bar}.", not facts.evidence.is_good, lower),
        )
    if n < needed:
        more = labelling_step(needed - n, f"Hold out at least {needed - n:,} more labelled rows.")
        text = f"Even with all {held_out_rows(n)} right, {bar} could not be claimed: that takes {needed:,}."
        return (Reason("holdout", "unknown", text, weighs=not is_measured, step=more),)
    if n < SMALL_HOLDOUT:
        text = f"With {held_out_rows(n)} only a large difference will show."
        return (Reason("holdout", "unknown", text, weighs=False),)
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
    there = next(
        (one for one in curve.predicted if one.score >= evidence.bar and one.rows > facts.rows), None
    )
    whose = LONG_NAMES[curve.arm.rung]
    far = curve.farthest
    if far is not None and not far.is_told:
        gain = f"Whether more rows bring {whose} anything can't be told yet."
    else:
        gain = (
            f"100 more rows are predicted to bring {whose} about {max(curve.points_per_100, 0):.1g} points."
        )
    if there is None:
        return (Reason("more rows", "unknown", gain, weighs=False),)
    between = f"{percent(there.low)} to {percent(there.high)}"
    text = f"{gain} It gets to {percent(there.score)} ({between}) with {there.rows:,} rows."
    label = labelling_step(
        there.rows - facts.rows, f"Labelling {there.rows - facts.rows:,} more rows is another way."
    )
    return (Reason("more rows", "unknown", text, weighs=False, step=label),)


# The rule on labels that can't be trusted: those that are probably wrong, and those that contradict
# another row.


# Northcutt, Athalye and Mueller, Pervasive Label Errors in Test Sets, 2021: with 5% (CIFAR-10) or 6% (ImageNet) more
# wrong labels in a test set the worse of two models comes out ahead.
MISLEADING = 0.05


def about_wrong_labels(facts: Facts) -> tuple[Reason, ...]:
    """A no where so many look wrong that a model which is always right would still miss the bar. What was measured to
    meet it has shown that most of them are right."""
    share, bar = facts.wrong_share, facts.evidence.bar
    if share < MISLEADING:
        return ()
    text = f"{_count_wrong_labels(facts)}: {percent(share)} of {facts.rows:,} rows."
    if facts.evidence.is_good:
        return (Reason("wrong labels", "unknown", text, weighs=False),)
    correct = labelling_step(
        facts.faults.wrong, "Correct the rows that the check of the file lists, and upload it again."
    )
    if share > 1 - bar:
        text += (
            f" Against such labels even a model that is always right would miss the bar of {percent(bar)}."
        )
        return (Reason("wrong labels", "no_go", text, step=correct),)
    text += f" From {percent(MISLEADING)} on, the worse of two models can seem the better one."
    return (Reason("wrong labels", "unknown", text, step=correct),)


def _count_wrong_labels(facts: Facts) -> str:
    found = facts.faults
    doubted = "About 1 label is" if found.doubted == 1 else f"About {found.doubted:,} labels are"
    same = "1 row contradicts" if found.contradicting == 1 else f"{found.contradicting:,} rows contradict"
    if not found.contradicting:
        return f"{doubted} wrong"
    if not found.doubted:
        return f"{same} another row that asks the same"
    return f"{doubted} wrong, and {same} another row that asks the same"
