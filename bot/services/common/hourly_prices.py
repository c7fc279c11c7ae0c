"""Vendors' prices per hour for the machines that tuned models run on. A price that a vendor reports replaces the one in
the settings."""

from __future__ import annotations

import logging
from dataclasses import replace

from bot.context import AppContext
from bot.rules.plans import Plan
from bot.values.runs import Refusal
from trainers.deployments.port import Deployments
from trainers.errors import Refused, TrainerError
from trainers.money import to_micros
from trainers.providers.providers import ProviderRow

log = logging.getLogger(__name__)


def refresh_price(context: AppContext, row: ProviderRow, base_model: str) -> Refusal | None:
    """Refreshes the vendor's price per hour before anybody approves it. Returns a refusal if models tuned from this
    base can't be deployed there."""
    vendor = context.deployments.get(row.name)
    if vendor is None:
        return Refusal(
            f"A model tuned at {row.title} answers only on a machine by the hour, and its row in finetune.toml has no "
            "`deploy_api` to start one. Choose another target.",
            "target",
        )
    try:
        ask_vendor(context, vendor, row.name, base_model)
    except Refused as refused:
        return Refusal(f"{refused} Choose another target: `/finetune estimate` prices one.", "target")
    except TrainerError as trouble:
        # A vendor that is away must not prevent a plan; the price known so far stays in use.
        log.warning("the hourly price of %s: %s", row.name, trouble)
    return None


def ask_vendor(context: AppContext, vendor: Deployments, provider: str, base_model: str) -> int | None:
    """Asks for the price of an hour and puts it into the settings, where all estimates use it until the bot's next
    start. Returns micro-dollars, None if the vendor states no price."""
    price = vendor.usd_per_hour(base_model)
    if price is None:
        return None
    rows = []
    for row in context.settings.providers:
        if row.name == provider:
            rows.append(row.with_hourly_price(base_model, price))
        else:
            rows.append(row)
    context.settings = replace(context.settings, providers=tuple(rows))
    return to_micros(price)


def current_price(context: AppContext, plan: Plan) -> int | None:
    """Returns today's price of an hour in micro-dollars, None if it is not known."""
    row = context.settings.provider(plan.provider)
    price = row.hourly_price(plan.base_model) if row else None
    if price is None:
        return None
    return to_micros(price)
