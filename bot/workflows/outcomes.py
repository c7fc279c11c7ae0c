"""A run's result beside the best alternative that was measured, and the verdict that follows."""

from __future__ import annotations

from bot.decisions.planning import Plan
from bot.decisions.verdict.facts import Evidence
from bot.results import Advice, Refusal
from bot.work.judging import Measured
from bot.workflows import datasets, estimates, estimating, telling
from bot.workflows.desk import Desk
from bot.workflows.estimating import Estimated
from bot.workflows.measuring import gathered
from storage.records import Run
from trainers.measuring.values import Arm, Ladder
from trainers.pricing import PriceList


def measured(desk: Desk, run: Run, plan: Plan) -> Measured:
    """For the worker: the tuned model's answers, and the alternatives that answered the same rows."""
    evidence = _evidence(desk, run)
    return Measured(
        arm=Arm("tuned", f"{plan.provider}/{run.model}"),
        replies=gathered.replies(desk.store.runs.answers(run.id, "tuned")),
        labels=plan.labels,
        bar=evidence.bar,
        price=PriceList.from_json(plan.prices).rows[0],
        dataset=plan.dataset,
        version=plan.dataset_version,
        holdout=desk.settings.files / f"{plan.holdout_sha256}.jsonl",
        alternatives=evidence.alternatives,
    )


def advice(desk: Desk, run: Run, plan: Plan, beside: Ladder) -> Advice | None:
    """None where the question can't be answered any more: its model or its price is gone from the settings."""
    made = _estimated(desk, run, plan, beside)
    if isinstance(made, Refusal):
        return None
    verdict = made.verdict
    rule = verdict.main.rule if verdict.main and verdict.kind != "go" else ""
    return Advice(verdict.kind, rule, verdict.headline, verdict.next_step)


def _estimated(desk: Desk, run: Run, plan: Plan, beside: Ladder) -> Estimated | Refusal:
    dataset = desk.store.datasets.get(run.dataset_id)
    report = datasets.report_of(dataset)
    if report is None:
        return Refusal(f"`{dataset.name}` can't be used any more.")
    return estimating.make_estimate(
        desk.settings,
        dataset.name,
        report,
        estimates.question_of(plan),
        telling.day(desk.clock()),
        gathered.joined(_evidence(desk, run), beside),
        is_trained=True,
    )


def _evidence(desk: Desk, run: Run) -> Evidence:
    dataset = desk.store.datasets.get(run.dataset_id)
    report = datasets.report_of(dataset)
    return gathered.evidence_of(desk, dataset, report, None) if report else Evidence()
