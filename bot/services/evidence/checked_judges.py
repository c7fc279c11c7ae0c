"""What people said about the judge of a dataset's answers, where they can check more of them, and how they chose
between answers that no judge compared. Writes nothing: judge_checks.py and human_preferences.py ask people and record
what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bot.context import AppContext
from bot.rules.facts import Evidence
from bot.rules.judge_agreement import (
    UNCHECKED,
    CheckedJudge,
    HumanAgreement,
    JudgeChecks,
    summarize_labels,
    summarize_verdicts,
)
from bot.rules.plans import Plan
from bot.services.common import authorization, finished_measurements
from bot.services.evidence import judge_worker
from bot.services.evidence.measured_candidates import folder_of, judge_of
from bot.values.evaluations import ComparisonProgress
from bot.values.runs import RunResult
from storage.records import HumanVerdict, Measurement
from storage.store import Store
from trainers.evaluation.results import Comparison


def checks_of(store: Store, dataset: str, judge: str | None) -> JudgeChecks:
    """Returns what people said about a judge, in all measurements of the dataset."""
    if judge is None:
        return UNCHECKED
    verdicts = store.human_verdicts.on(dataset, judge)
    return summarize_verdicts(verdicts)


def judge_of_measurement(
    context: AppContext, measurement: Measurement, *, may_show: bool
) -> CheckedJudge | None:
    """Returns the judge of a measurement, None if it was scored without one. `may_show` is True if its answers may be
    shown in its channel."""
    judge = judge_of(measurement)
    if judge is None:
        return None
    verdicts = _verdicts(context, measurement, judge)
    number = None
    if may_show and _has_unchecked(context, measurement, verdicts):
        number = measurement.id
    return CheckedJudge(judge, summarize_verdicts(verdicts), number)


def judge_of_evidence(context: AppContext, dataset: str, evidence: Evidence) -> CheckedJudge | None:
    """Returns the judge of what is known on a dataset, None if no judge scored it. Asks Slack about channels, so not in
    a transaction."""
    if evidence.judge is None or not evidence.is_judged:
        return None
    number = find_checkable(context, dataset, evidence.judge)
    return CheckedJudge(evidence.judge, evidence.judge_checks, number)


def judge_for_page(store: Store, measurement: Measurement) -> CheckedJudge | None:
    """Returns the judge of a measurement for a page, on which nobody can check more, None if it was scored without
    one."""
    judge = judge_of(measurement)
    if judge is None:
        return None
    dataset = store.datasets.get(measurement.dataset_id)
    checks = checks_of(store, dataset.name, judge)
    return CheckedJudge(judge, checks, None)


def judge_of_plan(context: AppContext, plan: Plan) -> CheckedJudge | None:
    """Returns the judge on whose verdicts the plan's own verdict rests, with what people say about it by now."""
    if plan.advised is None or not plan.advised.judge:
        return None
    judge = plan.advised.judge
    checks = checks_of(context.store, plan.dataset, judge)
    return CheckedJudge(judge, checks)


def judge_of_result(context: AppContext, plan: Plan, result: RunResult) -> CheckedJudge | None:
    """Returns the judge of a run's answers with what people say about it by now, which may differ from what they had
    said when the run ended. None if no judge scored them."""
    if plan.judge is None or not _is_judged(result):
        return None
    verdicts = context.store.human_verdicts.on(plan.dataset, plan.judge)
    number = None
    if result.checkable:
        measurement = context.store.measurements.get(result.checkable)
        # It may have been deleted since, or all of its answers checked.
        if measurement is not None and _has_unchecked(context, measurement, verdicts):
            number = measurement.id
    return CheckedJudge(plan.judge, summarize_verdicts(verdicts), number)


def with_current_checks(context: AppContext, plan: Plan, result: RunResult) -> RunResult:
    """Returns the result with what people say about its judge by now."""
    judge = judge_of_result(context, plan, result)
    if judge is None:
        return result
    return replace(result, judge_checks=judge.checks, checkable=judge.measurement)


def with_checks_for_page(store: Store, plan: Plan, result: RunResult) -> RunResult:
    """Returns the result with what people say about its judge by now, for a page, on which nobody can check more."""
    if plan.judge is None or not _is_judged(result):
        return result
    checks = checks_of(store, plan.dataset, plan.judge)
    return replace(result, judge_checks=checks, checkable=None)


def _is_judged(result: RunResult) -> bool:
    comparison = result.comparison
    return comparison is not None and comparison.scoring == "judge"


def find_checkable(context: AppContext, dataset: str, judge: str | None) -> int | None:
    """Returns the number of the newest measurement by this judge whose answers people can still check in its channel,
    None if there is none. Asks Slack about channels, so not in a transaction."""
    if judge is None:
        return None
    versions = tuple(version.id for version in context.store.datasets.versions(dataset))
    for evaluation in finished_measurements.evaluations(context.store, versions):
        measurement = evaluation.measurement
        if evaluation.judge != judge:
            continue
        verdicts = _verdicts(context, measurement, judge)
        if not _has_unchecked(context, measurement, verdicts):
            continue
        version = context.store.datasets.get(measurement.dataset_id)
        if authorization.may_show_rows(context, version, measurement.channel):
            return measurement.id
    return None


def _verdicts(context: AppContext, measurement: Measurement, judge: str) -> Sequence[HumanVerdict]:
    dataset = context.store.datasets.get(measurement.dataset_id)
    return context.store.human_verdicts.on(dataset.name, judge)


def _has_unchecked(context: AppContext, measurement: Measurement, verdicts: Sequence[HumanVerdict]) -> bool:
    """True if the measurement has answers that nobody has judged. Their file is deleted with its folder."""
    judged = {verdict.answer for verdict in verdicts}
    answers = judge_worker.read_answers(folder_of(context, measurement))
    return any(answer.key not in judged for answer in answers)


def preferences_of(context: AppContext, measurement: Measurement) -> HumanAgreement:
    """Returns how people chose between the answers of the two best candidates."""
    labels = context.store.preferences.of(measurement.id)
    return summarize_labels(labels, _better_key(measurement))


def _better_key(measurement: Measurement) -> str:
    """Returns the key of the better one of the two candidates that people compare, '' if there are no two. The labels
    don't tell: each person sees the two in an order of their own."""
    judge = ComparisonProgress.from_json(measurement.progress).judge
    if judge and judge.pair:
        return judge.pair.first.key
    if measurement.result is None:
        return ""
    comparison = Comparison.from_json(measurement.result)
    best = judge_worker.best_two(comparison.candidates)
    if not best:
        return ""
    return best[0].key
