"""Freezes all new spending. One approver is enough to freeze it; two different approvers lift the freeze."""

from __future__ import annotations

from bot.cards.common import freeze as views
from bot.cards.common.blocks import escape
from bot.context import AppContext
from bot.rules.permissions import UNFREEZERS, may_unfreeze
from bot.services.common import authorization, freeze_scope
from bot.services.decisions import plan_requests
from bot.services.evidence import notifications
from bot.services.measurement import measurements
from bot.values.runs import Refusal
from storage.money import Freeze
from storage.records import Measurement, Run


def freeze(context: AppContext, reason: str, person: str, channel: str) -> Freeze | Refusal:
    """Freezes new spending and announces it in the channel."""
    refusal = authorization.refusal(context, person, "freeze")
    if refusal:
        return refusal
    now = context.clock()
    with context.store.transaction():
        freeze = context.store.freezes.add(person=person, reason=reason, channel=channel, now=now)
        if freeze is None:
            return _frozen_before(context)
        context.audit(person, "freeze", f"freeze {freeze.id}", reason)
        runs, measured = _find_frozen(context)
        _show_cards(context, runs, measured)
        plan_requests.refresh_requests(context)
        card = views.frozen_card(freeze, len(runs))
        context.post(channel, card.letter(), topic="receipts", dedupe=f"freeze {freeze.id}")
    return freeze


def unfreeze(context: AppContext, person: str, channel: str) -> Freeze | Refusal:
    """Records that a person wants the freeze lifted; the second person's vote lifts it."""
    caller = authorization.look_up(context, person, "unfreeze", channel)
    refusal = authorization.refusal_for(caller, "unfreeze")
    rules = caller.rules
    if refusal:
        return refusal
    now = context.clock()
    with context.store.transaction():
        standing = context.store.freezes.current()
        if standing is None:
            return Refusal("Nothing is frozen.")
        is_new = context.store.freezes.request_lift(standing, person, now=now)
        against = context.store.freezes.lift_requests(standing)
        # None stands for anyone: then nobody is named.
        others = None
        if not rules.policy.named("unfreeze").anyone:
            others = rules.named("unfreeze") - {person, *against}
        # A repeated vote does lift the freeze if the rules have changed so that the votes suffice now.
        if not is_new and not may_unfreeze(against, rules):
            return Refusal(f"You have already voted for that. {views.one_more_vote_text(others)}")
        context.audit(person, "unfreeze", f"freeze {standing.id}")
        if may_unfreeze(against, rules):
            # Somebody who voted may have lost the right since then, and is not named as one who lifted it.
            by = rules.filter_entitled("unfreeze", against)
            # Before the lift, because afterwards none of them counts as frozen.
            runs, measured = _find_frozen(context)
            context.store.freezes.lift(standing, now=now)
            context.audit("finetune", "unfrozen", f"freeze {standing.id}", " ".join(by))
            _show_cards(context, runs, measured)
            plan_requests.refresh_requests(context)
            card = views.unfrozen_card(standing, by[-UNFREEZERS:])
            # The channel that read of the freeze has to read of its end; it may be the same one.
            for channel_id in dict.fromkeys((channel, standing.channel)):
                once = f"unfrozen {standing.id} {channel_id}"
                context.post(channel_id, card.letter(), topic="receipts", dedupe=once)
        else:
            message = views.unfreeze_requested(person, others)
            once = f"unfreeze {standing.id} {person}"
            context.post(channel, message.letter(), topic="questions", dedupe=once)
    return standing


def _frozen_before(context: AppContext) -> Refusal:
    standing = context.store.freezes.current()
    if standing is None:
        return Refusal("The freeze was lifted just now; try again.")
    text = f"Spending is already frozen by <@{standing.person}>. {escape(standing.reason)}"
    return Refusal(text.strip())


def _find_frozen(context: AppContext) -> tuple[list[Run], list[Measurement]]:
    runs = [run for run in context.store.runs.open() if freeze_scope.run_freeze(context, run)]
    measured = []
    for measurement in context.store.measurements.open():
        if freeze_scope.measurement_freeze(context, measurement):
            measured.append(measurement)
    return runs, measured


def _show_cards(context: AppContext, runs: list[Run], measured: list[Measurement]) -> None:
    """Updates the cards, which say whether the run or measurement waits."""
    for run in runs:
        notifications.show_progress(context, run)
    for measurement in measured:
        measurements.show(context, measurement)
