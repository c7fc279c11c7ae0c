"""What the result of a run means: how the tuned model compares with what answered before and with the best alternative,
whether it may be used, and what to do with it. Pure; the sentences are in bot/cards/training/results.py."""

from __future__ import annotations

from math import isclose
from typing import Literal

from bot.rules.facts import is_silent
from bot.rules.plans import MONEY_RULES, Plan
from bot.values.runs import RunResult
from trainers.evaluation.results import Comparison, MeasuredCandidate

SIGNIFICANT = 0.05  # a difference with a smaller p counts as clear
SAME_MEASURE = ("label", "judge", "calls")  # scorings that base and tuned model share with the alternatives

Decision = Literal[
    "in use",
    "deploy",
    "undecided",
    "not now",
    "not needed",
    "failed",
    "not good enough",
    "good enough",
]
NextStep = Literal["stay", "look at worse rows", "see what speaks against it", "as advised"]


def is_clear(p: float) -> bool:
    """True if a difference with this p is not called chance."""
    return p < SIGNIFICANT


def has_gained(result: RunResult) -> bool:
    """True if it is clearly better than what answered before the training."""
    return result.change.gain > 0 and is_clear(result.change.p)


def best_alternative(comparison: Comparison | None) -> MeasuredCandidate | None:
    """Returns the best alternative that answered the same rows, None if there is none."""
    if comparison is None:
        return None
    return next((candidate for candidate in comparison.candidates if candidate.kind != "tuned"), None)


def is_base_best(result: RunResult, other: MeasuredCandidate | None) -> bool:
    """True if the prompted base model is the best alternative. It isn't one if most of its answers were no label, or if
    its score is by another measure."""
    comparison = result.comparison
    is_alike = result.labelled
    if comparison is not None:
        is_alike = comparison.scoring in SAME_MEASURE or result.partial is not None
    if not is_alike or is_base_lost(result):
        return False
    return other is None or is_base_ahead(result, other)


def is_base_lost(result: RunResult) -> bool:
    """True if most answers of the base model were no label."""
    return 2 * result.base.unlisted > result.base.n


def is_base_ahead(result: RunResult, other: MeasuredCandidate) -> bool:
    if result.is_base_ahead is None:  # a result of an older version, which took the higher score
        return result.change.before.score > other.score
    return result.is_base_ahead


def is_before(result: RunResult, other: MeasuredCandidate) -> bool:
    """True if this alternative is the free model that stands for the time before the training."""
    return other.kind == result.before and isclose(other.score, result.base.share)


def decide(result: RunResult, *, may_be_used: bool, is_in_use: bool) -> Decision | None:
    """Returns what to do with the tuned model; None if there was no quality bar yet when it was measured.

    `may_be_used` is true if it is better than the measured alternatives and not in use yet."""
    tuned = _tuned(result)
    if tuned is None:
        return None
    if is_silent(tuned):
        return "failed"
    if is_in_use:
        return "in use"  # the team has decided, whatever the verdict was
    if is_open(result) or is_judge_distrusted(result):
        return "undecided"  # as the verdict in Details, so that there is only one answer
    if may_be_used:
        return "deploy"
    is_no = result.advice is not None and result.advice.kind == "no_go"
    match tuned.standing:
        case "undecided":
            return "not now" if is_no else "undecided"
        case "misses":
            return "failed" if _is_worse(result, tuned) else "not good enough"
        case "meets" if is_no:
            return "not needed" if _is_needless(result) else "not now"
        case "meets":
            return "good enough"


def is_alternative_enough(result: RunResult) -> bool:
    """True if the verdict is against the tuned model because an alternative is good enough."""
    return decide(result, may_be_used=False, is_in_use=False) == "not needed"


def is_open(result: RunResult) -> bool:
    """True if the verdict asks to find something out first."""
    return result.advice is not None and result.advice.kind == "unknown"


def is_judged(result: RunResult) -> bool:
    return result.comparison is not None and result.comparison.scoring == "judge"


def is_judge_distrusted(result: RunResult) -> bool:
    """True if people disagree with the judge of the scores: then these decide nothing."""
    checks = result.judge_checks
    return checks is not None and is_judged(result) and checks.trust == "distrusted"


def _tuned(result: RunResult) -> MeasuredCandidate | None:
    comparison = result.comparison
    if comparison is None or not comparison.of_kind("tuned"):
        return None
    (tuned,) = comparison.of_kind("tuned")
    return tuned


def _is_worse(result: RunResult, tuned: MeasuredCandidate) -> bool:
    """True if it is clearly worse than the best alternative, or than its own base."""
    comparison = result.comparison
    other = best_alternative(comparison)
    if comparison and comparison.pairs and other is not None and not is_base_best(result, other):
        (pair,) = comparison.pairs
        return pair.better != tuned.identity and is_clear(pair.p)
    return result.change.gain < 0 and is_clear(result.change.p)


def _is_needless(result: RunResult) -> bool:
    """True if the verdict is against it because an alternative is good enough, and not because of money."""
    other = best_alternative(result.comparison)
    if other is None or other.standing != "meets":
        return False
    return result.advice is None or result.advice.rule not in MONEY_RULES


def is_usable(result: RunResult) -> bool:
    """True if it meets the bar, the verdict is not against it, and the prompted base model is not as good."""
    tuned = _tuned(result)
    if tuned is None or tuned.standing != "meets" or is_judge_distrusted(result):
        return False
    if result.advice and result.advice.kind == "no_go":
        return False
    return has_gained(result) or not is_base_best(result, best_alternative(result.comparison))


def planned_saving_micros(plan: Plan, result: RunResult) -> int:
    """Returns the monthly saving that the plan expected, 0 if there is none or the model should not be used."""
    saved = 0  # compared with the cheapest known alternative; older plans knew today's model only
    if plan.predicted and plan.predicted.saving_micros is not None:
        saved = plan.predicted.saving_micros
    elif plan.monthly_before_micros is not None and plan.monthly_after_micros is not None:
        saved = plan.monthly_before_micros - plan.monthly_after_micros
    if not is_usable(result):
        return 0
    return max(saved, 0)


def next_step(result: RunResult, *, has_model: bool) -> NextStep | None:
    """Returns what to do next where no button does it; None if there is nothing to do. Results of older versions have
    no verdict, so that the change decides."""
    advice = result.advice
    if advice is None and not is_clear(result.change.p):
        return "stay"
    if advice is None and result.change.gain <= 0:
        return "look at worse rows"
    if advice is None:
        return None
    if advice.kind == "go" and has_model:
        return "see what speaks against it"  # an objection of a promotion, such as the model in use
    return "as advised"
