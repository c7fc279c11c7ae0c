"""Sets finished results side by side, for somebody who has to choose one: the tuned models of runs, and the best
candidates of measurements. Reads what is stored, asks no model and writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bot.cards.common.candidates import table_name
from bot.cards.evidence.sweeps import WON
from bot.command_options import Subject
from bot.context import AppContext
from bot.rules.plan_settings import training_settings
from bot.rules.plans import format_value, plan_from_json
from bot.rules.training.compared_results import (
    MOST_COMPARED,
    CommonScores,
    ComparedResult,
    LeftOut,
    ResultsCompared,
    compare_results,
    why_unmatched,
)
from bot.services.common import authorization
from bot.services.common.finished_measurements import read_evaluation
from bot.services.evidence import evidence, looks
from bot.services.evidence.measured_candidates import judge_of, known_comparison
from bot.services.evidence.scored_rows import ScoredOn, find_common_positions
from bot.services.measurement import measurements
from bot.services.measurement.wrong_rows import missing_refusal
from bot.settings import Settings
from bot.values.runs import Refusal, RunResult
from storage.records import COMPARISON, Measurement, Run
from storage.store import Store
from trainers.dataset.rows import at
from trainers.evaluation.results import find_best
from trainers.methods import option_name


def compare_for(
    context: AppContext, subjects: Sequence[Subject], person: str, channel: str
) -> ResultsCompared | Refusal:
    """Compares results for somebody in Slack. What they may not know about doesn't exist for them."""
    for subject in subjects:
        if not authorization.may_know_result(context, subject, person, channel):
            return missing_refusal(subject)
    return compare(context.store, context.settings, subjects)


def compare(store: Store, settings: Settings, subjects: Sequence[Subject]) -> ResultsCompared | Refusal:
    """Compares the results of runs and measurements, each named once."""
    wanted = tuple(dict.fromkeys(subjects))
    if len(wanted) < 2:
        return Refusal("Which results should be compared? Name two or more, like `/finetune compare 3 5`.")
    if len(wanted) > MOST_COMPARED:
        return Refusal(f"{len(wanted)} results are too many for one card: name {MOST_COMPARED} at most.")
    results = []
    for subject in wanted:
        result = _load(store, settings, subject)
        if isinstance(result, Refusal):
            return result
        results.append(result)
    compared, left_out = _match(settings.files, results)
    is_part = False
    for common in compared:
        measured = common.result.measured
        if measured is not None and len(common.scores) < measured.n:
            is_part = True
    return compare_results(compared, left_out, settings.policy.promotion.margin, is_part=is_part)


def _load(store: Store, settings: Settings, subject: Subject) -> ComparedResult | Refusal:
    if subject.is_measurement:
        measurement = store.measurements.get(subject.number)
        if measurement is None:
            return missing_refusal(subject)
        return _load_measurement(store, settings, measurement)
    run = store.runs.get(subject.number)
    if run is None:
        return missing_refusal(subject)
    return _load_run(store, settings, run)


def _load_run(store: Store, settings: Settings, run: Run) -> ComparedResult:
    plan = plan_from_json(run.plan)
    measured = evidence.tuned_candidate(store, run)
    model = store.model(run.model or "")
    usd = None
    if measured is not None:
        usd = evidence.request_usd_of(settings, plan, measured.usd_per_1000)
    train_seconds = None
    settings_used = training_settings(plan)
    if run.result:
        result = RunResult.from_json(run.result)
        train_seconds = result.train_seconds
        settings_used += _winning_settings(result)
    history = looks.history(store, plan.dataset, plan.holdout_sha256)
    return ComparedResult(
        number=run.id,
        dataset=plan.dataset,
        version=plan.dataset_version,
        holdout=plan.holdout_sha256,
        answered_by=run.model or plan.base_model,
        model=model.name if model and model.gone_at is None else "",
        measured=measured,
        state=run.state,
        judge=plan.judge,
        settings=settings_used,
        cost_micros=run.actual_micros,
        train_seconds=train_seconds,
        usd=usd,
        look=looks.number_of_tuned(history, run),
        is_deleted=store.datasets.get(run.dataset_id).forgotten_at is not None,
    )


def _winning_settings(result: RunResult) -> tuple[tuple[str, str], ...]:
    """Returns the values that a sweep chose; none without a sweep."""
    for trial in result.trials:
        if trial.outcome == WON:
            return tuple((option_name(name), format_value(value)) for name, value in trial.chosen)
    return ()


def _load_measurement(store: Store, settings: Settings, measurement: Measurement) -> ComparedResult | Refusal:
    unreadable = measurements.unreadable_refusal(measurement)
    if unreadable:
        return unreadable
    version = store.datasets.get(measurement.dataset_id)
    blank = ComparedResult(
        number=measurement.id,
        is_measurement=True,
        dataset=version.name,
        version=version.version,
        holdout="",
        state=measurement.state,
        cost_micros=measurement.actual_micros,
        is_deleted=version.forgotten_at is not None,
        is_curve=measurement.kind != COMPARISON,
    )
    if blank.is_curve or measurement.result is None:
        return blank
    evaluation = read_evaluation(measurement)
    if evaluation is None:
        return blank
    own = [candidate.identity for candidate in evaluation.comparison.candidates]
    measured = known_comparison(store, settings.files, measurement)
    best = find_best(candidate for candidate in measured.candidates if candidate.identity in own)
    if best is None:
        return blank
    provider, _, model = (best.model or "").partition("/")
    return replace(
        blank,
        holdout=evaluation.plan.holdout_sha256,
        answered_by=table_name(best.identity),
        measured=best,
        judge=judge_of(measurement),
        usd=evidence.request_usd(settings, provider, model, best.usd_per_1000),
        look=best.look,
        position=own.index(best.identity),
    )


def _match(
    files: Path, results: Sequence[ComparedResult]
) -> tuple[tuple[CommonScores, ...], tuple[LeftOut, ...]]:
    """Returns the results that can be compared, by the rows that all of them answered, and those that can't."""
    matched: list[ComparedResult] = []
    left_out = []
    for result in results:
        first = next(iter(matched), None)
        why = why_unmatched(result, first)
        if why is None and first is not None:
            in_common = _common_positions(files, [*matched, result])
            if not any(in_common):
                why = "other rows"
        if why is None:
            matched.append(result)
        else:
            left_out.append(LeftOut(result, why, first))
    positions_of = _common_positions(files, matched)
    common = [
        _common_scores(result, positions) for result, positions in zip(matched, positions_of, strict=True)
    ]
    return tuple(common), tuple(left_out)


def _common_positions(files: Path, results: Sequence[ComparedResult]) -> tuple[tuple[int, ...], ...]:
    scored = [ScoredOn(result.holdout, result.measured) for result in results if result.measured is not None]
    if not scored:
        return ()
    return find_common_positions(files, scored)


def _common_scores(result: ComparedResult, positions: tuple[int, ...]) -> CommonScores:
    if result.measured is None:
        raise ValueError(f"comparing {result.name}: it has no scores")
    read = set(result.measured.read)
    return CommonScores(
        result,
        at(positions, result.measured.scores),
        tuple(number for number, position in enumerate(positions) if position in read),
    )
