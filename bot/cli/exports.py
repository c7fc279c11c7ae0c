"""Finds the tuned model to export by the name that people use: its name at the trainer, and what its run measured, for
the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bot.cards.common.candidates import meaning, table_name
from bot.cards.training.result_comparison import before_name
from bot.rules.plans import Plan, plan_from_json
from bot.settings import Settings
from bot.values.runs import Refusal, RunResult
from storage.backup import open_copy
from storage.records import Model, Run

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class ExportSource:
    """A model to export. `model` is its name at the trainer; `name` is the one that people use, None if it has none.
    `facts` are for the model card, None if nothing was measured."""

    model: str
    name: str | None
    facts: Facts | None


def find_model(settings: Settings, name: str) -> ExportSource | Refusal:
    """Finds a run's model. Any other name is passed on to the exporter: ft:… names, checkpoints, and folders of
    jobs."""
    if not settings.database.exists():
        return ExportSource(name, None, None)
    # A copy, as a running bot has the database open.
    with open_copy(settings.database) as store:
        model = store.model(name) or next(iter(store.models_at_provider(name)), None)
        if model is None:
            return ExportSource(name, None, None)
        row = settings.provider(model.provider)
        if row is None or not row.keeps_models_here:
            return Refusal(
                f"{model.name} was trained at {model.provider}, which keeps its weights. Only models of a trainer on "
                "this machine can be exported."
            )
        run = store.runs.get(model.run_id)
        return ExportSource(
            model.provider_model, model.name, _facts(model, run) if run and run.result else None
        )


def _facts(model: Model, run: Run) -> Facts:
    plan, result = plan_from_json(run.plan), RunResult.from_json(run.result or "")
    measure, tuned, against = _scores(result, plan)
    return {
        "name": model.name,
        "run": run.id,
        "plan_hash": run.plan_hash,
        "dataset": f"{plan.dataset}, version {plan.dataset_version}",
        "source_sha256": plan.source_sha256,
        "train_rows": plan.n_train,
        "holdout_rows": plan.n_holdout,
        "holdout_sha256": plan.holdout_sha256,
        "measure": measure,
        "tuned": tuned,
        "against": against,
        "p_value": result.change.p,
    }


def _scores(result: RunResult, plan: Plan) -> tuple[str, Facts, list[Facts]]:
    """Returns the measure's name, the model's score, and the scores of the alternatives, by the comparison's measure if
    there is a comparison. In older results the base was scored by right answers, and is listed only if the comparison
    is too."""
    what = before_name(result)
    if result.before == "base":
        what = f"the untuned base, {plan.base_model}"
    before = result.change.before
    base = _score(what, before.score, before.low, before.high)
    comparison = result.comparison
    if comparison is None:
        tuned = _score("this model", result.tuned.share, result.tuned.low, result.tuned.high)
        return "the share of right answers", tuned, [base]
    candidate = comparison.of_kind("tuned")[0]
    tuned = _score("this model", candidate.score, candidate.low, candidate.high)
    against = [base] if candidate.scoring == "label" or result.partial is not None else []
    for other in comparison.candidates:
        if other is not candidate and other.kind != result.before:
            against.append(_score(table_name(other.identity), other.score, other.low, other.high))
    return f"the share {meaning(candidate)}", tuned, against


def _score(what: str, score: float, low: float, high: float) -> Facts:
    return {"what": what, "score": score, "low": low, "high": high}
