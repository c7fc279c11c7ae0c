"""The rule on labels that can't be trusted: those that are probably wrong, and those that contradict another row."""

from __future__ import annotations

from bot.decisions.verdict.facts import Facts, Reason, labelling
from bot.decisions.verdict.rungs import percent

# Northcutt, Athalye and Mueller, Pervasive Label Errors in Test Sets, 2021: with 5% (CIFAR-10) or 6% (ImageNet) more
# wrong labels in a test set the worse of two models comes out ahead.
MISLEADING = 0.05


def about_wrong_labels(facts: Facts) -> tuple[Reason, ...]:
    """A no where so many look wrong that a model which is always right would still miss the bar. What was measured to
    meet it has shown that most of them are right."""
    share, bar = facts.wrong_share, facts.evidence.bar
    if share < MISLEADING:
        return ()
    text = f"{_counted(facts)}: {percent(share)} of {facts.rows:,} rows."
    if facts.evidence.is_good:
        return (Reason("wrong labels", "unknown", text, weighs=False),)
    correct = labelling(
        facts.faults.wrong, "Correct the rows that the check of the file lists, and upload it again."
    )
    if share > 1 - bar:
        text += (
            f" Against such labels even a model that is always right would miss the bar of {percent(bar)}."
        )
        return (Reason("wrong labels", "no_go", text, step=correct),)
    text += f" From {percent(MISLEADING)} on, the worse of two models can seem the better one."
    return (Reason("wrong labels", "unknown", text, step=correct),)


def _counted(facts: Facts) -> str:
    found = facts.faults
    doubted = "About 1 label is" if found.doubted == 1 else f"About {found.doubted:,} labels are"
    same = "1 row contradicts" if found.contradicting == 1 else f"{found.contradicting:,} rows contradict"
    if not found.contradicting:
        return f"{doubted} wrong"
    if not found.doubted:
        return f"{same} another row that asks the same"
    return f"{doubted} wrong, and {same} another row that asks the same"
