"""What a result says about how free text was judged: by which model, how far it can be trusted, or by shared words.

Plain sentences, to be escaped by the card that holds them.
"""

from __future__ import annotations

from bot.decisions import judges
from bot.decisions.judges import LEAST_LABELS
from bot.decisions.people import People
from bot.measured import JudgedPair, JudgeProgress, LadderPlan
from bot.views.rungs import arm_name
from bot.views.words import counted
from trainers.measuring.agreement import Agreement
from trainers.measuring.values import Ladder

ONLY_WORDS = (
    "F1 measures only the words that an answer shares with the reference: a right answer in other words scores low. "
    "With judge=MODEL a model judges what answers say."
)


def notes(plan: LadderPlan, judge: JudgeProgress | None, ladder: Ladder, people: People) -> list[str]:
    """For the result's bullets. Nothing where the answers are labels or JSON."""
    scoring = ladder.rungs[0].scoring if ladder.rungs else "label"
    if plan.judge is None or judge is None:
        return [ONLY_WORDS] if scoring == "f1" else []
    if judge.failed:
        return [_fell_back(plan.judge, judge.failed, scoring == "f1")]
    warned = favours(plan)
    said = [
        f"Judged by {plan.judge}, {trust(people)}.",
        *_unread(judge),
        *([_compared(judge.pair)] if judge.pair else []),
        *([f"The best two were not compared side by side: {judge.unpaired}"] if judge.unpaired else []),
    ]
    return [*said, *([warned] if warned else [])]


def favours(plan: LadderPlan) -> str | None:
    """A warning where the judge judges its own or its relatives' answers."""
    if plan.judge is None:
        return None
    return judges.favours(plan.judge, [arm.model for arm in plan.arms if arm.model])


def trust(people: People) -> str:
    """'κ = 0.61 (0.32 to 0.90) on 14 human labels'."""
    beside = people.beside_judge
    if beside is None and people.labels >= LEAST_LABELS:
        return "agreement with people not known: on too few of their pairs it has a verdict that holds in both orders"
    if beside is None:
        so_far = f" ({people.labels} of {LEAST_LABELS} human labels)" if people.labels else ""
        return f"agreement with people not measured yet{so_far}"
    if beside.kappa is None:
        return f"agreement with people not known: all {beside.n} labels say one and the same thing"
    doubt = ": don't trust this judge" if people.distrusts else ""
    return f"{kappa(beside)} on {counted(beside.n, 'human label')}{doubt}"


def kappa(found: Agreement) -> str:
    """With its 95% interval."""
    if found.kappa is None or found.low is None or found.high is None:
        return "κ = –"
    return f"κ = {_signed(found.kappa)} ({_signed(found.low)} to {_signed(found.high)})"


def most_questions(plan: LadderPlan) -> int:
    """How many the judge may be asked: each answer once, the best two in both orders."""
    return plan.n_holdout * (len(plan.arms) + 2 * (len(plan.arms) > 1))


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _fell_back(judge: str, why: str, by_words: bool) -> str:
    instead = (
        "So the score is F1, which only measures shared words." if by_words else "So fields are compared."
    )
    end = "" if why.endswith((".", "!", "?")) else "."
    return f"The verdicts of {judge} do not count: {why}{end} {instead}"


def _unread(judge: JudgeProgress) -> list[str]:
    if not judge.unread:
        return []
    return [
        f"{judge.unread:,} of {counted(judge.judged, 'answer')} got no verdict that could be read, and count as not "
        "acceptable."
    ]


def _compared(pair: JudgedPair) -> str:
    first, second = arm_name(pair.first, 40), arm_name(pair.second, 40)
    unsure = pair.count(None)
    left = (
        f" On {counted(unsure, 'row')} it said nothing that held in both orders, which counts for neither."
        if unsure
        else ""
    )
    return (
        f"Side by side the judge finds {first} better on {counted(pair.count('first'), 'row')}, {second} on "
        f"{pair.count('second'):,}, both the same on {pair.count('tie'):,}.{left}"
    )
