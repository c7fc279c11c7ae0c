"""Answers the buttons on the card of a tuned model that a vendor runs by the hour: keep it running, stop it, and start
it again."""

from __future__ import annotations

from dataclasses import replace

from bot.cards.common import freeze as freeze_cards
from bot.context import AppContext
from bot.rules.permissions import Action, Request
from bot.rules.plans import plan_from_json
from bot.services.common import authorization, budgets, hourly_prices
from bot.services.models import deployment_summaries, deployments
from bot.values.runs import Refusal
from storage.deployments import DeploymentRecord


def keep(context: AppContext, number: int, person: str) -> Refusal | None:
    """Keeps the machine running even if nobody asks it anything, until somebody or a limit stops it."""
    record = context.store.deployments.get(number)
    refused = _refusal(context, record, person, "promote")
    if record is None or refused:
        return refused
    now = context.clock()
    with context.store.transaction():
        if not context.store.deployments.keep_running(record, person, now=now):
            return Refusal("It is already kept running, or it is being stopped.")
        deployment_summaries.audit(context, record, person, "hosting kept")
        latest = context.store.deployments.get(number)
        deployment_summaries.show(context, latest or record)
    return None


def stop(context: AppContext, number: int, person: str) -> Refusal | None:
    record = context.store.deployments.get(number)
    refused = _refusal(context, record, person, "cancel")
    if record is None or refused:
        return refused
    is_running = record.state in ("starting", "ready")
    if not is_running or not deployments.begin_to_stop(context, record, "asked", person):
        return Refusal("It is already stopped, or is being stopped.")
    return None


def start_again(context: AppContext, number: int, person: str) -> Refusal | None:
    """Starts the model of a run whose deployment has ended, at today's price."""
    record = context.store.deployments.get(number)
    refused = _refusal(context, record, person, "promote")
    run = None
    if record is not None:
        run = context.store.runs.get(record.run_id or 0)
    if record is None or run is None or refused:
        return refused
    freeze = context.store.freezes.current()
    if freeze:
        return Refusal(freeze_cards.refusal(freeze, "It is not started"))
    plan = plan_from_json(run.plan)
    if plan.hosting is None or record.reason == "deleted":
        return Refusal("Its dataset was deleted, and the model with it.")
    day = context.today().isoformat()
    spent = context.store.deployments.cost_of_day(day)
    if spent >= deployments.day_limit(context):
        return Refusal(
            "Today's limit for running models is used up. Start it tomorrow, or raise `hosting_usd_per_day` under "
            "[budget] in finetune.toml."
        )
    # The plan's price may be months old, and the budget has to have room for today's.
    hour = hourly_prices.current_price(context, plan) or record.micros_per_hour
    planned = replace(plan.hosting, micros_per_hour=hour)
    too_dear = budgets.refusal(context, run.channel, person, planned.expected_micros, "model that runs")
    if too_dear:
        return Refusal(too_dear)
    if not deployments.intend(context, run, plan, planned, person):
        return Refusal("It is already running.")
    return None


def _refusal(
    context: AppContext, record: DeploymentRecord | None, person: str, action: Action
) -> Refusal | None:
    """Anybody with the right to cancel may stop a machine, also of a channel that they are not in."""
    gone = Refusal("There is no such model any more.")
    if record is None:
        return gone
    run = context.store.runs.get(record.run_id or 0)
    if run is None:
        return gone
    plan = plan_from_json(run.plan)
    request = Request(run.requester, plan.uploaded_by, run.created_at)
    refusal = authorization.refusal(context, person, action, request=request)
    if refusal or action == "cancel":
        return refusal
    return authorization.button_refusal(context, plan.dataset, person, gone)
