"""The number that a team's aim puts first on the cards of estimates, plans and results: the share of right answers, of
answers that a judge accepts, or the time of an answer. If nobody measured it, the card says how to."""

from __future__ import annotations

from typing import assert_never

from bot.cards.common.blocks import escape
from bot.cards.common.candidates import seconds_text, table_name
from bot.cards.common.words import interval, percent
from bot.rules.facts import Evidence, task_kind
from bot.rules.fit import Aim, AimNumbers, aim_of, numbers_of
from bot.rules.plans import Plan, PlanVerdict
from bot.values.runs import RunResult
from trainers.evaluation.results import MeasuredCandidate

NAMES: dict[Aim, str] = {
    "quality": "Right answers",
    "style": "Answers that the judge accepts",
    "latency": "Time per answer",
}
TUNED_UNKNOWN = "not measured yet"


def aim_facts(numbers: AimNumbers | None) -> list[tuple[str, str]]:
    """The fact, unescaped; nothing for aims whose cards begin with money."""
    if numbers is None:
        return []
    return [(NAMES[numbers.aim], _comparison(numbers))]


def plan_aim_text(advised: PlanVerdict) -> str:
    """The numbers as they were when the plan was made, on a line of their own; '' if there are none."""
    aim = aim_of(task_kind(advised.task))
    if aim is None or not advised.aim:
        return ""
    return f"\n*{NAMES[aim]}*: {escape(advised.aim)}."


def result_aim_facts(plan: Plan, result: RunResult) -> list[tuple[str, str]]:
    """The fact about a trained model, escaped. A result's card begins with right answers anyway, which are those that
    the judge accepts if there is one."""
    advised = plan.predicted.advised if plan.predicted else None
    aim = aim_of(task_kind(advised.task)) if advised else None
    comparison = result.comparison
    if aim is None or aim == "quality" or comparison is None:
        return []
    is_judged = comparison.scoring == "judge"
    if aim == "style" and is_judged:
        return []
    evidence = Evidence(comparison=comparison, judge=plan.judge if is_judged else None)
    numbers = numbers_of(evidence, aim, (plan.current,))
    return [(name, escape(text)) for name, text in aim_facts(numbers)]


def _comparison(numbers: AimNumbers) -> str:
    if numbers.now is None and numbers.tuned is None:
        return _unmeasured(numbers.aim)
    tuned = _number(numbers.aim, numbers.tuned) if numbers.tuned else TUNED_UNKNOWN
    if numbers.now is None:
        return f"tuned: {tuned}; nothing to compare it with was measured"
    now = _number(numbers.aim, numbers.now)
    name = table_name(numbers.now.identity, 40)
    if numbers.is_today:
        name += " today"
    return f"{name}: {now}; tuned: {tuned}"


def _number(aim: Aim, candidate: MeasuredCandidate) -> str:
    match aim:
        case "quality" | "style":
            return f"{percent(candidate.score)} ({interval(candidate.low, candidate.high)})"
        case "latency":
            return f"median {seconds_text(candidate.p50_s)}, 95% within {seconds_text(candidate.p95_s)}"
        case _:
            assert_never(aim)


def _unmeasured(aim: Aim) -> str:
    match aim:
        case "quality":
            return "not known: measure what works without training"
        case "style":
            return "not known: measure with judge=MODEL, a model that judges the answers' wording"
        case "latency":
            return "not known: measure a prompted model, each of whose answers is timed"
        case _:
            assert_never(aim)
