"""What a live test asks, when two answers to the same call are the same, and who is right by what people said. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

from storage.monitoring.live_tests import ComparedCall, LiveQuestion, LiveTest
from trainers.evaluation import scores
from trainers.evaluation.results import Scoring
from trainers.monitoring.switch_tests import CallVerdict, SwitchTest, judge_non_inferiority, judge_superiority

WEEK_S = 7 * 24 * 3600.0
Position = Literal["first", "second", "neither"]
"""Which of two shown answers a person found right; "neither" if both are, none is, or they can't tell."""


def question_for(usd: Decimal | None, used_usd: Decimal | None) -> LiveQuestion:
    """Returns what is asked of something that costs `usd` per 1,000 calls instead of `used_usd`: what costs less need
    not be better. If a price is unknown, it counts as costing as much."""
    if usd is not None and used_usd is not None and usd < used_usd:
        return "not_worse"
    return "better"


def is_same(scoring: Scoring, labels: Sequence[str], answer: str, other: str) -> bool:
    """True if a program gets the same: the same label, object or function call, or else the same text."""
    if scoring in ("label", "json", "calls"):
        expected = answer
        if scoring == "label":
            expected = scores.label_or_text(answer, labels)
        return scores.score(scoring, expected, other, labels) == 1
    text = scores.strip_thoughts(answer).strip()
    other_text = scores.strip_thoughts(other).strip()
    return text == other_text


def judge_by_label(label: str, labels: Sequence[str], candidate: str | None, incumbent: str) -> CallVerdict:
    """Returns who answered with the right label. `candidate` is None if the candidate gave no answer."""
    is_candidate_right = False
    if candidate is not None:
        is_candidate_right = scores.is_label(label, candidate, labels)
    is_incumbent_right = scores.is_label(label, incumbent, labels)
    if is_candidate_right == is_incumbent_right:
        return "tie"
    if is_candidate_right:
        return "candidate"
    return "incumbent"


def is_candidate_first(call: str) -> bool:
    """Decides by the call alone which answer is shown first, so that nobody learns whose it is from its position."""
    digest = hashlib.sha256(f"place of {call}".encode()).digest()
    return digest[0] % 2 == 0


def judge_by_position(position: Position, call: str) -> CallVerdict:
    """Returns whose answer a person found right, by the position at which it was shown."""
    if position == "neither":
        return "tie"
    is_first_right = position == "first"
    if is_first_right == is_candidate_first(call):
        return "candidate"
    return "incumbent"


def judge(test: LiveTest, calls: Sequence[ComparedCall], now: float) -> SwitchTest:
    """Judges a live test by the question that it began with."""
    # A clock that was set back must not make the test shorter than nothing.
    weeks = max(now - test.at, 0.0) / WEEK_S
    verdicts = [call.verdict for call in calls]
    if test.question == "better":
        return judge_superiority(verdicts, weeks)
    return judge_non_inferiority(verdicts, weeks, test.margin)


def cost_of(calls: Sequence[ComparedCall]) -> int | None:
    """Returns the micro-dollars that the candidate's answers have cost, None if some of it is unknown."""
    costs = [call.micros for call in calls]
    if None in costs:
        return None
    return sum(cost for cost in costs if cost is not None)
