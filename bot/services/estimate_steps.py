"""The next steps that buttons on an estimate's card do: start a run, or measure what the verdict asks for. Each is what
its command does in the channel where the estimate was asked for, with the rights of who clicked.
"""

from __future__ import annotations

from bot.command_parser import parse_question
from bot.context import AppContext
from bot.rules.reasons import Measure
from bot.services import estimate_requests, evaluations, plans
from bot.values.requests import Baseline, Start
from bot.values.runs import Refusal
from storage.records import Measurement, Run


def start(context: AppContext, number: int, person: str) -> Run | Refusal:
    """Freezes a plan from the estimate's question and asks the channel to approve it."""
    estimate = estimate_requests.kept_for(context, number, person)
    if isinstance(estimate, Refusal):
        return estimate
    question = parse_question(estimate.asked)
    if isinstance(question, Refusal):
        return _changed(estimate.dataset)
    return plans.start(context, Start(estimate.dataset, question), person, estimate.channel)


def measure(context: AppContext, number: int, person: str) -> Measurement | Refusal:
    """Asks for the measurement that the verdict wants by now: what the card offered may have been measured since."""
    estimate = estimate_requests.kept_for(context, number, person)
    if isinstance(estimate, Refusal):
        return estimate
    result = estimate_requests.remake(context, number, person)
    if isinstance(result, Refusal):
        return result
    step = result.verdict.deciding.step
    todo = step.todo if step else None
    if not isinstance(todo, Measure) or not todo.is_command:
        return _changed(estimate.dataset)
    return evaluations.ask(context, Baseline(todo.dataset, todo.models, todo.rungs), person, estimate.channel)


def _changed(dataset: str) -> Refusal:
    return Refusal(
        "This is no longer the next step: more is known by now. "
        f"`/finetune estimate {dataset}` says what comes next."
    )
