"""Everything that was measured on one holdout, each candidate by its newest measurement. Estimates, cards, plans,
results and promotions all read stored comparisons here, so that none of them forgets what another one knows. Writes
nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bot.context import CoreContext
from bot.rules.facts import FailedCandidate
from bot.services.common import finished_measurements
from bot.services.common.finished_measurements import FinishedEvaluation
from bot.services.evidence.looks import candidates_with_looks, history
from bot.values.evaluations import ComparisonPlan
from storage.records import Measurement
from storage.store import Store
from trainers.evaluation.comparison import merge_comparisons
from trainers.evaluation.looks import Look
from trainers.evaluation.results import Candidate, Comparison, Scoring

JUDGE_FAILED = "The judge failed, so its answers were scored without one."


@dataclass(frozen=True)
class MeasuredHoldout:
    """`comparison` has every candidate that was measured, judged by one bar. `judge` is the model whose verdicts are
    its scores, None if it was scored without one. `measured_by` is the newest measurement of each candidate. `failed`
    are candidates that were left out of a measurement and have no other."""

    comparison: Comparison
    judge: str | None
    measured_by: Mapping[Candidate, Measurement]
    failed: tuple[FailedCandidate, ...] = ()

    def plan_of(self, candidate: Candidate) -> ComparisonPlan:
        """Returns the plan by which this candidate was measured: its prompt, its examples, its documents."""
        measurement = self.measured_by[candidate]
        return ComparisonPlan.from_json(measurement.plan)


@dataclass(frozen=True)
class _StoredComparison:
    """A finished measurement with its comparison. Scores of different kinds, or of different judges, can't be compared.
    `left_out` are the candidates that it could not measure, with the reason. `judge` is None if the planned judge
    failed, or if there was none."""

    measurement: Measurement
    comparison: Comparison
    planned_judge: str | None
    judge: str | None
    left_out: Mapping[Candidate, str]

    @property
    def scored_by(self) -> tuple[Scoring, str | None]:
        return self.comparison.scoring, self.judge


def load_measured(
    store: Store, files: Path, dataset: str, holdout: str, bar: float | None = None
) -> MeasuredHoldout | None:
    """Returns what was measured on this holdout of a dataset, None if nothing was. `bar` defaults to that of the newest
    measurement.

    Only scores that can be compared count: if a judge has scored any, those of the newest judge, since scores without
    a judge only count shared words; otherwise those of the newest measurement.

    Each candidate is judged at the level of the look that measured it first, so a claim stays when others are measured
    later. `files` is the folder with the held-out rows.
    """
    comparisons = _find(store, files, dataset, holdout)
    judged = [each for each in comparisons if each.comparison.scoring == "judge"]
    of_interest = judged or comparisons
    if not of_interest:
        return None
    newest = of_interest[0]
    if bar is None:
        bar = newest.comparison.bar
    return _merge(comparisons, newest, bar)


def known_comparison(store: Store, files: Path, measurement: Measurement) -> Comparison:
    """Returns what was known when this measurement ended, as `known_candidates` does, judged by its own bar."""
    return known_candidates(store, files, measurement).comparison


def known_candidates(
    store: Store, files: Path, measurement: Measurement, bar: float | None = None
) -> MeasuredHoldout:
    """Returns what was known when this measurement ended: its own candidates and those of earlier measurements whose
    scores can be compared with them. `bar` defaults to its own. Sealed rows are opened to decide on one model, so only
    the measurement's own candidates count there. Raises ValueError if it has no result, or one of a newer version."""
    evaluation = finished_measurements.read_evaluation(measurement)
    if evaluation is None:
        raise ValueError(
            f"reading what m{measurement.id} measured: it has no result that this version can read"
        )
    plan = evaluation.plan
    dataset = store.datasets.get(measurement.dataset_id).name
    looks = history(store, dataset, plan.holdout_sha256)
    own = _with_looks(store, files, evaluation, looks)
    if plan.promotes:
        identities = [candidate.identity for candidate in own.comparison.candidates]
        measured_by = dict.fromkeys(identities, measurement)
        return MeasuredHoldout(own.comparison, own.judge, measured_by)
    comparisons = _find(store, files, dataset, plan.holdout_sha256)
    earlier = [each for each in comparisons if each.measurement.id < measurement.id]
    if bar is None:
        bar = own.comparison.bar
    return _merge([own, *earlier], own, bar)


def folder_of(context: CoreContext, measurement: Measurement) -> Path:
    """Returns the folder with a measurement's prompts, its plots, and the answers for people."""
    return context.settings.data / "measurements" / f"m{measurement.id}"


def judge_of(measurement: Measurement) -> str | None:
    """Returns the model whose verdicts are the scores of this measurement, None if it was scored without a judge or has
    no scores."""
    evaluation = finished_measurements.read_evaluation(measurement)
    if evaluation is None:
        return None
    return evaluation.judge


def _find(store: Store, files: Path, dataset: str, holdout: str) -> list[_StoredComparison]:
    """Returns the finished measurements on this holdout, by any version of the dataset, the newest first."""
    versions = tuple(version.id for version in store.datasets.versions(dataset))
    done = finished_measurements.evaluations(store, versions)
    on_these_rows = [evaluation for evaluation in done if evaluation.plan.holdout_sha256 == holdout]
    looks = history(store, dataset, holdout)
    return [_with_looks(store, files, evaluation, looks) for evaluation in on_these_rows]


def _with_looks(
    store: Store, files: Path, evaluation: FinishedEvaluation, looks: Sequence[Look]
) -> _StoredComparison:
    plan = evaluation.plan
    candidates = candidates_with_looks(store, files, evaluation.comparison, plan, looks)
    comparison = replace(evaluation.comparison, candidates=candidates)
    left_out = {}
    for progress in evaluation.progress.candidates:
        if progress.failed is not None:
            left_out[progress.identity] = progress.failed
    return _StoredComparison(evaluation.measurement, comparison, plan.judge, evaluation.judge, left_out)


def _merge(
    comparisons: Sequence[_StoredComparison], newest: _StoredComparison, bar: float
) -> MeasuredHoldout:
    comparable = []
    for each in comparisons:
        # Candidates are compared row by row.
        has_all_rows = each.comparison.n == newest.comparison.n
        if each.scored_by == newest.scored_by and has_all_rows:
            comparable.append(each)
    comparison = merge_comparisons([each.comparison for each in comparable], bar)
    measured_by: dict[Candidate, Measurement] = {}
    # The oldest first, so that the newest measurement of a candidate stays.
    for each in reversed(comparable):
        for candidate in each.comparison.candidates:
            measured_by[candidate.identity] = each.measurement
    failed = []
    for failure in _failed(comparisons, newest.judge):
        if failure.candidate not in measured_by:
            failed.append(failure)
    return MeasuredHoldout(comparison, newest.judge, measured_by, tuple(failed))


def _failed(comparisons: Sequence[_StoredComparison], judge: str | None) -> list[FailedCandidate]:
    """Returns the candidates that some measurement could not measure by this judge, with its newest reason."""
    why: dict[Candidate, str] = {}
    for each in reversed(comparisons):
        why |= each.left_out
        has_lost_judge = each.planned_judge == judge and each.judge is None
        if judge is not None and has_lost_judge:
            identities = [candidate.identity for candidate in each.comparison.candidates]
            why |= dict.fromkeys(identities, JUDGE_FAILED)
    return [FailedCandidate(candidate, text) for candidate, text in why.items()]
