"""What became of a run's model after its result: who deployed it, what replaced it, whether it still exists, and
whether today's model was measured beside it. Writes nothing."""

from __future__ import annotations

from bot.context import AppContext
from bot.rules.alternatives import is_same_model
from bot.rules.plans import Plan
from bot.values.evaluations import LadderPlan
from bot.values.runs import AfterResult, RunResult, TimeInUse
from storage.promotions import Promotion
from storage.records import Run
from trainers.evaluation.results import Ladder


def load_after_result(context: AppContext, run: Run, plan: Plan, result: RunResult) -> AfterResult:
    model = context.store.model(run.model or "")
    if model is None:
        return AfterResult(is_gone=True)
    return AfterResult(
        use=load_last_use(context, run, plan),
        is_gone=model.gone_at is not None,
        is_current_measured=_is_current_measured(context, plan, result),
    )


def load_last_use(context: AppContext, run: Run, plan: Plan) -> TimeInUse | None:
    """Returns the last time that the run's model was in use, None if it never was. Lists need no more than that."""
    promotions = context.store.promotions.of(plan.dataset, run.model or "")
    if not promotions:
        return None
    last = promotions[-1]
    successor = context.store.promotions.next(last)
    if successor is None:
        return TimeInUse(last.person, last.at, last.ended_at)
    return _ended_use(last, successor)


def _ended_use(last: Promotion, successor: Promotion) -> TimeInUse:
    return TimeInUse(
        person=last.person,
        since=last.at,
        until=successor.at,
        other=successor.model,
        ended_by=successor.person,
        is_rolled_back=successor.is_rollback,
    )


def _is_current_measured(context: AppContext, plan: Plan, result: RunResult) -> bool:
    """True if the plan's model of today has answered the run's held-out rows, in a measurement or as its base."""
    if not plan.current:
        return False
    asked_base = f"{plan.provider}/{plan.base_model}"
    if result.before == "base" and is_same_model(plan.current, asked_base):
        return True
    versions = tuple(version.id for version in context.store.datasets.versions(plan.dataset))
    for measurement in context.store.measurements.done(versions, "ladder"):
        if LadderPlan.from_json(measurement.plan).holdout_sha256 != plan.holdout_sha256:
            continue
        for rung in Ladder.from_json(str(measurement.result)).rungs:
            if rung.arm.model and is_same_model(plan.current, rung.arm.model):
                return True
    return False
