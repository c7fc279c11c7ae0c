"""What a week's card says of the measurement of what is in use that is due this month: what it costs and why it hasn't
begun, or today's score beside the earlier one. Begins nothing (monthly_measurements.py)."""

from __future__ import annotations

from dataclasses import dataclass

from bot.context import AppContext
from bot.rules.monitoring import proposals as rules
from bot.rules.monitoring import repetitions as change_rules
from bot.services.common import finished_measurements
from bot.services.common.finished_measurements import FinishedEvaluation
from bot.services.datasets import datasets
from bot.services.evidence.looks import distinct_candidate
from bot.services.evidence.scored_rows import ScoredOn, find_common_positions
from bot.services.measurement import measurements
from bot.services.monitoring import new_models
from bot.values.evaluations import promoted_candidate
from bot.values.monitoring import MonthlyScore, RepeatedScore
from storage.monitoring.monthly_measurements import MonthlyMeasurement
from storage.promotions import Promotion
from storage.records import Measurement
from trainers.dataset.rows import at
from trainers.evaluation.results import Candidate, MeasuredCandidate
from trainers.money import to_micros


def shown(context: AppContext, dataset: str, week: str) -> MonthlyScore | None:
    """Returns None if the card of this week has none, or if something else is in use by now."""
    due = context.store.monthly_measurements.shown(dataset, week)
    promotion = context.store.promotions.current(dataset)
    if due is None or promotion is None or promotion.id != due.promotion:
        return None
    if due.measurement is None and due.ended_at is not None:
        return None
    return MonthlyScore(
        rows=_held_out(context, dataset),
        cost_micros=cost_micros(context, dataset),
        hindrance=due.hindrance,
        refusal=due.refusal,
        measured=_score(context, due, promotion),
    )


def cost_micros(context: AppContext, dataset: str) -> int | None:
    """Returns about what measuring what is in use costs, in micro-dollars; None if that is unknown, as with a judge."""
    command = new_models.measurement_of(context, dataset, "")
    usd = new_models.usd_per_1000_in_use(context, dataset)
    if command is None or command.judge is not None or usd is None:
        return None
    return rules.measuring_micros(_held_out(context, dataset), to_micros(usd))


def _held_out(context: AppContext, dataset: str) -> int:
    newest = context.store.datasets.newest(dataset)
    report = datasets.report_of(newest) if newest else None
    return report.n_holdout if report else 0


@dataclass(frozen=True)
class _Scored:
    """A candidate with the finished measurement that measured it."""

    evaluation: FinishedEvaluation
    measured: MeasuredCandidate

    @property
    def on_rows(self) -> ScoredOn:
        return ScoredOn(self.evaluation.plan.holdout_sha256, self.measured)


def _score(context: AppContext, due: MonthlyMeasurement, promotion: Promotion) -> RepeatedScore | None:
    began = context.store.watch_measurements.get(due.measurement or 0)
    measurement = context.store.measurements.get(due.measurement or 0)
    if began is None or measurement is None:
        return None
    candidate = promoted_candidate(promotion.what)
    first = context.store.measurements.get(promotion.measurement or 0)
    now = _scored(measurement, candidate)
    before = _scored(first, candidate)
    return RepeatedScore(
        name=_link(context, measurement),
        is_over=measurement.state not in measurements.OPEN,
        is_unasked=began.person is None,
        is_waiting=measurement.state == "asked",
        micros=measurement.actual_micros,
        score=now.measured if now else None,
        before=before.measured if before else None,
        before_name=_link(context, first) if first else "",
        change=_change(context, before, now) if before and now else None,
    )


def _link(context: AppContext, measurement: Measurement) -> str:
    return context.link(measurements.card_of(measurement), f"m{measurement.id}")


def _scored(measurement: Measurement | None, candidate: Candidate | None) -> _Scored | None:
    """Returns None if the measurement has no result of this candidate, or none that this version can read."""
    if measurement is None or measurement.result is None:
        return None
    evaluation = finished_measurements.read_evaluation(measurement)
    if evaluation is None:
        return None
    for measured in evaluation.comparison.candidates:
        if measured.identity == candidate:
            return _Scored(evaluation, measured)
    return None


def _change(context: AppContext, before: _Scored, now: _Scored) -> change_rules.Change | None:
    """Returns None if the two share no rows, or were scored in different ways."""
    if before.measured.scoring != now.measured.scoring or before.evaluation.judge != now.evaluation.judge:
        return None
    positions_before, positions_now = find_common_positions(
        context.settings.files, (before.on_rows, now.on_rows)
    )
    if not positions_now:
        return None
    identity = now.measured.identity
    return change_rules.judge_change(
        at(positions_before, before.measured.scores),
        at(positions_now, now.measured.scores),
        is_same_question=distinct_candidate(identity, before.evaluation.plan)
        == distinct_candidate(identity, now.evaluation.plan),
    )
