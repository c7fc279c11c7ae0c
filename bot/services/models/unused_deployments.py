"""Says that a machine by the hour is kept running for a model that is not in use. Stops none: the person who keeps it
decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

from bot.cards.models import deployments as views
from bot.context import AppContext
from bot.rules import units
from bot.services.common import messages
from bot.services.models.deployment_summaries import summary_of
from storage.deployments import DeploymentRecord
from storage.promotions import Promotion


def tell_unused(context: AppContext) -> None:
    """Says once a day that a machine is kept running for a model that is not in use: at once if another model has
    replaced it, else from the day after its start."""
    store = context.store
    today = context.today()
    in_use = {promotion.model for promotion in store.promotions.all_current()}
    for record in store.deployments.live():
        # A machine that nobody keeps stops by itself when nobody asks it anything.
        if record.kept_by is None or record.state != "ready":
            continue
        run = store.runs.get(record.run_id or 0)
        if run is None or record.model in in_use:
            continue
        uses = store.promotions.of(record.model)
        # On its first day somebody may still be about to deploy it.
        is_first_day = units.day_of(record.created_at) == today
        if not uses and is_first_day:
            continue
        _say_unused(context, record, record.kept_by, uses, today)


def _say_unused(
    context: AppContext,
    record: DeploymentRecord,
    keeper: str,
    uses: Sequence[Promotion],
    today: date,
) -> None:
    store = context.store
    successor = None
    if uses:
        following = store.promotions.next(uses[-1])
        if following is not None:
            successor = following.model
    day = today.isoformat()
    cost = store.deployments.cost_of_day(day, record.id)
    summary = replace(summary_of(context, record), today_micros=cost)
    message = views.unused_card(summary, successor)
    once = f"kept for nothing {record.id} {day}"
    with store.transaction():
        context.post(record.channel, message.letter(), topic="money", dedupe=once)
        # The card in the channel notifies nobody in particular, and the keeper is the one who can stop it.
        messages.tell_person(context, f"{once} direct", keeper, "", message, topic="money")
