"""The job that a run's plan asks a trainer for, once its files are there."""

from __future__ import annotations

from bot.decisions.planning import Plan
from bot.workflows.jobs import Ready
from bot.workflows.sweeping import LEAST_USD
from storage.records import Run
from trainers.money import from_micros
from trainers.types import Hyperparameter, JobSpec


def spec_of(run: Run, plan: Plan, ready: Ready) -> JobSpec:
    return JobSpec(
        key=run.key,
        model=plan.base_model,
        training_file=ready.file_id,
        validation_file=ready.validation_id,
        hyperparameters=dict(plan.hyperparameters) | limits_of(plan),
        sweep=plan.swept.sweep if plan.swept else (),
        seed=plan.seed,
        suffix=plan.suffix,
        metadata={"run": str(run.id), "plan": run.plan_hash[:12]},
    )


def limits_of(plan: Plan) -> dict[str, Hyperparameter]:
    """A sweep that costs something stops where the approved money ends."""
    if plan.stopping:
        return {"patience": plan.stopping.patience}
    most = from_micros(plan.maximum_micros)
    if plan.swept and plan.swept.usd_per_hour and most >= LEAST_USD:
        return {"max_usd": f"{most.normalize():f}", "usd_per_hour": plan.swept.usd_per_hour}
    return {}
