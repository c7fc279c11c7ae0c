"""Loads what was measured on a dataset and of a tuned model, for estimates, advice and promotions. Writes nothing."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from bot.context import AppContext
from bot.rules.estimate_inputs import DEFAULT_BUSY
from bot.rules.facts import Evidence, OtherJudge, TaskKind, task_kind
from bot.rules.judge_agreement import JudgeChecks
from bot.rules.plans import Plan, plan_from_json
from bot.services.common import finished_measurements
from bot.services.datasets import row_labels
from bot.services.evidence import checked_judges, looks
from bot.services.evidence.measured_candidates import load_measured
from bot.settings import Settings
from bot.values.runs import Before, RunResult
from bot.values.targets import Target
from storage.records import Dataset, Run
from storage.store import Store
from trainers.dataset import Report
from trainers.evaluation.quality_threshold import judge_candidates
from trainers.evaluation.results import Comparison, Curve, MeasuredCandidate, find_best
from trainers.providers.pricing import PriceList


def load_evidence(
    context: AppContext,
    dataset: Dataset,
    report: Report,
    target: Target | None,
    *,
    bar: float | None = None,
    task: TaskKind | None = None,
) -> Evidence:
    """Returns the evidence on a dataset. The tuned model is the newest one that was trained on `target`, or on any base
    model if `target` is None. `bar` and `task` default to the dataset's settings."""
    stored = context.store.dataset_settings.get(dataset.name)
    if stored and not task and stored.task_kind:
        task = task_kind(stored.task_kind)
    versions = tuple(version.id for version in context.store.datasets.versions(dataset.name))
    holdout = str(report.holdout_sha256)
    evidence = Evidence(
        bar=bar or current_bar(context, dataset.name),
        margin=context.settings.policy.promotion.margin,
        task_kind=task,
        curve=_newest_curve(context, versions, holdout),
        label_checks=row_labels.count_checks(context, dataset.id, versions),
        left_out=finished_measurements.left_out(context.store, versions, holdout),
    )
    measured = load_measured(context.store, context.settings.files, dataset.name, holdout, evidence.bar)
    if measured is not None:
        evidence = replace(
            evidence,
            comparison=measured.comparison,
            judge=measured.judge,
            judge_checks=checked_judges.checks_of(context.store, dataset.name, measured.judge),
            failed=measured.failed,
        )
    run = _newest_run(context, versions, holdout, target)
    if run is not None:
        return _with_run(context, evidence, run)
    if target is None or target.start is None:
        return evidence
    # Nothing has gone on from this model yet. If it is good enough as it is, nothing has to.
    first = context.store.runs.get(target.start.run)
    if first is None or plan_from_json(first.plan).holdout_sha256 != holdout:
        return evidence
    with_start = _with_run(context, evidence, first)
    return with_start if with_start.is_good else evidence


def _with_run(context: AppContext, evidence: Evidence, run: Run) -> Evidence:
    """Adds the result of a run, if it has one that can be compared."""
    if run.result is None:
        return evidence
    beside = RunResult.from_json(run.result).comparison
    if beside is None:
        return evidence
    return with_run_result(context, evidence, run, beside)


def current_bar(context: AppContext, dataset: str) -> float:
    """Returns the dataset's bar, or the usual one if nobody has set one."""
    stored = context.store.dataset_settings.get(dataset)
    if stored and stored.bar:
        return stored.bar
    return context.settings.policy.promotion.bar


def _newest_curve(context: AppContext, versions: tuple[int, ...], holdout: str) -> Curve | None:
    for finished in finished_measurements.curves(context.store, versions):
        if finished.curve.holdout_sha256 == holdout:
            return finished.curve
    return None


def with_run_result(context: AppContext, evidence: Evidence, run: Run, beside: Comparison) -> Evidence:
    """Adds the result of a run, unless another judge scored it than the comparison: their verdicts don't compare."""
    plan = plan_from_json(run.plan)
    if beside.scoring == "judge":
        if _has_other_judge(evidence, plan):
            other_judge = OtherJudge(str(run.model), str(plan.judge))
            return replace(evidence, other_judge=other_judge)
        checks = checked_judges.checks_of(context.store, plan.dataset, plan.judge)
        evidence = replace(evidence, judge=plan.judge, judge_checks=checks)
    (tuned,) = beside.of_kind("tuned")
    if beside.bar != evidence.bar:
        # Judged without a correction for having picked the best of several: it was chosen before it was measured.
        (tuned,) = judge_candidates((tuned,), evidence.bar)
    history = looks.history(context.store, plan.dataset, plan.holdout_sha256)
    return replace(
        evidence,
        comparison=_with_pairs(evidence.comparison, beside),
        tuned=tuned,
        tuned_look=looks.number_of_tuned(history, run),
    )


def _with_pairs(comparison: Comparison | None, beside: Comparison) -> Comparison | None:
    """Adds a result's comparison of the tuned model with the best alternative, if the comparison still has that
    alternative with the same scores."""
    best = next((candidate for candidate in beside.candidates if candidate.kind != "tuned"), None)
    if comparison is None or best is None:
        return comparison
    is_unchanged = any(
        (candidate.identity, candidate.scores) == (best.identity, best.scores)
        for candidate in comparison.candidates
    )
    if not is_unchanged:
        return comparison
    return replace(comparison, pairs=(*comparison.pairs, *beside.pairs))


def without_other_judge(evidence: Evidence, plan: Plan) -> Evidence:
    """Leaves out what another judge scored than the plan's, for a verdict on the plan's own run."""
    if not _has_other_judge(evidence, plan):
        return evidence
    return replace(evidence, comparison=None, tuned=None)


def _has_other_judge(evidence: Evidence, plan: Plan) -> bool:
    return evidence.is_judged and plan.judge is not None and evidence.judge != plan.judge


def best_candidate(evidence: Evidence) -> MeasuredCandidate | None:
    """Returns the best candidate, the tuned model included."""
    candidates = [*evidence.candidates]
    if evidence.tuned is not None:
        candidates.append(evidence.tuned)
    return find_best(candidates)


def judge_checks(context: AppContext, plan: Plan) -> JudgeChecks | None:
    """Returns what people said about the plan's judge on this dataset, None without a judge."""
    if plan.judge is None:
        return None
    return checked_judges.checks_of(context.store, plan.dataset, plan.judge)


def comparable_alternatives(evidence: Evidence, judge: str | None) -> tuple[MeasuredCandidate, ...]:
    """Returns the alternatives whose scores can be compared with those of a model that `judge` scored."""
    if evidence.judge not in (None, judge):
        return ()
    return evidence.alternatives


def _newest_run(
    context: AppContext, versions: tuple[int, ...], holdout: str, target: Target | None
) -> Run | None:
    for run in context.store.runs.done(versions):
        plan = plan_from_json(run.plan)
        is_target = target is None or _is_target(plan, target)
        if plan.holdout_sha256 == holdout and is_target:
            return run
    return None


def _is_target(plan: Plan, target: Target) -> bool:
    trained = (plan.provider, plan.base_model, plan.starts_from)
    return trained == (target.row.name, target.model.name, target.start)


def tuned_candidate(store: Store, run: Run) -> MeasuredCandidate | None:
    """Returns a run's model with its scores, None if the run has no result or its dataset was deleted."""
    if run.result is None or store.datasets.get(run.dataset_id).forgotten_at is not None:
        return None
    beside = RunResult.from_json(run.result).comparison
    if beside is None:
        return None
    (tuned,) = beside.of_kind("tuned")
    return tuned


def what_answered_before(run: Run) -> Before:
    """Returns what a run's tuned model was compared with. Its base may be one that can't be asked."""
    if run.result is None:
        return "base"
    return RunResult.from_json(run.result).before


def request_usd_of(settings: Settings, plan: Plan, usd: Decimal | None) -> Decimal | None:
    """Returns the USD of 1,000 requests in production to the model of a plan, or to its base, as `request_usd` does."""
    if plan.hosting is not None and plan.hosting.by_token is not None:
        return usd  # nothing idles that costs money
    return request_usd(settings, plan.provider, plan.base_model, usd)


def request_usd_at(settings: Settings, prices: PriceList, candidate: MeasuredCandidate) -> Decimal | None:
    """Returns the USD of 1,000 requests in production to a candidate that was measured at these prices, as
    `request_usd` does."""
    if any(row.model == candidate.model and row.served_by for row in prices.rows):
        return candidate.usd_per_1000  # by the token, so that nothing idles that costs money
    provider, _, model = (candidate.model or "").partition("/")
    return request_usd(settings, provider, model, candidate.usd_per_1000)


def request_usd(settings: Settings, provider: str, model: str, usd: Decimal | None) -> Decimal | None:
    """Returns the USD of 1,000 requests in production, given `usd` as it was measured. A machine that is billed by the
    hour is busy during a measurement, but in production it idles for part of the hours that it costs."""
    row = settings.provider(provider)
    model_row = row.model(model) if row else None
    if usd is None or model_row is None or model_row.usd_per_hour is None:
        return usd
    return usd / DEFAULT_BUSY
