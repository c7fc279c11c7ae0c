"""Answers the buttons of deployments: serve a result's model by the token, and on a deployment's own card keep it
running, stop it, and start it again."""

from __future__ import annotations

from dataclasses import replace

from bot.cards.common import freeze as freeze_cards
from bot.cards.models import token_serving as token_views
from bot.context import AppContext
from bot.rules.models.deployments import Hosting
from bot.rules.permissions import Action, Request
from bot.rules.plans import Plan, plan_from_json
from bot.services.common import authorization, budgets, hourly_prices, token_serving
from bot.services.common.token_serving import TokenServer
from bot.services.datasets import data_policy
from bot.services.datasets.data_policy import Forbidden, Unsure
from bot.services.models import adapter_serving, deployment_summaries, deployments
from bot.values.runs import Refusal
from storage.deployments import DeploymentRecord
from storage.records import Run


def serve_by_token(context: AppContext, value: str, person: str) -> Refusal | None:
    """Handles the button on a result: `value` is the run's number and the vendor. The weights have learned from the
    rows, so a vendor that may not get the rows doesn't get them or serve them either."""
    number, _, name = value.partition(" ")
    run = context.store.runs.get(int(number))
    gone = Refusal("There is no such model any more.")
    if run is None or run.model is None:
        return gone
    plan = plan_from_json(run.plan)
    refused = authorization.refusal(context, person, "promote")
    refused = refused or authorization.button_refusal(context, plan.dataset, person, gone)
    if refused:
        return refused
    if context.store.datasets.get(run.dataset_id).forgotten_at is not None:
        return gone
    freeze = context.store.freezes.current()
    if freeze:
        return Refusal(freeze_cards.refusal(freeze, "It is not uploaded"))
    server = token_serving.server_for(context.settings, name, plan)
    if isinstance(server, Refusal):
        return server
    return _upload_refusal(context, run, plan, server) or _record_upload(
        context, run, plan, server.hosting, person
    )


def _upload_refusal(context: AppContext, run: Run, plan: Plan, server: TokenServer) -> Refusal | None:
    """Returns why a run's adapter can't or may not be uploaded now."""
    unready = token_serving.no_access_text(context, server.row)
    if unready:
        return Refusal(unready)
    against = data_policy.egress_now(context, run.dataset_id, [server.row.name], plan.overridden)
    if isinstance(against, Unsure | Forbidden):
        return Refusal(against.reason)
    if server.row.takes_uploads:
        folder = adapter_serving.find_folder(context.settings, run)
        if isinstance(folder, Refusal):
            return folder
    return None


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
    if record.by_token and record.reason != "deleted":
        return serve_by_token(context, f"{run.id} {record.provider}", person)
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


def _record_upload(
    context: AppContext, run: Run, plan: Plan, hosting: Hosting, person: str
) -> Refusal | None:
    """Records the upload, with the terms that the person accepted by the click."""
    with context.store.transaction():
        if not deployments.intend(context, run, plan, hosting, person):
            return Refusal("It is already served elsewhere, or is being stopped there.")
        context.audit(person, "data terms accepted", f"run {run.id}", token_views.accepted_terms(hosting))
    return None
