"""Whether what is in use should be trained or measured again. The button for a training freezes a plan that other
people approve; that for a measurement is in monthly_measurements.py."""

from __future__ import annotations

from dataclasses import replace

from bot.cards.common.blocks import code
from bot.cards.common.candidates import promotable_name
from bot.context import AppContext
from bot.rules.monitoring.repetitions import repetition_reason
from bot.rules.plans import plan_from_json
from bot.services.common import authorization
from bot.services.datasets import datasets
from bot.services.decisions import estimate_requests, plans
from bot.services.models import models
from bot.services.models.promotables import origin_of
from bot.services.monitoring import new_models
from bot.values.evaluations import promoted_candidate
from bot.values.monitoring import LiveAnswers, Repetition, WeekShift
from bot.values.requests import Baseline, Start
from bot.values.runs import Refusal
from storage.promotions import Promotion
from storage.records import Run


def repetition_of(
    context: AppContext, dataset: str, live: LiveAnswers | None, shift: WeekShift | None
) -> Repetition | None:
    """Returns what to repeat, None if nothing in use has a reason for it."""
    promotion = context.store.promotions.current(dataset)
    if promotion is None:
        return None
    new_rows = _new_rows(context, promotion)
    reason = repetition_reason(
        is_worse=live is not None and live.is_alarm,
        is_changed=shift is not None and shift.is_shown,
        new_rows=new_rows,
    )
    if reason is None:
        return None
    return Repetition(reason, promotable_name(promotion.what), promotion.model is not None, new_rows)


def plan(context: AppContext, name: str, person: str) -> Run | Refusal:
    """Handles the button: freezes a plan that trains the model in use again, on the newest rows. It needs its approvals
    like any other plan."""
    promotion = promotion_for(context, name, person)
    if isinstance(promotion, Refusal):
        return promotion
    if promotion.model is None:
        return Refusal(f"What is in use for {code(name)} was not trained here by now.")
    run = context.store.runs.of_model(models.model_of(context, promotion))
    earlier = plan_from_json(run.plan)
    question = estimate_requests.question_of(earlier)
    if question.target is None:
        question = replace(question, target=f"{earlier.provider}/{earlier.base_model}")
    channel = context.store.datasets.get(run.dataset_id).channel
    return plans.start(context, Start(name, question, again=run.id), person, channel)


def measurement_of(context: AppContext, promotion: Promotion) -> Baseline | None:
    """Returns the measurement that asks what is in use again, None if it was trained: its plan can be repeated instead.
    The models are asked although their answers are stored, since a vendor may have changed a model under its name."""
    candidate = promoted_candidate(promotion.what)
    if candidate is None:
        return None
    command = new_models.measurement_of(context, promotion.dataset, candidate.model or "")
    if command is None:
        return None
    if candidate.model is None:
        command = replace(command, models=())
    return replace(command, asks_again=True)


def promotion_for(context: AppContext, name: str, person: str) -> Promotion | Refusal:
    """Returns what is in use, if this person may know of it."""
    gone = Refusal(f"Nothing is in use for {code(name)} any more.")
    promotion = context.store.promotions.current(name)
    if promotion is None:
        return gone
    return authorization.button_refusal(context, name, person, gone) or promotion


def _new_rows(context: AppContext, promotion: Promotion) -> int:
    """Returns how many more rows the newest version has than the one that what is in use was made from."""
    newest = context.store.datasets.newest(promotion.dataset)
    report = datasets.report_of(newest) if newest else None
    before = datasets.report_of(origin_of(context, promotion.what).dataset)
    if report is None or before is None:
        return 0
    return max(report.n_train + report.n_holdout - before.n_train - before.n_holdout, 0)
