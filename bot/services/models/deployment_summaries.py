"""Deployed models as cards and lists show them, with their costs so far and their price now. Starts and stops
nothing."""

from __future__ import annotations

from collections.abc import Collection

from bot.cards.common.plan_money import token_price
from bot.cards.models import deployments as views
from bot.cards.models.deployments import DeploymentSummary
from bot.context import AppContext
from bot.rules import units
from bot.rules.plans import plan_from_json
from bot.services.common import hourly_prices, token_serving
from bot.settings import Settings
from bot.values.runs import Refusal
from storage.deployments import DeploymentRecord
from storage.store import Store


def running(store: Store, settings: Settings, now: float) -> list[DeploymentSummary]:
    """Returns all deployments that are not certainly gone, with today's cost."""
    day = units.day_of(now).isoformat()
    summaries = []
    for record in store.deployments.live():
        title = settings.title_of(record.provider)
        cost = store.deployments.cost_of_day(day, record.id)
        summaries.append(
            DeploymentSummary(record, title, today_micros=cost, is_uploaded=_is_uploaded(settings, record))
        )
    return summaries


def summaries(context: AppContext, datasets: Collection[str]) -> list[DeploymentSummary]:
    """Returns the deployments that run for these datasets now."""
    live = []
    for record in context.store.deployments.live():
        run = context.store.runs.get(record.run_id or 0)
        if run is None:
            continue
        plan = plan_from_json(run.plan)
        if plan.dataset in datasets:
            live.append(summary_of(context, record))
    return live


def summary_of(context: AppContext, record: DeploymentRecord) -> DeploymentSummary:
    """Returns a deployment with its costs so far, and the price of an hour now."""
    title = context.settings.title_of(record.provider)
    run = context.store.runs.get(record.run_id or 0)
    if run is None:
        return DeploymentSummary(record, title)
    plan = plan_from_json(run.plan)
    if record.by_token:
        server = token_serving.server_for(context.settings, record.provider, plan)
        price = ""
        if not isinstance(server, Refusal) and server.hosting.by_token is not None:
            price = token_price(server.hosting.by_token)
        return DeploymentSummary(
            record,
            title,
            token_price=price,
            is_uploaded=_is_uploaded(context.settings, record),
            answers_here=plan.hosting is None,
        )
    hour = hourly_prices.current_price(context, plan)
    return DeploymentSummary(record, title, run_micros=run.actual_micros, hour_micros=hour)


def _is_uploaded(settings: Settings, record: DeploymentRecord) -> bool:
    row = settings.provider(record.provider)
    return row is None or row.takes_uploads


def show(context: AppContext, record: DeploymentRecord, *, is_progress: bool = False) -> None:
    if not record.channel:
        return
    card = f"deployment {record.id}"
    message = views.card(summary_of(context, record))
    context.show(card, record.channel, message, concerns=record.person, progress=is_progress)


def audit(context: AppContext, record: DeploymentRecord, person: str, action: str, detail: str = "") -> None:
    # An orphan's machine belongs to no run that we know.
    subject = f"deployment {record.id}"
    if record.run_id:
        subject = f"run {record.run_id}"
    context.audit(person, action, subject, detail)
