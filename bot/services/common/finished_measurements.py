"""Finished measurements, as far as this version can read them. A newer version may have stored one before the bot was
downgraded or a backup was restored. Such a measurement stays as it is, but nothing counts what it measured, so that it
holds up nothing else. Writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from bot.values.evaluations import ComparisonPlan, ComparisonProgress
from bot.values.learning_curves import TrainedCurve, plan_of, trained_curve
from storage.records import COMPARISON, Measurement
from storage.store import Store
from trainers.evaluation.results import CANDIDATE_KINDS, Candidate, Comparison, Curve


@dataclass(frozen=True)
class FinishedEvaluation:
    """A finished measurement of candidates with everything that is stored of it."""

    measurement: Measurement
    plan: ComparisonPlan
    progress: ComparisonProgress
    comparison: Comparison

    @property
    def judge(self) -> str | None:
        """The model whose verdicts are the scores, None if they were scored without a judge."""
        judge = self.progress.judge
        if judge is None or judge.failed is not None:
            return None
        return self.plan.judge


@dataclass(frozen=True)
class FinishedCurve:
    """A finished learning curve. `trained` is None if it is the classical model's."""

    measurement: Measurement
    curve: Curve
    trained: TrainedCurve | None


def evaluations(store: Store, versions: tuple[int, ...]) -> Iterator[FinishedEvaluation]:
    """Yields the finished evaluations of these dataset versions that have scores and that this version can read, newest
    first."""
    for measurement in store.measurements.done(versions, COMPARISON):
        if measurement.result is None:  # a teacher's, which labelled rows
            continue
        evaluation = read_evaluation(measurement)
        if evaluation is not None:
            yield evaluation


def curves(store: Store, versions: tuple[int, ...]) -> Iterator[FinishedCurve]:
    """Yields the finished learning curves of these dataset versions that this version can read, newest first."""
    for measurement in store.measurements.done(versions, "curve"):
        curve = _read_curve(measurement)
        if curve is not None:
            yield curve


def left_out(store: Store, versions: tuple[int, ...], holdout: str) -> tuple[int, ...]:
    """Returns the numbers of the finished measurements on this holdout that this version can't read, oldest first."""
    done = [*store.measurements.done(versions, COMPARISON), *store.measurements.done(versions, "curve")]
    numbers = [
        measurement.id
        for measurement in done
        if not is_readable(measurement) and _may_be_on(measurement, holdout)
    ]
    return tuple(sorted(numbers))


def is_readable(measurement: Measurement) -> bool:
    """False if a newer version of the bot stored the measurement. It may be open."""
    if not measurement.result:
        return _has_readable_plan(measurement)
    if measurement.kind == "curve":
        return _read_curve(measurement) is not None
    return read_evaluation(measurement) is not None


def _has_readable_plan(measurement: Measurement) -> bool:
    try:
        if measurement.kind == "curve":
            plan_of(measurement.plan)
            trained_curve(measurement.plan, measurement.progress)
            return True
        plan = ComparisonPlan.from_json(measurement.plan)
        ComparisonProgress.from_json(measurement.progress)
    except (TypeError, ValueError, KeyError):
        return False
    return _are_known(plan.candidates)


# One estimate reads the same measurements several times, for their scores, their looks and their judge.
@lru_cache(maxsize=64)
def read_evaluation(measurement: Measurement) -> FinishedEvaluation | None:
    """Returns the evaluation of a measurement with scores; None if a newer version of the bot stored it."""
    try:
        plan = ComparisonPlan.from_json(measurement.plan)
        progress = ComparisonProgress.from_json(measurement.progress)
        comparison = Comparison.from_json(measurement.result)
    except (TypeError, ValueError):
        return None
    if not _are_known((*plan.candidates, *(candidate.identity for candidate in comparison.candidates))):
        return None
    return FinishedEvaluation(measurement, plan, progress, comparison)


@lru_cache(maxsize=64)
def _read_curve(measurement: Measurement) -> FinishedCurve | None:
    try:
        plan_of(measurement.plan)  # its card and its report need the plan
        trained = trained_curve(measurement.plan, measurement.progress)
        curve = Curve.from_json(measurement.result)
    except (TypeError, ValueError, KeyError):
        return None
    return FinishedCurve(measurement, curve, trained)


def _are_known(candidates: Iterable[Candidate]) -> bool:
    return all(candidate.kind in CANDIDATE_KINDS for candidate in candidates)


def _may_be_on(measurement: Measurement, holdout: str) -> bool:
    """False if its rows are known to be others."""
    try:
        plan = json.loads(measurement.plan)
    except ValueError:
        # A plan of which nothing can be read may be about these rows.
        return True
    named = plan.get("holdout_sha256")
    return named is None or named == holdout
