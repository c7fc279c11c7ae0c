"""The new model on the card of a week: at most one a week, the cheapest first, with what its measurement says. Begins
nothing (proposal_measurements.py)."""

from __future__ import annotations

from dataclasses import dataclass

from bot.context import AppContext
from bot.rules.monitoring import proposals as rules
from bot.services.common import candidates, finished_measurements
from bot.services.datasets import datasets
from bot.services.evidence.promotion_evidence import promotion_proof
from bot.services.measurement import measurements
from bot.services.monitoring import new_models
from bot.values.monitoring import NewModel, NewModelScore
from storage.monitoring.proposals import NewProposal, Proposal, WatchMeasurement
from storage.records import Measurement
from trainers.evaluation.results import MeasuredCandidate


@dataclass(frozen=True)
class ChosenProposal:
    """A proposal for the card of a week, with today's prices."""

    proposal: Proposal
    offer: NewProposal


def choose(context: AppContext, dataset: str) -> ChosenProposal | None:
    """Returns the cheapest of the proposals that no card has shown and that are still worth it, None if there is
    none."""
    unshown = {
        proposal.model: proposal
        for proposal in context.store.proposals.open(dataset)
        if proposal.shown_week is None
    }
    if not unshown:
        return None
    for offer in new_models.find_offers(context, dataset):
        if offer.model in unshown:
            return ChosenProposal(unshown[offer.model], offer)
    return None


def shown(context: AppContext, dataset: str, week: str) -> NewModel | None:
    """Returns what the card of this week says of a new model, None if it proposed none, or one that is no longer
    offered."""
    proposal = context.store.proposals.shown(dataset, week)
    if proposal is None:
        return None
    began = context.store.watch_measurements.of(proposal.id)
    if began is None and proposal.ended_at is not None:
        return None
    rows = _held_out(context, dataset)
    command = new_models.measurement_of(context, dataset, proposal.model)
    cost = None
    if command is not None and command.judge is None:
        cost = rules.measuring_micros(rows, proposal.micros)
    return NewModel(
        proposal=proposal.id,
        model=proposal.model,
        micros=proposal.micros,
        in_use_micros=proposal.in_use_micros,
        rows=rows,
        cost_micros=cost,
        measured=_score(context, proposal, began) if began else None,
    )


def _held_out(context: AppContext, dataset: str) -> int:
    newest = context.store.datasets.newest(dataset)
    report = datasets.report_of(newest) if newest else None
    return report.n_holdout if report else 0


def _score(context: AppContext, proposal: Proposal, began: WatchMeasurement) -> NewModelScore | None:
    measurement = context.store.measurements.get(began.measurement)
    if measurement is None:
        return None
    return NewModelScore(
        name=context.link(measurements.card_of(measurement), f"m{measurement.id}"),
        is_over=measurement.state not in measurements.OPEN,
        is_unasked=began.begun_at is not None,
        micros=measurement.actual_micros,
        score=_measured(context, measurement, proposal.model),
        in_use=_share_in_use(context, proposal.dataset),
    )


def _measured(context: AppContext, measurement: Measurement, model: str) -> MeasuredCandidate | None:
    evaluation = finished_measurements.read_evaluation(measurement) if measurement.result else None
    if evaluation is None:
        return None
    full_name = candidates.full_name(context.settings, model)
    measured = evaluation.comparison.candidates
    return next((each for each in measured if each.model == full_name), None)


def _share_in_use(context: AppContext, dataset: str) -> float | None:
    promotion = context.store.promotions.current(dataset)
    if promotion is None:
        return None
    candidate = promotion_proof(context, promotion.what, None).candidate
    return candidate.score if candidate else None
