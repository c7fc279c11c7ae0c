"""What became of a run's model after its result: who deployed it, what replaced it, whether it still exists, whether
its machine runs, and whether today's model was measured beside it. Writes nothing."""

from __future__ import annotations

from bot.cards.common.candidates import promotable_name
from bot.rules.alternatives import is_same_model
from bot.rules.plans import Plan
from bot.services.common import finished_measurements
from bot.values.runs import AfterResult, RunResult, TimeInUse
from storage.promotions import Promotion
from storage.records import Run
from storage.store import Store


def load_after_result(store: Store, run: Run, plan: Plan, result: RunResult) -> AfterResult:
    model = store.model(run.model or "")
    if model is None:
        return AfterResult(is_gone=True)
    return AfterResult(
        use=load_last_use(store, run, plan),
        is_gone=model.gone_at is not None,
        is_current_measured=_is_current_measured(store, plan, result),
    )


def load_last_use(store: Store, run: Run, plan: Plan) -> TimeInUse | None:
    """Returns the last time that the run's model was in use, None if it never was. Lists need no more than that."""
    promotions = store.promotions.of(run.model or "")
    if not promotions:
        return None
    last = promotions[-1]
    successor = store.promotions.next(last)
    if successor is None:
        return TimeInUse(last.person, last.at, last.ended_at)
    return _ended_use(last, successor)


def is_machine_stopped(store: Store, run: Run, plan: Plan) -> bool:
    """True if the model is served by the hour, and its machine is stopped."""
    if plan.hosting is None or plan.hosting.by_token is not None:
        return False
    machines = [record for record in store.deployments.of_run(run.id) if not record.by_token]
    return bool(machines) and machines[0].state == "stopped"


def _ended_use(last: Promotion, successor: Promotion) -> TimeInUse:
    return TimeInUse(
        person=last.person,
        since=last.at,
        until=successor.at,
        other=promotable_name(successor.what),
        ended_by=successor.person,
        is_rolled_back=successor.is_rollback,
    )


def _is_current_measured(store: Store, plan: Plan, result: RunResult) -> bool:
    """True if the plan's model of today has answered the run's held-out rows, in a measurement or as its base."""
    if not plan.current:
        return False
    asked_base = f"{plan.provider}/{plan.base_model}"
    if result.before == "base" and is_same_model(plan.current, asked_base):
        return True
    versions = tuple(version.id for version in store.datasets.versions(plan.dataset))
    for evaluation in finished_measurements.evaluations(store, versions):
        if evaluation.plan.holdout_sha256 != plan.holdout_sha256:
            continue
        for candidate in evaluation.comparison.candidates:
            if candidate.model and is_same_model(plan.current, candidate.model):
                return True
    return False
