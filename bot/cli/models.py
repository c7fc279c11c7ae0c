"""Renders the models in use, their machines and their ends, as text for the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import Any

from bot.cards.common.plan_money import foreseen_text
from bot.cards.common.words import money
from bot.cards.models.deployments import DeploymentSummary
from bot.rules.plans import plan_from_json
from bot.values.runs import RunResult
from bot.values.sunsets import ModelUse
from storage.actuals import ActualMonth, ModelInUse


def models_text(in_use: Sequence[ModelInUse]) -> str:
    """Returns a line for each model in use, and one for each month of its dataset."""
    if not in_use:
        return "No model is in use: /finetune promote MODEL deploys one."
    lines = []
    for model in in_use:
        line = f"{model.dataset}: {model.model} ({model.provider_model} at {model.provider})"
        foreseen = _foreseen(model)
        if foreseen:
            line += f"; planned: {foreseen}"
        lines.append(line)
        lines += [f"  {_month_text(month)}" for month in model.months]
        if not model.months:
            lines.append("  no calls known")
    return "\n".join(lines)


def _foreseen(model: ModelInUse) -> str:
    """What the plan expected to save; '' if the model turned out not to be good enough for that."""
    if not model.result:
        return ""
    comparison = RunResult.from_json(model.result).comparison
    if comparison is None or not comparison.of_kind("tuned"):
        return ""
    (tuned,) = comparison.of_kind("tuned")
    if tuned.standing == "misses":
        return ""
    return foreseen_text(plan_from_json(model.plan))


def _month_text(month: ActualMonth) -> str:
    text = f"{month.month} {month.model}: {month.calls:,} calls, {month.tokens:,} tokens, cost {money(month.micros)}"
    if month.alternative is None:
        return text
    return f"{text}; {money(month.alternative_micros)} with {month.alternative}: saved {money(month.saving_micros)}"


def models_json(in_use: Sequence[ModelInUse]) -> list[dict[str, Any]]:
    """Money is in micro-dollars. `net_value` is what the plan expected to gain or lose over its horizon, null if it is
    older than that."""
    return [_model_json(model) for model in in_use]


def _model_json(model: ModelInUse) -> dict[str, Any]:
    fields = asdict(model)
    # All their prices and scores would hide these few figures.
    del fields["plan"]
    del fields["result"]
    fields["net_value"] = None
    advised = plan_from_json(model.plan).advised
    if advised and advised.net:
        fields["net_value"] = asdict(advised.net)
    fields["months"] = [{**asdict(month), "saving_micros": month.saving_micros} for month in model.months]
    return fields


def deployments_json(running: Sequence[DeploymentSummary]) -> list[dict[str, Any]]:
    """Money is in micro-dollars, times are in unix seconds."""
    return [_deployment_json(each) for each in running]


def _deployment_json(running: DeploymentSummary) -> dict[str, Any]:
    record = running.record
    idle_since = None
    if record.state == "ready":
        idle_since = record.used_at
    return {
        "model": record.model,
        "name": record.name,
        "vendor": record.provider,
        "run": record.run_id,
        "person": record.person,
        "state": record.state,
        "micros_per_hour": record.micros_per_hour,
        "today_micros": running.today_micros,
        "micros": record.micros,
        "idle_since": idle_since,
        "kept_by": record.kept_by,
        "seen_at": record.updated_at,
    }


def uses_json(uses: Sequence[ModelUse], today: date) -> list[dict[str, Any]]:
    """Returns one object per use, ordered by the models' ends. `use` is in use, planned, today's, target (it can be
    trained) or price (finetune.toml has a price for it)."""
    ordered = sorted(uses, key=lambda use: (use.ends or date.max, use.model))
    return [_use_json(use, today) for use in ordered]


def _use_json(use: ModelUse, today: date) -> dict[str, Any]:
    ends = None
    if use.ends:
        ends = use.ends.isoformat()
    return {
        "use": use.kind,
        "dataset": use.dataset or None,
        "model": use.model,
        "name": use.name,
        "ends": ends,
        "days_left": use.days_left(today),
        "has_ended": use.has_ended(today),
        "successor": use.successor,
        "said_by": use.said_by,
    }
